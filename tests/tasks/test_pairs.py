from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tokenizers.pre_tokenizers import WhitespaceSplit

from mi_sweeps.errors import UserError
from mi_sweeps.models.mini.tokenizer import word_tokenizer
from mi_sweeps.tasks import ioi
from mi_sweeps.tasks.encoding import Text, text_batch
from mi_sweeps.tasks.load import load, patched_pairs
from mi_sweeps.tasks.pairs import Pairs, make_pairs, uncorrupted_note
from mi_sweeps.tasks.prompts import fill

CHANGED_SLOTS = {"first": ["subject 1"], "second": ["subject 2"], "both": ["subject 1", "subject 2"]}


@pytest.mark.parametrize("corruption", ["first", "second", "both"])
def test_only_the_named_positions_differ(make_test_pairs, corruption):
    pairs = make_test_pairs(corruption, count=12)
    for row, roles in enumerate(pairs.clean.roles):
        different = (pairs.clean.tokens[row] != pairs.corrupted.tokens[row]).nonzero()[:, 0].tolist()
        assert [roles[position] for position in different] == CHANGED_SLOTS[corruption]


@pytest.mark.parametrize(
    ("corruption", "expected"), [("first", 5.0 - 2.0), ("second", 5.0 - 1.0), ("both", 5.0 - 1.5), ("order", 5.0 - 1.5)]
)
def test_logit_difference_is_against_the_subject_that_was_replaced(mini_tokenizer, corruption, expected):
    prompt = fill(
        "When {}, {} and {} met at the park, {} and {} gave a ring to",
        ["Mary", "John", "Tom", "Mary", "John"],
        "Tom",
        2,
    )
    pairs = make_pairs([prompt], corruption, mini_tokenizer, ["Anna", "Paul", "Mary"], prepend_bos=False)
    logits = torch.zeros(1, len(mini_tokenizer))
    for name, value in {"Tom": 5.0, "Mary": 2.0, "John": 1.0}.items():
        logits[0, mini_tokenizer.convert_tokens_to_ids(name)] = value
    assert pairs.logit_diff(logits).tolist() == [expected]


def test_two_name_prompts_have_no_second_subject(mini_tokenizer):
    (prompt, *_) = ioi.splits(["Mary", "John", "Tom", "Anna"], 2, {"train": 2}, seed=0)["train"]
    with pytest.raises(UserError, match="corruption=second: needs 2 subjects.*use corruption=first"):
        make_pairs([prompt], "second", mini_tokenizer, [], prepend_bos=False)


LONG, SHORT = (
    Text(f"Today Mary bought a {thing} and Tom bought a cup. Later {{}} lost the", "ring", ("cup",))
    for thing in ("big red ring", "ring")
)


def batch_of(tokenizer, *prompts, name="Mary"):
    """Prompts of 17 and of 15 words of a task of one's own, with the name in their gap."""
    return text_batch([replace(prompt, text=prompt.text.format(name)) for prompt in prompts], tokenizer)


def test_pairs_of_a_task_of_ones_own_may_differ_in_length_from_each_other(mini_tokenizer):
    clean, corrupted = (batch_of(mini_tokenizer, LONG, SHORT, name=name) for name in ("Mary", "Tom"))
    pairs = Pairs(clean, corrupted, torch.ones(1))
    assert (clean.end[0] - clean.end[1]).item() == 2
    one = pairs.select([1])
    assert one.clean.tokens.shape == one.corrupted.tokens.shape == (1, clean.end[1] + 1)
    assert one.to("cpu").clean.roles == (clean.roles[1],)


def test_a_partner_of_another_length_is_refused(mini_tokenizer):
    clean, corrupted = batch_of(mini_tokenizer, LONG, LONG), batch_of(mini_tokenizer, LONG, SHORT, name="Tom")
    with pytest.raises(UserError, match=r"\Apairs: prompt 1 has 17 tokens but its corrupted partner has 15; .*\Z"):
        Pairs(clean, corrupted, torch.ones(1))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda clean, other: (clean, other.select([0]), torch.ones(1)), "2 clean prompts and 1 corrupted ones"),
        (lambda clean, other: (clean, other, torch.ones(2)), "1 subjects per prompt but 2 weights; give one"),
        (lambda clean, other: (clean, other, torch.tensor(1.0)), "1 subjects per prompt but 1 weights; give one"),
        (lambda clean, other: (replace(clean, roles=clean.roles[::-1]), other, torch.ones(1)), "prompt 0 ends at"),
        (lambda clean, other: (clean, replace(other, tokens=-1 - other.tokens), torch.ones(1)), "corrupted tokens are"),
        (lambda clean, other: (replace(clean, answers=-clean.answers), other, torch.ones(1)), "answers are not all"),
        (
            lambda clean, other: (
                clean,
                replace(other, tokens=torch.nn.functional.pad(other.tokens, (0, 1))),
                torch.ones(1),
            ),
            "clean prompts are padded to 17 tokens but corrupted ones to 18; pad both to the same length",
        ),
    ],
)
def test_pairs_that_do_not_correspond_are_one_line(mini_tokenizer, change, says):
    clean, corrupted = (batch_of(mini_tokenizer, LONG, SHORT, name=name) for name in ("Mary", "Tom"))
    with pytest.raises(UserError, match=rf"\Apairs: {says}.*\Z"):
        Pairs(*change(clean, corrupted))


@pytest.mark.parametrize(
    ("role", "says"),
    [
        ({3: "end"}, "prompt 0 has 2 tokens with the role 'end'; name each once"),
        ({3: "word", 4: "word"}, "prompt 0 has 2 tokens with the role 'word'; name each once"),
        ({-1: "last"}, "prompt 0 has the role 'last' for its last token; name that `end`"),
        ({3: "first"}, "prompt 0 has a token with the role 'first', which tables of attention use otherwise; .*"),
    ],
)
def test_roles_that_name_no_token_or_several_are_one_line(mini_tokenizer, role, says):
    clean, corrupted = (batch_of(mini_tokenizer, LONG, name=name) for name in ("Mary", "Tom"))
    names = list(clean.roles[0])
    for place, name in role.items():
        names[place] = name
    roles = (tuple(names),)
    with pytest.raises(UserError, match=rf"\Apairs: {says}\Z"):
        Pairs(replace(clean, roles=roles), replace(corrupted, roles=roles), torch.ones(1))


def test_partners_with_other_roles_are_refused(mini_tokenizer):
    clean, corrupted = (batch_of(mini_tokenizer, LONG, name=name) for name in ("Mary", "Tom"))
    roles = ("who", *corrupted.roles[0][1:])
    says = "prompt 0 and its corrupted partner do not correspond .* where it has 'end-16', the partner has 'who'; .*"
    with pytest.raises(UserError, match=rf"\Apairs: {says}\Z"):
        Pairs(clean, replace(corrupted, roles=(roles,)), torch.ones(1))


@pytest.mark.parametrize("listed", ["Mary", "Tom"])
def test_a_name_joined_to_its_comma_is_no_token_of_its_own(listed):
    words = word_tokenizer("After Mary, Tom, John and went , to the a Mary Tom John".split(), context=32)
    words.backend_tokenizer.pre_tokenizer = WhitespaceSplit()
    (other,) = {"Mary", "Tom"} - {listed}
    names = [listed, other, "John", other, "John"]
    prompt = fill("After {}, {} and {} went to the , {} and {} went to the", names, listed, 2)
    with pytest.raises(UserError, match=rf"'{listed}' is no token of its own but part of '{listed},'; names .*\Z"):
        make_pairs([prompt], "first", words, ["Mary", "Tom", "John"], prepend_bos=False)


def asked(make_config, tokenizer, *overrides):
    config = make_config("task.prompts={train:24,heldout:12,two_name:4}", "patching.prompts=6", *overrides)
    task = load(config, tokenizer)
    return config, task, patched_pairs(task, config)


def test_training_prompts_are_patched_on_request(make_config, mini_tokenizer):
    config, task, pairs = asked(make_config, mini_tokenizer, "patching.split=train")
    trained = {prompt.text for prompt in task.training(0, 24, 0).prompts}
    assert {prompt.text for prompt in pairs.clean.prompts} <= trained
    assert len({(prompt.answer_place, prompt.subject_order) for prompt in pairs.clean.prompts}) == 6
    heldout = task.pairs("first", 6)
    assert not {prompt.text for prompt in heldout.clean.prompts} & trained
    assert patched_pairs(task, config, 2).clean.prompts == pairs.clean.prompts[:2]


def test_a_message_says_that_a_third_of_a_trio_is_not_corrupted(make_config, mini_tokenizer):
    _, _, pairs = asked(make_config, mini_tokenizer, "corruption=trio", "task.trios=true", "patching.split=train")
    assert uncorrupted_note(pairs, "trio") == [
        "corruption=trio: of 6 prompts 2 are not corrupted, and the others differ in subject 1 and subject 2"
    ]
    assert uncorrupted_note(asked(make_config, mini_tokenizer)[2], "first") == []


def test_a_task_that_draws_new_sequences_has_no_prompts_of_training(make_config):
    words = ["model=nope", "task=previous_token", "corruption=previous", "patching=position", "patching.split=train"]
    config = make_config(*words)
    with pytest.raises(
        UserError, match=r"\Apatching.split=train: task=previous_token has pairs of held-out prompts only"
    ):
        patched_pairs(load(config, None), config)
