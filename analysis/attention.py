"""What the report's page knows of attention patterns: some heads on a few prompts over the checkpoints, in single runs.

A pattern's lower triangle is one byte a cell, in 255ths, and those of all heads on one prompt are one text in base64,
a third of what JSON's numbers take. Equal texts, as of the clean prompts of two corruptions, are there once.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..errors import UserError
from . import patterns
from .conclusions import Conclusions
from .folder import Json, Output, Patch, leave_out
from .frames import Frames
from .patterns import SIDES, Head, Prompt
from .summaries import spread

MOST_HEADS = 12
"""Of each run."""

MOST_BYTES = 4_000_000
"""Of the whole page, which may have 15 million."""

SHARE = 1 / 3
"""Of what room there is for data, at most."""

LESS = ((4, None), (2, None), (2, 12), (2, 6), (1, 6), (1, 3))
"""Prompts and checkpoints of each patch job: the first of these choices that fits is taken. None: all."""


@dataclass(frozen=True)
class Job:
    """A patch job whose patterns are shown."""

    run: int
    """Its number in the table of runs."""
    patch: Patch
    patching: str | None
    prompts: tuple[Prompt, ...]
    steps: tuple[int, ...]
    heads: tuple[Head, ...]
    which: str
    """What heads these are."""

    def size(self, prompts: int, steps: int) -> int:
        """Bytes on the page, about, of so many prompts and checkpoints."""
        lengths = [len(prompt.tokens[side]) for prompt in self.prompts[:prompts] for side in SIDES]
        cells = sum(length * (length + 1) // 2 for length in lengths) * len(self.heads)
        return cells * min(steps, len(self.steps)) * 4 // 3


def told(
    output: Output, frames: Frames, conclusions: Conclusions, room: float, damaged: list[str] | None = None
) -> Json | None:
    """The page's data on attention patterns, in at most `room` bytes, about; None where no patch job kept any.

    Raises UserError where a file is damaged; with a list `damaged` it is named there and left out.
    """
    jobs = list(_jobs(output, frames, conclusions, damaged))
    if not jobs:
        return None
    prompts, steps, count = _fitting(jobs, min(MOST_BYTES, SHARE * room))
    texts: dict[str, int] = {}
    words: dict[tuple[str, ...], int] = {}
    shown = [_packed(job, prompts, steps, texts, words, damaged) for job in jobs[:count]]
    return {
        "note": _note(jobs, prompts, steps, count),
        "jobs": [one for one in shown if one["steps"]],
        "tokens": [list(tokens) for tokens in words],
        "patterns": list(texts),
    }


def _jobs(output: Output, frames: Frames, conclusions: Conclusions, damaged: list[str] | None) -> Iterator[Job]:
    """All that there is, run by run. The heads of a run are the same under all corruptions, so that these compare."""
    number = {run_id: at for at, run_id in enumerate(frames.runs["run_id"])}
    names = zip(frames.patches["patch_id"], frames.patches["patching"], strict=True)
    patching = {patch_id: None if pd.isna(name) else str(name) for patch_id, name in names}
    for run in output.runs:
        own = {patch.patch_id: (patch, patterns.steps(patch)) for patch in run.patches if not patch.is_damaged}
        for name in dict.fromkeys(patching[patch_id] for patch_id, (_, steps) in own.items() if steps):
            there = [(patch, steps) for patch, steps in own.values() if steps and patching[patch.patch_id] == name]
            kept = [(patch, steps, patterns.read(patch, steps[-1], damaged)) for patch, steps in there]
            sound = [(patch, steps, last) for patch, steps, last in kept if last is not None]
            if run.is_damaged or not sound:
                continue
            stored = set.intersection(*(set(last.heads) for _, _, last in sound))
            families = [
                one.family for one in conclusions.found if number[run.run_id] in one.runs and one.patching == name
            ]
            heads, which = patterns.mattering(families, stored, MOST_HEADS)
            for patch, steps, last in sound:
                prompts = tuple(prompt for prompt in patterns.prompts(patch) if (prompt.number, "clean") in last.of)
                yield Job(number[run.run_id], patch, name, prompts, tuple(steps), tuple(heads), which)


def _fitting(jobs: Sequence[Job], room: float) -> tuple[int, int, int]:
    """How many prompts and checkpoints of how many patch jobs."""
    for prompts, some in LESS:
        steps = some or max(len(job.steps) for job in jobs)
        sizes = np.cumsum([job.size(prompts, steps) for job in jobs])
        if sizes[-1] <= room:
            return prompts, steps, len(jobs)
    return prompts, steps, int(np.searchsorted(sizes, room, side="right"))


def _note(jobs: Sequence[Job], prompts: int, steps: int, count: int) -> str:
    """What was left out, in words."""
    if not count:
        return "To keep this page small, no patterns are shown; the run folders have them."
    left = []
    if any(len(job.prompts) > prompts for job in jobs[:count]):
        left.append(f"of {prompts} prompt{'s' if prompts > 1 else ''}")
    if any(len(job.steps) > steps for job in jobs[:count]):
        left.append(f"at {steps} of the checkpoints")
    if count < len(jobs):
        left.append(f"of {count} of {len(jobs)} patch jobs")
    return f"To keep this page small, patterns are shown {', '.join(left)}; the run folders have all." if left else ""


def _packed(
    job: Job, prompts: int, steps: int, texts: dict[str, int], words: dict[tuple[str, ...], int],
    damaged: list[str] | None,
) -> Json:  # fmt: skip
    own = job.prompts[:prompts]
    shown: list[int] = []
    columns: dict[str, list[list[int]]] = {side: [[] for _ in own] for side in SIDES}
    for step in spread(job.steps, steps):
        kept = patterns.read(job.patch, step, damaged)
        if kept is None:
            continue
        if not ({*job.heads} <= {*kept.heads} and {(one.number, side) for one in own for side in SIDES} <= {*kept.of}):
            file = patterns.file(job.patch, step)
            leave_out(UserError(f"{file}: not the heads and prompts of the last one; delete it and run again"), damaged)
            continue
        rows = [kept.heads.index(head) for head in job.heads]
        shown.append(step)
        for at, prompt in enumerate(own):
            for side in SIDES:
                text = _text(kept.of[prompt.number, side][rows])
                columns[side][at].append(texts.setdefault(text, len(texts)))
    return {
        "run": job.run, "corruption": job.patch.corruption, "patching": job.patching,
        "heads": [f"{layer}.{head}" for layer, head in job.heads], "which": job.which,
        "steps": shown, "of": len(job.steps),
        "prompts": [
            {"number": prompt.number, "text": prompt.text, "changed": list(prompt.changed)}
            | {side: words.setdefault(prompt.tokens[side], len(words)) for side in SIDES}
            for prompt in own
        ],
        **columns,
    }  # fmt: skip


def _text(cells: np.ndarray) -> str:
    """Attention [head, cell] as bytes in base64."""
    return base64.b64encode(np.round(255 * np.clip(cells, 0, 1)).astype("uint8").tobytes()).decode()
