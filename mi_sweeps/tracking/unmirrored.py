"""What of a job is not in wandb though it was asked for, and why: a note in the job's folder, which `run`, `wait` and
`status` tell. Read without wandb.

JOB/unmirrored.json   {"why": one line, "mended_by": the command that makes up for it}
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

TRACK, ANEW, SYNC = "track", "track --again", "sync"
"""What makes up for it; the first is the worst."""

MENDED = {
    TRACK: "not mirrored to wandb",
    ANEW: "mirrored to wandb without its pictures or tables",
    SYNC: "not uploaded to wandb",
}


def switched_off() -> bool:
    """Whether the user's environment tells wandb to do nothing."""
    return os.environ.get("WANDB_MODE") == "disabled"


def refuse_if_off() -> None:
    """For commands that do nothing else.

    Raises:
        UserError: it does.
    """
    if switched_off():
        raise UserError(f"{OFF}: wandb is switched off in this shell; `unset WANDB_MODE` switches it on")


OFF = "WANDB_MODE=disabled"


def note(place: Path, why: str, mended_by: str) -> None:
    """Remembers it in a job's folder, unless something worse is known there. It may fail, as all of the mirror."""
    with suppress(OSError):
        known = _read(place)
        if known is None or list(MENDED).index(mended_by) <= list(MENDED).index(known[1]):
            write_json(place / FILE, {"why": " ".join(why.split())[:300], "mended_by": mended_by})


def forget(place: Path, *mended_by: str) -> None:
    """Removes the note of a job, if it was one that these commands make up for."""
    with suppress(OSError):
        known = _read(place)
        if known and known[1] in mended_by:
            (place / FILE).unlink(missing_ok=True)


def told(plan: Plan, name: str, output: Path) -> Iterator[str]:
    """A line for each way in which jobs of a sweep that should be mirrored are not, with the command that helps."""
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
            yield f"{what}: {count} ({reasons[0]}); `{hint(mended_by, name, output)}` makes up for it"


def _of_job(folder: Folder) -> tuple[str, str] | None:
    """Why a job that is done is not mirrored, and what makes up for it."""
    parts = folder.all_parts() if isinstance(folder, PatchFolder) else []
    places = [folder.path, *(part.path for part in parts)]
    there = [names(place) for place in places]
    known = [_read(place) for place, inside in zip(places, there, strict=True) if FILE in inside]
    if worst := min((one for one in known if one), key=lambda one: list(MENDED).index(one[1]), default=None):
        return worst
    logged = bool(folder.steps()) if isinstance(folder, PatchFolder) else "metrics.parquet" in there[0]
    return ("done before that was asked for", TRACK) if logged and not any("wandb" in one for one in there) else None


def _read(place: Path) -> tuple[str, str] | None:
    try:
        known = read_json(place / FILE)
        return (str(known["why"]), known["mended_by"]) if known and known["mended_by"] in MENDED else None
    except (KeyError, TypeError, UserError):  # Damaged; `track` looks for itself.
        return None
