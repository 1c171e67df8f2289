"""Metrics at the answer position: by hand on a stub, and unmoved by padding on `mini`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from tokenizers import normalizers
from transformers import GPT2Config, PreTrainedModel, PreTrainedTokenizerBase

from mi_sweeps.errors import UserError
from mi_sweeps.models.mini.tokenizer import word_tokenizer
from mi_sweeps.tasks.encoding import encode
from mi_sweeps.tasks.ioi import orders, splits
from mi_sweeps.tasks.lexicon import NAMES
from mi_sweeps.tasks.metrics import prompt_metrics, wilson, won
from mi_sweeps.tasks.prompts import Prompt, fill
from mi_sweeps.tasks.questions import Question, Questions, QuestionTask
from mi_sweeps.tasks.tokens import Batch
from mi_sweeps.training.evaluate import CHUNK, end_logits, fused
from mi_sweeps.training.evaluate import evaluate as evaluate_task

THREE = "After {}, {} and {} went to the store, {} and {} gave a book to"
NAMED = ("Mary", "John", "Tom")
SIX = [fill(THREE, [*NAMED, *(NAMED[place] for place in subjects)], NAMED[answer], 2) for answer, subjects in orders(3)]
UNEQUAL = [
    *splits(NAMES[:48], 3, {"train": 12, "heldout": 6}, seed=0)["train"],
    fill("When {}, {} and {} sat, {} and {} gave a key to", ["Kate", "Paul", "Anna", "Anna", "Paul"], "Kate", 2),
    fill(
        "Then {}, {} and {} had a big red cake at the hotel. Soon {} and {} decided to give the new small ring to",
        ["Mark", "Lisa", "Peter", "Mark", "Peter"],
        "Lisa",
        2,
    ),
]


class Stub:
    """A model that gives prepared logits at the end of each prompt, and nonsense elsewhere."""

    config = GPT2Config()

    def __init__(self, logits: torch.Tensor, ends: torch.Tensor) -> None:
        self.logits, self.ends, self.seen = logits, ends, 0

    def modules(self) -> tuple[torch.nn.Module, ...]:
        return ()

    def base_model(self, input_ids: torch.Tensor, **_: Any) -> SimpleNamespace:
        rows = range(self.seen, self.seen + len(input_ids))
        self.seen += len(input_ids)
        hidden = torch.full((*input_ids.shape, self.logits.shape[1]), 1e6)
        hidden[torch.arange(len(rows)), self.ends[list(rows)]] = self.logits[list(rows)]
        return SimpleNamespace(last_hidden_state=hidden)

    def get_output_embeddings(self) -> torch.nn.Module:
        return torch.nn.Identity()


def stub(batch: Batch, right: Sequence[bool], n_words: int) -> Stub:
    """The first subject gets 2, the second 1, and the answer 3 where the stub is right; all else gets 0."""
    logits = torch.zeros(len(batch), n_words)
    for row, is_right in enumerate(right):
        for value, subject in enumerate(reversed(batch.subjects[row].tolist()), start=1):
            logits[row, subject] = value
        logits[row, batch.answers[row]] = 3.0 * is_right
    return Stub(logits, batch.end)


def evaluate(model: Any, tokenizer: PreTrainedTokenizerBase, batch: Batch, *, step: int, split: str) -> list[Any]:
    """Of prompts with name slots."""
    task: Any = SimpleNamespace(metrics=lambda logits, batch: prompt_metrics(logits, batch, tokenizer))
    return evaluate_task(model, task, batch, step=step, split=split)


def values(rows: list[dict[str, Any]]) -> dict[str, float]:
    return {row["metric"]: row["value"] for row in rows}


def counts(rows: list[dict[str, Any]]) -> dict[str, int]:
    return {row["metric"]: row["n"] for row in rows}


@pytest.fixture
def batch(mini_tokenizer: PreTrainedTokenizerBase) -> Batch:
    return encode(SIX, mini_tokenizer, prepend_bos=False)


def test_six_prompts_by_hand(batch: Batch, mini_tokenizer: PreTrainedTokenizerBase) -> None:
    """Right on both prompts whose answer is listed first, the first of those where it is last, and nowhere else."""
    n_words = len(mini_tokenizer)
    model = stub(batch, [True, True, False, False, True, False], n_words)
    rows = evaluate(model, mini_tokenizer, batch, step=8, split="heldout")
    assert {(row["step"], row["split"]) for row in rows} == {(8, "heldout")}
    right = math.log(math.exp(3) + math.exp(2) + math.exp(1) + n_words - 3) - 3
    wrong = math.log(math.exp(2) + math.exp(1) + n_words - 2)
    assert values(rows) == pytest.approx(
        {
            "loss": (right + wrong) / 2,
            "win_rate": 0.5,
            "win_rate_low": 0.1876,
            "win_rate_high": 0.8124,
            "logit_diff_first": (1 - 2) / 2,
            "logit_diff_second": (2 - 1) / 2,
            "win_rate_place_1": 1.0,
            "win_rate_place_2": 0.0,
            "win_rate_place_3": 0.5,
            "win_rate_order_same": 2 / 3,
            "win_rate_order_swapped": 1 / 3,
        },
        abs=1e-4,
    )
    assert {metric: n for metric, n in counts(rows).items() if n != 6} == {
        "win_rate_place_1": 2,
        "win_rate_place_2": 2,
        "win_rate_place_3": 2,
        "win_rate_order_same": 3,
        "win_rate_order_swapped": 3,
    }


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"group": "low"}, "win_rate_low"),
        ({"compared": {"logit_diff": ((" Mary",), (" Tom",))}}, "logit_diff"),
        ({"compared": {"loss": ((" Mary",), (" Tom",))}}, "loss"),
    ],
)
def test_two_metrics_of_one_name_are_refused(
    mini_tokenizer: PreTrainedTokenizerBase, changed: dict[str, Any], name: str
) -> None:
    ask = {"right": (" Mary",), "wrong": (" Tom",), "corrupted": {}} | changed
    low, high, trained = (
        Question(parts={"after": "After", "who": f" {who} and"}, **ask) for who in ("John", "Kate", "Anna")
    )
    questions = Questions([trained], [low, replace(high, group="other")], {})
    task = QuestionTask(questions, mini_tokenizer, prepend_bos=False)
    batch = task.splits["heldout"]
    model: Any = stub(batch, [True] * len(batch), len(mini_tokenizer))
    with pytest.raises(UserError, match=rf"\Atask: 2 metrics of heldout prompts are named '{name}'; rename .*\Z"):
        evaluate_task(model, task, batch, step=0, split="heldout")


def test_a_split_named_like_the_losses_of_training_is_refused(
    batch: Batch, mini_tokenizer: PreTrainedTokenizerBase
) -> None:
    model = stub(batch, [True] * 6, len(mini_tokenizer))
    with pytest.raises(UserError, match=r"\Atask: a split is named 'batch', like losses of training; rename it\Z"):
        evaluate(model, mini_tokenizer, batch, step=0, split="batch")


def test_two_name_prompts_have_one_subject_and_no_order(mini_tokenizer: PreTrainedTokenizerBase) -> None:
    text = "When {} and {} met, {} gave a book to"
    prompts = [fill(text, ["Mary", "Tom", "Mary"], "Tom", 1), fill(text, ["Mary", "Tom", "Tom"], "Mary", 1)]
    batch = encode(prompts, mini_tokenizer, prepend_bos=False)
    model = stub(batch, [True, False], len(mini_tokenizer))
    metrics = values(evaluate(model, mini_tokenizer, batch, step=0, split="two_name"))
    assert metrics.keys() == {
        *("loss", "win_rate", "win_rate_low", "win_rate_high", "logit_diff_first"),
        *("win_rate_place_1", "win_rate_place_2"),
    }
    assert (metrics["win_rate_place_1"], metrics["win_rate_place_2"]) == (0, 1)
    assert metrics["logit_diff_first"] == (3 - 1 + 0 - 1) / 2


def test_more_prompts_than_fit_in_one_forward(mini_tokenizer: PreTrainedTokenizerBase) -> None:
    n = 2 * CHUNK + 4
    batch = encode([SIX[row % 6] for row in range(n)], mini_tokenizer, prepend_bos=False)
    model = stub(batch, [row >= CHUNK for row in range(n)], len(mini_tokenizer))
    rows = evaluate(model, mini_tokenizer, batch, step=0, split="train")
    assert values(rows)["win_rate"] == pytest.approx((CHUNK + 4) / n)
    assert counts(rows)["win_rate"] == n


def test_a_win_rate_is_the_nearest_number_to_its_share(mini_tokenizer: PreTrainedTokenizerBase) -> None:
    """In 32 bits 216 of 240 is less than 0.9, and the checkpoint at which the task was learned is missed."""
    batch = encode([SIX[row % 6] for row in range(240)], mini_tokenizer, prepend_bos=False)
    model = stub(batch, [row >= 24 for row in range(240)], len(mini_tokenizer))
    metrics = values(evaluate(model, mini_tokenizer, batch, step=0, split="heldout"))
    assert {
        value for name, value in metrics.items() if name == "win_rate" or "_place_" in name or "_order_" in name
    } == {0.9}


def test_a_word_is_the_answer_with_or_without_its_space() -> None:
    words = [" Tom", "Tom", " Tommy", "tom"]
    tokenizer = SimpleNamespace(decode=lambda tokens: words[tokens[0]])
    prompts = (SIX[4],) * 4
    nothing = torch.zeros(4, dtype=torch.long)
    batch = Batch(prompts, nothing[:, None], nothing, nothing, nothing[:, None], ((),) * 4)
    assert won(torch.eye(4), batch, tokenizer).tolist() == [True, True, False, False]  # type: ignore[arg-type]


def test_an_uncased_tokenizers_answer_is_the_word_in_its_spelling() -> None:
    """A model that is right everywhere wins everywhere, as with a cased tokenizer; another word loses."""
    words = sorted({word.lower() for prompt in SIX for word in prompt.text.replace(",", " ,").split()})
    tokenizer = word_tokenizer(words, context=64)
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    batch = encode(SIX, tokenizer, prepend_bos=False)
    right = [True, True, True, False, True, True]
    rows = evaluate(stub(batch, right, len(tokenizer)), tokenizer, batch, step=0, split="heldout")
    assert values(rows)["win_rate"] == pytest.approx(5 / 6)


def test_end_logits_are_the_models_own(mini_model: PreTrainedModel, mini_tokenizer: PreTrainedTokenizerBase) -> None:
    batch = encode(SIX, mini_tokenizer, prepend_bos=False)
    with torch.no_grad():
        assert torch.allclose(end_logits(mini_model, batch), mini_model(batch.tokens).logits[:, -1], atol=1e-5)


def alone(prompts: Sequence[Prompt], tokenizer: PreTrainedTokenizerBase) -> list[Batch]:
    return [encode([prompt], tokenizer, prepend_bos=False) for prompt in prompts]


@torch.no_grad()
def largest_difference(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> float:
    """Between logits at the ends of padded prompts and those of the same prompts one at a time."""
    batch = encode(UNEQUAL, tokenizer, prepend_bos=False)
    assert batch.end.max() - batch.end.min() > 10
    expected = torch.cat([model(one.tokens).logits[:, -1] for one in alone(UNEQUAL, tokenizer)])
    return (end_logits(model, batch) - expected).abs().max().item()


def test_prompts_of_unequal_length_are_as_one_at_a_time(
    mini_model: PreTrainedModel, mini_tokenizer: PreTrainedTokenizerBase
) -> None:
    assert largest_difference(mini_model, mini_tokenizer) <= 1e-5


def test_prompts_of_unequal_length_in_every_architecture(
    random_model: PreTrainedModel, mini_tokenizer: PreTrainedTokenizerBase
) -> None:
    assert largest_difference(random_model, mini_tokenizer) <= 1e-5


def test_metrics_of_a_batch_are_the_means_of_one_at_a_time(
    mini_model: PreTrainedModel, mini_tokenizer: PreTrainedTokenizerBase
) -> None:
    batch = encode(UNEQUAL, mini_tokenizer, prepend_bos=False)
    together = values(evaluate(mini_model, mini_tokenizer, batch, step=0, split="train"))
    one_by_one = [
        values(evaluate(mini_model, mini_tokenizer, one, step=0, split="train"))
        for one in alone(UNEQUAL, mini_tokenizer)
    ]
    for metric in ("loss", "win_rate", "logit_diff_first", "logit_diff_second"):
        mean = sum(metrics[metric] for metrics in one_by_one) / len(one_by_one)
        assert together[metric] == pytest.approx(mean, abs=1e-5)
    for metric in ("win_rate_place_1", "win_rate_place_3", "win_rate_order_same", "win_rate_order_swapped"):
        those = [metrics[metric] for metrics in one_by_one if metric in metrics]
        assert together[metric] == pytest.approx(sum(those) / len(those))


def test_a_fused_activation_is_the_models_own_and_is_only_lent(
    mini_model: PreTrainedModel, mini_tokenizer: PreTrainedTokenizerBase
) -> None:
    batch, before = encode(UNEQUAL, mini_tokenizer, prepend_bos=False), list(mini_model.modules())
    with torch.no_grad():
        plain = end_logits(mini_model, batch)
        with pytest.raises(KeyboardInterrupt), fused(mini_model):
            assert list(mini_model.modules()) != before
            quick = end_logits(mini_model, batch)
            raise KeyboardInterrupt
    assert list(mini_model.modules()) == before
    assert (quick - plain).abs().max() < 1e-5


def test_what_the_padding_is_does_not_matter(
    mini_model: PreTrainedModel, mini_tokenizer: PreTrainedTokenizerBase
) -> None:
    batch = encode(UNEQUAL, mini_tokenizer, prepend_bos=False)
    padding = torch.arange(batch.tokens.shape[1]) > batch.end[:, None]
    assert padding.any()
    noise = torch.randint(len(mini_tokenizer), batch.tokens.shape, generator=torch.Generator().manual_seed(0))
    noisy = Batch(
        batch.prompts,
        torch.where(padding, noise, batch.tokens),
        batch.end,
        batch.answers,
        batch.subjects,
        batch.roles,
    )
    metrics = [evaluate(mini_model, mini_tokenizer, one, step=0, split="train") for one in (batch, noisy)]
    assert values(metrics[0]) == pytest.approx(values(metrics[1]), abs=1e-6)


@pytest.mark.parametrize(
    ("wins", "n", "low", "high"),
    [
        (27, 50, 0.404, 0.670),
        (0, 10, 0.0, 0.278),
        (10, 10, 0.722, 1.0),
        (3, 6, 0.188, 0.812),
        (1, 1, 0.207, 1.0),
        (0, 0, 0.0, 1.0),
    ],
)
def test_wilson_by_hand(wins: int, n: int, low: float, high: float) -> None:
    assert wilson(wins, n) == pytest.approx((low, high), abs=5e-4)


@given(n=st.integers(1, 10_000), data=st.data())
def test_wilson_contains_the_share(n: int, data: st.DataObject) -> None:
    wins = data.draw(st.integers(0, n))
    low, high = wilson(wins, n)
    assert 0 <= low < high <= 1
    assert low - 1e-12 <= wins / n <= high + 1e-12
    assert wilson(n - wins, n) == pytest.approx((1 - high, 1 - low), abs=1e-12)
    known = binomtest(wins, n).proportion_ci(0.95, method="wilson")
    assert (low, high) == pytest.approx((known.low, known.high), abs=1e-12)
