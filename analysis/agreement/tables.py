"""Builds the exported tables `agreement`, `roles`, `subjects`, `stability` and `inclusion`."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import combinations

import pandas as pd

from ..columns import typed
from ..folder import OutputFolder, Patch
from ..frames import Frames, sound, sound_runs
from ..inference.families import Family, PatchJob, family, jobs
from ..inference.retention import task_of
from .designs import of_levels, of_seeds
from .effects import of_edges, of_nodes
from .groups import WORDS, across
from .rows import (
    AGREEMENT,
    INCLUSION,
    ROLES,
    STABILITY,
    SUBJECTS,
    MeasuredRun,
    Part,
    of_agreement,
    of_effects,
    of_roles,
    of_stability,
    of_subjects,
)

HEADS = ("z", "q", "k", "v", "pattern")
"""Sites of heads."""
TABLES = {
    **{"agreement": AGREEMENT, "roles": ROLES, "subjects": SUBJECTS, "stability": STABILITY, "inclusion": INCLUSION},
}
"""Their columns."""


def of_frames(frames: Frames, damaged: list[str] | None = None) -> dict[str, pd.DataFrame]:
    """Returns all tables of a loaded output folder."""
    parts: dict[str, list[pd.DataFrame]] = {name: [] for name in TABLES}
    if frames.output is not None:
        for name, frame in of_output(frames.output, frames.runs, frames.patches, damaged):
            parts[name].append(frame)
    return {
        name: pd.concat(frames, ignore_index=True) if frames else typed([], TABLES[name])
        for name, frames in parts.items()
    }


def of_output(
    output: OutputFolder,
    runs: pd.DataFrame,
    patches: pd.DataFrame,
    damaged: list[str] | None = None,
    wanted: Collection[str] = tuple(TABLES),
    only: str | None = None,
) -> Iterator[Part]:
    """The rows of all tables. Only the patch jobs of one setting, or of settings that are compared, are in memory at a
    time.

    Args:
        damaged: as for `frames.load`.
        wanted: the names of the tables to make.
        only: the single site for which `agreement` is computed, and only at the last checkpoint.
    """
    patched = {run.run_id: run.patches for run in output.runs}
    of = patches.merge(runs[["run_id", "setting", "status"]], on="run_id", suffixes=("_of_job", ""))
    for (setting, patching), every in of.groupby(["setting", "patching"], sort=False, observed=True):
        rows = sound(every)
        if "stability" in wanted:
            yield from _of_circuits(str(setting), str(patching), output, set(rows["patch_id"]), damaged)
        read = jobs(output, runs, rows["patch_id"], damaged)
        yield from _of_setting(str(setting), str(patching), read, wanted, only)
        if "roles" in wanted:
            names = list(dict.fromkeys(job.patch.run_id for job in read))
            yield from _roles("seed", str(patching), read, names, patched, damaged)
    kept = sound_runs(runs)
    for group in across(output, runs):
        own = patches[patches["run_id"].isin(kept.intersection(group.level))]
        for patching, rows in own.groupby("patching", sort=False, observed=True):
            read = jobs(output, runs, rows["patch_id"], damaged)
            key = {"setting": group.setting, "patching": str(patching)}
            for one in _families(read):
                levels = [group.level[job.patch.run_id] for job in one.jobs]
                same = len({job.sites[one.site].places for job in one.jobs}) == 1
                if same and len(set(levels)) > 1 and only in (None, one.site):
                    design = of_levels(levels, WORDS[group.axis])
                    yield "agreement", of_agreement(group.axis, key, one, design, only is not None)
            first = {level: run_id for run_id, level in reversed(group.level.items()) if run_id in kept}
            if "roles" in wanted:
                yield from _roles(group.axis, str(patching), read, list(first.values())[::-1], patched, damaged)


def _of_setting(
    setting: str, patching: str, read: Sequence[PatchJob], wanted: Collection[str], only: str | None
) -> Iterator[Part]:
    key = {"setting": setting, "patching": patching}
    found = list(_families(read))
    for one in found:
        if "stability" in wanted:
            yield from of_stability(key, one)
        if len(one.jobs) > 1 and only in (None, one.site):
            yield "agreement", of_agreement("seed", key, one, of_seeds(len(one.jobs)), only is not None)
    for one, other in combinations(found, 2):
        # Two corruptions of the same prompts; prompts of another task are not compared.
        if one.site == other.site and len({task_of(of.jobs[0].patch.about) for of in (one, other)}) == 1:
            rows = of_subjects(key, one, other)
            if rows is not None:
                yield "subjects", rows


def _of_circuits(
    setting: str, patching: str, output: OutputFolder, wanted: set[str], damaged: list[str] | None
) -> Iterator[Part]:
    """Stability of nodes and edges by single effects, where patch jobs measured them."""
    key = {"setting": setting, "patching": patching}
    found = [patch for patch in output.patches if patch.patch_id in wanted]
    for corruption in dict.fromkeys(patch.corruption for patch in found):
        for site, table, read in (("node", "circuits", of_nodes), ("edge", "edges", of_edges)):
            own = [patch for patch in found if patch.corruption == corruption]
            own = [patch for patch in own if any(patch.has(step, table) for step in patch.steps())]
            steps = set.intersection(*(set(patch.steps()) for patch in own)) if own else set()
            for step in sorted(step for step in steps if all(patch.has(step, table) for patch in own)):
                effects = read(own, step, damaged)
                if effects is not None:
                    yield from of_effects(key, corruption, site, step, effects)


def _roles(
    axis: str,
    patching: str,
    read: Sequence[PatchJob],
    run_ids: Sequence[str],
    patched: Mapping[str, Sequence[Patch]],
    damaged: list[str] | None,
) -> Iterator[Part]:
    """Compares the first run with each of the others.

    Args:
        patched: all patch jobs of each run.
    """
    found = [
        MeasuredRun([job for job in read if job.patch.run_id == run_id], patched[run_id], damaged) for run_id in run_ids
    ]
    runs = [run for run in found if run.jobs]
    for other in runs[1:]:
        rows = of_roles(axis, patching, runs[0], other)
        if rows is not None:
            yield "roles", rows


def _families(read: Sequence[PatchJob]) -> Iterator[Family]:
    """Patch jobs of heads with per-prompt values, by corruption."""
    for site in HEADS:
        for corruption in dict.fromkeys(job.patch.corruption for job in read):
            own = [job for job in read if site in job.sites and job.patch.corruption == corruption]
            if own and set.intersection(*(set(job.sites[site].steps) for job in own)):
                found = family(site, own)
                if found.gain is not None:
                    yield found
