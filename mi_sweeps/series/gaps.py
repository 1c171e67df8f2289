"""The steps of a series that have no checkpoint which can be used, and why: as its folder has them, and in words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from mi_sweeps.store.files import read_json

NAMED = 8
"""Steps that are named of those that are gaps for one reason."""


def read(folder: Path, steps: Iterable[int]) -> dict[int, str]:
    """Why those steps are gaps, as the run's series.json says; no reason where it does not.

    Raises:
        UserError: the file is damaged.
    """
    wanted = sorted(steps)
    about = read_json(folder / "series.json") if wanted else None
    listed = about.get("gaps") if isinstance(about, dict) else None
    known = {
        one["step"]: str(one.get("reason", ""))
        for one in (listed if isinstance(listed, list) else ())
        if isinstance(one, dict) and "step" in one
    }
    return {step: known.get(step, "") for step in wanted}


def told(gaps: Mapping[int, str]) -> list[str]:
    """In words, a line for each reason: "16, 32: nothing there for step N". Of a single step the reason is as it is."""
    groups: dict[str, list[int]] = {}
    for step in sorted(gaps):
        # The same of several steps may name them all; else what differs is the step.
        shared = list(gaps.values()).count(gaps[step]) > 1
        alike = gaps[step] if shared else re.sub(rf"(?<!\d){step}(?!\d)", "N", gaps[step])
        groups.setdefault(alike, []).append(step)
    lines = []
    for alike, steps in groups.items():
        more = f" and {len(steps) - NAMED} more" if len(steps) > NAMED else ""
        reason = gaps[steps[0]] if len(steps) == 1 else alike
        lines.append(f"{', '.join(map(str, steps[:NAMED]))}{more}{f': {reason}' if reason else ''}")
    return lines
