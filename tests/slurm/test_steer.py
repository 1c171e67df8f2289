"""`status`, `wait` and `cancel` for a sweep on a cluster, against a fake scheduler."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from mi_sweeps.jobs import progress, workers
from mi_sweeps.jobs.workers import Worker
from mi_sweeps.slurm import states, steer, submissions
from mi_sweeps.store.files import write_json
from mi_sweeps.sweeps import manifest
from mi_sweeps.sweeps import plan as planning
from mi_sweeps.sweeps.grid import expand

DOWN = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)"
SAID = f"squeue: {DOWN}; SLURM is down, or this machine is not a client of it"


@pytest.fixture
def where(tmp_path: Path) -> str:
    return f"output={tmp_path / 'outputs'}"


@pytest.fixture
def sweep(call: Callable, slurm, where: str) -> list[str]:
    """One that was submitted: jobs 100, 101 and 102. Gives its overrides."""
    words = ["seed=0,1", "corruption=first,second", "sweep.name=s", "launcher=slurm", where]
    assert call("run", *words)[0] == 0
    return words


def nap(monkeypatch: pytest.MonkeyPatch, *steps: Callable[[], object]) -> list[float]:
    """Nobody sleeps: one of these happens each time. Gives the seconds of the sleeps, by which time goes on."""
    slept: list[float] = []
    left = iter(steps)

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        next(left)()

    clock = SimpleNamespace(sleep=sleep, monotonic=lambda: sum(slept))
    for module in (progress, steer):
        monkeypatch.setattr(module, "time", clock)
    return slept


def nothing() -> None:
    """Time goes by."""


def start(slurm, *ids: str) -> None:
    """Jobs that are pending begin on a node."""
    slurm.set(queue=[[*row[:2], "RUNNING", "None", "n1"] if row[0] in ids else row for row in slurm.queue])


def test_status_says_why_points_wait(call: Callable, slurm, sweep: list[str], where: str) -> None:
    start(slurm, "100_0")
    code, printed, complained = call("status", "s", where)
    assert (code, complained) == (0, "")
    assert "s: 2 fine-tunes (2 queued), 4 patch jobs (4 queued)" in printed
    assert "  in the queue: 5 waiting (Priority), 1 on n1, not begun" in printed


def test_status_asks_each_command_once(call: Callable, slurm, sweep: list[str], where: str) -> None:
    slurm.set(calls=[], queue=slurm.queue[1:])
    call("status", "s", where)
    assert [call["command"] for call in slurm.state["calls"]] == ["squeue", "sacct"]


def test_status_says_what_slurm_did_to_a_job(call: Callable, slurm, sweep: list[str], where: str) -> None:
    slurm.end("NODE_FAIL")
    _, printed, _ = call("status", "s", where)
    assert "2 fine-tunes (2 failed)" in printed
    assert "its node failed (NODE_FAIL, exit code 0:0, n1); see " in printed
    assert "slurm/jobs/100_0_0_log.out" in printed


def test_a_pack_that_dies_before_its_first_point_waits_for_retry(call: Callable, slurm, where: str) -> None:
    words = ["seed=0,1", "sweep.name=s", "launcher=slurm", "launcher.pack=2", where]
    call("run", *words)
    id, name, *_ = slurm.queue[0]
    patches = [[*row[:2], "CANCELLED by 0", "0:0", "None assigned"] for row in slurm.queue[1:]]
    slurm.set(queue=[], ended=[[id, name, "FAILED", "1:0", "n1"], *patches])
    _, printed, _ = call("status", "s", where)
    assert "2 fine-tunes (2 failed), 2 patch jobs (2 to do)" in printed
    assert "slurm/jobs/100_0_log.out" in printed
    point = expand(words)[0]
    (place,) = states.places(submissions.of_output(point.output))[point.run_id]
    Path(place.log).write_text("module: command not found\n")
    _, printed, _ = call("logs", "s", "--failed", where)
    assert printed.count("its job failed") == 2
    assert printed.count("module: command not found") == 1, "both points have the same job"
    assert call("run", *words)[0] == 1
    assert len(slurm.scripts) == 2
    assert call("run", *words, "--retry")[0] == 0
    assert len(slurm.scripts) == 4


def test_a_patch_job_whose_fine_tune_was_cancelled_is_submitted_with_it(call: Callable, slurm, where: str) -> None:
    words = ["seed=0", "sweep.name=s", "launcher=slurm", where]
    call("run", *words, "corruption=first")
    call("run", *words, "corruption=first,second")
    assert "--dependency=afterany:100" in slurm.scripts[2]
    cancelled, later = ([*row[:2]] for row in (slurm.queue[0], slurm.queue[2]))
    slurm.set(queue=[], ended=[[*cancelled, "CANCELLED by 0", "0:0", "n1"], [*later, "FAILED", "1:0", "n1"]])
    assert "1 fine-tune (1 to do), 2 patch jobs (2 to do)" in call("status", "s", where)[1]
    call("run", *words, "corruption=first,second")
    assert len(slurm.scripts) == 6


def test_logs_have_the_output_of_a_job_that_slurm_ended(
    call: Callable, slurm, sweep: list[str], where: str, tmp_path: Path
) -> None:
    slurm.end("TIMEOUT")
    code, printed, _ = call("logs", "s", "--failed", where)
    assert code == 0
    assert printed.count("ended by its time limit") == 6, "no job has begun to write a log"
    log = next((tmp_path / "outputs").glob("sweeps/s/slurm")) / "jobs" / "100_0_0_log.out"
    log.write_text("module: command not found\n")
    _, printed, _ = call("logs", expand(sweep)[0].run_id, "--failed", where)
    assert "module: command not found" in printed
    _, printed, _ = call("status", "s", where)
    assert "log.txt" not in printed, "there is none"


def test_logs_need_no_controller(call: Callable, slurm, sweep: list[str], where: str) -> None:
    run, _ = planning.folders_of(expand(sweep)[0])
    write_json(run.path / "status.json", {"state": "failed", "attempts": 1, "error": "ValueError: nan"})
    run.log_file.write_text("loss is nan\n")
    slurm.set(refuse={"squeue": [DOWN, 0]})
    code, printed, complained = call("logs", "s", "--failed", where)
    assert (code, complained) == (0, "")
    assert SAID in printed and "loss is nan" in printed


@pytest.mark.parametrize("accounting", [True, False])
def test_without_a_controller_status_is_what_the_folders_say_and_says_so(
    call: Callable, slurm, sweep: list[str], where: str, accounting: bool
) -> None:
    slurm.set(refuse={"squeue": [DOWN, 0], **({} if accounting else {"sacct": ["Connection refused", 0]})})
    code, printed, complained = call("status", "s", where)
    assert (code, complained) == (0, "")
    assert f"s: {SAID}; the states shown are those in the folders\n" in printed
    assert "s: 2 fine-tunes (2 to do), 4 patch jobs (4 to do)" in printed


def test_without_accounting_commands_go_on_and_say_so(call: Callable, slurm, sweep: list[str], where: str) -> None:
    """What ran out of memory would be submitted again without a word."""
    slurm.set(refuse={"sacct": ["Connection refused", 0]}, queue=slurm.queue[:1])
    got = "sacct: Connection refused; SLURM is down, or this machine is not a client of it; jobs that are gone"
    code, printed, _ = call("status", "s", where)
    assert code == 0
    assert "2 fine-tunes (1 queued, 1 to do)" in printed
    assert f"s: {got} without a result count as lost" in printed
    for command in (["plan", *sweep], ["run", *sweep]):
        code, printed, complained = call(*command)
        assert (code, complained) == (0, "")
        assert printed.count(got) == 1
    slurm.set(queue=[])
    code, printed, _ = call("wait", "s", where)
    assert (code, printed.count(got)) == (1, 1), "a cluster may have no accounting at all"


def test_held_jobs_are_named_with_what_releases_them(
    call: Callable, slurm, sweep: list[str], where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SLURM holds what it fails to launch, and all that depends on it would wait without a word."""
    reason = "launch failed requeued held"
    slurm.set(queue=[[*row[:3], reason, ""] if row[0] == "100_1" else row for row in slurm.queue])
    said = f"100_1 is held in the queue and will not start by itself ({reason}): `scontrol release 100`"
    for command in (["status", "s", where], ["plan", *sweep], ["run", *sweep]):
        code, printed, complained = call(*command)
        assert (code, complained) == (0, "")
        assert printed.count(said) == 1
    nap(monkeypatch, nothing, lambda: slurm.end("CANCELLED by 0"))
    assert call("wait", "s", where)[1].count(said) == 1


def test_run_without_a_controller_is_one_line(call: Callable, slurm, sweep: list[str]) -> None:
    slurm.set(refuse={"squeue": [DOWN, 0]})
    code, _, complained = call("run", *sweep)
    assert (code, complained) == (2, f"error: {SAID}\n")
    assert len(slurm.scripts) == 3


def test_a_sweep_sees_the_jobs_of_another_that_has_the_same_points(
    call: Callable, slurm, sweep: list[str], where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "nothing to submit" in call("run", *sweep, "seed=0", "sweep.name=other")[1]
    assert "other: 1 fine-tune (1 queued), 2 patch jobs (2 queued)" in call("status", "other", where)[1]
    slept = nap(monkeypatch, nothing, lambda: slurm.end("FAILED"))
    assert call("wait", "other", where)[0] == 1
    assert len(slept) == 2 and min(slept) >= 10


def test_wait_asks_no_more_than_every_ten_seconds(
    call: Callable, slurm, sweep: list[str], where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept = nap(monkeypatch, lambda: start(slurm, "100_0"), nothing, lambda: slurm.end("TIMEOUT"))
    slurm.set(calls=[])
    code, printed, _ = call("wait", "s", where)
    assert code == 1
    assert "6 failed" in printed and "ended by its time limit; raise launcher.time" in printed
    assert len(slept) == 3 and min(slept) >= 10
    assert len(slurm.calls("squeue")) == len(slept) + 1


def test_wait_waits_for_the_controller(
    call: Callable, slurm, sweep: list[str], where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is restarted now and then."""
    slept = nap(
        monkeypatch,
        lambda: slurm.set(refuse={"squeue": [DOWN, 0]}),
        nothing,
        lambda: slurm.set(refuse={}),
        lambda: slurm.end("TIMEOUT"),
    )
    code, printed, _ = call("wait", "s", where)
    assert code == 1
    assert len(slept) == 4
    assert "6 failed" in printed


def test_cancel_marks_then_cancels_and_touches_nothing_else(
    call: Callable, slurm, sweep: list[str], where: str
) -> None:
    other = ["7", "somebody-else-s", "RUNNING", "None", "n1"]
    # The controller had lost 102, and gave its id to somebody.
    taken = ["102_0", "somebody-else-s", "RUNNING", "None", "n1"]
    slurm.set(queue=[row for row in slurm.queue if not row[0].startswith("102")] + [other, taken])
    assert call("run", *sweep, "seed=2", "sweep.name=t")[0] == 0
    code, printed, _ = call("cancel", "s", where)
    assert code == 0
    assert printed == "s: 4 tasks cancelled on the cluster\n"
    (found,) = slurm.records("scancel")
    assert {one["sweep"]: one["cancelled"] for one in found} == {"s": True, "t": False}, "else tasks would come back"
    assert slurm.calls("scancel") == [["--quiet", "100", "101"]]
    assert [row for row in slurm.queue if row[0] == "7"] == [other]
    assert [row for row in slurm.queue if row[0] == "102_0"] == [taken]
    assert sum(row[1].startswith("t-") for row in slurm.queue) == 3


def test_cancel_waits_until_the_jobs_are_gone(
    call: Callable, slurm, sweep: list[str], where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (slurm.folder / "scancel").write_text("#!/bin/sh\n")
    naps = nap(monkeypatch, *[nothing] * 9)
    code, printed, _ = call("cancel", "s", where)
    assert code == 1
    assert "  6 still there after 60 s: scancel 100 101 102" in printed
    assert naps == [1, 2, 4, 8, 10, 10, 10, 10, 10]


def test_cancel_without_jobs_says_so(call: Callable, slurm, sweep: list[str], where: str) -> None:
    call("cancel", "s", where)
    code, printed, _ = call("cancel", "s", where)
    assert (code, printed) == (0, "s: 0 tasks cancelled on the cluster\n")


def test_cancel_without_a_controller_is_one_line(call: Callable, slurm, sweep: list[str], where: str) -> None:
    slurm.set(refuse={"squeue": [DOWN, 0]})
    assert call("cancel", "s", where) == (2, "", f"error: s: {SAID}\n")


def test_cancel_without_a_controller_stops_what_is_here(
    call: Callable, slurm, sweep: list[str], where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of every sweep that was named, the one on the cluster first."""
    output = expand(sweep)[0].output
    manifest.add(output, "t", expand(sweep), "")
    monkeypatch.setattr(workers, "cancel", lambda output, name: ([Worker("here", 1, "local")], []))
    slurm.set(refuse={"squeue": [DOWN, 0]})
    code, printed, complained = call("cancel", "s", "t", where)
    assert (code, complained) == (2, f"error: s: {SAID}\n")
    assert printed == "s: 1 process stopped\nt: 1 process stopped\n"


def test_what_was_cancelled_is_submitted_again_by_run(call: Callable, slurm, sweep: list[str], where: str) -> None:
    call("cancel", "s", where)
    assert "2 fine-tunes (2 to do), 4 patch jobs (4 to do)" in call("status", "s", where)[1]
    assert call("run", *sweep)[0] == 0
    assert [int(row[0].partition("_")[0]) for row in slurm.queue] == [103, 103, 104, 104, 105, 105]


def test_run_that_waits_ends_with_the_sweep(call: Callable, slurm, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["seed=0", "sweep.name=s", "launcher=slurm", where]
    slept = nap(monkeypatch, nothing, lambda: slurm.end("CANCELLED by 0"))
    code, printed, _ = call("run", *words, "--wait")
    assert code == 1
    assert "not finished: 1 fine-tune (1 to do)" in printed
    assert len(slept) == 2 and min(slept) >= 10


def test_a_fine_tune_at_work_is_running_not_queued(call: Callable, slurm, sweep: list[str], where: str) -> None:
    start(slurm, "100_0", "100_1")
    run, _ = planning.folders_of(expand(sweep)[0])
    with run.claim():
        write_json(run.path / "status.json", {"state": "running", "attempts": 1})
        assert "2 fine-tunes (1 running, 1 queued)" in call("status", "s", where)[1]
