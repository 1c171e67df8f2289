"""How long the rest of a sweep takes: fine-tunes and patch jobs apart, and nothing where nothing is known."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from mi_sweeps.store.files import write_json
from mi_sweeps.store.folders import Folder
from mi_sweeps.sweeps import estimate
from mi_sweeps.sweeps.cells import Cell
from mi_sweeps.sweeps.estimate import Course, Left
from mi_sweeps.sweeps.grid import expand
from mi_sweeps.sweeps.plan import Plan, folders_of, make


@pytest.fixture
def cells(small: tuple[str, ...], tmp_path: Path) -> list[Cell]:
    """Three fine-tunes of 4 steps, each with two patch jobs of 2 checkpoints."""
    return expand([*small, "seed=0,1,2", "corruption=first,second", f"output={tmp_path}"])


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(estimate.time, "monotonic", lambda: now[0])
    return now


def done(folder: Folder, seconds: float, host: str = socket.gethostname()) -> None:
    write_json(
        folder.path / "status.json", {"state": "done", "attempts": 1, "seconds": seconds, "host": host, "pid": 1}
    )


def trained(cell: Cell, seconds: float, stack: int = 1) -> None:
    run, _ = folders_of(cell)
    done(run, seconds)
    run.metrics.touch()
    for step in cell.checkpoint_steps:
        run.checkpoint(step).parent.mkdir(exist_ok=True)
        run.checkpoint(step).touch()
    if stack > 1:
        write_json(run.path / "run.json", {"stacks": [{"from": 0, "runs": [str(one) for one in range(stack)]}]})


def patched(cell: Cell, seconds: float) -> None:
    _, patch = folders_of(cell)
    done(patch, seconds)
    for step in cell.patch_steps:
        patch.table(step).parent.mkdir(exist_ok=True)
        patch.table(step).touch()


def of(plan: Plan, workers: int = 1) -> Left:
    return estimate.left(estimate.rest(plan).values(), estimate.rates(plan), workers)


def test_each_kind_has_its_own_rate(cells: list[Cell]) -> None:
    """Fine-tunes of 4 s and patch jobs of 60 s: a mean over all that ended would say 5 × 4 s after the first."""
    assert of(make(cells)) == Left(None, ("fine-tune", "patch job"))
    trained(cells[0], 4)
    assert of(make(cells)) == Left(8, ("patch job",))
    patched(cells[0], 60)
    assert of(make(cells)) == Left(8 + 5 * 60)
    assert of(make(cells), workers=2) == Left((8 + 5 * 60) / 2)
    assert of(make(cells), workers=100) == Left(60)


def test_what_takes_another_time_is_another_kind(small: tuple[str, ...], tmp_path: Path) -> None:
    cells = expand([*small, "train.batch_size=6,12", "patching.prompts=6,12", f"output={tmp_path}"])
    trained(cells[0], 4)
    patched(cells[0], 10)
    assert of(make(cells)) == Left(10, ("fine-tune", "patch job"))
    longer = expand([*small, "train.batch_size=6", "seed=1", f"output={tmp_path}"])
    assert estimate.kind(longer[0], "finetune") == estimate.kind(cells[0], "finetune")
    assert estimate.kind(longer[0], "patch") == estimate.kind(cells[0], "patch")


def test_runs_that_were_trained_together_share_their_time(cells: list[Cell]) -> None:
    for cell in cells[:4:2]:
        trained(cell, 10, stack=2)
    assert of(make(cells)) == Left(5, ("patch job",))


def test_another_machine_s_time_is_not_this_one_s(cells: list[Cell]) -> None:
    trained(cells[0], 4)
    run, _ = folders_of(cells[0])
    done(run, 4, host="elsewhere")
    assert of(make(cells)) == Left(None, ("fine-tune", "patch job"))


def test_local_workers_are_learned_from_what_they_have_written(
    cells: list[Cell], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes at fine-tunes, from checkpoint 0 to 2 in 6 s each: what remains takes them (2 + 2 + 4) × 3 / 2."""
    statuses = {}
    for pid, cell in enumerate(cells[:4:2], 1):
        run, _ = folders_of(cell)
        write_json(
            run.path / "status.json",
            {"state": "running", "attempts": 1, "host": socket.gethostname(), "pid": pid},
        )
        for step, when in ((0, 100.0), (2, 106.0)):
            run.checkpoint(step).parent.mkdir(exist_ok=True)
            run.checkpoint(step).touch()
            os.utime(run.checkpoint(step), (when, when))
        statuses[cell.run_id] = run.status_on_disk()
    plan = make(cells)
    plan.runs.update(statuses)  # Nobody holds their locks.
    assert estimate.of_plan(plan) == Left(12, ("patch job",))


def test_the_process_at_work_learns_as_it_goes(cells: list[Cell], clock: list[float]) -> None:
    course = Course(make(cells))
    assert course.left() == Left(None, ("fine-tune", "patch job"))
    course.begin("run", cells[0], "finetune")
    clock[0] = 50  # The model is loaded, which is no step.
    course.step("run", 1)
    assert course.left().seconds is None
    clock[0] = 52
    course.step("run", 2)
    # Two seconds a step, and a second later one less.
    assert course.left() == Left(2 * (4 + 4 + 4), ("patch job",))
    clock[0] = 53
    assert course.left() == Left(2 * (4 + 4 + 4) - 1, ("patch job",))


def test_runs_that_take_turns_share_the_time_that_passes(cells: list[Cell], clock: list[float]) -> None:
    """Two together, whose steps take 4 s: six steps of three runs in turns take 12 s each pair."""
    course = Course(make(cells))
    ids = [cells[0].run_id, cells[2].run_id]
    for id, cell in zip(ids, cells[::2], strict=False):
        course.begin(id, cell, "finetune")
    for step in (1, 2, 3, 4):
        clock[0] += 4
        for id in ids:
            course.step(id, step)
    assert course.left() == Left(2 * 4, ("patch job",))
    for id in ids:
        course.end(id, well=True)
    assert course.left() == Left(2 * 4, ("patch job",))
