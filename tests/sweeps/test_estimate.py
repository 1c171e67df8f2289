"""How long the rest of a sweep takes: separately for fine-tunes and patch jobs, and nothing if nothing is known."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from mi_sweeps.store.files import write_json
from mi_sweeps.store.folders import Folder
from mi_sweeps.sweeps import estimate
from mi_sweeps.sweeps.estimate import ProgressClock, TimeLeft
from mi_sweeps.sweeps.grid import expand
from mi_sweeps.sweeps.plan import Plan, folders_of, make
from mi_sweeps.sweeps.points import GridPoint


@pytest.fixture
def points(small: tuple[str, ...], tmp_path: Path) -> list[GridPoint]:
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


def trained(point: GridPoint, seconds: float, stack: int = 1) -> None:
    run, _ = folders_of(point)
    done(run, seconds)
    run.metrics.touch()
    for step in point.checkpoint_steps:
        run.checkpoint(step).parent.mkdir(exist_ok=True)
        run.checkpoint(step).touch()
    if stack > 1:
        write_json(run.path / "run.json", {"stacks": [{"from": 0, "runs": [str(one) for one in range(stack)]}]})


def patched(point: GridPoint, seconds: float) -> None:
    _, patch = folders_of(point)
    done(patch, seconds)
    for step in point.patch_steps:
        patch.table(step).parent.mkdir(exist_ok=True)
        patch.table(step).touch()


def of(plan: Plan, workers: int = 1) -> TimeLeft:
    return estimate.left(estimate.rest(plan).values(), estimate.rates(plan), workers)


def test_each_kind_has_its_own_rate(points: list[GridPoint]) -> None:
    """Fine-tunes of 4 s and patch jobs of 60 s: a mean over all that ended would say 5 × 4 s after the first."""
    assert of(make(points)) == TimeLeft(None, ("fine-tune", "patch job"))
    trained(points[0], 4)
    assert of(make(points)) == TimeLeft(8, ("patch job",))
    patched(points[0], 60)
    assert of(make(points)) == TimeLeft(8 + 5 * 60)
    assert of(make(points), workers=2) == TimeLeft((8 + 5 * 60) / 2)
    assert of(make(points), workers=100) == TimeLeft(60)


def test_what_takes_another_time_is_another_kind(small: tuple[str, ...], tmp_path: Path) -> None:
    points = expand([*small, "train.batch_size=6,12", "patching.prompts=6,12", f"output={tmp_path}"])
    trained(points[0], 4)
    patched(points[0], 10)
    assert of(make(points)) == TimeLeft(10, ("fine-tune", "patch job"))
    longer = expand([*small, "train.batch_size=6", "seed=1", f"output={tmp_path}"])
    assert estimate.kind(longer[0], "finetune") == estimate.kind(points[0], "finetune")
    assert estimate.kind(longer[0], "patch") == estimate.kind(points[0], "patch")


def test_runs_that_were_trained_together_share_their_time(points: list[GridPoint]) -> None:
    for point in points[:4:2]:
        trained(point, 10, stack=2)
    assert of(make(points)) == TimeLeft(5, ("patch job",))


def test_another_machine_s_time_is_not_this_one_s(points: list[GridPoint]) -> None:
    trained(points[0], 4)
    run, _ = folders_of(points[0])
    done(run, 4, host="elsewhere")
    assert of(make(points)) == TimeLeft(None, ("fine-tune", "patch job"))


def test_local_workers_are_learned_from_what_they_have_written(
    points: list[GridPoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes at fine-tunes, from checkpoint 0 to 2 in 6 s each: what remains takes them (2 + 2 + 4) × 3 / 2."""
    statuses = {}
    for pid, point in enumerate(points[:4:2], 1):
        run, _ = folders_of(point)
        write_json(
            run.path / "status.json",
            {"state": "running", "attempts": 1, "host": socket.gethostname(), "pid": pid},
        )
        for step, when in ((0, 100.0), (2, 106.0)):
            run.checkpoint(step).parent.mkdir(exist_ok=True)
            run.checkpoint(step).touch()
            os.utime(run.checkpoint(step), (when, when))
        statuses[point.run_id] = run.status_on_disk()
    plan = make(points)
    plan.runs.update(statuses)  # Nobody holds their locks.
    assert estimate.of_plan(plan) == TimeLeft(12, ("patch job",))


def test_the_process_at_work_learns_as_it_goes(points: list[GridPoint], clock: list[float]) -> None:
    course = ProgressClock(make(points))
    assert course.left() == TimeLeft(None, ("fine-tune", "patch job"))
    course.begin("run", points[0], "finetune")
    clock[0] = 50  # The model is loaded, which is no step.
    course.step("run", 1)
    assert course.left().seconds is None
    clock[0] = 52
    course.step("run", 2)
    # Two seconds a step, and a second later one less.
    assert course.left() == TimeLeft(2 * (4 + 4 + 4), ("patch job",))
    clock[0] = 53
    assert course.left() == TimeLeft(2 * (4 + 4 + 4) - 1, ("patch job",))


def test_runs_that_take_turns_share_the_time_that_passes(points: list[GridPoint], clock: list[float]) -> None:
    """Two together, whose steps take 4 s: six steps of three runs in turns take 12 s each pair."""
    course = ProgressClock(make(points))
    ids = [points[0].run_id, points[2].run_id]
    for id, point in zip(ids, points[::2], strict=False):
        course.begin(id, point, "finetune")
    for step in (1, 2, 3, 4):
        clock[0] += 4
        for id in ids:
            course.step(id, step)
    assert course.left() == TimeLeft(2 * 4, ("patch job",))
    for id in ids:
        course.end(id, well=True)
    assert course.left() == TimeLeft(2 * 4, ("patch job",))
