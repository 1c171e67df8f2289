"""Prompts as token batches.

Prompts of unequal length are padded on the right. Attention is causal, so nothing before a prompt's end ever
sees the padding, positions count from the prompt's own first token, and logits are read at its own last one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_sweeps.errors import UserError
from mi_sweeps.tasks.prompts import Prompt, Span

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


STOPS = ",.;:!?"
"""What ends a clause."""

NOT_SCORED = -100
"""The target where none is; PyTorch's cross-entropy leaves it out."""


class Shown(Protocol):
    """What a reader is shown of a prompt: `Prompt`; `Text` or `Numbers` where there are no name slots."""

    @property
    def text(self) -> str: ...
    @property
    def answer(self) -> str: ...
    @property
    def subjects(self) -> tuple[str, ...]: ...


@dataclass(frozen=True, eq=False)
class Numbers:
    """A row of token numbers as text, written out where somebody reads it: training does not, and makes many."""

    row: int
    tokens: Int[Tensor, "prompt pos"]
    answers: Int[Tensor, " prompt"]
    against: Int[Tensor, "prompt subject"]
    """What the answers are measured against."""

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
    """Tokens and signed weights whose weighted logits are added up to a logit difference, for each prompt."""

    tokens: Int[Tensor, "prompt token"]
    weights: Float[Tensor, "prompt token"]
    """Those of right answers are above 0, those of wrong ones below."""

    def of(self, values: Float[Tensor, "prompt d_vocab"]) -> Float[Tensor, " prompt"]:
        """The weighted sum of each prompt's values, which are logits of all tokens."""
        return (values.gather(1, self.tokens) * self.weights).sum(dim=1)

    def to(self, device: torch.device | str) -> Contrast:
        """The same on another device."""
        return Contrast(self.tokens.to(device), self.weights.to(device))

    def select(self, rows: Int[Tensor, " row"]) -> Contrast:
        """That of some of the prompts."""
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
    """Tokens that the answer is measured against: the subjects, spelled as an answer would be."""
    roles: tuple[tuple[str, ...], ...]
    """For each prompt the role of each of its tokens; unique within a prompt."""
    targets: Int[Tensor, "prompt pos"] | None = None
    """The token that should follow each position, NOT_SCORED where the loss does not count it. None: the answers at
    the ends, and nothing else."""
    contrast: Contrast | None = None
    """What the logit difference is made of, where that is not one answer against the subjects."""

    def __len__(self) -> int:
        return len(self.tokens)

    @cached_property
    def scored(self) -> tuple[Int[Tensor, " scored"], Int[Tensor, " scored"], Int[Tensor, " scored"]]:
        """Prompt, position and target of everything that the loss counts, prompt by prompt."""
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
        # Found here and taken along: to find it on a GPU is to wait for all that the GPU has to do.
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
    """The prompts of several batches for training, one after another, padded to a common width."""
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
    """Prompts for training after which the answer is said several times: the loss is of all of them.

    Roles, and what is asked of prompts beside the loss, are those of the prompts alone; the last answer is no input.

    Args:
        longest: how many tokens the model takes.

    Raises:
        UserError: they would be more.
    """
    if times == 1:
        return batch
    end = batch.end + times - 1
    if int(end.max()) + 1 > longest:
        raise UserError(
            f"task.repeat={times}: a prompt and its answers are {int(end.max()) + 1} tokens, and the model takes "
            f"{longest}; use fewer, or shorter prompts"
        )
    tokens = torch.nn.functional.pad(batch.tokens, (0, times - 1))
    targets = torch.full_like(tokens, NOT_SCORED)
    columns = torch.arange(tokens.shape[1])
    said = (columns > batch.end[:, None]) & (columns <= end[:, None])
    tokens = torch.where(said, batch.answers[:, None], tokens)
    scored = (columns >= batch.end[:, None]) & (columns <= end[:, None])
    return replace(batch, tokens=tokens, end=end, targets=torch.where(scored, batch.answers[:, None], targets))


def encode(prompts: Sequence[Prompt], tokenizer: PreTrainedTokenizerBase, *, prepend_bos: bool) -> Batch:
    """Tokenizes prompts and finds the tokens of answers, subjects and roles.

    Raises:
        UserError: a name is unknown to the tokenizer or more than one token.
    """
    return batch_of(prompts, [_encode(prompt, tokenizer, prepend_bos) for prompt in prompts], tokenizer)


def batch_of(
    prompts: Sequence[Shown],
    rows: Sequence[Row],
    tokenizer: PreTrainedTokenizerBase,
    contrast: Contrast | None = None,
) -> Batch:
    """Tokenized prompts side by side, padded.

    Raises:
        UserError: there are none.
    """
    if not rows:
        raise UserError("task: no prompts; ask for at least one")
    width = max(len(row.tokens) for row in rows)
    padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    return Batch(
        tuple(prompts),
        torch.tensor([row.tokens + [padding] * (width - len(row.tokens)) for row in rows]),
        torch.tensor([len(row.tokens) - 1 for row in rows]),
        torch.tensor([row.answer for row in rows]),
        torch.tensor([row.subjects for row in rows], dtype=torch.long),
        tuple(row.roles for row in rows),
        contrast=contrast,
    )


def token_batch(
    tokens: Int[Tensor, "prompt pos"],
    answers: Int[Tensor, " prompt"],
    subjects: Int[Tensor, "prompt subject"],
    targets: Int[Tensor, "prompt pos"] | None = None,
) -> Batch:
    """Sequences of token numbers, all of one length. A position's role is how far it is from the end: "end-1".

    Args:
        answers: what should follow the last token.
        subjects: what the answer is measured against.
        targets: what should follow each position, NOT_SCORED where the loss does not count it; None: the answer at the
            end alone.
    """
    length = tokens.shape[1]
    shown = tuple(Numbers(row, tokens, answers, subjects) for row in range(len(tokens)))
    ends = torch.full((len(tokens),), length - 1)
    return Batch(shown, tokens, ends, answers, subjects, (_distances(length),) * len(tokens), targets)


@dataclass(frozen=True)
class Text:
    """A question in words, without name slots; the answer and what it is measured against are one token each."""

    text: str
    """Without a space at its end."""
    answer: str
    subjects: tuple[str, ...]


def text_batch(prompts: Sequence[Text], tokenizer: PreTrainedTokenizerBase, *, prepend_bos: bool = False) -> Batch:
    """Texts of any lengths; the loss counts their answers. A token's role is how far it is from the end: "end-1".

    Raises:
        UserError: a word is unknown to the tokenizer, or an answer or subject more than one token, or prompts have
            unequal numbers of subjects.
    """
    if len({len(prompt.subjects) for prompt in prompts}) > 1:
        raise UserError(
            "task: prompts have unequal numbers of subjects; give every answer as many to be measured against"
        )
    rows = []
    for prompt in prompts:
        tokens, spans = tokenize(prompt.text, tokenizer, prepend_bos)
        roles = ("bos",) * prepend_bos + _distances(len(spans))
        rows.append(Row(tokens, *_answers(prompt, tokenizer), roles))
    return batch_of(prompts, rows, tokenizer)


def _distances(length: int) -> tuple[str, ...]:
    """Roles that count from the end."""
    return (*(f"end-{distance}" for distance in range(length - 1, 0, -1)), "end")


@dataclass(frozen=True)
class Row:
    """One tokenized prompt."""

    tokens: list[int]
    answer: int
    subjects: list[int]
    roles: tuple[str, ...]


def _encode(prompt: Prompt, tokenizer: PreTrainedTokenizerBase, prepend_bos: bool) -> Row:
    tokens, spans = tokenize(prompt.text, tokenizer, prepend_bos)
    for start, end in prompt.slots:
        inside = sum(1 for left, right in spans if right > start and left < end)
        if inside != 1:
            raise UserError(
                f"prompt {prompt.text!r}: {prompt.text[start:end]!r} is {inside} tokens of the model's tokenizer; "
                "names must be one"
            )
    roles = _roles(prompt, spans)
    return Row(tokens, *_answers(prompt, tokenizer), ("bos", *roles) if prepend_bos else roles)


def tokenize(text: str, tokenizer: PreTrainedTokenizerBase, prepend_bos: bool) -> tuple[list[int], list[Span]]:
    """The tokens of a text, BOS before them if asked for, and the spans of those that are not BOS.

    Raises:
        UserError: a word is unknown, or the text longer than the model takes, or there is no BOS.
    """
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    tokens: list[int] = encoding["input_ids"]
    spans: list[Span] = [tuple(span) for span in encoding["offset_mapping"]]
    if tokenizer.unk_token_id is not None and tokenizer.unk_token_id in tokens:
        start, end = spans[tokens.index(tokenizer.unk_token_id)]
        raise UserError(
            f"prompt {text!r}: {text[start:end]!r} is not in the model's vocabulary; use other words or another model"
        )
    if len(tokens) + prepend_bos > tokenizer.model_max_length:
        raise UserError(
            f"prompt {text[:60]!r}…: {len(tokens)} tokens, and the model takes {tokenizer.model_max_length}; "
            "use shorter prompts"
        )
    if prepend_bos:
        if tokenizer.bos_token_id is None:
            raise UserError(
                "model.prepend_bos=true: the model's tokenizer has no such token; use model.prepend_bos=false"
            )
        tokens = [tokenizer.bos_token_id, *tokens]
    return tokens, spans


def _answers(prompt: Shown, tokenizer: PreTrainedTokenizerBase) -> tuple[int, list[int]]:
    """The tokens of the answer and of what it is measured against."""
    words = (prompt.answer, *prompt.subjects)
    answer, *subjects = (next_token(prompt.text, word, tokenizer) for word in words)
    if len({answer, *subjects}) < len(set(words)):
        raise UserError(
            f"prompt {prompt.text!r}: {', '.join(map(repr, dict.fromkeys(words)))} are not different tokens of the "
            "model's tokenizer; use other words"
        )
    return answer, subjects


def required(tokenizer: PreTrainedTokenizerBase | None) -> PreTrainedTokenizerBase:
    """The tokenizer of a task of text.

    Raises:
        UserError: the model has none.
    """
    if tokenizer is None:
        raise UserError(
            "task: is made of text, and the model has no tokenizer; use task=previous_token or task=induction, or "
            "another model"
        )
    return tokenizer


def next_token(text: str, word: str, tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that spells a word where it follows a text and a space.

    Raises:
        UserError: it is not one token there, or unknown.
    """
    return token_after(text, f" {word}", tokenizer)


def token_after(text: str, word: str, tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that spells what follows a text at once, with its space if it has one.

    Raises:
        UserError: it is not one token there, or unknown.
    """
    before = tokenizer(text, add_special_tokens=False)["input_ids"]
    after = tokenizer(text + word, add_special_tokens=False)["input_ids"]
    if after[:-1] != before or after[-1] == tokenizer.unk_token_id:
        raise UserError(
            f"prompt {text!r}: {word.strip()!r} is not one token of the model's tokenizer; use another name"
        )
    return int(after[-1])


def is_one_token(name: str, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a name is a single, known token inside a sentence."""
    tokens = tokenizer(f"a {name}", add_special_tokens=False)["input_ids"]
    rest = tokenizer("a", add_special_tokens=False)["input_ids"]
    return tokens[:-1] == rest and tokens[-1] != tokenizer.unk_token_id


def role_sections(n_listed: int, n_subjects: int) -> list[str]:
    """The sections of a prompt in reading order: what lies between its slots, and the slots."""
    sections = ["intro"]
    for place in range(1, n_listed + 1):
        sections.append(f"name {place}")
        if place < n_listed:
            sections.append("and" if place == n_listed - 1 else "comma" if n_listed == 3 else f"comma {place}")
    sections += ["scene", "stop", "joint"]
    for place in range(1, n_subjects + 1):
        sections.append(f"subject {place}" if n_subjects > 1 else "subject")
        if place < n_subjects:
            sections.append("subjects' and")
    return [*sections, "action", "end"]


def _roles(prompt: Prompt, spans: Sequence[Span]) -> tuple[str, ...]:
    """The role of each token: its section, and how far it is from the section's end.

    What stands between names is mostly one word: the last token there has the section's name, others count back from
    it. `scene` and `action` are numbered throughout, so that "action -1" is the last token before the end in every
    prompt, however many there are; `intro` counts from the first token of the prompt, which is like no other.
    """
    found = _sections(prompt, spans[:-1])
    total, count = Counter(found), Counter[str]()
    roles = []
    for section in found:
        count[section] += 1
        before_last = count[section] - total[section]
        if section == "intro":
            roles.append(f"{section} {count[section]}")
        elif section in ("scene", "action"):
            roles.append(f"{section} {before_last - 1}")
        else:
            # "John, and Tom" has two tokens there: "and -1" and "and".
            roles.append(f"{section} {before_last}" if before_last else section)
    return (*roles, "end")


def _sections(prompt: Prompt, spans: Sequence[Span]) -> list[str]:
    """The section of each token. Between the last listed name and the subjects lie three: the scene, the comma or full
    stop that ends its clause, and what joins the next one on (". Later")."""
    sections = role_sections(len(prompt.slots) - prompt.n_subjects, prompt.n_subjects)
    borders = [border for slot in prompt.slots for border in slot]
    # A token belongs where its last character lies: byte-level tokens begin with the space before a word.
    passed = [sum(1 for border in borders if border < right) for _, right in spans]
    scene = sections.index("scene")
    words = (prompt.text[left:right].strip() for left, right in spans)
    stops = [place for place, word in enumerate(words) if passed[place] == scene and word and not word.strip(STOPS)]
    # A scene that nothing ends is followed by the subject at once.
    stop = stops[-1] if stops else sum(count <= scene for count in passed) - 0.5
    return [sections[count + (place >= stop) + (place > stop)] for place, count in enumerate(passed)]


def role_order(batch: Batch) -> list[str]:
    """Every role that occurs in a batch, in reading order."""
    first = batch.prompts[0]
    if not isinstance(first, Prompt):
        return _merged(sorted(set(batch.roles), key=lambda roles: (-len(roles), roles)))
    sections = ["bos", *role_sections(len(first.slots) - first.n_subjects, first.n_subjects)]

    def rank(role: str) -> tuple[int, int]:
        stem, _, number = role.rpartition(" ")
        return (sections.index(role), 1) if role in sections else (sections.index(stem), int(number))

    return sorted({role for roles in batch.roles for role in roles}, key=rank)


def _merged(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """The first row's roles, and each that only later rows have before the one that follows it there."""
    order = list(rows[0])
    for roles in rows[1:]:
        for role, after in reversed(list(zip(roles, (*roles[1:], None), strict=True))):
            if role not in order:
                order.insert(len(order) if after is None else order.index(after), role)
    return order


def role_positions(batch: Batch, roles: Sequence[str]) -> Int[Tensor, "prompt role"]:
    """Where each role is in each prompt; -1 where a prompt has no such token."""
    return torch.tensor(
        [[row.index(role) if role in row else -1 for role in roles] for row in batch.roles],
        device=batch.tokens.device,
    )
