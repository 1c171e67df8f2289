"""Tables derived from those of an output folder, made in parts so that only one setting's prompts are in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import pandas as pd

from . import circuits, edges, looks
from .agreement import tables as agreement
from .columns import typed
from .findings import seeds
from .findings.finding import FINDINGS, Finding, frame
from .findings.heads import heads
from .findings.learned import learned
from .findings.questions import OF_TABLES, arranged
from .findings.sudden import is_told
from .folder import Output
from .frames import Frames, examined_in, sound
from .inference import changes, retention, shares, trajectories, words
from .inference.courses import courses
from .inference.tables import COURSES, VERDICTS, course_rows, of_output, verdict_rows

TABLES = (
    {"verdicts": VERDICTS, "courses": COURSES}
    | {"transformations": changes.TRANSFORMATIONS, "head_changes": changes.HEAD_CHANGES, "shares": shares.SHARES}
    | {"attention": looks.ATTENTION}
    | {"edge_effects": edges.EFFECTS, "edge_circuits": edges.CIRCUITS, "edge_bounds": edges.BOUNDS}
    | trajectories.TABLES
    | {"faithfulness": circuits.FAITHFULNESS, "completeness": circuits.COMPLETENESS}
    | {"retention": retention.RETENTION}
    | agreement.TABLES
    | {"findings": FINDINGS}
)
"""Their columns."""

NEEDS = {
    **{"shares": "cross", "attention": "looks", "faithfulness": "circuits", "completeness": "circuits"},
    **{"edge_effects": "edges", "edge_circuits": "edges", "edge_bounds": "edges"},
}
"""Tables that exist only if another, measured one does."""

Part = tuple[str, pd.DataFrame]
"""The name of a table, and some of its rows."""


def with_findings(
    output: Output, frames: Frames, damaged: list[str] | None = None, whole: bool = True
) -> Iterator[Part]:
    """Make every table; the last is `findings`, which is built from the others.

    Args:
        frames: runs, patch jobs and metrics of the folder are enough.
        damaged: as for `frames.load`.
        whole: whether to make slow parts that no finding is built from.
    """
    found = list(learned(frames))
    kept: dict[str, list[pd.DataFrame]] = {name: [] for name in OF_TABLES}

    def keep(part: Part) -> Part:
        if part[0] in kept:
            kept[part[0]].append(part[1])
        return part

    for part, told in _setting_by_setting(output, frames, damaged, whole):
        yield keep(part)
        found += told
    for part in _others(output, frames, damaged, whole):
        yield keep(part)
    for name, tell in OF_TABLES.items():
        if kept[name]:
            made = tell(_named(pd.concat(kept[name], ignore_index=True), frames))
            found += [_of_runs(one, output, frames) for one in made]
    yield "findings", frame(arranged(found))


def findings(frames: Frames, damaged: list[str] | None = None) -> pd.DataFrame:
    """The table `findings` alone."""
    if frames.output is None:
        return frame(learned(frames))
    made = with_findings(frames.output, frames, damaged, whole=False)
    return next(rows for name, rows in made if name == "findings")


def _named(rows: pd.DataFrame, frames: Frames) -> pd.DataFrame:
    """Add the setting and patching to rows of single patch jobs."""
    if "setting" in rows.columns:
        return rows
    patches = frames.patches[["run_id", "patch_id", "patching"]].merge(frames.runs[["run_id", "setting"]], on="run_id")
    return rows.merge(patches.drop(columns="run_id"), on="patch_id")


def _of_runs(found: Finding, output: Output, frames: Frames) -> Finding:
    """Add to a finding the runs that it rests on, and the last checkpoint that they share."""
    own = frames.runs[frames.runs["setting"].astype(str).isin(found.setting.split(" | "))]
    of_settings = pd.concat([own.iloc[:0], *(sound(rows) for _, rows in own.groupby("setting"))])
    if not found.patching:
        there = of_settings["run_id"].isin(frames.metrics["run_id"])
        return replace(found, run_ids=tuple(of_settings.loc[there, "run_id"]))
    own = frames.patches[frames.patches["run_id"].isin(of_settings["run_id"])]
    own = own[(own["patching"] == found.patching) & own["corruption"].isin(found.corruption.split())]
    measured = NEEDS.get(found.table)
    wanted, examined = set(own["patch_id"]), {}
    for patch in output.patches:
        if patch.patch_id in wanted:
            steps = {step for step in patch.steps() if measured is None or patch.has(step, measured)}
            if steps:
                examined[patch.patch_id] = steps
    runs = tuple(dict.fromkeys(own.loc[own["patch_id"].isin(list(examined)), "run_id"]))
    shared = set.intersection(*examined.values()) if examined else set()
    if shared and not found.to_last and max(shared) < max(map(max, examined.values())):
        scope = f"{found.scope}{', ' if found.scope else ''}{words.up_to(max(shared))}"
        return replace(found, run_ids=runs, scope=scope)
    return replace(found, run_ids=runs)


def _setting_by_setting(
    output: Output, frames: Frames, damaged: list[str] | None, whole: bool
) -> Iterator[tuple[Part, list[Finding]]]:
    """Tables and findings of each family alone, and curves over all of them."""
    crossed = changes.crossed_steps(output, damaged)
    gathered = trajectories.Trajectories.of(frames, None if whole else is_told)
    for key, family in of_output(output, frames.runs, frames.patches, damaged, written=True):
        gathered.add(key, family)
        told = courses(family)
        yield ("verdicts", verdict_rows(key, family)), list(heads(key, family, told))
        yield ("courses", course_rows(key, family, told)), []
        for changed in changes.of_family(family, crossed):
            yield ("transformations", changes.row(key, changed)), []
            yield ("head_changes", changes.head_rows(key, changed)), []
    yield from ((part, []) for part in gathered.tables().items())


def _others(output: Output, frames: Frames, damaged: list[str] | None, whole: bool) -> Iterator[Part]:
    """Tables that need several families, or other tables."""
    wanted = tuple(TABLES if whole else OF_TABLES)
    only = None if whole else seeds.SITE
    yield from agreement.of_output(output, frames.runs, frames.patches, damaged, wanted, only)
    for name, make in _alone(output, frames, damaged).items():
        if name in wanted:
            yield from ((name, rows) for rows in make())


def table(name: str, frames: Frames, damaged: list[str] | None = None) -> pd.DataFrame:
    """Make one of the tables that need no other.

    Args:
        frames: runs and patch jobs of the folder are enough.
        damaged: as for `frames.load`.
    """
    parts = list(_alone(frames.output, frames, damaged)[name]()) if frames.output else []
    return pd.concat(parts, ignore_index=True) if parts else typed([], TABLES[name])


def _alone(
    output: Output, frames: Frames, damaged: list[str] | None
) -> dict[str, Callable[[], Iterable[pd.DataFrame]]]:
    """Functions that make each table that needs no other, in parts."""
    given = (output, frames.runs, frames.patches, damaged)
    examined = examined_in(output)
    return {
        "retention": lambda: retention.of_output(*given),
        "shares": lambda: (shares.rows(key, one) for key, one in shares.of_output(*given)),
        "attention": lambda: looks.of_output(*given),
        "edge_effects": lambda: edges.effects_of(*given),
        "edge_circuits": lambda: edges.circuits_of(examined, damaged),
        "edge_bounds": lambda: edges.bounds_of(examined, damaged),
        "faithfulness": lambda: circuits.faithfulness_of(*given),
        "completeness": lambda: circuits.completeness_of(output, damaged),
    }
