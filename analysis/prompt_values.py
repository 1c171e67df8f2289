"""Values of single prompts for the report's page: what patching the places that may matter changes in each prompt.

The values of a place at a checkpoint are stored as a unit (logits, 32-bit float) and one byte per prompt, in base64.
That takes 1.33 bytes per prompt, with an error of up to 1/250 of the largest value.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from ..counting import counted
from .conclusions import Conclusions
from .folder import Json
from .frames import Frames
from .inference.families import PatchJob, Place
from .page_limits import fitting
from .patterns import SIDES
from .patterns import prompts as tokenised
from .prompts import Site
from .summaries import spread

MOST_BYTES = 2_500_000
"""Out of 15 million bytes for the whole page."""

SHARE = 1 / 4
"""Largest share of the room for data."""

LESS = (
    *((None, None), (32, None), (16, None), (12, None), (8, None)),
    *((8, 12), (5, 12), (5, 6), (3, 6), (2, 6), (2, 3), (1, 3), (1, 1)),
)
"""Places per site and checkpoints; the first choice that fits is taken. None: all."""

SIZES = {"int8": 1, "<i2": 2}
"""Bytes of a value, by its type."""

HEAD = 4
"""Bytes of a row's unit."""


@dataclass(frozen=True)
class Values:
    """A patch job with values by prompt."""

    run: int
    """Index in the table of runs."""
    patching: str
    job: PatchJob
    order: dict[str, tuple[Place, ...]]
    """Places by site, those that matter first."""

    @property
    def steps(self) -> tuple[int, ...]:
        """The checkpoints of any site."""
        return tuple(sorted({step for site in self.order for step in self.job.sites[site].steps}))

    def size(self, places: int | None, steps: int) -> int:
        """Estimate the bytes that this many places per site and checkpoints take on the page."""
        count = sum(len(order[:places]) for order in self.order.values())
        prompts = len(self.job.prompts)
        rows = count * (HEAD + prompts) + 2 * (HEAD + 2 * prompts)
        return rows * min(steps, len(self.steps)) * 4 // 3


def payload(frames: Frames, conclusions: Conclusions, room: float) -> Json | None:
    """The page's data on single prompts, in about `room` bytes at most; None if no table has values by prompt."""
    jobs = list(_jobs(frames, conclusions))
    if not jobs:
        return None
    room = min(MOST_BYTES, SHARE * room)
    texts: dict[str, tuple[int, Json]] = {}
    lists: dict[tuple[int, ...], int] = {}
    numbers = [_prompts(one.job, texts, lists) for one in jobs]
    words = [text for _, text in texts.values()]
    places, steps, count = fitting(jobs, room - len(json.dumps(words)), LESS, Values.size)
    return {
        "note": _note(jobs, places, steps, count),
        "texts": words,
        "prompts": [list(one) for one in lists],
        "jobs": [_packed(one, number, places, steps) for one, number in zip(jobs[:count], numbers, strict=False)],
    }


def _jobs(frames: Frames, conclusions: Conclusions) -> Iterator[Values]:
    """All patch jobs with values by prompt, run by run.

    A setting's runs show the same places under all corruptions, so that seeds can be averaged and corruptions compared.
    """
    setting = dict(enumerate(frames.runs["setting"]))
    number = {run_id: at for at, run_id in enumerate(frames.runs["run_id"])}
    there: dict[str, tuple[str, PatchJob]] = {}
    ranks: dict[tuple[str, str, str], dict[Place, tuple[bool, float]]] = {}
    for one in conclusions.families:
        family = one.family
        there |= {job.patch.patch_id: (one.patching, job) for job in family.jobs}
        settings = {setting[run] for run in one.runs}
        if len(settings) > 1 or family.gain is None:
            continue
        with np.errstate(invalid="ignore"):
            sizes = np.nan_to_num(np.abs(family.grid(family.estimate.recovered))).max(axis=0)
        matters = np.any(family.grid(family.judged.matter() | family.judged_here.matter()), axis=0)
        ranked = ranks.setdefault((settings.pop(), one.patching, family.site), {})
        for place, matter, size in zip(family.places, map(bool, matters), sizes.tolist(), strict=True):
            ranked[place] = max(ranked.get(place, (False, 0.0)), (matter, size))
    for patching, job in sorted(there.values(), key=lambda one: number[one[1].patch.run_id]):
        run = number[job.patch.run_id]
        order = {}
        for name, site in job.sites.items():
            ranked = ranks.get((setting[run], patching, name), {})
            if site.patched is not None and site.patched.shape[2] == len(job.patch.about.get("prompts", [])) and ranked:
                order[name] = tuple(sorted(ranked, key=lambda place: ranked[place], reverse=True))
        if order:
            yield Values(run, patching, job, order)


def _note(jobs: Sequence[Values], places: int | None, steps: int, count: int) -> str:
    """Say what was left out."""
    if not count:
        return "To keep this page small, it has no values of single prompts."
    left = []
    if places is not None and any(len(order) > places for one in jobs[:count] for order in one.order.values()):
        left.append(f"of {counted(places, 'cell')} of each site, those that matter or are largest")
    if any(len(one.steps) > steps for one in jobs[:count]):
        left.append(f"at {steps} of the checkpoints")
    if count < len(jobs):
        left.append(f"of {count} of {len(jobs)} patch jobs")
    return f"To keep this page small, it has values of single prompts {', '.join(left)}." if left else ""


def _prompts(job: PatchJob, texts: dict[str, tuple[int, Json]], lists: dict[tuple[int, ...], int]) -> int:
    """Return the index of a patch job's list of prompts; each text is stored once."""
    tokens = {prompt.number: prompt.tokens for prompt in tokenised(job.patch)}
    own = []
    for number, about in enumerate(job.patch.about.get("prompts", [])):
        words = {side: list(tokens[number][side]) for side in SIDES} if number in tokens else {}
        text = {key: str(about.get(key, "")) for key in (*SIDES, "answer")} | ({"tokens": words} if words else {})
        own.append(texts.setdefault(repr(text), (len(texts), text))[0])
    return lists.setdefault(tuple(own), len(lists))


def _packed(one: Values, prompts: int, places: int | None, steps: int) -> Json:
    shown = spread(one.steps, steps)
    sites = {}
    clean = corrupted = np.full((len(shown), len(one.job.prompts)), np.nan)
    for name, order in one.order.items():
        site = one.job.sites[name]
        kept = [place for place in order[:places] if place in site.places]
        sites[name] = {
            "places": [[layer, position if head is None else head] for layer, head, position in kept],
            "change": _text(_changes(site, kept, shown), "int8"),
        }
        clean, corrupted = (np.where(np.isnan(old), _at(new, site.steps, shown), old)
                            for old, new in ((clean, site.clean), (corrupted, site.corrupted)))  # fmt: skip
    return {
        "run": one.run, "corruption": one.job.patch.corruption, "patching": one.patching, "steps": list(shown),
        "prompts": prompts, "n": len(one.job.prompts), "sites": sites,
        "clean": _text(clean, "<i2"), "corrupted": _text(corrupted, "<i2"),
    }  # fmt: skip


def _changes(site: Site, places: Sequence[Place], steps: Sequence[int]) -> Float[np.ndarray, "row prompt"]:
    """patched - corrupted (logits); rows are places, and within a place checkpoints."""
    assert site.patched is not None
    change = _at(site.patched - site.corrupted[:, None], site.steps, steps)
    rows = change[:, [site.places.index(place) for place in places]]
    return rows.transpose(1, 0, 2).reshape(-1, change.shape[2])


def _at(values: np.ndarray, there: Sequence[int], steps: Sequence[int]) -> np.ndarray:
    """Values [checkpoint, ...] at some steps, NaN at steps that are missing."""
    found = np.full((len(steps), *values.shape[1:]), np.nan)
    kept = [at for at, step in enumerate(steps) if step in there]
    found[kept] = values[[list(there).index(steps[at]) for at in kept]]
    return found


def _text(rows: Float[np.ndarray, "row prompt"], kind: str) -> str:
    """Encode rows in base64: the unit, then a multiple of it per prompt. The smallest number means missing."""
    most = np.iinfo(kind).max
    with np.errstate(invalid="ignore"):
        size = np.where(np.isfinite(rows), np.abs(rows), 0).max(axis=1, initial=0)
    unit = np.where(size > 0, size / most, 1).astype("<f4")
    whole = np.where(np.isfinite(rows), np.round(np.nan_to_num(rows) / unit[:, None]), -most - 1).clip(-most - 1, most)
    parts = unit[:, None].view("uint8"), np.ascontiguousarray(whole.astype(kind)).view("uint8")
    return base64.b64encode(np.concatenate(parts, axis=1).tobytes()).decode()
