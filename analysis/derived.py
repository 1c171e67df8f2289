"""All tables that are derived from those of an output folder, part by part: each cell's prompts are in memory once."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace

import pandas as pd

from . import circuits, edges, looks
from .agreement import tables as agreement
from .findings.finding import FINDINGS, Finding, frame
from .findings.heads import heads
from .findings.learned import learned
from .findings.questions import OF_TABLES, arranged
from .folder import Output
from .frames import Frames, examined_in
from .inference import changes, retention, shares, trajectories
from .inference.courses import courses
from .inference.tables import COURSES, VERDICTS, course_rows, of_output, verdict_rows

TABLES = (
    {"verdicts": VERDICTS, "courses": COURSES}
    | {"transformations": changes.TRANSFORMATIONS, "head_changes": changes.HEAD_CHANGES, "shares": shares.SHARES}
    | {"attention": looks.ATTENTION, "edge_circuits": edges.CIRCUITS, "edge_bounds": edges.BOUNDS}
    | trajectories.TABLES
    | {"faithfulness": circuits.FAITHFULNESS, "completeness": circuits.COMPLETENESS}
    | {"retention": retention.RETENTION}
    | agreement.TABLES
    | {"findings": FINDINGS}
)
"""Their columns."""

NEEDS = {
    **{"shares": "cross", "attention": "looks", "edge_circuits": "edges", "edge_bounds": "edges"},
    **{"faithfulness": "circuits", "completeness": "circuits"},
}
"""Tables that are there only where another one is, which was measured."""

Part = tuple[str, pd.DataFrame]
"""The name of a table, and some of its rows."""


def with_findings(
    output: Output, frames: Frames, damaged: list[str] | None = None, wanted: Collection[str] = tuple(TABLES)
) -> Iterator[Part]:
    """Every table; the last is `findings`, whose words are those of the others.

    Args:
        frames: runs, patch jobs and metrics of the folder are enough.
        damaged: as for `frames.load`.
        wanted: the names of those that are made where that takes its time.
    """
    found = list(learned(frames))
    kept: dict[str, list[pd.DataFrame]] = {name: [] for name in OF_TABLES}

    def keep(part: Part) -> Part:
        if part[0] in kept:
            kept[part[0]].append(part[1])
        return part

    for part, told in _cell_by_cell(output, frames, damaged):
        yield keep(part)
        found += told
    for part in _others(output, frames, damaged, wanted):
        yield keep(part)
    for name, tell in OF_TABLES.items():
        if kept[name]:
            made = tell(pd.concat(kept[name], ignore_index=True))
            found += [replace(one, run_ids=_run_ids(one, output, frames)) for one in made]
    yield "findings", frame(arranged(found))


def findings(frames: Frames, damaged: list[str] | None = None) -> pd.DataFrame:
    """The table `findings` alone."""
    if frames.output is None:
        return frame(learned(frames))
    made = with_findings(frames.output, frames, damaged, wanted=tuple(OF_TABLES))
    return next(rows for name, rows in made if name == "findings")


def _run_ids(found: Finding, output: Output, frames: Frames) -> tuple[str, ...]:
    """The runs that a finding from a table is of: those that have what it is told from."""
    of_cells = frames.runs[frames.runs["cell"].astype(str).isin(found.cell.split(" | "))]
    if not found.patching:
        return tuple(of_cells.loc[of_cells["run_id"].isin(frames.metrics["run_id"]), "run_id"])
    examined = {patch.patch_id for patch in output.patches if patch.steps()}
    own = frames.patches[frames.patches["run_id"].isin(of_cells["run_id"]) & frames.patches["patch_id"].isin(examined)]
    own = own[(own["patching"] == found.patching) & own["corruption"].isin(found.corruption.split())]
    return tuple(dict.fromkeys(own["run_id"]))


def _cell_by_cell(output: Output, frames: Frames, damaged: list[str] | None) -> Iterator[tuple[Part, list[Finding]]]:
    """What each family has alone, with what is found in it, and how curves run over all of them."""
    crossed = changes.crossed_steps(output, damaged)
    gathered = trajectories.Trajectories.of(frames)
    for key, family in of_output(output, frames.runs, frames.patches, damaged, written=True):
        gathered.add(key, family)
        told = courses(family)
        yield ("verdicts", verdict_rows(key, family)), list(heads(key, family, told))
        yield ("courses", course_rows(key, family, told)), []
        for changed in changes.of_family(family, crossed):
            yield ("transformations", changes.row(key, changed)), []
            yield ("head_changes", changes.head_rows(key, changed)), []
    yield from ((part, []) for part in gathered.tables().items())


def _others(
    output: Output, frames: Frames, damaged: list[str] | None, wanted: Collection[str] = tuple(TABLES)
) -> Iterator[Part]:
    """What needs several families, or other tables."""
    yield from agreement.of_output(output, frames.runs, frames.patches, damaged, wanted)
    for rows in retention.of_output(output, frames.runs, frames.patches, damaged):
        yield "retention", rows
    if "shares" in wanted:
        for key, one in shares.of_output(output, frames.runs, frames.patches, damaged):
            yield "shares", shares.rows(key, one)
    for rows in looks.of_output(output, frames.runs, frames.patches, damaged):
        yield "attention", rows
    examined = examined_in(output)
    for name, of in (("edge_circuits", edges.circuits_of), ("edge_bounds", edges.bounds_of)):
        if name not in wanted:
            continue
        yield from ((name, rows) for rows in of(examined, damaged))
    for rows in circuits.faithfulness_of(output, frames.runs, frames.patches, damaged):
        yield "faithfulness", rows
    if "completeness" in wanted:
        for rows in circuits.completeness_of(output, damaged):
            yield "completeness", rows
