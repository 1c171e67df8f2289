"""Many grid points in a terminal: counts, failures and running ones; each point if they are few, or on request."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from mi_sweeps import cli
from mi_sweeps.models.mini import FOLDER
from mi_sweeps.store.files import write_json, write_table
from mi_sweeps.store.folders import Folder
from mi_sweeps.sweeps import manifest, show
from mi_sweeps.sweeps.grid import expand
from mi_sweeps.sweeps.plan import folders_of
from mi_sweeps.sweeps.points import GridPoint


@pytest.fixture
def look(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., list[str]]:
    """The lines that a command prints."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str) -> list[str]:
        with pytest.raises(SystemExit) as stopped:
            cli.main([*arguments, f"output={tmp_path}"])
        assert stopped.value.code == 0
        return capsys.readouterr().out.splitlines()

    return run


def planned(output: Path, count: int) -> list[GridPoint]:
    """A sweep of so many fine-tunes, each with two patch jobs."""
    points = expand([f"seed=range(0,{count})", "corruption=first,second", "sweep.name=mine", f"output={output}"])
    manifest.add(output, "mine", points, "")
    return points


def leave(folder: Folder, state: str, error: str | None = None) -> None:
    write_json(folder.path / "status.json", {"state": state, "attempts": 1, "error": error})


def rows(lines: list[str]) -> list[list[str]]:
    """The points in the order in which they are shown."""
    (head,) = [number for number, line in enumerate(lines) if line.startswith("seed")]
    return [line.split() for line in lines[head + 1 :] if line[:1].isdigit() and " points: " not in line]


def test_a_small_sweep_shows_every_point(look: Callable[..., list[str]], tmp_path: Path) -> None:
    points = planned(tmp_path, 3)
    found = look("status")
    assert found[0] == "mine: 3 fine-tunes (3 to do), 6 patch jobs (6 to do)"
    assert [row[:3] for row in rows(found)] == [
        [str(point.values["seed"]), point.values["corruption"]["name"], point.run_id] for point in points
    ]
    assert not any("--points" in line for line in found)


def test_a_large_sweep_shows_what_runs_and_what_went_wrong(look: Callable[..., list[str]], tmp_path: Path) -> None:
    points = planned(tmp_path, 100)
    for seed in range(10, 40):
        leave(folders_of(points[2 * seed])[0], "failed", "RuntimeError: broken")
    leave(folders_of(points[2 * 5])[0], "running")  # nobody holds its lock
    at_work = folders_of(points[2 * 70])[0]
    with at_work.claim():
        leave(at_work, "running")
        found = look("status")
    seeds = [row[0] for row in rows(found)]
    assert seeds == ["70", "70", *(str(seed) for seed in range(10, 29) for _ in range(2))]
    assert "running 0/27" in found[4]
    hint = "those running, then those that went wrong; for all: `mi-sweeps status --points mine"
    assert found[-1].startswith(f"40 of 200 grid points: {hint}")
    every = look("status", "--points")
    assert [row[0] for row in rows(every)] == [str(seed) for seed in range(100) for _ in range(2)]


def test_where_nothing_runs_or_failed_there_are_sums_only(look: Callable[..., list[str]], tmp_path: Path) -> None:
    planned(tmp_path, 21)
    found = look("status")
    assert len(found) == 2
    assert found[1].startswith("none of 42 grid points: ")


def test_the_log_of_a_patch_job_in_parts_is_that_of_the_part_that_failed(
    look: Callable[..., list[str]], tmp_path: Path
) -> None:
    run, patch = folders_of(planned(tmp_path, 1)[0])
    leave(run, "done")
    for part, state in enumerate(("done", "failed")):
        leave(patch.part(part, 2), state, "ValueError: nan")
        patch.part(part, 2).log_file.write_text(f"of part {part}\n")
    assert f"  {patch.part(1, 2).log_file}" in look("status")
    assert "of part 1" in look("logs", "--failed")


def test_failures_are_grouped_by_what_they_say(look: Callable[..., list[str]], tmp_path: Path) -> None:
    """Numbers and ids differ from point to point; the error is the same."""
    points = planned(tmp_path, 8)
    for number, point in enumerate(points[:10:2]):
        run, _ = folders_of(point)
        leave(run, "failed", f"OutOfMemoryError: tried to allocate {number}.5 GiB in {point.run_id}")
    run, patch = folders_of(points[-1])
    leave(run, "done")
    leave(patch, "failed", "ValueError: nan")
    example, _ = folders_of(points[0])
    for folder in (example, patch):
        folder.log_file.write_text("ERROR failed\n")
    found = look("status")
    assert found[1:5] == [
        f"failed 5 fine-tunes, for example {points[0].run_id}: OutOfMemoryError: tried to allocate 0.5 GiB in "
        f"{points[0].run_id}",
        f"  {example.log_file}",
        f"failed patch job {points[-1].patch_id}: ValueError: nan",
        f"  {patch.log_file}",
    ]


def test_many_different_errors_do_not_fill_the_screen(look: Callable[..., list[str]], tmp_path: Path) -> None:
    words = "one two three four five six seven eight nine ten eleven".split()
    for word, point in zip(words, planned(tmp_path, len(words))[::2], strict=True):
        leave(folders_of(point)[0], "failed", f"ValueError: {word}")
    result = [line for line in look("status") if line.startswith("failed")]
    assert len(result) == show.SHOWN_ERRORS + 1
    assert result[-1] == "failed with 3 other errors: 3"


def test_plan_shows_some_of_many_values(look: Callable[..., list[str]]) -> None:
    found = look("plan", "seed=range(0,100)", "optim.lr=1e-4,3e-4")
    assert found[1:3] == ["  seed: 0, 1, 2, …, 99 (100 values)", "  optim.lr: 0.0001, 0.0003"]


def test_a_key_that_is_forced_is_shown_too(look: Callable[..., list[str]]) -> None:
    assert [line.split()[0] for line in look("plan", "--points", "++task.seed=3,4")[-2:]] == ["3", "4"]


def test_words_are_shown_as_words(look: Callable[..., list[str]]) -> None:
    found = look("plan", "--points", "train.only=attention,[mlp,norms]")
    assert [line.split("  ")[0] for line in found[-2:]] == ["attention", "mlp + norms"]


def test_each_schedule_is_drawn_once_and_one_without_bound_is_warned_of(look: Callable[..., list[str]]) -> None:
    chosen = "schedule=constant,fixed_warmup,buggy_warmup"
    found = look("plan", chosen, "seed=0,1")
    drawn = [line.strip() for line in found if line.strip().startswith("schedule ")]
    assert [line.split(":")[0] for line in drawn] == [
        "schedule constant",
        "schedule fixed_warmup",
        "schedule buggy_warmup",
    ]
    assert drawn[0].endswith("1 times optim.lr over 184 steps")
    assert drawn[1].endswith("0.01 to 1 times optim.lr over 184 steps")
    assert drawn[2].endswith("1 to 1.83 times optim.lr over 184 steps; warning: it grows without bound")
    blocks = [next(word for word in line.split() if word[0] in "▁▂▃▄▅▆▇█") for line in drawn]
    assert set(blocks[0]) == {"█"}
    assert list(blocks[1]) == sorted(blocks[1])
    assert blocks[1][0] == "▁"


def test_a_wrong_schedule_ends_the_plan(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["plan", "schedule=fixed_warmup", "schedule.warmup_steps=0", f"output={tmp_path}"])
    assert stopped.value.code == 2
    assert capsys.readouterr().err == "error: schedule.warmup_steps=0: give at least 1\n"


@pytest.fixture
def own_schedule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """Arguments with which somebody's own schedule is used: 1 to 0 over `steps` steps, and an error afterwards."""
    source = "import math\n\ndef root(step, total, steps):\n    return math.sqrt(1 - step / steps)\n"
    (tmp_path / "somebodys_schedules.py").write_text(source)
    (tmp_path / "conf" / "schedule").mkdir(parents=True)
    (tmp_path / "conf" / "schedule" / "root.yaml").write_text(
        "name: root\n_target_: somebodys_schedules.root\nsteps: ${train.steps}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return "--config-dir", str(tmp_path / "conf"), "schedule=root", f"output={tmp_path}"


def test_a_schedule_is_evaluated_at_its_own_steps_only(
    own_schedule: tuple[str, ...], capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["plan", *own_schedule])
    assert stopped.value.code == 0
    assert "1 to 0.0737 times optim.lr over 184 steps\n" in capsys.readouterr().out


def test_a_schedule_that_raises_ends_the_plan(own_schedule: tuple[str, ...], capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["plan", *own_schedule, "schedule.steps=10"])
    assert stopped.value.code == 2
    complaint = capsys.readouterr().err
    assert complaint.startswith("error: schedule=root: ValueError: ")
    assert complaint.endswith("; it must be defined for steps 0 to 183\n")


def learn(point: GridPoint, rates: list[float]) -> None:
    """Leaves the metrics of a run that has come so far."""
    run, _ = folders_of(point)
    rows = [
        {"step": 8 * at, "split": split, "metric": "win_rate", "value": value}
        for at, rate in enumerate(rates)
        for split, value in (("train", 1.0), ("heldout", rate))
    ]
    write_table(run.metrics, pa.Table.from_pylist(rows[::-1]))


def test_the_win_rate_so_far_has_a_column_where_it_fits(look: Callable[..., list[str]], tmp_path: Path) -> None:
    points = planned(tmp_path, 2)
    learn(points[0], [0.0, 0.45, 1.0])
    found = look("status")
    assert found[1].split()[-2:] == ["win", "rate"]
    assert [line.rstrip()[-9:] for line in found[2:4]] == [" ▁▄█ 100%"] * 2
    assert not any("%" in line for line in found[4:])


def test_and_lines_below_where_it_does_not(
    look: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = planned(tmp_path, 3)
    for point in points:
        learn(point, [0.5])
    monkeypatch.setenv("COLUMNS", "60")
    found = look("status")
    assert [line.split() for line in found[-2:]] == [
        ["win", "rate", points[0].run_id, "▅", "50%", points[2].run_id, "▅", "50%"],
        [points[4].run_id, "▅", "50%"],
    ]
    assert max(map(len, found)) <= 60


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_no_word_of_a_table_is_broken_however_narrow_the_terminal_is(
    look: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    """Where a row does not fit, each point has two lines."""
    swept = ["schedule=linear_warmup,constant", "optim.lr=1e-4,3e-4", "corruption=first,second"]
    points = expand([*swept, "sweep.name=mine", f"output={tmp_path}"])
    manifest.add(tmp_path, "mine", points, "")
    monkeypatch.setenv("COLUMNS", str(width))
    found = look("status")
    assert max(map(len, found[1:])) <= max(width, 57)  # a point's choices are one word each, and broken on terminals
    words = " ".join(found).replace("=", " ").split()
    for point in points:
        assert {point.run_id, *point.choices.values()} <= set(words)
    assert {"schedule", "optim.lr", "corruption", "fine-tune"} <= set(words)


def test_metrics_that_are_damaged_hide_nothing_else(look: Callable[..., list[str]], tmp_path: Path) -> None:
    points = planned(tmp_path, 2)
    learn(points[0], [0.5])
    run, _ = folders_of(points[2])
    run.path.mkdir(parents=True)
    run.metrics.write_bytes(b"not a table")
    found = look("status")
    assert len(rows(found)) == 4 and sum("%" in line for line in found) == 2


def test_an_experiment_file_has_its_column(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    for name, seed in (("early", 1), ("late", 2)):
        file = tmp_path / "conf" / "experiment" / f"{name}.yaml"
        file.write_text(f"# @package _global_\nseed: {seed}\n")
    words = ["--points", "--config-dir", str(tmp_path / "conf"), "+experiment=early,late", f"output={tmp_path}"]
    with pytest.raises(SystemExit):
        cli.main(["plan", *words])
    lines = capsys.readouterr().out.splitlines()
    (head,) = [number for number, line in enumerate(lines) if line.startswith("+experiment")]
    assert [line.split()[0] for line in lines[head + 1 : head + 3]] == ["early", "late"]


def test_gaps_of_a_series_are_counted_and_left_out_of_its_line(look: Callable[..., list[str]], tmp_path: Path) -> None:
    for step in (0, 16):
        folder = tmp_path / "theirs" / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        for file in FOLDER.iterdir():
            (folder / file.name).symlink_to(file)
    place = f"model.path={tmp_path}/theirs/checkpoint-{{step}}"
    (point,) = expand(["model=series", place, "checkpoint.steps=[0,8,16]", "sweep.name=mine", f"output={tmp_path}"])
    manifest.add(tmp_path, "mine", [point], "")
    learn(point, [0.0, 0.9, 1.0])
    run, _ = folders_of(point)
    write_json(run.path / "status.json", {"state": "interrupted", "attempts": 1, "missing_steps": [8]})
    found = look("status")
    assert found[0] == "mine: 1 series of 3 checkpoints, 1 missing step (1 to do), 1 patch job (1 to do)"
    assert "interrupted 2/2, 1 missing step" in found[2] and found[2].rstrip().endswith("▁ █ 100%")
