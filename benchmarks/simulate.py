"""Simulates output folders with thousands of grid points: done, running, failed, interrupted and not begun.

One fine-tune of `mini` and its patch job are really computed. All folders link to their metrics and tables, have empty
files as weights, and their own configuration and status.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mi_sweeps.store.files import read_json
from mi_sweeps.store.folders import PatchFolder, RunFolder
from mi_sweeps.store.status import State, Status, now
from mi_sweeps.sweeps.grid import expand
from mi_sweeps.sweeps.plan import folders_of
from mi_sweeps.sweeps.points import GridPoint

LINKED = 1000
"""Most folders that link to one file: file systems allow some ten thousand links."""
RUNNING = 16
"""Number of running fine-tunes, one for each process of the largest sweep."""
OF_HUNDRED: dict[int, State] = {5: "failed", 35: "failed", 65: "interrupted", 95: "todo", 96: "todo", 97: "cancelled"}
"""States of some of every hundred fine-tunes; the others are done."""
ERRORS = (
    "OutOfMemoryError: CUDA out of memory. Tried to allocate {}.00 MiB",
    "{}: checkpoints/000008.safetensors: damaged; delete it and run the sweep again",
    "ValueError: loss is nan at step {}",
)


@dataclass(frozen=True)
class Sample:
    """A run and a patch job that were really computed."""

    run: RunFolder
    patch: PatchFolder


def sample(folder: Path, overrides: Sequence[str], tracing: Sequence[str] = ()) -> Sample:
    """Computes one grid point of `mini` in separate processes.

    Args:
        tracing: a prefix for each command; "JOB" in it is replaced by the job's name.
    """
    given = [f"output={folder}", "launcher.threads=1", "launcher.device=cpu", *overrides]
    for job in ("finetune", "patch"):
        before = [word.replace("JOB", job) for word in tracing]
        subprocess.run(
            [*before, sys.executable, "-m", f"mi_sweeps.jobs.{job}", *given], check=True, stderr=subprocess.DEVNULL
        )
    (point,) = expand(given)
    return Sample(*folders_of(point))


def fill(points: Sequence[GridPoint], made: Sample, at_work: ExitStack) -> None:
    """Makes the folders of all points; this process holds the locks of running ones until `at_work` is closed."""
    output = points[0].output
    of_run: dict[str, list[GridPoint]] = {}
    for point in points:
        of_run.setdefault(point.run_id, []).append(point)
    (output / "runs").mkdir(parents=True, exist_ok=True)
    about_run, about_patch = read_json(made.run.path / "run.json"), read_json(made.patch.path / "patch.json")
    for index, group in enumerate(of_run.values()):
        if index % LINKED == 0:
            source = output.with_name(f"{output.name}-files") / str(index)
            source.mkdir(parents=True)
            shutil.copy(made.run.metrics, source / "metrics.parquet")
            shutil.copytree(made.patch.path / "tables", source / "tables")
        run, _ = folders_of(group[0])
        state: State = "running" if index % 97 == 50 and index < 97 * RUNNING else OF_HUNDRED.get(index % 100, "done")
        if state == "todo":
            continue
        parts = len(group[0].checkpoint_steps) if state == "done" else 5
        (run.path / "checkpoints").mkdir(parents=True)
        for step in group[0].checkpoint_steps[:parts]:
            run.checkpoint(step).touch()
        _write(run.path / "run.json", about_run | {"run_id": run.run_id, "config": dict(group[0].values)})
        _link(made.run.path, run.path, "audit.json", "log.txt")
        _status(run, "running" if state == "interrupted" else state, index)
        if state == "running":
            at_work.enter_context(run.claim())
        if state != "done":
            continue
        os.link(source / "metrics.parquet", run.metrics)
        for number, point in enumerate(group):
            _fill_patch(point, about_patch, made, source / "tables", index * len(group) + number)


def _fill_patch(point: GridPoint, about: Any, made: Sample, tables: Path, index: int) -> None:
    _, job = folders_of(point)
    state: State = "failed" if index % 100 == 12 else "done"
    (job.path / "tables").mkdir(parents=True)
    for step in point.patch_steps[: None if state == "done" else 3]:
        os.link(tables / job.table(step).name, job.table(step))
    own = {"patch_id": job.patch_id, "run_id": point.run_id, "corruption": point.values["corruption"]["name"]}
    _write(job.path / "patch.json", about | own | {"config": dict(point.values)})
    _link(made.patch.path, job.path, "log.txt")
    _status(job, state, index)


def _status(folder: RunFolder | PatchFolder, state: State, index: int) -> None:
    """Writes a status as the store does, but without syncing."""
    error = ERRORS[index % len(ERRORS)].format(index) if state == "failed" else None
    finished = None if state == "running" else now()
    _write(folder.path / "status.json", asdict(Status(state, 1, now(), finished, 13.6, "node07", 4711, error)))
    (folder.path / ".lock").touch()


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1))


def _link(source: Path, target: Path, *names: str) -> None:
    """Copies small files, which are only counted, never read."""
    for name in names:
        shutil.copy(source / name, target / name)
