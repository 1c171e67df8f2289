"""Prompts as token batches: padding, answer tokens, roles."""

from __future__ import annotations

import random
import re
from collections import Counter
from itertools import chain

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from mi_sweeps.errors import UserError
from mi_sweeps.models.mini.tokenizer import word_tokenizer
from mi_sweeps.tasks.encoding import Text, encode, is_one_token, text_batch, token_after
from mi_sweeps.tasks.ioi import generate, splits, templates
from mi_sweeps.tasks.lexicon import ACTIONS, NAMES, OBJECTS, PLACES, SCENES
from mi_sweeps.tasks.prompts import Prompt, fill
from mi_sweeps.tasks.roles import role_order, role_positions
from mi_sweeps.tasks.tokens import Batch, repeated
from mi_sweeps.training.evaluate import scored_logits

PROMPT = fill(
    "After {}, {} and {} went to the store, {} and {} gave a book to", ["Mary", "John", "Tom", "John", "Mary"], "Tom", 2
)
BEFORE = [
    "intro 1",
    "name 1",
    "comma",
    "name 2",
    "and",
    "name 3",
    *(f"scene {place}" for place in range(-4, 0)),
    "stop",
]
ROLES = (*BEFORE, "subject 1", "subjects' and", "subject 2", "action -3", "action -2", "action -1", "end")
GENERATED = splits(NAMES[:48], 3, {"train": 60, "heldout": 6}, seed=0)["train"]
SPELLED = generate([("Mary", "John", "Tom")] * 60, templates(0)[0], random.Random(0))
"""Of names that the byte-level tokenizer knows, and words that it spells out."""


@pytest.fixture(scope="module", params=[False, True], ids=["spaces in spans", "spans trimmed"])
def byte_level(request: pytest.FixtureRequest) -> PreTrainedTokenizerBase:
    """A tokenizer of GPT-2's kind: a token begins with the space before its word; long names are two tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=request.param)
    words = ["Mary,", "John", "and", "Tom", "went", "the", "store", "gave", "a", "book", "to", "Kate", "with", "love"]
    trainer = trainers.BpeTrainer(
        special_tokens=["<|endoftext|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([f" {word}" for word in words], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|endoftext|>", eos_token="<|endoftext|>")


def test_a_prompt_by_hand(mini_tokenizer: PreTrainedTokenizerBase) -> None:
    batch = encode([PROMPT], mini_tokenizer, prepend_bos=False)
    assert batch.roles == (ROLES,)
    assert mini_tokenizer.convert_ids_to_tokens(batch.tokens[0].tolist()) == PROMPT.text.replace(",", " ,").split()
    assert batch.end.tolist() == [17]
    assert mini_tokenizer.convert_ids_to_tokens([int(batch.answers[0]), *batch.subjects[0].tolist()]) == [
        "Tom",
        "John",
        "Mary",
    ]


def test_byte_level_tokens_get_the_same_roles(byte_level: PreTrainedTokenizerBase) -> None:
    batch = encode([PROMPT], byte_level, prepend_bos=False)
    assert batch.roles[0][-17:] == ROLES[1:]
    named = dict(zip(batch.roles[0], byte_level.convert_ids_to_tokens(batch.tokens[0].tolist()), strict=True))
    assert (named["name 1"], named["comma"], named["name 3"], named["end"]) == ("ĠMary", ",", "ĠTom", "Ġto")
    assert (named["subject 1"], named["subjects' and"], named["subject 2"]) == ("ĠJohn", "Ġand", "ĠMary")


def test_answers_are_spelled_as_they_follow_the_prompt(byte_level: PreTrainedTokenizerBase) -> None:
    batch = encode([PROMPT], byte_level, prepend_bos=False)
    tokens = [int(batch.answers[0]), *batch.subjects[0].tolist()]
    assert byte_level.convert_ids_to_tokens(tokens) == ["ĠTom", "ĠJohn", "ĠMary"]
    assert token_after("with love to", " Kate", byte_level) == byte_level.convert_tokens_to_ids("ĠKate")


def test_bos_comes_first_and_moves_nothing_else(byte_level: PreTrainedTokenizerBase) -> None:
    without, with_bos = (encode([PROMPT], byte_level, prepend_bos=prepend) for prepend in (False, True))
    assert with_bos.tokens[0].tolist() == [byte_level.bos_token_id, *without.tokens[0].tolist()]
    assert with_bos.roles[0] == ("bos", *without.roles[0])
    assert with_bos.end.tolist() == [without.end.item() + 1]
    assert torch.equal(with_bos.answers, without.answers)


@given(rows=st.lists(st.sampled_from(range(len(GENERATED))), min_size=1, max_size=8))
@settings(max_examples=30)
def test_a_batch_is_its_prompts_one_at_a_time(rows: list[int], mini_tokenizer: PreTrainedTokenizerBase) -> None:
    prompts = [GENERATED[row] for row in rows]
    batch = encode(prompts, mini_tokenizer, prepend_bos=False)
    assert len(batch) == len(prompts)
    assert batch.tokens.shape[1] == batch.end.max() + 1
    for row, prompt in enumerate(prompts):
        alone = encode([prompt], mini_tokenizer, prepend_bos=False)
        length = len(batch.roles[row])
        assert batch.end[row] == alone.end[0] == length - 1
        assert torch.equal(batch.tokens[row, :length], alone.tokens[0])
        assert (batch.tokens[row, length:] == mini_tokenizer.pad_token_id).all()
        assert torch.equal(batch.answers[row], alone.answers[0])
        assert torch.equal(batch.subjects[row], alone.subjects[0])


@given(prompt=st.sampled_from(GENERATED))
def test_roles_are_unique_and_end_with_the_end(prompt: Prompt, mini_tokenizer: PreTrainedTokenizerBase) -> None:
    batch = encode([prompt], mini_tokenizer, prepend_bos=False)
    (roles,) = batch.roles
    assert len(set(roles)) == len(roles) == batch.tokens.shape[1]
    assert roles[-1] == "end"
    words = mini_tokenizer.convert_ids_to_tokens(batch.tokens[0].tolist())
    named = [words[roles.index(role)] for role in ("name 1", "name 2", "name 3", "subject 1", "subject 2")]
    assert tuple(named) == prompt.slot_names()


def test_two_name_roles(mini_tokenizer: PreTrainedTokenizerBase) -> None:
    prompt = fill("When {} and {} met, {} gave a book to", ["Mary", "Tom", "Mary"], "Tom", 1)
    assert encode([prompt], mini_tokenizer, prepend_bos=False).roles[0] == (
        *("intro 1", "name 1", "and", "name 2", "scene -1", "stop"),
        *("subject", "action -3", "action -2", "action -1", "end"),
    )


def test_selected_prompts_keep_no_padding_that_none_of_them_needs(mini_tokenizer: PreTrainedTokenizerBase) -> None:
    batch = encode(GENERATED, mini_tokenizer, prepend_bos=False)
    shortest = int(batch.end.argmin())
    chosen = batch.select([shortest, shortest])
    assert chosen.tokens.shape == (2, batch.end.min() + 1)
    assert chosen.prompts == (GENERATED[shortest],) * 2
    assert chosen.roles == (batch.roles[shortest],) * 2
    assert torch.equal(batch.select(torch.arange(len(batch))).tokens, batch.tokens)


def roles_of(prompts: list[Prompt], tokenizer: PreTrainedTokenizerBase) -> tuple[Batch, list[str]]:
    batch = encode(prompts, tokenizer, prepend_bos=False)
    return batch, role_order(batch)


def hold_roles(prompts: list[Prompt], tokenizer: PreTrainedTokenizerBase) -> None:
    """Every token has one role, no two of a prompt the same, in one order for all prompts."""
    batch, roles = roles_of(prompts, tokenizer)
    assert all(len(set(row)) == len(row) == end + 1 for row, end in zip(batch.roles, batch.end.tolist(), strict=True))
    assert set(roles) == {role for row in batch.roles for role in row}
    for row in batch.roles:
        assert sorted(row, key=roles.index) == list(row)


def test_all_roles_are_in_reading_order(mini_tokenizer: PreTrainedTokenizerBase) -> None:
    hold_roles(GENERATED, mini_tokenizer)


def test_so_are_those_of_words_of_several_tokens(byte_level: PreTrainedTokenizerBase) -> None:
    hold_roles(SPELLED, byte_level)


def test_tenth_token_of_a_section_is_before_the_ninth(mini_tokenizer: PreTrainedTokenizerBase) -> None:
    action = "gave a big red old new small heavy green blue ring to"
    prompt = fill("When {} and {} met, {} " + action, ["Mary", "Tom", "Mary"], "Tom", 1)
    _, roles = roles_of([prompt], mini_tokenizer)
    assert [roles[-12], roles[-11], roles[-10], *roles[-2:]] == [
        "action -11",
        "action -10",
        "action -9",
        "action -1",
        "end",
    ]


@pytest.mark.parametrize("n_names", [2, 3])
def test_a_role_is_the_same_kind_of_word_in_every_template(
    n_names: int, mini_tokenizer: PreTrainedTokenizerBase
) -> None:
    """Of all openings, scenes, joints and actions; only what few templates have is in few prompts."""
    rng = random.Random(0)
    names = NAMES[:n_names]
    prompts = [prompt for template in chain(*templates(0)) for prompt in generate([names] * 6, [template], rng)[:1]]
    batch = encode(prompts, mini_tokenizer, prepend_bos=False)
    words: dict[str, Counter[str]] = {}
    for tokens, roles in zip(batch.tokens.tolist(), batch.roles, strict=True):
        for token, role in zip(tokens, roles, strict=False):
            words.setdefault(role, Counter())[mini_tokenizer.convert_ids_to_tokens(token)] += 1
    verbs = {action.split()[-4] for action in ACTIONS}
    expected = {
        **{"scene -4": {scene.split()[-4] for scene in SCENES}, "scene -3": {scene.split()[-3] for scene in SCENES}},
        **{"scene -2": {"the"}, "scene -1": set(PLACES), "stop": {",", "."}, "joint": {"Later", "Soon"}},
        **{"action -5": {"decided"}, "action -4": {"to"}, "action -3": verbs, "action -2": {"a"}},
        **{"action -1": set(OBJECTS), "end": {"to"}},
    }
    assert {role: words[role].keys() for role in expected} == expected
    few = {role for role, found in words.items() if 2 * found.total() < len(prompts)}
    assert few == {"scene -5", "action -5", "action -4"}


@pytest.mark.parametrize(
    ("scene", "roles"),
    [
        (" met {}", ["scene -1"]),  # nothing ends it
        (", {}", ["stop"]),
        (" met, and {}", ["scene -1", "stop", "joint"]),
        (" met, at noon. Later on {}", ["scene -4", "scene -3", "scene -2", "scene -1", "stop", "joint -1", "joint"]),
    ],
)
def test_roles_between_names_and_subjects(scene: str, roles: list[str]) -> None:
    text = "When {} and {}" + scene + " gave a book to"
    words = re.findall(r"\w+|[^\w\s]", text)
    tokenizer = word_tokenizer([*words, "Mary", "Tom"], 64)
    batch = encode([fill(text, ["Mary", "Tom", "Mary"], "Tom", 1)], tokenizer, prepend_bos=False)
    assert list(batch.roles[0][4:-5]) == roles
    assert role_order(batch) == list(batch.roles[0])


def test_positions_of_roles(mini_tokenizer: PreTrainedTokenizerBase) -> None:
    short = fill("When {} and {} met, {} gave a book to", ["Mary", "Tom", "Mary"], "Tom", 1)
    long = fill("When {} and {} met at noon, {} gave a book to", ["Mary", "Tom", "Mary"], "Tom", 1)
    batch = encode([short, long], mini_tokenizer, prepend_bos=False)
    assert role_positions(batch, ["name 1", "scene -3", "stop", "subject", "end"]).tolist() == [
        [1, -1, 5, 6, 10],
        [1, 4, 7, 8, 12],
    ]


@pytest.mark.parametrize(("name", "one"), [("Tom", True), ("Bartholomew", False)])
def test_what_is_one_token(byte_level: PreTrainedTokenizerBase, name: str, one: bool) -> None:
    assert is_one_token(name, byte_level) is one


def test_unknown_word_is_one_line(mini_tokenizer: PreTrainedTokenizerBase) -> None:
    prompt = PROMPT.with_slots({2: "Zoe"})
    with pytest.raises(UserError, match=r"\Aprompt 'After .*': 'Zoe' is not in the model's vocabulary; use other .*\Z"):
        encode([PROMPT, prompt], mini_tokenizer, prepend_bos=False)


def test_name_of_two_tokens_is_one_line(byte_level: PreTrainedTokenizerBase) -> None:
    prompt = PROMPT.with_slots({3: "Bartholomew"})
    with pytest.raises(
        UserError, match=r"\Aprompt 'After .*': 'Bartholomew' is \d+ tokens .*; names must be one token\Z"
    ):
        encode([prompt], byte_level, prepend_bos=False)


def test_word_that_is_not_one_token_after_a_space_is_one_line(byte_level: PreTrainedTokenizerBase) -> None:
    with pytest.raises(UserError, match=r"\Aprompt 'a store': ',' is not one token .*; use another name\Z"):
        token_after("a store", " ,", byte_level)


def test_no_prompts_is_one_line(mini_tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(UserError, match=r"\Atask: no prompts; .*\Z"):
        encode([], mini_tokenizer, prepend_bos=False)


def test_bos_that_the_tokenizer_lacks_is_one_line(mini_tokenizer: PreTrainedTokenizerBase) -> None:
    assert mini_tokenizer.bos_token_id is None
    with pytest.raises(UserError, match=r"\Amodel\.prepend_bos=true: .*; use model\.prepend_bos=false\Z"):
        encode([PROMPT], mini_tokenizer, prepend_bos=True)


def test_text_of_different_lengths_by_hand(byte_level: PreTrainedTokenizerBase) -> None:
    texts = [Text("Mary went to the store with", "John", ("Tom",)), Text("the book with", "Tom", ("John",))]
    batch = text_batch(texts, byte_level, prepend_bos=True)
    long, short = batch.end.tolist()
    assert (long - short, batch.tokens.shape[1]) == (len(batch.roles[0]) - len(batch.roles[1]), long + 1)
    assert batch.roles[1] == ("bos", *(f"end-{distance}" for distance in range(short - 1, 0, -1)), "end")
    assert byte_level.decode(batch.tokens[1, 1 : short + 1].tolist()) == "the book with"
    assert byte_level.convert_ids_to_tokens([*batch.answers.tolist(), *batch.subjects[:, 0].tolist()]) == [
        *("ĠJohn", "ĠTom"),
        *("ĠTom", "ĠJohn"),
    ]
    assert role_order(batch) == list(batch.roles[0])


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        ([], "task: no prompts; ask for at least one"),
        ([Text("a book", "Bartholomew", ())], "prompt 'a book': 'Bartholomew' is not one token .*"),
        ([Text("a", "Tom", ("John",)), Text("a", "Tom", ())], "task: prompts have different numbers of subjects; .*"),
    ],
)
def test_text_that_cannot_be_a_batch_is_one_line(
    texts: list[Text], says: str, byte_level: PreTrainedTokenizerBase
) -> None:
    with pytest.raises(UserError, match=rf"\A{says}\Z"):
        text_batch(texts, byte_level)


def test_names_that_a_tokenizer_cannot_tell_apart_are_refused() -> None:
    tokenizer = word_tokenizer(["when", "maria", "and", "met", ",", "spoke", "to"], context=64)
    tokenizer.backend_tokenizer.normalizer = normalizers.BertNormalizer()
    prompt = fill("When {} and {} met, {} spoke to", ["Maria", "María", "María"], "Maria", 1)
    with pytest.raises(UserError, match=r"\Aprompt 'When .*': 'Maria', 'María' are not different tokens .*\Z"):
        encode([prompt], tokenizer, prepend_bos=False)


def test_a_repeated_answer_is_learned_as_often_as_it_occurs(mini_model, mini_tokenizer):
    """As Hugging Face computes the loss of the whole text, with a label for each answer and for nothing else."""
    prompts = [
        fill("{}, {} and {} met, {} and {} gave to", ["Tom", "Mary", "John", "Mary", "John"], "Tom", 2),
        fill("Then {}, {} and {} met, {} and {} gave lunch to", ["Amy", "Eric", "Kate", "Kate", "Eric"], "Amy", 2),
    ]
    alone = encode(prompts, mini_tokenizer, prepend_bos=False)
    batch = repeated(alone, 5, longest=64)
    assert repeated(alone, 1, longest=64) is alone
    with torch.no_grad():
        scored = torch.nn.functional.cross_entropy(scored_logits(mini_model, batch), batch.scored[2], reduction="none")
        one = torch.nn.functional.cross_entropy(
            scored_logits(mini_model, batch.select([0])), batch.select([0]).scored[2]
        )
        expected = []
        for prompt in prompts:
            text = mini_tokenizer(f"{prompt.text}{f' {prompt.answer}' * 5}", return_tensors="pt")["input_ids"]
            labels = text.clone()
            labels[:, :-5] = -100
            expected.append(mini_model(text, labels=labels).loss)
    assert scored.view(2, 5).mean(dim=1).tolist() == pytest.approx([loss.item() for loss in expected], abs=1e-5)
    assert one.item() == pytest.approx(expected[0].item(), abs=1e-5)
    with pytest.raises(UserError, match=r"\Atask.repeat=60: a prompt and its answers are 73 tokens, .* takes 64; use"):
        repeated(alone, 60, longest=64)
