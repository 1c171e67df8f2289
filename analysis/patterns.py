"""Whole attention patterns that patch jobs keep for a few prompts, and which heads to show.

`tables/000008.patterns.parquet` has a row for each prompt, side and head: the lower triangle of the pattern, row by row
from the first token (which sees itself only) to the last (which sees all). patch.json has the tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from ..circuits.tables import TABLES
from ..errors import UserError
from . import measured
from .folder import Patch, leave_out
from .inference.families import Family
from .inference.verdicts import Verdict

SIDES = ("clean", "corrupted")
OF_QUERIES = ("z", "pattern", "q")
"""Sites with one head per pattern; key/value heads may be shared."""

Head = tuple[int, int]
"""Layer and head."""
Triangle = Float[np.ndarray, "token token"]
"""Attention of each token (row) to itself and those before it (column); zero above the diagonal."""


@dataclass(frozen=True)
class Prompt:
    """A prompt with stored patterns."""

    number: int
    """Index in patch.json."""
    text: str
    """The clean text."""
    tokens: Mapping[str, tuple[str, ...]]
    """By side."""

    @property
    def changed(self) -> tuple[int, ...]:
        """Indices at which clean and corrupted tokens differ."""
        clean, corrupted = (self.tokens[side] for side in SIDES)
        return tuple(at for at, (one, other) in enumerate(zip(clean, corrupted, strict=False)) if one != other)


@dataclass(frozen=True)
class Patterns:
    """Stored patterns of a checkpoint: some heads on each prompt, clean and corrupted."""

    heads: tuple[Head, ...]
    of: Mapping[tuple[int, str], Float[np.ndarray, "head cell"]]
    """By prompt number and side: [head, cell of the lower triangle]."""

    def square(self, prompt: int, side: str, head: Head) -> Triangle:
        """Return one pattern as a square matrix."""
        return squared(self.of[prompt, side][self.heads.index(head)])


def squared(cells: Float[np.ndarray, " cell"]) -> Triangle:
    """Expand a lower triangle that is stored row by row."""
    size = int((np.sqrt(8 * len(cells) + 1) - 1) / 2)
    filled = np.zeros((size, size))
    filled[np.tril_indices(size)] = cells
    return filled


def file(patch: Patch, step: int) -> Path:
    """The file of a checkpoint's patterns."""
    return patch.table(step, "patterns")


def steps(patch: Patch) -> list[int]:
    """The checkpoints whose patterns were kept, in order."""
    return [step for step in patch.steps() if file(patch, step).exists()]


def prompts(patch: Patch) -> Iterator[Prompt]:
    """The prompts of a patch job whose tokens are stored, in order."""
    for number, about in enumerate(patch.about.get("prompts", ())):
        tokens = {"clean": about.get("tokens"), "corrupted": about.get("corrupted_tokens")}
        if all(isinstance(of_side, list) and of_side for of_side in tokens.values()):
            by_side = {side: tuple(map(str, of_side or ())) for side, of_side in tokens.items()}
            yield Prompt(number, str(about.get("clean", "")), by_side)


def read(patch: Patch, step: int, damaged: list[str] | None = None) -> Patterns | None:
    """Read the patterns of a checkpoint; None if they cannot be read and `damaged` takes the reason.

    Raises:
        UserError: the file cannot be read or does not match the tokens in patch.json, and `damaged` is None.
    """
    table = measured.stored(file(patch, step), TABLES["patterns"].names, damaged)
    if table is None:
        return None
    try:
        return _laid_out(table, patch)
    except (KeyError, ValueError, TypeError, pa.ArrowException) as error:
        message = f"cannot read {file(patch, step)} ({error}): delete it and run the sweep again"
        leave_out(UserError(message), damaged)
        return None


def _laid_out(table: pa.Table, patch: Patch) -> Patterns:
    number, layer, head = (table[name].to_numpy() for name in ("prompt", "layer", "head"))
    side = np.array(table["side"].to_pylist(), dtype=object)
    lists = table["pattern"].combine_chunks()
    starts, lengths = lists.offsets.to_numpy()[:-1], np.diff(lists.offsets.to_numpy())
    values = lists.values.to_numpy()
    heads = sorted({*zip(layer.tolist(), head.tolist(), strict=True)})
    expected = np.array(heads).T
    known = {prompt.number: prompt for prompt in prompts(patch)}
    of = {}
    for prompt in dict.fromkeys(number.tolist()):
        if prompt not in known:
            raise ValueError(f"patch.json has no tokens of prompt {prompt}")
        for name in dict.fromkeys(side[number == prompt]):
            rows = np.flatnonzero((number == prompt) & (side == name))
            rows = rows[np.lexsort([head[rows], layer[rows]])]
            if len(rows) != len(heads) or not np.array_equal([layer[rows], head[rows]], expected):
                raise ValueError(f"not every head once on the {name} prompt {prompt}")
            size = len(known[prompt].tokens[name])
            if (lengths[rows] != size * (size + 1) // 2).any():
                raise ValueError(f"the {name} prompt {prompt} has {size} tokens in patch.json, and another number here")
            laid = values[starts[rows][:, None] + np.arange(lengths[rows[0]])].astype("float32")
            if not (np.isfinite(laid).all() and laid.min() >= 0 and laid.max() < 1.01):
                raise ValueError(f"not an attention pattern on the {name} prompt {prompt}")
            of[prompt, name] = laid
    if missing := [f"{side} prompt {number}" for number, _ in of for side in SIDES if (number, side) not in of]:
        raise ValueError(f"no patterns on the {missing[0]}")
    return Patterns(tuple(heads), of)


def mattering(families: Iterable[Family], stored: Iterable[Head], most: int) -> tuple[list[Head], str]:
    """Choose at most `most` heads whose patterns to show, and describe the choice.

    These are the largest heads that matter at any checkpoint in any family; if none does, the largest; without
    families, the first.

    Args:
        stored: heads with patterns.
    """
    there = sorted(set(stored))
    largest, verdict = dict.fromkeys(there, 0.0), set()
    is_judged = False
    for family in families:
        if family.is_estimate or family.site not in OF_QUERIES:
            continue
        is_judged = True
        recovered = np.abs(np.nan_to_num(family.grid(family.estimate.recovered)))
        matters = family.grid(family.judged.words == Verdict.MATTERS.value)
        recovered = np.where(family.grid(family.estimate.has_gap), recovered, 0)
        for at, (layer, head, _) in enumerate(family.places):
            own = matters[:, at]
            if head is None or (layer, head) not in largest:
                continue
            if own.any():
                verdict.add((layer, head))
            largest[layer, head] = max(largest[layer, head], float(recovered[:, at].max()))
    if not is_judged:
        return there[:most], f"the first {len(there[:most])} of {len(there)} heads, without verdicts"
    chosen = [head for head in sorted(there, key=lambda head: -largest[head]) if head in (verdict or largest)]
    kept = sorted(chosen[:most])
    if not verdict:
        return kept, f"none is shown to matter; the {len(kept)} heads with the largest effect"
    if len(chosen) > most:
        return kept, f"the {most} largest of {len(chosen)} heads that matter at some checkpoint"
    return kept, f"the {'head that matters' if len(kept) == 1 else f'{len(kept)} heads that matter'} at some checkpoint"
