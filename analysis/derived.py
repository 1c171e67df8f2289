"""Tables derived from those of an output folder, made in parts so that only one setting's prompts are in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import pandas as pd

from . import circuits, edges, looks
from .agreement import tables as agreement
from .columns import typed
from .findings import seeds
from .findings.finding import FINDINGS, Finding, frame
from .findings.heads import heads
from .findings.learned import learned
from .findings.questions import OF_TABLES, arranged
from .findings.sudden import is_reported
from .folder import OutputFolder
from .frames import Frames, examined_in, sound_runs
from .inference import changes, retention, shares, trajectories, words
from .inference.courses import courses
from .inference.tables import COURSES, VERDICTS, course_rows, of_output, verdict_rows


@dataclass(frozen=True)
class IndependentTable:
    """A table that needs no other derived one."""

    columns: dict[str, str]
    """Their types, by name."""
    rows: Callable[[OutputFolder, Frames, list[str] | None], Iterable[pd.DataFrame]]
    """Makes it part by part. Its last argument is that of `frames.load`, `damaged`."""
    needs: str | None = None
    """The measured table without which it does not exist."""


def _grouped(
    of_output: Callable[[OutputFolder, pd.DataFrame, pd.DataFrame, list[str] | None], Iterable[pd.DataFrame]],
) -> Callable[[OutputFolder, Frames, list[str] | None], Iterable[pd.DataFrame]]:
    return lambda output, frames, damaged: of_output(output, frames.runs, frames.patches, damaged)


ALONE = {
    "shares": IndependentTable(shares.SHARES, _grouped(shares.tables_of), "cross"),
    "attention": IndependentTable(looks.ATTENTION, _grouped(looks.of_output), "looks"),
    "edge_effects": IndependentTable(edges.EFFECTS, _grouped(edges.effects_of), "edges"),
    "edge_circuits": IndependentTable(
        edges.CIRCUITS, lambda output, _, damaged: edges.circuits_of(examined_in(output), damaged), "edges"
    ),
    "edge_bounds": IndependentTable(
        edges.BOUNDS, lambda output, _, damaged: edges.bounds_of(examined_in(output), damaged), "edges"
    ),
    "faithfulness": IndependentTable(circuits.FAITHFULNESS, _grouped(circuits.faithfulness_of), "circuits"),
    "completeness": IndependentTable(
        circuits.COMPLETENESS, lambda output, _, damaged: circuits.completeness_of(output, damaged), "circuits"
    ),
    "retention": IndependentTable(retention.RETENTION, _grouped(retention.of_output)),
}

TABLES = (
    {"verdicts": VERDICTS, "courses": COURSES}
    | {"transformations": changes.TRANSFORMATIONS, "head_changes": changes.HEAD_CHANGES}
    | trajectories.TABLES
    | {name: alone.columns for name, alone in ALONE.items()}
    | agreement.TABLES
    | {"findings": FINDINGS}
)
"""Their columns."""

NEEDS = {name: alone.needs for name, alone in ALONE.items() if alone.needs}
"""Tables that exist only if another, measured one does."""

Part = tuple[str, pd.DataFrame]
"""The name of a table, and some of its rows."""


def with_findings(
    output: OutputFolder, frames: Frames, damaged: list[str] | None = None, whole: bool = True
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

    for part, own in _setting_by_setting(output, frames, damaged, whole):
        yield keep(part)
        found += own
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


def _of_runs(found: Finding, output: OutputFolder, frames: Frames) -> Finding:
    """Add to a finding the runs that it rests on, and the last checkpoint that they share."""
    own = frames.runs[frames.runs["setting"].astype(str).isin(found.setting.split(" | "))]
    of_settings = own[own["run_id"].isin(sound_runs(own))]
    found = _without(found, len(own) - len(of_settings))
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


def _without(found: Finding, diverged: int) -> Finding:
    """Add to the scope how many runs that diverged are left out, unless the finding says so itself."""
    said = words.left_out(diverged)
    if not diverged or said in f"{found.statement} {found.scope}":
        return found
    return replace(found, scope="; ".join(filter(None, (found.scope, said))))


def _setting_by_setting(
    output: OutputFolder, frames: Frames, damaged: list[str] | None, whole: bool
) -> Iterator[tuple[Part, list[Finding]]]:
    """Tables and findings of each family alone, and curves over all of them."""
    crossed = changes.crossed_steps(output, damaged)
    gathered = trajectories.Trajectories.of(frames, None if whole else is_reported)
    for key, family in of_output(output, frames.runs, frames.patches, damaged, attribution=True):
        gathered.add(key, family)
        of_heads = courses(family)
        yield ("verdicts", verdict_rows(key, family)), list(heads(key, family, of_heads))
        yield ("courses", course_rows(key, family, of_heads)), []
        for changed in changes.of_family(family, crossed):
            yield ("transformations", changes.row(key, changed)), []
            yield ("head_changes", changes.head_rows(key, changed)), []
    yield from ((part, []) for part in gathered.tables().items())


def _others(output: OutputFolder, frames: Frames, damaged: list[str] | None, whole: bool) -> Iterator[Part]:
    """Tables that need several families, or other tables."""
    wanted = tuple(TABLES if whole else OF_TABLES)
    only = None if whole else seeds.SITE
    yield from agreement.of_output(output, frames.runs, frames.patches, damaged, wanted, only)
    for name, alone in ALONE.items():
        if name in wanted:
            yield from ((name, rows) for rows in alone.rows(output, frames, damaged))


def table(name: str, frames: Frames, damaged: list[str] | None = None) -> pd.DataFrame:
    """Make one of the tables that need no other.

    Args:
        frames: runs and patch jobs of the folder are enough.
        damaged: as for `frames.load`.
    """
    parts = list(ALONE[name].rows(frames.output, frames, damaged)) if frames.output else []
    return pd.concat(parts, ignore_index=True) if parts else typed([], TABLES[name])
