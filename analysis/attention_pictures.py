"""Attention patterns of single prompts as pictures: the heads that matter, at some checkpoints and over all of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.image import AxesImage

from ..errors import UserError
from . import evidence, missing, patterns, plotting
from .animated import Film, film
from .folder import Patch
from .frames import Frames
from .patterns import Head, Patterns, Prompt
from .plotting import Picture, Source
from .summaries import spread

MOST_HEADS = 4
"""Heads per picture."""

COLOURS = "Purples"
LONGEST = 12
"""Characters of a token's label."""


@dataclass(frozen=True)
class StoredPatterns:
    """The patterns of a patch job to draw: one prompt, some heads."""

    patch: Patch
    prompt: Prompt
    heads: Sequence[Head]
    which: str
    of: Mapping[int, Patterns]
    """By checkpoint."""
    unread: Sequence[int]
    """Checkpoints whose patterns are damaged."""

    def square(self, step: int, side: str, head: Head) -> np.ndarray:
        """A pattern with NaN above the diagonal, and everywhere if the checkpoint is missing."""
        size = len(self.prompt.tokens[side])
        if step not in self.of:
            return np.full((size, size), np.nan)
        return np.where(np.tri(size, dtype=bool), self.of[step].square(self.prompt.number, side, head), np.nan)


def corruptions(frames: Frames) -> list[str]:
    """The corruptions whose patch jobs kept patterns."""
    return [str(name) for name in dict.fromkeys(patch.corruption for patch in _patches(frames))]


def attention(frames: Frames, corruption: str) -> Picture:
    """Draw the first prompt's patterns in the first run that kept any, a row per head.

    Clean at the first, middle and last checkpoint, corrupted at the last.
    """
    kept = _kept(frames, corruption)
    steps = spread(list(kept.of), 3)
    columns = [("clean", step) for step in steps] + [("corrupted", steps[-1])]
    title = f"Where heads look, {corruption} corruption"
    below = _source(frames, [kept], f"corrupted with {corruption}")
    room = (plotting.PAGE - 1.2) / len(columns)
    with plotting.grid(len(kept.heads), len(columns), title, below, room + 0.05, page=True) as (figure, axes):
        for row, (line, head) in enumerate(zip(axes, kept.heads, strict=True)):
            for plot, (side, step) in zip(line, columns, strict=True):
                image = _draw(plot, kept.prompt, side, kept.prompt.changed, room)
                image.set_data(kept.square(step, side, head))
                plot.tick_params(labelbottom=row == len(axes) - 1, labelleft=plot is line[0])
                if row == 0:
                    plot.set_title(f"{side}, checkpoint {step}")
            line[0].set_ylabel(f"head {head[0]}.{head[1]}", fontsize=7.5)
        figure.colorbar(image, ax=list(axes.flat), label="attention", shrink=0.6, pad=0.01, aspect=40)
    figure.numbers = plotting.together(_numbers(kept, *column, head) for head in kept.heads for column in columns)
    return figure


def _numbers(kept: StoredPatterns, side: str, step: int, head: Head) -> pd.DataFrame:
    square = kept.square(step, side, head)
    query, key = np.tril_indices(len(square))
    tokens = np.array(kept.prompt.tokens[side], object)
    about = {
        "side": side,
        "step": step,
        "layer": head[0],
        "head": head[1],
        "query": query,
        "query token": tokens[query],
    }
    return pd.DataFrame(about | {"key": key, "key token": tokens[key], "attention": square[query, key]})


def moving(frames: Frames) -> Film:
    """Animate the patterns over the checkpoints: a column per head, a row for the clean and each corrupted prompt."""
    same = _comparable(frames)
    heads = same[0].heads
    steps = _steps(same)
    rows = [("clean", same[0]), *(("corrupted", one) for one in same)]
    named = ", ".join(one.patch.corruption for one in same)
    below = _source(frames, same, f"corrupted with {named}; one scale for all checkpoints")
    room = (plotting.PAGE - 1.2) / max(3, len(heads))
    drawn: list[tuple[AxesImage, StoredPatterns, str, Head]] = []
    with plotting.grid(len(rows), len(heads), "Where heads look", below, room + 0.15, page=True) as (figure, axes):
        for row, (line, (side, kept)) in enumerate(zip(axes, rows, strict=True)):
            own = same if side == "clean" else [kept]
            changed = {at for one in own for at in one.prompt.changed}
            for plot, head in zip(line, heads, strict=True):
                drawn.append((_draw(plot, kept.prompt, side, changed, room), kept, side, head))
                plot.tick_params(labelleft=plot is line[0])
                if row == 0:
                    plot.set_title(f"head {head[0]}.{head[1]}")
            line[0].set_ylabel(side if side == "clean" else f"{kept.patch.corruption} corruption", fontsize=7.5)
        figure.colorbar(drawn[0][0], ax=list(axes.flat), label="attention", shrink=0.6, pad=0.01, aspect=40)

    def show(step: int) -> None:
        for image, kept, side, head in drawn:
            image.set_data(np.ma.masked_invalid(kept.square(step, side, head)))

    borders = [border for image, *_ in drawn for border in image.axes.spines.values()]
    return film(frames, figure, steps, show, [*(image for image, *_ in drawn), *borders])


def moves(frames: Frames) -> bool:
    """Whether `moving` has patterns of several checkpoints."""
    return bool(corruptions(frames)) and len(_steps(_comparable(frames))) > 1


def _comparable(frames: Frames) -> list[StoredPatterns]:
    """Patch jobs of the same run with the same clean prompt."""
    found = [_kept(frames, name) for name in corruptions(frames)]
    return [
        one
        for one in found
        if one.patch.run_id == found[0].patch.run_id
        and one.prompt.tokens["clean"] == found[0].prompt.tokens["clean"]
        and all(set(found[0].heads) <= set(of_step.heads) for of_step in one.of.values())
    ]


def _steps(kept: Sequence[StoredPatterns]) -> list[int]:
    return sorted({step for one in kept for step in one.of})


def _patches(frames: Frames) -> list[Patch]:
    """Patch jobs that kept patterns."""
    there = {patch_id for table in (frames.attribution, frames.patching) for patch_id in pd.unique(table["patch_id"])}
    own = [patch for patch in (frames.output.patches if frames.output else ()) if patch.patch_id in there]
    return [patch for patch in own if patterns.steps(patch)]


def _kept(frames: Frames, corruption: str) -> StoredPatterns:
    """Read the patterns of the first patch job that kept any under a corruption."""
    key = ("attention", corruption)
    if key not in frames.kept:
        patch = next(patch for patch in _patches(frames) if patch.corruption == corruption)
        damaged: list[str] = []
        read = {step: patterns.read(patch, step, damaged) for step in patterns.steps(patch)}
        there = {step: found for step, found in read.items() if found is not None}
        if not there:
            raise UserError(damaged[0])
        stored = set.intersection(*(set(found.heads) for found in there.values()))
        patched = pd.unique(frames.patching["corruption"])
        families = [own for name in patched for own in evidence.of_sites(frames, name).values()]
        heads, which = patterns.mattering(families, stored, MOST_HEADS)
        numbers = {number for number, _ in next(iter(there.values())).of}
        prompt = next(one for one in patterns.prompts(patch) if one.number in numbers)
        unread = sorted(set(read) - set(there))
        frames.kept[key] = StoredPatterns(patch, prompt, heads, which, there, unread)
    kept: StoredPatterns = frames.kept[key]
    return kept


def _source(frames: Frames, kept: Sequence[StoredPatterns], corrupted: str) -> Source:
    one = kept[0]
    unread = sorted({step for each in kept for step in each.unread})
    note = (
        f"one prompt (number {one.prompt.number + 1}) in one run, no mean; {corrupted}; rows attend to columns; bold: "
        f"changed by the corruption; shown: {one.which}; where a head looks does not say what it uses"
        + (f"; cannot be read, and left out: checkpoint {', '.join(map(str, unread))}" if unread else "")
    )
    return Source((one.patch.run_id,), (), note + missing.note(frames, [one.patch.run_id]))


def _draw(plot: Axes, prompt: Prompt, side: str, changed: Collection[int], room: float) -> AxesImage:
    """Draw an empty pattern with its tokens on both axes; long prompts have every n-th token named.

    Args:
        changed: the tokens that are bold.
        room: inches across and up.
    """
    words = [_label(token) for token in prompt.tokens[side]]
    nothing = np.full((len(words), len(words)), np.nan)
    image = plot.imshow(nothing, cmap=COLOURS, vmin=0, vmax=1, aspect="equal", interpolation="nearest")
    every = max(1, int(np.ceil(len(words) * 0.055 / room)))
    ticks = sorted({*range(0, len(words), every), *(at for at in changed if at < len(words))})
    size = max(3.5, min(6, 72 * room / len(words) * every * 0.9))
    plot.set_xticks(ticks, [words[at] for at in ticks], fontsize=size, rotation=90)
    plot.set_yticks(ticks, [words[at] for at in ticks], fontsize=size)
    for labels in (plot.get_xticklabels(), plot.get_yticklabels()):
        for at, label in zip(ticks, labels, strict=True):
            label.set_fontweight("bold" if at in changed else "normal")
    plot.tick_params(axis="both", length=0, pad=1)
    plot.grid(False)
    return image


def _label(token: str) -> str:
    shown = token.strip() or ("↵" if "\n" in token else "␣")
    return shown if len(shown) <= LONGEST else f"{shown[: LONGEST - 1]}…"
