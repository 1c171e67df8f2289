"""Notes which parts of a job did not reach wandb, and why; `run`, `wait` and `status` show them. Works without wandb.

JOB/unmirrored.json   {"why": one line, "mended_by": the command that adds what is missing}
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from mi_sweeps.counting import counted
from mi_sweeps.errors import UserError
from mi_sweeps.hints import hint
from mi_sweeps.store.files import names, read_json, write_json
from mi_sweeps.store.folders import Folder, PatchFolder
from mi_sweeps.sweeps.plan import folders_of

if TYPE_CHECKING:
    from mi_sweeps.sweeps.plan import Plan

FILE = "unmirrored.json"

TRACK, AGAIN, SYNC = "track", "track --again", "sync"
"""Commands that add what is missing, worst case first."""

MENDED = {
    TRACK: "not mirrored to wandb",
    AGAIN: "mirrored to wandb without its pictures or tables",
    SYNC: "not uploaded to wandb",
}
"""What each command mends."""


def switched_off() -> bool:
    """Whether the user's environment disables wandb."""
    return os.environ.get("WANDB_MODE") == "disabled"


def refuse_if_off() -> None:
    """Fails if wandb is disabled, for commands that only use wandb.

    Raises:
        UserError: wandb is disabled.
    """
    if switched_off():
        raise UserError(f"{OFF}: wandb is switched off in this shell; `unset WANDB_MODE` switches it on")


OFF = "WANDB_MODE=disabled"


def note(place: Path, why: str, mended_by: str) -> None:
    """Writes a note into a job's folder, unless there is a worse one. Like the rest of the mirror, it may fail."""
    with suppress(OSError):
        known = _read(place)
        if known is None or list(MENDED).index(mended_by) <= list(MENDED).index(known[1]):
            write_json(place / FILE, {"why": " ".join(why.split())[:300], "mended_by": mended_by})


def forget(place: Path, *mended_by: str) -> None:
    """Removes a job's note, if one of these commands mends it."""
    with suppress(OSError):
        known = _read(place)
        if known and known[1] in mended_by:
            (place / FILE).unlink(missing_ok=True)


def lines(plan: Plan, name: str, output: Path) -> Iterator[str]:
    """Yields a line for each kind of missing data in a sweep's finished jobs, with the command that adds it."""
    jobs: dict[Path, Folder] = {}
    for point in plan.points:
        if point.values["tracking"]["mode"] != "disabled":
            run, patch = folders_of(point)
            if plan.runs[point.run_id].state == "done":
                jobs[run.path] = run
            if plan.patches[point.patch_id].state == "done":
                jobs[patch.path] = patch
    found: dict[str, list[str]] = {}
    for folder in jobs.values():
        if known := _of_job(folder):
            found.setdefault(known[1], []).append(known[0])
    for mended_by, what in MENDED.items():
        if reasons := found.get(mended_by):
            count = counted(len(reasons), "job")
            yield f"{what}: {count} ({reasons[0]}); `{hint(mended_by, name, output)}` adds what is missing"


def _of_job(folder: Folder) -> tuple[str, str] | None:
    """Returns why a finished job is not fully mirrored, and the command that mends it."""
    parts = folder.all_parts() if isinstance(folder, PatchFolder) else []
    places = [folder.path, *(part.path for part in parts)]
    there = [names(place) for place in places]
    known = [_read(place) for place, inside in zip(places, there, strict=True) if FILE in inside]
    if worst := min((one for one in known if one), key=lambda one: list(MENDED).index(one[1]), default=None):
        return worst
    logged = bool(folder.steps()) if isinstance(folder, PatchFolder) else "metrics.parquet" in there[0]
    return ("done before tracking was on", TRACK) if logged and not any("wandb" in one for one in there) else None


def _read(place: Path) -> tuple[str, str] | None:
    try:
        known = read_json(place / FILE)
        return (str(known["why"]), known["mended_by"]) if known and known["mended_by"] in MENDED else None
    except (KeyError, TypeError, UserError):  # Damaged; `track` does not rely on it.
        return None
