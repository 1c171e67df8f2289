"""Builds the table `onsets`: when heads came to matter, over seeds and compared between corruptions."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .families import Place
from .onsets import Onset, Span, compare, forms, interval, median, span
from .tables import GROUP

ONSETS = {
    **GROUP,
    **{"against": "string", "measure": "string"},
    **{"site": "string", "layer": "Int64", "head": "Int64", "position": "string"},
    **{"after": "float64", "by": "float64", "low": "float64", "high": "float64"},
    **{"low_these_prompts": "float64", "high_these_prompts": "float64"},
    **{"answer": "string", "answer_these_prompts": "string"},
    **{"formed": "Int64", "from_the_start": "Int64", "never": "Int64", "cannot_tell": "Int64", "runs": "int64"},
}
"""One row per head of a setting, and one per measure and pair of corruptions, with the first of them in `against`."""
HEAD_SITE = "z"
"""Onsets and signs are of a head's output."""

Key = tuple[str, str, str]
"""Setting, patching, corruption."""


@dataclass(frozen=True)
class RunOnset:
    """The onset of one head of one run."""

    anywhere: Onset
    """For other prompts."""
    here: Onset
    """On these prompts."""
    steps: tuple[int, ...]
    """The run's checkpoints."""


def onset_row(key: Key, place: Place, found: Sequence[RunOnset]) -> dict[str, Any]:
    """The onset of one head over a setting's runs, in steps."""
    anywhere, here = ([_in_steps(getattr(one, scope), one.steps) for one in found] for scope in ("anywhere", "here"))
    middle = median(here)
    ends = {
        "after": middle.after, "by": middle.by,
        **dict(zip(("low", "high"), _ends(anywhere), strict=True)),
        **dict(zip(("low_these_prompts", "high_these_prompts"), _ends(here), strict=True)),
    }  # fmt: skip
    counts = _counts([one.here for one in found])
    return dict(zip(GROUP, key, strict=True)) | {"measure": "onset"} | _place(place) | ends | counts


def _in_steps(found: Onset, steps: Sequence[int]) -> Onset:
    """Converts indices of a run's own checkpoints to steps; runs of a setting may have different checkpoints."""
    return Onset(*(float(steps[int(one)]) if np.isfinite(one) else one for one in (found.after, found.by)))


def _ends(found: Sequence[Onset]) -> tuple[float, float]:
    return interval([one.after for one in found], [one.by for one in found])


Spans = Mapping[Place, Mapping[str, tuple[Span, Span]]]
"""Onsets by place and run: for other prompts, and on these prompts."""


def spans(found: Mapping[Place, Mapping[str, RunOnset]]) -> Spans:
    """Only places that have an onset in some run."""
    return {
        place: {run_id: (span(one.anywhere), span(one.here)) for run_id, one in own.items()}
        for place, own in found.items()
        if any(np.isfinite(one.here.by) for one in own.values())
    }


def compared(
    measure: str, key: Key, other: Key, first: Spans, second: Spans, alike: Container[str]
) -> Iterator[dict[str, Any]]:
    """Compares the second corruption with the first, paired by run; the ends are differences in checkpoints.

    Answers hold for all heads that form under either at once.

    Args:
        alike: the runs with the same checkpoints under both.
    """
    pairs: dict[Place, list[tuple[list[Span], list[Span]]]] = {}
    for place in (place for place in first if place in second):
        runs = [run_id for run_id in first[place] if run_id in second[place] and run_id in alike]
        if runs:
            pairs[place] = [
                ([first[place][run_id][scope] for run_id in runs], [second[place][run_id][scope] for run_id in runs])
                for scope in (0, 1)
            ]
    heads = [max(1, sum(forms(*scopes[scope]) for scopes in pairs.values())) for scope in (0, 1)]
    for place, scopes in pairs.items():
        answers = [compare(*scopes[scope], heads[scope]) for scope in (0, 1)]
        yield dict(zip(GROUP, other, strict=True)) | {
            "against": key[2], "measure": measure, **_place(place), "runs": len(scopes[0][0]),
            **dict(zip(("answer", "low", "high"), (answers[0][0].value, *answers[0][1:]), strict=True)),
            **dict(zip(
                ("answer_these_prompts", "low_these_prompts", "high_these_prompts"),
                (answers[1][0].value, *answers[1][1:]), strict=True,
            )),
        }  # fmt: skip


def _place(place: Place) -> dict[str, Any]:
    return {"site": HEAD_SITE, "layer": place[0], "head": place[1], "position": place[2]}


def _counts(found: Sequence[Onset]) -> dict[str, int]:
    start = sum(one.by == 0 for one in found)
    never = sum(np.isfinite(one.after) and one.by == np.inf for one in found)
    formed = sum(bool(np.isfinite(one.after) and np.isfinite(one.by)) for one in found)
    return {
        "from_the_start": start, "never": never, "formed": formed, "cannot_tell": len(found) - start - never - formed,
        "runs": len(found),
    }  # fmt: skip
