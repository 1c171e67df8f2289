"""The ready-made question tasks: balanced, split, with one-token words, and corrupted where they say."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerBase

from mi_sweeps import cli
from mi_sweeps.analysis.figures import pictures
from mi_sweeps.analysis.folder import read
from mi_sweeps.analysis.frames import tabulate
from mi_sweeps.errors import UserError
from mi_sweeps.sweeps.grid import expand
from mi_sweeps.tasks import CORRUPTIONS, audit, docstring, gender, greater_than, sva
from mi_sweeps.tasks.questions import Question, Questions, QuestionTask

NUMBERS = {"train": 24, "heldout": 12}
MADE = {
    "greater_than": (greater_than.task, {"nouns": None}),
    "gender": (gender.task, {"women": None, "men": None}),
    "sva": (sva.task, {}),
    "docstring": (docstring.task, {"words": None}),
}
CHANGED = {
    ("greater_than", "start_year"): {"start year"},
    ("greater_than", "noun"): {"noun"},
    ("gender", "name"): {"name"},
    ("gender", "same_gender"): {"name"},
    ("sva", "subject"): {"subject"},
    ("sva", "attractor"): {"end"},  # the last token
    ("docstring", "random_answer"): {"answer"},
    ("docstring", "random_doc"): {"doc 1", "doc 2"},
}


def make(name: str, tokenizer: PreTrainedTokenizerBase, seed: int = 0, **values: Any) -> Questions:
    task, arguments = MADE[name]
    return task(tokenizer, **{"prompts": NUMBERS, "seed": seed, **arguments, **values})


@pytest.mark.parametrize(("name", "corruption"), CHANGED)
def test_clean_and_corrupted_differ_in_the_named_roles_only(words, name: str, corruption: str) -> None:
    pairs = QuestionTask(make(name, words), words, prepend_bos=False).pairs(corruption, 12)
    assert len(pairs.clean) == 12
    for row, roles in enumerate(pairs.clean.roles):
        different = (pairs.clean.tokens[row] != pairs.corrupted.tokens[row]).nonzero()[:, 0].tolist()
        assert {roles[position] for position in different} == CHANGED[name, corruption]


@pytest.mark.parametrize("name", MADE)
def test_its_corruptions_are_those_that_a_plan_knows(words, name: str) -> None:
    known = CORRUPTIONS[f"mi_sweeps.tasks.{name}.task"]
    assert all(tuple(question.corrupted) == known for question in make(name, words).heldout)
    (point,) = expand([f"task={name}", f"corruption={known[0]}"])
    assert point.config.task.target == f"mi_sweeps.tasks.{name}.task"


@pytest.mark.parametrize("name", MADE)
def test_prompts_hang_on_the_seed_alone(words, name: str) -> None:
    one, same, other = ([question.text for question in make(name, words, seed).train] for seed in (0, 0, 1))
    assert one == same != other


def parts(questions: Questions, *names: str) -> tuple[set[str], set[str]]:
    """What stands in some parts of training and of held-out prompts."""
    return tuple(  # type: ignore[return-value]
        {text.strip(" ,") for question in split for name, text in question.parts.items() if name in names}
        for split in (questions.train, questions.heldout)
    )


@pytest.mark.parametrize(
    ("name", "divided"),
    [
        ("greater_than", ["noun"]),
        ("gender", ["name"]),
        ("gender", ["description"]),
        ("sva", ["subject"]),
        ("sva", ["attractor"]),
        ("docstring", ["method", "answer", "documented 1", "documented 2", "before 1", "after 1"]),
    ],
)
def test_held_out_prompts_have_no_item_of_a_training_prompt(words, name: str, divided: list[str]) -> None:
    train, heldout = parts(make(name, words), *divided)
    assert train and heldout and not train & heldout
    assert not {word.rstrip("s") for word in train} & {word.rstrip("s") for word in heldout}


def test_greater_than_by_hand(words) -> None:
    prompts = make("greater_than", words, prompts={"train": 97, "heldout": 97})
    starts = Counter(question.parts["start year"] for question in prompts.heldout)
    assert starts == {f"{year:02d}": 1 for year in range(2, 99)}
    for question in (*prompts.train, *prompts.heldout):
        start = int(question.parts["start year"])
        assert [int(year) for year in question.right] == list(range(start + 1, 100))
        assert [int(year) for year in question.wrong] == list(range(start + 1))
        assert question.target in question.right
        assert question.compared == {"cutoff_sharpness": ((f"{start + 1:02d}",), (f"{start - 1:02d}",))}
        assert question.parts["century"] == question.parts["century again"]
    lines = "\n".join(audit.lines(prompts.audit))
    assert "679 of 679 years are two tokens of two digits" in lines
    assert "held-out win rate of rules: always 99 100%, the start year's own 0%" in lines


def test_years_that_a_tokenizer_writes_otherwise_are_no_answers() -> None:
    """GPT-2's has 1700 as one token, and 1180 as "118" and "0"."""

    class Tokenizer:
        unk_token_id = None

        def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
            number = text.split()[-1]
            tokens = (
                [int(number)] if number.endswith("00") or number == "1750" else [int(number[:2]), int(number[2:] or -1)]
            )
            return {"input_ids": tokens if len(number) > 2 else [int(number)]}

    written = greater_than.written_years(Tokenizer())  # type: ignore[arg-type]
    assert "00" not in written["16"] and "50" in written["16"] and "50" not in written["17"]
    assert not {"01", "49", "50", "51"} & set(greater_than.starts(written["17"]))
    assert {"02", "48", "52"} <= set(greater_than.starts(written["17"]))


def test_a_tokenizer_that_writes_digits_one_by_one_is_refused(mini_tokenizer) -> None:
    nouns = ["Mary", "John", "Tom", "James"]
    with pytest.raises(
        UserError, match=r"\Atask=greater_than: needs years of two tokens .* writes 'year 1732' as .*\Z"
    ):
        make("greater_than", mini_tokenizer, nouns=nouns)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (
            "greater_than",
            r"task: 0 of 76 nouns are one token of the model's tokenizer, but 4 are needed \(not: war, .*",
        ),
        ("gender", "prompt .So she .*: 'So' is not in the model's vocabulary; use other words or another model"),
        ("sva", "task: 0 of 76 subjects, singular and plural, are one token of the model's tokenizer, .*"),
        ("docstring", "task: 8 of 125 words are one token of the model's tokenizer, but 60 are needed .*"),
    ],
)
def test_a_model_that_lacks_the_words_is_refused(mini_tokenizer, name: str, says: str) -> None:
    with pytest.raises(UserError, match=rf"\A{says}\Z"):
        make(name, mini_tokenizer)


def test_statements_about_a_name_have_no_negation() -> None:
    """After one it is "is she?"."""
    assert not {"not", "never", "hardly", "no"} & {word for result in gender.DESCRIPTIONS for word in result.split()}


def test_gender_by_hand(words) -> None:
    prompts = make("gender", words)
    for split in (prompts.train, prompts.heldout):
        assert len({Counter(question.group for question in split)[pronoun] for pronoun in ("she", "he")}) == 1
    for question in prompts.train:
        own, other = ("she", "he") if question.parts["name"].strip() in gender.WOMEN else ("he", "she")
        assert (question.right, question.wrong) == ((f" {own}",), (f" {other}",))
        by_corruption = {name: new["name"].strip() for name, new in question.corrupted.items()}
        assert by_corruption["name"] in gender.PRONOUNS[other]
        assert by_corruption["same_gender"] in gender.PRONOUNS[own]
        assert by_corruption["same_gender"] != question.parts["name"].strip()
    assert prompts.audit["held-out win rate of rules"] in ("always she 50%", "always he 50%")


def test_a_name_of_both_genders_is_one_line(words) -> None:
    with pytest.raises(UserError, match=r"\Atask: Mary: in task\.women and in task\.men; leave out names of both\Z"):
        make("gender", words, men=["Mary", "John"])


def test_sva_by_hand(words) -> None:
    prompts = make("sva", words)
    for split, each in ((prompts.train, 6), (prompts.heldout, 3)):
        numbers = Counter(
            tuple(question.parts[noun].endswith("s") for noun in ("subject", "attractor")) for question in split
        )
        assert set(numbers.values()) == {each} and len(numbers) == 4
    for question in prompts.train:
        plural = question.parts["subject"].endswith("s")
        assert question.right == sva.VERBS["plural" if plural else "singular"]
        assert question.wrong == sva.VERBS["singular" if plural else "plural"]
        assert question.corrupted["subject"]["subject"].endswith("s") is not plural
    assert prompts.audit["held-out win rate of rules"] == "always is 50%, agree with the attractor 50%"


def test_docstring_by_hand(words) -> None:
    prompts = make("docstring", words)
    places = []
    for question in prompts.heldout:
        definition, first, second = question.text.split(":param")[:3]
        arguments = definition.split("(self, ")[1].split("):")[0].split(", ")
        documented = [line.split(":")[0].strip() for line in (first, second)]
        at = arguments.index(documented[0])
        assert arguments[at : at + 3] == [*documented, question.answer]
        assert sorted(word.strip() for word in question.wrong) == sorted(set(arguments) - {question.answer})
        new = {text.strip(" ,") for change in question.corrupted.values() for text in change.values()}
        assert len(new) == 2 and not new & set(question.text.replace(",", " ").replace(":", " ").split())
        places.append(at + 3)
    assert Counter(places) == {3: 4, 4: 4, 5: 4}
    assert "argument 3 33%, argument 4 33%, argument 5 33%" in "\n".join(audit.lines(prompts.audit))


def test_every_answer_is_one_token_of_the_tokenizer(words) -> None:
    for name in MADE:
        task = QuestionTask(make(name, words), words, prepend_bos=False)
        batch = task.splits["heldout"]
        assert batch.contrast is not None
        for row, question in enumerate(batch.prompts):
            assert isinstance(question, Question)
            tokens = batch.contrast.tokens[row][: len(question.right) + len(question.wrong)].tolist()
            assert [words.decode([token]) for token in tokens] == [
                w.strip() for w in (*question.right, *question.wrong)
            ]


@pytest.fixture(scope="module")
def swept(words, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep over both corruptions of a task, as a user runs it, on a tiny model with the words' tokenizer."""
    folder = tmp_path_factory.mktemp("sva")
    torch.manual_seed(0)
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 64, "initializer_range": 0.4}
    GPT2LMHeadModel(GPT2Config(vocab_size=len(words), **sizes)).save_pretrained(folder / "model")
    words.save_pretrained(folder / "model")
    small = "train.steps=1 train.batch_size=4 checkpoint.every=1 checkpoint.steps=[] patching.prompts=8"
    numbers = "task.prompts.train=8 task.prompts.heldout=8"
    given = f"task=sva corruption=subject,attractor model=local model.path={folder / 'model'} {small} {numbers}"
    with pytest.raises(SystemExit) as stopped:
        cli.main(["run", *given.split(), f"output={folder}", "patching=full", "sweep.name=agree"])
    assert stopped.value.code == 0
    return folder


def test_a_sweep_over_its_corruptions_has_its_metrics_and_roles_everywhere(swept: Path) -> None:
    found = read(swept, ["agree"])
    frames = tabulate(found)
    heldout = frames.metrics[(frames.metrics["split"] == "heldout") & (frames.metrics["step"] == 0)]
    named = dict(zip(heldout["metric"], heldout["value"], strict=True))
    groups = {f"{rate}_{one}_{two}" for rate in ("win_rate", "preferred") for one in sva.NUMBERS for two in sva.NUMBERS}
    assert {"loss", "win_rate", "preferred", "logit_diff", "prob_diff", *groups} <= set(named)
    assert named["preferred"] == sum(named[f"preferred_{one}_{two}"] for one in sva.NUMBERS for two in sva.NUMBERS) / 4
    rows = frames.patching[frames.patching["site"] == "resid_pre"]
    assert set(rows["corruption"]) == {"subject", "attractor"}
    assert list(dict.fromkeys(rows["position"])) == ["the", "subject", "preposition", "the again", "end"]
    # The residual stream before the first layer differs where the prompts do, and nowhere else.
    first = rows[(rows["layer"] == 0) & (rows["step"] == 0) & (rows["corruption"] == "subject")].set_index("position")
    assert first.loc["subject", "patched"] == pytest.approx(first.loc["subject", "clean"], abs=1e-4)
    assert first.loc["preposition", "patched"] == pytest.approx(first.loc["preposition", "corrupted"], abs=1e-4)
    about = json.loads(next(swept.glob("runs/*/patches/*/patch.json")).read_text())
    about = about.get("content", about)
    assert sorted(about["prompts"][0]["answer"].split(", ")) in (["are", "have", "were"], ["has", "is", "was"])


@pytest.mark.parametrize("command", [["show"], ["report", "agree"], ["export"]])
def test_what_a_sweep_found_is_shown(swept: Path, command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    run = next(swept.glob("runs/*")).name
    given = {"show": [run], "report": [], "export": [str(swept / "tables")]}[command[0]]
    with pytest.raises(SystemExit) as stopped:
        cli.main([*command, *given, f"output={swept}"])
    assert stopped.value.code == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    if command == ["show"]:
        assert "subject corruption" in out and "attractor corruption" in out
    if command[0] == "report":
        page = (swept / "report-agree.html").read_text()
        assert all(name in page for name in ("preferred_singular_plural", "prob_diff", "the again"))


def test_figures_show_what_a_task_calls_its_metrics(swept: Path) -> None:
    drawn = dict(pictures(tabulate(read(swept, ["agree"]))))
    assert list(drawn)[:5] == ["win-rate", "preferred", "win-rate-train", "preferred-train", "logit-diff"]
    assert drawn["logit-diff"]().axes[0].get_ylabel() == "LD (logits)"
