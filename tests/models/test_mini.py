"""`mini`: its files, what it can do, and how it is made."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from mi_sweeps.analysis.configs import names
from mi_sweeps.models import mini
from mi_sweeps.models.mini import TEMPLATE_SEED, corpus, pretraining
from mi_sweeps.models.mini.measure import WinRate, win_rate
from mi_sweeps.models.mini.pretraining import Recipe, learning_rate, lessons, pretrain
from mi_sweeps.sweeps.grid import expand
from mi_sweeps.tasks import ioi
from mi_sweeps.tasks.lexicon import MINI_NAMES, NAMES

MINI = NAMES[:MINI_NAMES]


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(mini.FOLDER, local_files_only=True).eval()


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(mini.FOLDER, local_files_only=True)


def test_the_shipped_folder_is_small(model: PreTrainedModel) -> None:
    assert sum(file.stat().st_size for file in mini.FOLDER.iterdir()) < 1.5e6
    assert 190_000 < model.num_parameters() < 230_000
    assert (mini.FOLDER / "README.md").exists()


def test_finding_the_folder_does_not_import_torch() -> None:
    check = "import sys; from mi_sweeps.models.mini import FOLDER; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", check], check=True)


def test_the_shipped_vocabulary_is_that_of_the_corpus(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer.convert_ids_to_tokens(range(len(tokenizer))) == ["<unk>", "<eos>", *corpus.words()]


@pytest.mark.parametrize("name", MINI)
def test_each_name_is_one_token(name: str, tokenizer: PreTrainedTokenizerFast) -> None:
    (token,) = tokenizer.encode(f" {name}")
    assert tokenizer.decode([token]) == name


def test_an_answer_adds_one_token_to_its_question(tokenizer: PreTrainedTokenizerFast) -> None:
    prompts = ioi.splits(MINI, 3, {"train": 60}, seed=4)["train"]
    for prompt in prompts:
        question, whole = tokenizer.encode(prompt.text), tokenizer.encode(f"{prompt.text} {prompt.answer}")
        assert whole == [*question, tokenizer.convert_tokens_to_ids(prompt.answer)]
        assert tokenizer.unk_token_id not in whole


def test_offsets_give_back_the_words(tokenizer: PreTrainedTokenizerFast) -> None:
    text = "After Mary, John"
    offsets = tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    assert [text[start:end] for start, end in offsets] == ["After", "Mary", ",", "John"]


def test_a_word_that_is_not_known_becomes_unk(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer.encode("Zebulon") == [tokenizer.unk_token_id]


@pytest.mark.parametrize(("n_names", "low", "high"), [(2, 0.95, 1.0), (3, 0.30, 0.55)])
def test_what_the_model_can_do(
    n_names: int, low: float, high: float, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    prompts = ioi.splits(MINI, n_names, {"test": 600}, TEMPLATE_SEED)["test"]
    assert low <= win_rate(model, tokenizer, prompts).rate <= high


def test_wilson_interval() -> None:
    low, high = WinRate(27, 50).interval
    assert (round(low, 2), round(high, 2)) == (0.40, 0.67)


def stories(story: corpus.Story, count: int = 400) -> list[str]:
    rng = random.Random(1)
    return [story(rng) for _ in range(count)]


def names_in(text: str) -> list[str]:
    return [word for word in re.findall(r"\w+", text) if word in MINI]


@pytest.mark.parametrize("story", corpus.EVERYTHING)
def test_every_story_is_made_of_known_words(story: corpus.Story) -> None:
    known = set(corpus.words())
    for text in stories(story):
        assert set(re.findall(r"\w+|[^\w\s]", text)) <= known


def test_two_names_has_ioi_stories_in_both_orders() -> None:
    seen = set()
    for text in stories(corpus.two_names):
        first, second, subject, receiver = names_in(text)
        assert {subject, receiver} == {first, second}
        seen.add(subject == first)
    assert seen == {True, False}


def test_three_names_do_not_give_the_answer_away() -> None:
    receivers = []
    for text in stories(corpus.three_names_two_subjects):
        listed, rest = names_in(text)[:3], names_in(text)[3:]
        assert set(rest) <= set(listed) and rest[0] != rest[1]
        receivers += [rest.index(rest[2]) if rest[2] in rest[:2] else 2] if len(rest) == 3 else []
    assert all(0.2 < receivers.count(place) / len(receivers) < 0.47 for place in range(3))


def test_no_held_out_template_is_in_the_corpus() -> None:
    """Whatever an evaluation prompt could say, no story says."""
    any_word = r"\w+"
    held_out = [
        re.compile(f"{opening} .*{scene.format(place=any_word)}{re.escape(joint)}.*{action.format(object=any_word)} ")
        for opening, scene, joint, action in corpus.HELD_OUT_TEMPLATES
    ]
    texts = [text for story in corpus.EVERYTHING for text in stories(story, 150)]
    assert not [text for text, template in product(texts, held_out) if template.search(text)]
    question = ioi.splits(MINI, 2, {"test": 2}, TEMPLATE_SEED)["test"][0].text
    assert any(template.search(f"{question} ") for template in held_out)


@pytest.mark.parametrize("lesson", corpus.CURRICULUM)
def test_rows_fill_a_batch(lesson: corpus.Lesson, tokenizer: PreTrainedTokenizerFast) -> None:
    texts = corpus.rows(lesson, random.Random(2), separator="<eos>")
    assert len(texts) == lesson.rows
    assert min(len(tokenizer.encode(text)) for text in texts) >= lesson.context


@pytest.mark.parametrize("lesson", corpus.CURRICULUM)
def test_no_row_holds_unk(lesson: corpus.Lesson, tokenizer: PreTrainedTokenizerFast) -> None:
    rng = random.Random(5)
    texts = [text for _ in range(20) for text in corpus.rows(lesson, rng, separator="<eos>")]
    assert tokenizer.unk_token_id not in set().union(*tokenizer(texts)["input_ids"])


def test_a_story_of_unknown_words_is_not_taught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "MOODS", ["zebulonic"])
    monkeypatch.setattr(pretraining, "words", lambda: [word for word in corpus.words() if word != "zebulonic"])
    with pytest.raises(ValueError, match="not in corpus.words"):
        pretrain(Recipe(steps=5), lambda step, loss: None)


def test_the_schedule() -> None:
    recipe = Recipe()
    assert len(list(lessons(recipe.steps))) == recipe.steps
    assert learning_rate(recipe.warmup - 1, recipe) == learning_rate(recipe.warmup, recipe) == recipe.learning_rate
    assert learning_rate(recipe.steps - 1, recipe) < 1e-3 * recipe.learning_rate


def test_making_it_twice_gives_the_same_weights(tmp_path: Path) -> None:
    recipe, losses = Recipe(seed=3, steps=5), []
    one, tokenizer = pretrain(recipe, lambda step, loss: losses.append((step, loss)))
    two, _ = pretrain(recipe, lambda step, loss: None)
    assert [step for step, _ in losses] == [1, 2, 3, 4, 5]
    for name, weights in one.state_dict().items():
        assert torch.equal(weights, two.state_dict()[name]), name

    one.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    tokens = AutoTokenizer.from_pretrained(tmp_path)("After Mary and John", return_tensors="pt")["input_ids"]
    assert torch.equal(loaded.eval()(tokens).logits, one(tokens).logits)


def test_base_models_of_other_seeds_are_an_axis(tmp_path: Path) -> None:
    """The same step of the recipe, from other first weights and stories."""
    for seed in (0, 1):
        model, tokenizer = pretrain(Recipe(seed=seed, steps=1, warmup=1), lambda step, loss: None)
        model.save_pretrained(tmp_path / str(seed))
        tokenizer.save_pretrained(tmp_path / str(seed))
    points = expand(["model=local", f"model.path={tmp_path / '0'},{tmp_path / '1'}", "output=unused"])
    assert len({point.run_id for point in points}) == 2
    assert len(set(names([point.values for point in points]))) == 2
