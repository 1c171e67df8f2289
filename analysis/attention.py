"""What the report's page knows of attention patterns: some heads on a few prompts over the checkpoints, in single runs.

A pattern's lower triangle is one byte a cell, in 255ths, and those of all heads on one prompt are one text in base64,
a third of what JSON's numbers take. Equal texts, as of the clean prompts of two corruptions, are there once.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from jaxtyping import Float

from ..counting import counted
from ..errors import UserError
from . import measured, patterns
from .conclusions import Conclusions
from .folder import Json, Output, Patch, leave_out
from .frames import Frames
from .inference.estimates import mean_interval
from .inference.families import Job as Examined
from .inference.families import groups
from .packing import thousandths
from .page_limits import fitting
from .patterns import SIDES, Head, Prompt
from .summaries import spread

MOST_HEADS = 12
"""Of each run."""

MOST_BYTES = 4_000_000
"""Of the whole page, which may have 15 million."""

SHARE = 1 / 3
"""Of what room there is for data, at most."""

CURVES = 1 / 4
"""Of that, what curves of attention to roles may take."""

LESS = ((4, None), (2, None), (2, 12), (2, 6), (1, 6), (1, 3))
"""Prompts and checkpoints of each patch job: the first of these choices that fits is taken. None: all."""


NO_CURVES = "not on this page, to keep it small: `mi-sweeps export` writes the table"

END = "end"
"""The last token's role."""

MANY = 100_000
"""More than a layer has heads."""


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
    room = min(MOST_BYTES, SHARE * room)
    curves = list(_curves(frames, jobs, damaged))
    shown_curves = _fitting_curves(curves, room * CURVES)
    prompts, steps, count = fitting(jobs, room - sum(map(_size, shown_curves)), LESS, Job.size)
    texts: dict[str, int] = {}
    words: dict[tuple[str, ...], int] = {}
    shown = [_packed(job, prompts, steps, texts, words, damaged) for job in jobs[:count]]
    return {
        "note": _note(jobs, prompts, steps, count),
        "jobs": [one for one in shown if one["steps"]],
        "tokens": [list(tokens) for tokens in words],
        "patterns": list(texts),
        "looks": shown_curves,
        "looks_note": "" if len(shown_curves) == len(curves) else NO_CURVES,
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


def _note(jobs: Sequence[Job], prompts: int, steps: int, count: int) -> str:
    """What was left out, in words."""
    if not count:
        return "To keep this page small, no patterns are shown; the run folders have them."
    left = []
    if any(len(job.prompts) > prompts for job in jobs[:count]):
        left.append(f"of {counted(prompts, 'prompt')}")
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


def _curves(frames: Frames, jobs: Sequence[Job], damaged: list[str] | None) -> Iterator[Json]:
    """Attention to roles over the checkpoints, of the heads that are shown: means over prompts and runs.

    Intervals are of 95% at each place alone, as `looks` has them, which also says what holds for all at once.
    """
    setting = dict(zip(frames.runs["run_id"], frames.runs["setting"], strict=True))
    output = frames.output
    assert output is not None
    for (name, patching, corruption), patch_ids in groups(frames.patches, frames.runs):
        heads = sorted({head for job in jobs if job.patch.patch_id in patch_ids for head in job.heads})
        own = [patch for patch in output.patches if patch.patch_id in patch_ids and heads]
        read = [(patch, {step: _paid(patch, step, heads, damaged) for step in patch.steps()}) for patch in own]
        found = [(patch, {step: one for step, one in of.items() if one is not None}) for patch, of in read]
        found = [(patch, of) for patch, of in found if of]
        steps = sorted(set.intersection(*(set(of) for _, of in found))) if found else []
        if not steps:
            continue
        keys = [Examined(patch, str(setting[patch.run_id]), {}, {}) for patch, _ in found]
        number = {key: at for at, key in enumerate(dict.fromkeys(key for job in keys for key in job.prompts))}
        places = found[0][1][steps[0]].places
        values = np.full((len(found), len(steps), len(places), len(number)), np.nan)
        for run, (job, (_, of)) in enumerate(zip(keys, found, strict=True)):
            columns = [number[key] for key in job.prompts]
            for at, step in enumerate(steps):
                values[run, at][:, columns] = of[step].by_prompt[of[step].at(places)]
        laid = values.reshape(len(found), -1, len(number))
        mean, low, high = (
            ends.reshape(len(steps), -1).T for ends in mean_interval(laid, [job.setting for job in keys])
        )
        uniform = np.mean([of[steps[0]].uniform[of[steps[0]].at(places)] for _, of in found], axis=0)
        yield {
            "setting": name, "patching": patching, "corruption": corruption, "steps": steps, "n": len(number),
            "run_ids": [patch.run_id for patch, _ in found], "runs": len(found), "seeds": len(found) > 1,
            "rows": [
                {"side": side, "query": query, "head": f"{layer}.{head}", "key": key}
                | {"uniform": round(1000 * uniform[at]), "attention": thousandths(mean[at])}
                | {"low": thousandths(low[at]), "width": thousandths(high[at] - low[at])}
                for at, (side, query, layer, head, key) in enumerate(places)
            ],
        }  # fmt: skip


@dataclass(frozen=True)
class Paid:
    """What some heads pay at a checkpoint."""

    places: list[tuple[Any, ...]]
    """Side, query, layer, head, key."""
    uniform: Float[np.ndarray, " place"]
    by_prompt: Float[np.ndarray, "place prompt"]

    def at(self, places: list[tuple[Any, ...]]) -> np.ndarray:
        """Where some places are among these."""
        if places == self.places:
            return np.arange(len(places))
        number = {place: at for at, place in enumerate(self.places)}
        return np.array([number[place] for place in places])


def _paid(patch: Patch, step: int, heads: Sequence[Head], damaged: list[str] | None) -> Paid | None:
    """What some heads pay at a checkpoint, prompt by prompt; None where that was not measured."""
    file = patch.table(step, "looks")
    place = ("side", "query", "layer", "head", "key")
    table = measured.stored(file, [*place, "uniform", "by_prompt"], damaged) if file.exists() else None
    if table is None:
        return None
    layer, head = (table[name].to_numpy() for name in ("layer", "head"))
    rows = np.isin(layer * MANY + head, [MANY * layer + head for layer, head in heads])
    own = table.filter(pa.array(rows))
    places = list(zip(*(own[name].to_pylist() for name in place), strict=True))
    by_prompt = own["by_prompt"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return Paid(places, own["uniform"].to_numpy(), by_prompt.reshape(len(own), -1).astype("float64"))


def _fitting_curves(curves: Sequence[Json], room: float) -> list[Json]:
    """As many as there is room for: from all tokens, or else from the last only."""
    less = [one | {"rows": [row for row in one["rows"] if row["query"] == END]} for one in curves]
    for choice in (list(curves), less):
        sizes = np.cumsum([_size(one) for one in choice])
        if not len(sizes) or sizes[-1] <= room:
            return choice
    return less[: int(np.searchsorted(sizes, room, side="right"))]


def _size(one: Json) -> int:
    return len(json.dumps(one, separators=(",", ":")))
