"""Prompts as batches of tokens.

Prompts of unequal length are padded on the right. Attention is causal, so nothing before a prompt's end ever
sees the padding, positions count from the prompt's own first token, and logits are read at its own last one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_sweeps.errors import UserError

NOT_SCORED = -100
"""The target of a position that the loss leaves out; PyTorch's cross-entropy ignores it."""


class Shown(Protocol):
    """How a prompt is shown to a reader: a `Prompt`, a `Question`, a `Text`, or `Numbers`."""

    @property
    def text(self) -> str: ...
    @property
    def answer(self) -> str: ...
    @property
    def subjects(self) -> tuple[str, ...]: ...


@dataclass(frozen=True, eq=False)
class Numbers:
    """A row of token numbers, turned into text only when somebody reads it: training makes many and reads none."""

    row: int
    tokens: Int[Tensor, "prompt pos"]
    answers: Int[Tensor, " prompt"]
    against: Int[Tensor, "prompt subject"]
    """The tokens that the answers are compared with."""

    @property
    def text(self) -> str:
        return " ".join(map(str, self.tokens[self.row].tolist()))

    @property
    def answer(self) -> str:
        return str(self.answers[self.row].item())

    @property
    def subjects(self) -> tuple[str, ...]:
        return tuple(map(str, self.against[self.row].tolist()))


@dataclass(frozen=True)
class Contrast:
    """The tokens of each prompt's logit difference and their signed weights: it is the weighted sum of their logits."""

    tokens: Int[Tensor, "prompt token"]
    weights: Float[Tensor, "prompt token"]
    """Above 0 for right answers, below 0 for wrong ones."""

    def of(self, values: Float[Tensor, "prompt d_vocab"]) -> Float[Tensor, " prompt"]:
        """The weighted sum for each prompt.

        Args:
            values: logits, or anything else with one value per token of the vocabulary.
        """
        return (values.gather(1, self.tokens) * self.weights).sum(dim=1)

    def to(self, device: torch.device | str) -> Contrast:
        """The same contrast on another device."""
        return Contrast(self.tokens.to(device), self.weights.to(device))

    def select(self, rows: Int[Tensor, " row"]) -> Contrast:
        """The contrast of some of the prompts."""
        return Contrast(self.tokens[rows], self.weights[rows])


@dataclass(frozen=True)
class Batch:
    """Tokenized prompts, in the order of `prompts`."""

    prompts: tuple[Shown, ...]
    tokens: Int[Tensor, "prompt pos"]
    """Padded on the right."""
    end: Int[Tensor, " prompt"]
    """Index of each prompt's last token."""
    answers: Int[Tensor, " prompt"]
    """Token of each answer, as it follows the prompt."""
    subjects: Int[Tensor, "prompt subject"]
    """Tokens that the answer is compared with: the subjects, spelled as answers would be."""
    roles: tuple[tuple[str, ...], ...]
    """The role of each token of each prompt; unique within a prompt."""
    targets: Int[Tensor, "prompt pos"] | None = None
    """The token that should follow each position, NOT_SCORED where the loss skips it. None: only the answers, at the
    ends, are scored."""
    contrast: Contrast | None = None
    """The logit difference, if it is not between one answer and the subjects."""

    def __len__(self) -> int:
        return len(self.tokens)

    @cached_property
    def scored(self) -> tuple[Int[Tensor, " scored"], Int[Tensor, " scored"], Int[Tensor, " scored"]]:
        """Prompt, position and target of every scored token, prompt by prompt."""
        if self.targets is None:
            return torch.arange(len(self), device=self.end.device), self.end, self.answers
        prompts, positions = (self.targets != NOT_SCORED).nonzero(as_tuple=True)
        return prompts, positions, self.targets[prompts, positions]

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        moved = replace(
            self,
            tokens=self.tokens.to(device),
            end=self.end.to(device),
            answers=self.answers.to(device),
            subjects=self.subjects.to(device),
            targets=None if self.targets is None else self.targets.to(device),
            contrast=self.contrast and self.contrast.to(device),
        )
        # Computed before the move: on a GPU, nonzero would wait for all queued work.
        vars(moved)["scored"] = tuple(part.to(device) for part in self.scored)
        return moved

    def select(self, rows: Sequence[int] | Int[Tensor, " row"]) -> Batch:
        """Some of the prompts, without padding that none of them needs."""
        index = torch.as_tensor(rows, dtype=torch.long, device=self.tokens.device)
        chosen = index.tolist()
        width = int(self.end[index].max()) + 1
        return Batch(
            tuple(self.prompts[row] for row in chosen),
            self.tokens[index, :width],
            self.end[index],
            self.answers[index],
            self.subjects[index],
            tuple(self.roles[row] for row in chosen),
            None if self.targets is None else self.targets[index, :width],
            self.contrast and self.contrast.select(index),
        )


def join(batches: Sequence[Batch]) -> Batch:
    """Concatenates batches for training, padded to a common width."""
    width = max(batch.tokens.shape[1] for batch in batches)

    def wide(rows: Int[Tensor, "prompt pos"], value: int) -> Int[Tensor, "prompt width"]:
        return torch.nn.functional.pad(rows, (0, width - rows.shape[1]), value=value)

    targets = [wide(batch.targets, NOT_SCORED) for batch in batches if batch.targets is not None]
    return Batch(
        (),
        torch.cat([wide(batch.tokens, 0) for batch in batches]),
        torch.cat([batch.end for batch in batches]),
        torch.cat([batch.answers for batch in batches]),
        batches[0].subjects[:0],
        (),
        torch.cat(targets) if targets else None,
    )


def repeated(batch: Batch, times: int, longest: int) -> Batch:
    """Training prompts with the answer repeated after each; every repetition is scored.

    Roles and everything else but the loss refer to the prompt alone. The last repetition is a target, not an input.

    Args:
        longest: the largest number of tokens that the model accepts.

    Raises:
        UserError: prompts and answers are longer than that.
    """
    if times == 1:
        return batch
    end = batch.end + times - 1
    if int(end.max()) + 1 > longest:
        raise UserError(
            f"task.repeat={times}: a prompt and its answers are {int(end.max()) + 1} tokens, but the model takes "
            f"{longest}; use fewer, or shorter prompts"
        )
    tokens = torch.nn.functional.pad(batch.tokens, (0, times - 1))
    targets = torch.full_like(tokens, NOT_SCORED)
    columns = torch.arange(tokens.shape[1])
    answered = (columns > batch.end[:, None]) & (columns <= end[:, None])
    tokens = torch.where(answered, batch.answers[:, None], tokens)
    scored = (columns >= batch.end[:, None]) & (columns <= end[:, None])
    return replace(batch, tokens=tokens, end=end, targets=torch.where(scored, batch.answers[:, None], targets))


def token_batch(
    tokens: Int[Tensor, "prompt pos"],
    answers: Int[Tensor, " prompt"],
    subjects: Int[Tensor, "prompt subject"],
    targets: Int[Tensor, "prompt pos"] | None = None,
) -> Batch:
    """A batch of token sequences of equal length. A position's role is its distance from the end: "end-1".

    Args:
        answers: the token that should follow the last.
        subjects: the tokens that the answer is compared with.
        targets: the token that should follow each position, NOT_SCORED where the loss skips it; None scores only the
            answer at the end.
    """
    length = tokens.shape[1]
    shown = tuple(Numbers(row, tokens, answers, subjects) for row in range(len(tokens)))
    ends = torch.full((len(tokens),), length - 1)
    return Batch(shown, tokens, ends, answers, subjects, (distances(length),) * len(tokens), targets)


def distances(length: int) -> tuple[str, ...]:
    """Roles that count back from the end: "end-2", "end-1", "end"."""
    return (*(f"end-{distance}" for distance in range(length - 1, 0, -1)), "end")
