"""Questions with named parts: roles, several answers, corruptions that change the named parts, and metrics by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerBase

from mi_sweeps.circuits.attribution import attribute
from mi_sweeps.circuits.families import describe as describe_network
from mi_sweeps.circuits.fast import FastEngine
from mi_sweeps.circuits.reference import ReferenceEngine, wrap
from mi_sweeps.errors import UserError
from mi_sweeps.models.mini.tokenizer import word_tokenizer
from mi_sweeps.sweeps.grid import expand
from mi_sweeps.tasks.questions import Question, Questions, QuestionTask, spread
from mi_sweeps.tasks.roles import role_order

ONE = Question(
    parts={"so": "So", "name": " Mary", "is": " is", "description": " a really great friend", "tag": ", isn't"},
    right=(" she",),
    wrong=(" he",),
    corrupted={"name": {"name": " John"}},
    group="she",
)
TWO = replace(
    ONE,
    parts={**ONE.parts, "name": " John", "description": " always on time"},
    right=(" he", " is"),
    wrong=(" she", " was", " has"),
    corrupted={"name": {"name": " Mary"}},
    target=" is",
    group="he",
    compared={},
)
OTHER = replace(ONE, parts={**ONE.parts, "name": " Kate"})


def made(words: PreTrainedTokenizerBase, *questions: Question) -> QuestionTask:
    return QuestionTask(Questions([OTHER], questions, {}), words, prepend_bos=False)


def test_roles_are_the_parts_and_count_back_within_them(words) -> None:
    batch = made(words, ONE, TWO).splits["heldout"]
    end = ("tag -2", "tag -1", "tag")
    assert batch.roles[0] == ("so", "name", "is", *(f"description -{n}" for n in (3, 2, 1)), "description", *end, "end")
    assert batch.roles[1] == ("so", "name", "is", "description -2", "description -1", "description", *end, "end")
    assert role_order(batch) == list(batch.roles[0])


def test_roles_that_only_some_questions_have_stand_in_reading_order(words) -> None:
    longer = replace(ONE, parts={"so": "So", "name": " Mary", "is": " is", "always": " always", "tag": ", isn't"})
    batch = made(words, replace(TWO, parts={**TWO.parts, "description": " time"}), longer).splits["heldout"]
    order = role_order(batch)
    assert order[:2] == ["so", "name"]
    for roles in batch.roles:
        assert [role for role in order if role in roles] == list(roles)


def test_the_loss_is_of_the_target_and_the_difference_of_the_means(words) -> None:
    task = made(words, ONE, TWO)
    batch = task.splits["heldout"]
    assert words.convert_ids_to_tokens(batch.answers.tolist()) == ["she", "is"]
    values = {"she": 2.0, "he": -1.0, "is": 0.5, "was": 3.0, "has": 7.0}
    logits = torch.zeros(2, len(words))
    for word, value in values.items():
        logits[:, words.convert_tokens_to_ids(word)] = value
    expected = [2.0 - -1.0, (-1.0 + 0.5) / 2 - (2.0 + 3.0 + 7.0) / 3]
    assert batch.contrast is not None
    assert batch.contrast.of(logits).tolist() == pytest.approx(expected)
    assert task.pairs("name", 2).logit_diff(logits).tolist() == pytest.approx([expected[1], expected[0]])  # he first


def test_metrics_by_hand(words) -> None:
    two = replace(TWO, compared={"more": ((" is",), (" was", " has"))})
    task = made(words, replace(ONE, compared={"more": ((" she",), ())}), two)
    batch = task.splits["heldout"]
    logits = torch.zeros(2, len(words))
    logits[0, words.convert_tokens_to_ids("she")] = 4.0
    logits[1, words.convert_tokens_to_ids("was")] = 1.0
    shares = logits.softmax(dim=1)
    she, was, one = shares[0].max().item(), shares[1].max().item(), shares[1].min().item()
    found = {name: (value, n) for name, value, n in task.metrics(logits, batch)}
    assert found["win_rate"] == (0.5, 2)
    assert found["preferred"] == (0.5, 2)
    assert found["logit_diff"][0] == pytest.approx((4.0 - 1 / 3) / 2)
    expected = (she - shares[0].min().item() + 2 * one - (was + 2 * one)) / 2
    assert found["prob_diff"][0] == pytest.approx(expected, abs=1e-6)
    assert found["more"][0] == pytest.approx((she + one - was - one) / 2, abs=1e-6)
    assert {name: found[name] for name in found if name.endswith("he")} == {
        **{"win_rate_he": (0.0, 1), "win_rate_she": (1.0, 1)},
        **{"preferred_he": (0.0, 1), "preferred_she": (1.0, 1)},
    }
    assert not math.isnan(sum(value for value, _ in found.values()))


@pytest.mark.parametrize("engine", ["fast", "reference"])
@torch.no_grad()
def test_patching_several_answers_equals_hooks_in_the_plain_model(words, engine: str) -> None:
    """Patching the output of each head at the end, by hand in Hugging Face's model."""
    torch.manual_seed(0)
    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32, "initializer_range": 0.4}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(words), attn_implementation="eager", **sizes)).eval()
    pairs = made(words, ONE, TWO).pairs("name", 2)
    (point,) = expand(["patching=heads", "patching.heads=end", "patching.sites=[z]", "corruption=second"])
    network = describe_network(model)
    assert network
    fast = FastEngine(network)
    patched = (fast if engine == "fast" else ReferenceEngine(wrap(model, words))).patch(pairs, point.config.patching)

    def plain(row: int, tokens: torch.Tensor, layer: int = 0, head: int = -1) -> float:
        end = int(pairs.clean.end[row])
        kept = {}

        def keep(module, args):
            kept["z"] = args[0].clone()

        def change(module, args):
            z = args[0].clone()
            if head >= 0:
                z[0, -1, 8 * head : 8 * head + 8] = kept["z"][0, -1, 8 * head : 8 * head + 8]
            return (z,)

        projection = model.transformer.h[layer].attn.c_proj
        with projection.register_forward_pre_hook(keep):
            model(pairs.clean.tokens[row : row + 1, : end + 1])
        with projection.register_forward_pre_hook(change):
            logits = model(tokens[row : row + 1, : end + 1]).logits[0, -1]
        question = pairs.clean.prompts[row]
        sides = (
            [words.convert_tokens_to_ids(word.strip()) for word in side] for side in (question.right, question.wrong)
        )
        right, wrong = (logits[side].mean().item() for side in sides)
        return right - wrong

    for row in range(2):
        assert patched.clean[row].item() == pytest.approx(plain(row, pairs.clean.tokens), abs=1e-4)
        assert patched.corrupted[row].item() == pytest.approx(plain(row, pairs.corrupted.tokens), abs=1e-4)
        for layer in range(2):
            for head in range(2):
                expected = plain(row, pairs.corrupted.tokens, layer, head)
                assert patched.sites["z"][layer, head, row].item() == pytest.approx(expected, abs=1e-4)
    rows = attribute(fast.at_end(pairs), pairs)
    written = sum(row["logit_diff"] for row in rows if row["kind"] == "layer")
    assert written == pytest.approx(patched.clean.mean().item(), abs=1e-4)


def test_subsets_are_spread_over_the_groups() -> None:
    many = [replace(ONE, group=group) for group in "aaaabbc"]
    assert [question.group for question in spread(many, 5)] == ["a", "b", "c", "a", "b"]
    assert len(spread(many, 9)) == 7


@pytest.mark.parametrize(
    ("train", "heldout", "says"),
    [
        ([OTHER], [ONE, ONE], "task: the heldout prompt .So Mary is .* occurs 2 times; .*"),
        ([ONE], [ONE, TWO], "task: the prompt .So Mary is .* is both trained on and held out; .*"),
        ([], [ONE], r"task: no train prompts; ask for at least one \(task\.prompts\.train\)"),
        (
            [OTHER],
            [ONE, replace(TWO, compared={"more": ((" he",), ())})],
            "task: the heldout prompt .So John .* `compared.*",
        ),
        ([OTHER], [ONE, replace(TWO, corrupted={})], "task: the prompt .So John .* has different corruptions from .*"),
    ],
)
def test_questions_that_would_mislead_are_one_line(train, heldout, says) -> None:
    with pytest.raises(UserError, match=rf"\A{says}\Z"):
        Questions(train, heldout, {})


@pytest.mark.parametrize(
    ("question", "says"),
    [
        (replace(ONE, right=(" Bartholomew",)), "prompt .So Mary .*: 'Bartholomew' is not one token .*"),
        (replace(ONE, wrong=(" she",)), "prompt .So Mary .*: its answers 'she' and 'she' are not different tokens .*"),
        (replace(ONE, wrong=()), "prompt .So Mary .*: its answers 'she' and '' are not different tokens .*"),
        (replace(ONE, corrupted={"name": {"nam": " x"}}), "corruption=name: the question .So .* has no part 'nam'"),
        (
            replace(ONE, corrupted={"name": {"name": " Mary Mary"}}),
            "pairs: prompt 0 has 11 tokens but .* has 12; .*",
        ),
        (
            replace(ONE, corrupted={"name": {"name": " Mary Kate", "description": " really great friend"}}),
            "pairs: prompt 0 and its .* token by token: where it has 'name', the partner has 'name -1'; .*",
        ),
    ],
)
def test_questions_that_cannot_be_asked_are_one_line(words, question, says) -> None:
    with pytest.raises(UserError, match=rf"\A{says}\Z"):
        made(words, question).pairs("name", 1)


@pytest.mark.parametrize("name", ["end", "bos", "self", "first", "previous", "other", "name -1", ""])
def test_a_part_named_like_another_role_is_one_line(name) -> None:
    with pytest.raises(
        UserError, match=rf"\Atask: the prompt .So Mary .* has a part named '{name}', which tables .*\Z"
    ):
        replace(ONE, parts={**ONE.parts, name: " always"})


@pytest.mark.parametrize(
    ("name", "partner", "says"),
    [
        (" great Mary", " great John", "corruption=name: does not replace the part 'comma' of the prompt .*"),
        (" Mary", " John", "prompt 'So Mary, is': no token of the model's tokenizer ends in its part 'name'; .*"),
    ],
)
def test_a_token_that_reaches_into_the_next_part_is_one_line(name, partner, says) -> None:
    """So that the corruption replaces a token of a part that it does not name."""
    words = word_tokenizer(["So", "great", "Mary,", "John,", "Kate,", "is", "she", "he"], context=16)
    words.backend_tokenizer.pre_tokenizer = WhitespaceSplit()
    parts = {"so": "So", "name": name, "comma": ",", "is": " is"}
    question = replace(ONE, parts=parts, corrupted={"name": {"name": partner}})
    other = replace(question, parts={**parts, "name": " great Kate"})
    task = QuestionTask(Questions([other], [question], {}), words, prepend_bos=False)
    with pytest.raises(UserError, match=rf"\A{says}\Z"):
        task.pairs("name", 1)


def test_a_corruption_that_questions_have_not_is_one_line(words) -> None:
    with pytest.raises(UserError, match=r"\Acorruption=order: this task has no such corruption; choose among name\Z"):
        made(words, ONE).pairs("order", 1)
