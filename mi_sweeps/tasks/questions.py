"""Questions made of named parts, for tasks whose prompts do not list names.

A part's name is the role of its tokens. A corruption replaces the words of some parts, so clean and corrupted prompts
differ only there. There can be several right answers and several wrong ones:

    logit difference        = mean logit of the right answers - mean logit of the wrong ones
    probability difference  = sum of the right answers' probabilities - sum of the wrong ones'

Patch jobs measure the first, which is linear in the logits, so that attribution of it is exact. Some papers report the
second; here it is a metric.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mi_sweeps.errors import UserError
from mi_sweeps.tasks.batches import batch_rows
from mi_sweeps.tasks.corruption import unknown_corruption
from mi_sweeps.tasks.encoding import Row, batch_of, required, token_after, tokenize
from mi_sweeps.tasks.metrics import Measured, share, win_rates
from mi_sweeps.tasks.pairs import Pairs
from mi_sweeps.tasks.roles import RELATIVE
from mi_sweeps.tasks.tokens import Batch, Contrast

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


RESERVED = ("bos", "end", *RELATIVE)
"""Roles that are not parts."""

COUNTED_BACK = r" -\d+$"
"""The end of the role of a token before the last of its part."""


@dataclass(frozen=True)
class Question:
    """One prompt, its answers and its corrupted partners.

    Raises:
        UserError: a part's name is empty, in RESERVED, or looks as if it counted back from another.
    """

    parts: Mapping[str, str]
    """Text by role, in reading order, each with its leading space: {"so": "So", "name": " Mary", ...}. The prompt's
    last token has the role "end"; otherwise the last token of a part has the part's name, and the tokens before it
    count back from it ("name -1")."""
    right: tuple[str, ...]
    """The answers, as they follow the text: " she", or "46" after " 17"."""
    wrong: tuple[str, ...]
    """The continuations that the answers are compared with."""
    corrupted: Mapping[str, Mapping[str, str]]
    """By corruption, the parts that it replaces and their new text."""
    target: str = ""
    """The right answer that training targets; by default the first."""
    group: str = ""
    """Metrics are also reported by group ("she"), and subsets are balanced over the groups."""
    compared: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = field(default_factory=dict)
    """Further metrics by name: the continuations whose probabilities are added, and those whose are subtracted."""

    def __post_init__(self) -> None:
        for name in self.parts:
            if name in RESERVED or not name or re.search(COUNTED_BACK, name):
                raise UserError(
                    f"task: the prompt {self.text!r} has a part named {name!r}, which tables use otherwise (as they do "
                    f"{', '.join(RESERVED)} and names like 'name -1'); give it another"
                )

    @property
    def text(self) -> str:
        """The whole prompt."""
        return "".join(self.parts.values())

    @property
    def answer(self) -> str:
        """The answers, shortened for display."""
        return _few(self.right)

    @property
    def subjects(self) -> tuple[str, ...]:
        """The wrong continuations, shortened for display."""
        return (_few(self.wrong),)

    def partner(self, corruption: str) -> Question:
        """The same question with a corruption's parts replaced."""
        other = self.corrupted[corruption]
        if unknown := set(other) - set(self.parts):
            raise UserError(f"corruption={corruption}: the question {self.text!r} has no part {unknown.pop()!r}")
        return replace(self, parts={**self.parts, **other}, corrupted={})


def _few(words: Sequence[str]) -> str:
    shown = [word.strip() for word in words]
    return ", ".join(shown if len(shown) <= 4 else [*shown[:2], "…", shown[-1]])


@dataclass(frozen=True)
class Questions:
    """All questions of a task, as its function returns them, and what a reader should know about them.

    Raises:
        UserError: there are none, one occurs twice or is both trained on and held out, or their corruptions or further
            metrics differ.
    """

    train: Sequence[Question]
    heldout: Sequence[Question]
    audit: Mapping[str, Any]

    def __post_init__(self) -> None:
        for split, asked in (("train", self.train), ("heldout", self.heldout)):
            texts = Counter(question.text for question in asked)
            if not texts:
                raise UserError(f"task: no {split} prompts; ask for at least one (task.prompts.{split})")
            text, count = texts.most_common(1)[0]
            if count > 1:
                raise UserError(f"task: the {split} prompt {text!r} occurs {count} times; ask for fewer prompts")
            metrics = set(asked[0].compared)
            if other := [question for question in asked if set(question.compared) != metrics]:
                raise UserError(f"task: the {split} prompt {other[0].text!r} is not `compared` by the first's metrics")
        if both := {question.text for question in self.train} & {question.text for question in self.heldout}:
            raise UserError(
                f"task: the prompt {min(both)!r} is both trained on and held out; split by the words in the prompts"
            )
        known = set(self.heldout[0].corrupted)
        if other := [question for question in self.heldout if set(question.corrupted) != known]:
            raise UserError(f"task: the prompt {other[0].text!r} has different corruptions from the first")


class QuestionTask:
    """A task of questions (`mi_sweeps.tasks.task.Task`)."""

    def __init__(self, questions: Questions, tokenizer: PreTrainedTokenizerBase | None, *, prepend_bos: bool) -> None:
        self.audit = questions.audit
        self.asked = questions
        self._tokenizer = required(tokenizer)
        self._prepend_bos = prepend_bos
        self._follows: dict[tuple[str, str], int] = {}

    @cached_property
    def _train(self) -> Batch:
        return self._encode(self.asked.train)

    @cached_property
    def splits(self) -> dict[str, Batch]:
        """The held-out questions, and as many training questions, balanced over the groups."""
        heldout = self.asked.heldout
        compared = spread(self.asked.train, len(heldout))
        return {"train": self._encode(compared), "heldout": self._encode(heldout)}

    def training(self, step: int, size: int, seed: int) -> Batch:
        """Epochs over all training questions, each shuffled anew."""
        return self._train.select(batch_rows(step, len(self._train), size, seed))

    def metrics(self, logits: Float[Tensor, "scored d_vocab"], batch: Batch) -> list[Measured]:
        """Win rate (the most likely token is a right answer) and preferred (the logit difference is above 0), overall
        and by group; the logit difference; and probability differences."""
        contrast, n = batch.contrast, len(batch)
        assert contrast
        wins = self.wins(logits, batch)
        differences = contrast.of(logits)
        probabilities = logits.softmax(dim=1)
        signs = Contrast(contrast.tokens, contrast.weights.sign())
        found = [
            *win_rates(wins),
            ("preferred", share(differences > 0), n),
            ("logit_diff", differences.mean().item(), n),
            ("prob_diff", signs.of(probabilities).mean().item(), n),
        ]
        questions = [prompt for prompt in batch.prompts if isinstance(prompt, Question)]
        for name in questions[0].compared:
            found.append((name, self._compared(probabilities, questions, name), n))
        groups = [question.group for question in questions]
        for group in sorted(set(groups)) if len(set(groups)) > 1 else ():
            chosen = torch.tensor([other == group for other in groups], device=logits.device)
            found.append((f"win_rate_{group}", share(wins[chosen]), int(chosen.sum())))
            found.append((f"preferred_{group}", share(differences[chosen] > 0), int(chosen.sum())))
        return found

    def wins(self, logits: Float[Tensor, "prompt d_vocab"], batch: Batch) -> Bool[Tensor, " prompt"]:
        """Whether each prompt counts as won in the win rate."""
        assert batch.contrast
        tokens, weights = batch.contrast.tokens, batch.contrast.weights
        return ((tokens == logits.argmax(dim=1, keepdim=True)) & (weights > 0)).any(dim=1)

    def _compared(
        self, probabilities: Float[Tensor, "prompt d_vocab"], questions: Sequence[Question], name: str
    ) -> float:
        total = 0.0
        for row, question in zip(probabilities, questions, strict=True):
            for sign, words in zip((1, -1), question.compared[name], strict=True):
                total += sign * row[[self._token(question, word) for word in words]].sum().item()
        return total / len(questions)

    def pairs(self, corruption: str, count: int, split: str = "heldout") -> Pairs:
        """Questions, balanced over the groups, and their corrupted partners."""
        questions = self.asked.train if split == "train" else self.asked.heldout
        chosen = spread(questions, count)
        if without := [question for question in chosen if corruption not in question.corrupted]:
            raise unknown_corruption(corruption, without[0].corrupted)
        pairs = Pairs(self._encode(chosen), self._encode([question.partner(corruption) for question in chosen]))
        for row, question in enumerate(chosen):
            self._check_unchanged(pairs, row, question, corruption)
        return pairs

    @staticmethod
    def _check_unchanged(pairs: Pairs, row: int, question: Question, corruption: str) -> None:
        """Checks that only tokens of the replaced parts differ.

        Raises:
            UserError: others do, because a token reaches from one part into the next.
        """
        *_, last = question.parts
        differs = (pairs.clean.tokens[row] != pairs.corrupted.tokens[row]).tolist()
        roles = [role for role, other in zip(pairs.clean.roles[row], differs, strict=False) if other]
        parts = [last if role == "end" else re.sub(COUNTED_BACK, "", role) for role in roles]
        if others := [part for part in parts if part not in question.corrupted[corruption]]:
            raise UserError(
                f"corruption={corruption}: does not replace the part {others[0]!r} of the prompt {question.text!r}, "
                "but changes its tokens: they reach into the next part; make one part of both, or use other words"
            )

    def _encode(self, questions: Sequence[Question]) -> Batch:
        rows, contrasts = [], []
        for question in questions:
            tokens, spans = tokenize(question.text, self._tokenizer, self._prepend_bos)
            right, wrong = (
                [self._token(question, word) for word in words] for words in (question.right, question.wrong)
            )
            if not right or not wrong or len({*right, *wrong}) < len(right) + len(wrong):
                raise UserError(
                    f"prompt {question.text!r}: its answers {question.answer!r} and {question.subjects[0]!r} are not "
                    "different tokens of the model's tokenizer; use other words"
                )
            roles = ("bos",) * self._prepend_bos + part_roles(question.parts, [end for _, end in spans])
            *_, last = question.parts
            seen = {last, *roles}
            if lost := [name for name, text in question.parts.items() if text.strip() and name not in seen]:
                raise UserError(
                    f"prompt {question.text!r}: no token of the model's tokenizer ends in its part {lost[0]!r}; make "
                    "one part of it and the next"
                )
            target = self._token(question, question.target or question.right[0])
            rows.append(Row(tokens, target, [], roles))
            weights = [1 / len(right)] * len(right) + [-1 / len(wrong)] * len(wrong)
            contrasts.append((right + wrong, weights))
        width = max(len(tokens) for tokens, _ in contrasts)
        # Padding has weight 0.
        contrast = Contrast(
            torch.tensor([tokens + tokens[:1] * (width - len(tokens)) for tokens, _ in contrasts]),
            torch.tensor([weights + [0.0] * (width - len(weights)) for _, weights in contrasts]),
        )
        return batch_of(questions, rows, self._tokenizer, contrast)

    def _token(self, question: Question, word: str) -> int:
        """The token of a continuation. Where the last part begins with a space, only that part decides the token."""
        last = list(question.parts.values())[-1]
        before = last if last[:1].isspace() else question.text
        if (before, word) not in self._follows:
            self._follows[before, word] = token_after(question.text, word, self._tokenizer)
        return self._follows[before, word]


def part_roles(parts: Mapping[str, str], ends: Sequence[int]) -> tuple[str, ...]:
    """The role of each token in a prompt: the part that contains its last character."""
    borders = list(accumulate(map(len, parts.values())))
    names = list(parts)
    found = [names[next(place for place, border in enumerate(borders) if end <= border)] for end in ends[:-1]]
    left = Counter(found)
    roles = []
    for name in found:
        left[name] -= 1
        roles.append(f"{name} {-left[name]}" if left[name] else name)
    return (*roles, "end")


def spread(questions: Sequence[Question], count: int) -> list[Question]:
    """Chooses `count` questions, spread as evenly over the groups as possible; always the same ones."""
    groups: dict[str, list[Question]] = {}
    for question in questions:
        groups.setdefault(question.group, []).append(question)
    queues = [list(reversed(groups[name])) for name in sorted(groups)]
    chosen: list[Question] = []
    while len(chosen) < count and any(queues):
        chosen += [queue.pop() for queue in queues if queue]
    return chosen[:count]
