"""Encodes prompts with a model's tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from mi_sweeps.errors import UserError
from mi_sweeps.tasks.prompts import Prompt, Span
from mi_sweeps.tasks.roles import prompt_roles
from mi_sweeps.tasks.tokens import Batch, Contrast, Shown, distances

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Row:
    """One tokenized prompt."""

    tokens: list[int]
    answer: int
    subjects: list[int]
    roles: tuple[str, ...]


@dataclass(frozen=True)
class Text:
    """A question without name slots. The answer, and each word it is compared with, is one token."""

    text: str
    """Without a trailing space."""
    answer: str
    subjects: tuple[str, ...]


def encode(prompts: Sequence[Prompt], tokenizer: PreTrainedTokenizerBase, *, prepend_bos: bool) -> Batch:
    """Tokenizes prompts, and finds the tokens of answers and subjects and the role of each token.

    Raises:
        UserError: a name is unknown to the tokenizer, or more than one token.
    """
    return batch_of(prompts, [_encode(prompt, tokenizer, prepend_bos) for prompt in prompts], tokenizer)


def text_batch(prompts: Sequence[Text], tokenizer: PreTrainedTokenizerBase, *, prepend_bos: bool = False) -> Batch:
    """A batch of texts of any length; their answers are scored. A token's role is its distance from the end: "end-1".

    Raises:
        UserError: a word is unknown to the tokenizer, an answer or subject is more than one token, or prompts have
            different numbers of subjects.
    """
    if len({len(prompt.subjects) for prompt in prompts}) > 1:
        raise UserError("task: prompts have different numbers of subjects; give every prompt the same number")
    rows = []
    for prompt in prompts:
        tokens, spans = tokenize(prompt.text, tokenizer, prepend_bos)
        roles = ("bos",) * prepend_bos + distances(len(spans))
        rows.append(Row(tokens, *_answers(prompt, tokenizer), roles))
    return batch_of(prompts, rows, tokenizer)


def batch_of(
    prompts: Sequence[Shown],
    rows: Sequence[Row],
    tokenizer: PreTrainedTokenizerBase,
    contrast: Contrast | None = None,
) -> Batch:
    """Pads tokenized prompts to a batch.

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


def _encode(prompt: Prompt, tokenizer: PreTrainedTokenizerBase, prepend_bos: bool) -> Row:
    tokens, spans = tokenize(prompt.text, tokenizer, prepend_bos)
    for start, end in prompt.slots:
        joined = [prompt.text[left:right] for left, right in spans if right > start and left < end]
        if len(joined) != 1:
            raise UserError(
                f"prompt {prompt.text!r}: {prompt.text[start:end]!r} is {len(joined)} tokens of the model's tokenizer; "
                "names must be one token"
            )
        if (token := joined[0]).strip() != prompt.text[start:end]:
            raise UserError(
                f"prompt {prompt.text!r}: {prompt.text[start:end]!r} is no token of its own but part of {token!r}; "
                "names must be one token"
            )
    roles = prompt_roles(prompt, spans)
    return Row(tokens, *_answers(prompt, tokenizer), ("bos", *roles) if prepend_bos else roles)


def tokenize(text: str, tokenizer: PreTrainedTokenizerBase, prepend_bos: bool) -> tuple[list[int], list[Span]]:
    """The tokens of a text, with BOS if `prepend_bos`, and the character spans of all tokens but BOS.

    Raises:
        UserError: a word is unknown, the text is longer than the model accepts, or there is no BOS token.
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
            f"prompt {text[:60]!r}…: {len(tokens)} tokens, but the model takes {tokenizer.model_max_length}; "
            "use shorter prompts"
        )
    if prepend_bos:
        if tokenizer.bos_token_id is None:
            raise UserError(
                "model.prepend_bos=true: the model's tokenizer has no BOS token; use model.prepend_bos=false"
            )
        tokens = [tokenizer.bos_token_id, *tokens]
    return tokens, spans


def adds_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a tokenizer itself begins texts with BOS, as those of Llama and Gemma do."""
    bos: int | None = tokenizer.bos_token_id
    return bos is not None and tokenizer("a")["input_ids"][:1] == [bos]


def _answers(prompt: Shown, tokenizer: PreTrainedTokenizerBase) -> tuple[int, list[int]]:
    """The tokens of the answer and of the subjects that it is compared with."""
    words = (prompt.answer, *prompt.subjects)
    answer, *subjects = tokens_after(prompt.text, [f" {word}" for word in words], tokenizer)
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
            "task: its prompts are text, but the model has no tokenizer; use task=previous_token or task=induction, or "
            "another model"
        )
    return tokenizer


def token_after(text: str, word: str, tokenizer: PreTrainedTokenizerBase) -> int:
    """The token of a word that directly follows a text; the word includes its leading space, if any.

    Raises:
        UserError: the word is unknown, or not one token there.
    """
    return tokens_after(text, [word], tokenizer)[0]


def tokens_after(text: str, words: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """`token_after` for several words, in one call of the tokenizer: its overhead is most of its time."""
    before, *after = tokenizer([text, *(text + word for word in words)], add_special_tokens=False)["input_ids"]
    for word, tokens in zip(words, after, strict=True):
        if tokens[:-1] != before or tokens[-1] == tokenizer.unk_token_id:
            raise UserError(
                f"prompt {text!r}: {word.strip()!r} is not one token of the model's tokenizer; use another name"
            )
    return [int(tokens[-1]) for tokens in after]


def is_one_token(name: str, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a name inside a sentence is a single, known token."""
    tokens = tokenizer(f"a {name}", add_special_tokens=False)["input_ids"]
    rest = tokenizer("a", add_special_tokens=False)["input_ids"]
    return tokens[:-1] == rest and tokens[-1] != tokenizer.unk_token_id
