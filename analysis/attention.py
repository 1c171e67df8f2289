"""Attention patterns for the report's page: some heads on a few prompts over the checkpoints of single runs.

Each cell of a pattern's lower triangle is one byte (255ths); the triangles of all heads on one prompt are one base64
text, a third of the size of JSON numbers. Equal texts, such as the clean prompts of two corruptions, are stored once.
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
from .folder import Json, OutputFolder, Patch, leave_out
from .frames import Frames
from .inference.estimates import mean_interval
from .inference.families import PatchJob, groups
from .packing import thousandths
from .page_limits import fitting
from .patterns import SIDES, Head, Prompt
from .summaries import spread

MOST_HEADS = 12
"""Per run."""

MOST_BYTES = 4_000_000
"""Out of 15 million bytes for the whole page."""

SHARE = 1 / 3
"""Largest share of the room for data."""

CURVES = 1 / 4
"""Largest share of these bytes for curves of attention to roles."""

LESS = ((4, None), (2, None), (2, 12), (2, 6), (1, 6), (1, 3))
"""Prompts and checkpoints per patch job; the first choice that fits is taken. None: all."""


NO_CURVES = "not on this page, to keep it small: `mi-sweeps export` writes the table"

END = "end"
"""The last token's role."""

MANY = 100_000
"""More than a layer has heads."""


@dataclass(frozen=True)
class PatternJob:
    """A patch job whose patterns the page shows."""

    run: int
    """Index in the table of runs."""
    patch: Patch
    patching: str | None
    prompts: tuple[Prompt, ...]
    steps: tuple[int, ...]
    heads: tuple[Head, ...]
    which: str
    """How the heads were chosen, in words."""

    def size(self, prompts: int, steps: int) -> int:
        """Estimate the bytes that this many prompts and checkpoints take on the page."""
        lengths = [len(prompt.tokens[side]) for prompt in self.prompts[:prompts] for side in SIDES]
        cells = sum(length * (length + 1) // 2 for length in lengths) * len(self.heads)
        return cells * min(steps, len(self.steps)) * 4 // 3


def payload(
    output: OutputFolder, frames: Frames, conclusions: Conclusions, room: float, damaged: list[str] | None = None
) -> Json | None:
    """The page's data on attention patterns, in about `room` bytes at most; None if no patch job kept any.

    Raises:
        UserError: a file is damaged, and there is no list `damaged` to name it in.
    """
    jobs = list(_jobs(output, frames, conclusions, damaged))
    if not jobs:
        return None
    room = min(MOST_BYTES, SHARE * room)
    curves = list(_curves(frames, jobs, damaged))
    shown_curves = _fitting_curves(curves, room * CURVES)
    prompts, steps, count = fitting(jobs, room - sum(map(_size, shown_curves)), LESS, PatternJob.size)
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


def _jobs(
    output: OutputFolder, frames: Frames, conclusions: Conclusions, damaged: list[str] | None
) -> Iterator[PatternJob]:
    """All patch jobs with patterns, run by run. A run shows the same heads under all corruptions."""
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
                one.family for one in conclusions.families if number[run.run_id] in one.runs and one.patching == name
            ]
            heads, which = patterns.mattering(families, stored, MOST_HEADS)
            for patch, steps, last in sound:
                prompts = tuple(prompt for prompt in patterns.prompts(patch) if (prompt.number, "clean") in last.of)
                yield PatternJob(number[run.run_id], patch, name, prompts, tuple(steps), tuple(heads), which)


def _note(jobs: Sequence[PatternJob], prompts: int, steps: int, count: int) -> str:
    """Say what was left out."""
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
    job: PatternJob, prompts: int, steps: int, texts: dict[str, int], words: dict[tuple[str, ...], int],
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


def _curves(frames: Frames, jobs: Sequence[PatternJob], damaged: list[str] | None) -> Iterator[Json]:
    """Attention of the shown heads to roles over the checkpoints, mean over prompts and runs.

    Intervals are 95% at each place alone; `looks` also gives simultaneous ones.
    """
    setting = dict(zip(frames.runs["run_id"], frames.runs["setting"], strict=True))
    output = frames.output
    assert output is not None
    for (name, patching, corruption), patch_ids in groups(frames.patches, frames.runs):
        heads = sorted({head for job in jobs if job.patch.patch_id in patch_ids for head in job.heads})
        own = [patch for patch in output.patches if patch.patch_id in patch_ids and heads]
        read = [
            (patch, {step: _measured_attention(patch, step, heads, damaged) for step in patch.steps()}) for patch in own
        ]
        found = [(patch, {step: one for step, one in of.items() if one is not None}) for patch, of in read]
        found = [(patch, of) for patch, of in found if of]
        steps = sorted(set.intersection(*(set(of) for _, of in found))) if found else []
        if not steps:
            continue
        keys = [PatchJob(patch, str(setting[patch.run_id]), {}, {}) for patch, _ in found]
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
class MeasuredAttention:
    """The attention that some heads pay at a checkpoint."""

    places: list[tuple[Any, ...]]
    """Side, query, layer, head, key."""
    uniform: Float[np.ndarray, " place"]
    by_prompt: Float[np.ndarray, "place prompt"]

    def at(self, places: list[tuple[Any, ...]]) -> np.ndarray:
        """Indices of some places among these."""
        if places == self.places:
            return np.arange(len(places))
        number = {place: at for at, place in enumerate(self.places)}
        return np.array([number[place] for place in places])


def _measured_attention(
    patch: Patch, step: int, heads: Sequence[Head], damaged: list[str] | None
) -> MeasuredAttention | None:
    """Attention of some heads at a checkpoint, prompt by prompt; None if it was not measured."""
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
    return MeasuredAttention(places, own["uniform"].to_numpy(), by_prompt.reshape(len(own), -1).astype("float64"))


def _fitting_curves(curves: Sequence[Json], room: float) -> list[Json]:
    """All curves if they fit, or else those from the last token."""
    less = [one | {"rows": [row for row in one["rows"] if row["query"] == END]} for one in curves]
    for choice in (list(curves), less):
        sizes = np.cumsum([_size(one) for one in choice])
        if not len(sizes) or sizes[-1] <= room:
            return choice
    return less[: int(np.searchsorted(sizes, room, side="right"))]


def _size(one: Json) -> int:
    return len(json.dumps(one, separators=(",", ":")))
