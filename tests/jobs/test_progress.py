"""Progress while a sweep is computed or waited for, on a terminal and without one."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from mi_sweeps.jobs import progress
from mi_sweeps.jobs.execute import Task
from mi_sweeps.store.files import write_json
from mi_sweeps.sweeps import estimate
from mi_sweeps.sweeps.estimate import TimeLeft
from mi_sweeps.sweeps.grid import expand
from mi_sweeps.sweeps.plan import folders_of, make
from mi_sweeps.sweeps.points import GridPoint


@pytest.fixture
def points(small: tuple[str, ...], tmp_path: Path) -> list[GridPoint]:
    swept = ["schedule=linear_warmup", "optim.lr=1e-4,3e-4", "corruption=first,second", "seed=0,1"]
    return expand([*small, *swept, f"output={tmp_path}"])


def test_a_fine_tune_is_named_by_no_corruption(points: list[GridPoint]) -> None:
    assert Task("finetune", points[0]).name == "fine-tune optim.lr=0.0001 seed=0"
    assert Task("patch", points[0]).name == "patch job optim.lr=0.0001 corruption=first seed=0"


def screen(bars: progress.Bars, width: int) -> list[str]:
    """The bars as a terminal shows them now."""
    console = Console(file=io.StringIO(), width=width, color_system=None, force_terminal=True)
    console.print(bars._progress.get_renderable())
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_no_word_of_a_bar_is_broken(points: list[GridPoint], width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate.ProgressClock, "left", lambda *_: TimeLeft(141, ("patch job",)))
    bars = progress.Bars(Console(width=width, force_terminal=True), 12, make(points))
    with bars.task(Task("patch", points[0])) as on_step:
        on_step(1)
        lines = screen(bars, width)
    assert max(map(len, lines)) <= width
    words = " ".join(lines).split()
    assert {"optim.lr=0.0001", "corruption=first", "0/12", "1/2", "0:02:21", "left", "known"} <= set(words)
    result = " ".join(re.sub(r"[━╸╺]|> 0:02:21 left|\d+:\d+:\d+|\d+/\d+", "", " ".join(lines)).split())
    assert result.startswith("sweep; how long patch jobs take is not known yet patch job optim.lr")


def test_without_a_terminal_waiting_for_workers_prints_what_ends(points: list[GridPoint]) -> None:
    run, _ = folders_of(points[0])
    _, failing = folders_of(points[2])

    def leave(state: str, path: Path, **more: str) -> None:
        path.mkdir(parents=True, exist_ok=True)
        write_json(path / "status.json", {"state": state, "attempts": 1, **more})
        (path / "metrics.parquet").touch()
        (path / "checkpoints").mkdir(exist_ok=True)
        for step in points[0].checkpoint_steps:
            (path / "checkpoints" / f"{step:06d}.safetensors").touch()

    looks = iter(
        [lambda: None, lambda: leave("done", run.path), lambda: leave("failed", failing.path, error="no memory left")]
    )
    rest = [True, True, True, True, False, False]

    def look():
        next(looks, lambda: None)()
        return make(points)

    console = Console(file=io.StringIO(), width=200)
    progress.watch(console, look, lambda: rest.pop(0), seconds=0)
    assert console.file.getvalue().splitlines()[:2] == [
        "1/12 fine-tune optim.lr=0.0001 seed=0",
        f"failed {points[2].called('patch')}: no memory left",
    ]
