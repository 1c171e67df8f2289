"""Builds the tables `verdicts` and `courses`, which the page, terminal, figures and wandb show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from ..columns import typed
from ..folder import OutputFolder
from ..frames import Frames
from .courses import HeadCourse, courses
from .families import Family, families, groups, jobs

GROUP = {"setting": "string", "patching": "string", "corruption": "string"}
PLACE = {"site": "string", "layer": "Int64", "head": "Int64", "position": "string"}
VERDICTS = {
    **GROUP,
    "step": "int64",
    **PLACE,
    **{"recovered": "float64", "low": "float64", "high": "float64"},
    **{"low_these_runs": "float64", "high_these_runs": "float64"},
    **{"simultaneous_low": "float64", "simultaneous_high": "float64"},
    **{"verdict": "string", "verdict_these_runs": "string", "gain": "float64", "gap": "float64"},
    **{"n": "int64", "runs": "int64"},
}
"""One row per place and checkpoint of a setting's runs, which differ only in their seed."""
COURSES = {
    **GROUP,
    **PLACE,
    **{"course": "string", "onset": "Int64", "onset_low": "Int64", "onset_high": "Int64", "last": "Int64"},
    **{"peak": "float64"},
}
"""One row per place, over a setting's runs: how it came to matter."""


def verdicts(frames: Frames, damaged: list[str] | None = None) -> pd.DataFrame:
    """The table `verdicts` for all groups; values by prompt are read group by group.

    Args:
        damaged: as for `frames.load`.
    """
    return _together([verdict_rows(key, family) for key, family in of_frames(frames, damaged)], VERDICTS)


def courses_of(frames: Frames, damaged: list[str] | None = None) -> pd.DataFrame:
    """The table `courses` for all groups; otherwise as `verdicts`."""
    return _together([course_rows(key, family) for key, family in of_frames(frames, damaged)], COURSES)


def of_frames(frames: Frames, damaged: list[str] | None = None) -> Iterator[tuple[tuple[str, str, str], Family]]:
    """The families of each setting, by setting, patching and corruption."""
    if frames.output is not None:
        yield from of_output(frames.output, frames.runs, frames.patches, damaged)


def of_output(
    output: OutputFolder,
    runs: pd.DataFrame,
    patches: pd.DataFrame,
    damaged: list[str] | None = None,
    attribution: bool = False,
) -> Iterator[tuple[tuple[str, str, str], Family]]:
    """As `of_frames`, for an output folder and its tables of runs and patch jobs.

    Args:
        attribution: whether to read the attribution too.
    """
    for key, patch_ids in groups(patches, runs):
        for family in families(jobs(output, runs, patch_ids, damaged, attribution=attribution)):
            yield key, family


def verdict_rows(key: tuple[str, str, str], family: Family) -> pd.DataFrame:
    """The rows of one family, without places that no run has."""
    found, judged, here = family.estimate, family.judged, family.judged_here
    low, high = family.interval
    low_here, high_here = family.interval_here
    layer, head, position = zip(*family.places, strict=True)
    there = found.runs > 0
    return typed(
        pd.DataFrame(
            {
                **dict(zip(GROUP, key, strict=True)),
                "step": np.repeat(family.steps, len(family.places)),
                "site": family.site,
                **{name: list(values) * len(family.steps) for name, values in
                   (("layer", layer), ("head", head), ("position", position))},
                "recovered": found.recovered, "low": low, "high": high,
                "low_these_runs": low_here, "high_these_runs": high_here,
                "simultaneous_low": judged.low, "simultaneous_high": judged.high,
                "verdict": judged.words, "verdict_these_runs": here.words,
                "gain": found.gain, "gap": found.gap, "n": found.n, "runs": found.runs,
            }
        )[there],
        VERDICTS,
    )  # fmt: skip


def course_rows(key: tuple[str, str, str], family: Family, known: Sequence[HeadCourse] | None = None) -> pd.DataFrame:
    """The courses of one family's places."""
    rows = [
        {
            **dict(zip(GROUP, key, strict=True)), "site": family.site,
            "layer": one.place[0], "head": one.place[1], "position": one.place[2], "course": one.course.value,
            "onset": one.onset, "onset_low": one.onset_low, "onset_high": one.onset_high, "last": one.last,
            "peak": one.peak,
        }
        for one in (courses(family) if known is None else known)
    ]  # fmt: skip
    return typed(pd.DataFrame(rows), COURSES)


def _together(parts: Sequence[pd.DataFrame], columns: dict[str, str]) -> pd.DataFrame:
    return pd.concat(parts, ignore_index=True) if parts else typed([], columns)
