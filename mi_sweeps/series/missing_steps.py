"""The missing steps of a series (those without a usable checkpoint): read from its folder, and put into words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from mi_sweeps.store.files import read_json

NAMED = 8
"""How many steps are named for one reason."""


def read(folder: Path, steps: Iterable[int]) -> dict[int, str]:
    """The reasons why steps are missing, from the run's series.json; "" for one that the file does not explain.

    Raises:
        UserError: the file is damaged.
    """
    wanted = sorted(steps)
    about = read_json(folder / "series.json") if wanted else None
    about = about if isinstance(about, dict) else {}
    listed = about.get("missing_steps", about.get("gaps"))  # as versions before 1.0 called them
    known = {
        one["step"]: str(one.get("reason", ""))
        for one in (listed if isinstance(listed, list) else ())
        if isinstance(one, dict) and "step" in one
    }
    return {step: known.get(step, "") for step in wanted}


def lines(reasons: Mapping[int, str]) -> list[str]:
    """One line per reason: "16, 32: nothing there for step N". The reason for a single step is given verbatim."""
    groups: dict[str, list[int]] = {}
    for step in sorted(reasons):
        # Reasons that differ only in the step count as one.
        shared = list(reasons.values()).count(reasons[step]) > 1
        alike = reasons[step] if shared else re.sub(rf"(?<!\d){step}(?!\d)", "N", reasons[step])
        groups.setdefault(alike, []).append(step)
    text = []
    for alike, steps in groups.items():
        more = f" and {len(steps) - NAMED} more" if len(steps) > NAMED else ""
        reason = reasons[steps[0]] if len(steps) == 1 else alike
        text.append(f"{', '.join(map(str, steps[:NAMED]))}{more}{f': {reason}' if reason else ''}")
    return text
