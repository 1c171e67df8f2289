"""What is read from SLURM's commands, and the errors if they fail."""

from __future__ import annotations

import pytest

from mi_sweeps.errors import UserError
from mi_sweeps.slurm import queue
from mi_sweeps.slurm.queue import Job, Limits


@pytest.mark.parametrize(
    ("id", "tasks"),
    [
        ("12", [0]),
        ("12_3", [3]),
        ("12_[7]", [7]),
        ("12_[0-3]", [0, 1, 2, 3]),
        ("12_[4,6-8%2]", [4, 6, 7, 8]),
        ("12_[0-2%1]", [0, 1, 2]),
        ("12_[1,3,5,...]", [1, 3, 5]),
        # A number that may have been cut is none.
        ("12_[1,3,15...]", [1, 3]),
        ("12_[1,3-15...]", [1]),
    ],
)
def test_an_id_names_tasks(id: str, tasks: list[int]) -> None:
    assert queue.numbers(id) == tasks


def test_the_queue_is_read_by_name(slurm) -> None:
    slurm.set(
        queue=[
            ["12_1", "s-0", "RUNNING", "None", "n1"],
            ["12_[4,6-7%2]", "s-0", "PENDING", "Dependency", ""],
            ["13", "s-1", "PENDING", "BeginTime", ""],
            ["14", "somebody-else-s", "RUNNING", "None", "n2"],
        ]
    )
    live = queue.live(["s-0", "s-1"])
    assert live == {
        ("s-0", 1): Job("s-0", 1, "12_1", "RUNNING", "None", "n1"),
        **{("s-0", number): Job("s-0", number, f"12_{number}", "PENDING", "Dependency", "") for number in (4, 6, 7)},
        ("s-1", 0): Job("s-1", 0, "13", "PENDING", "BeginTime", ""),
    }
    assert len(slurm.calls("squeue")) == 1


def test_lines_that_are_no_rows_are_left_out(slurm) -> None:
    slurm.set(queue=[["squeue: error: retrying", "s-0"], ["12", "s-0", "RUNNING", "None", "n1"]])
    assert list(queue.live(["s-0"])) == [("s-0", 0)]


def test_nothing_is_asked_where_there_is_nothing_to_ask(slurm) -> None:
    assert (queue.live([]), queue.ended({})) == ({}, {})
    queue.cancel([])
    assert slurm.state["calls"] == []


def test_accounting_is_read_by_id_and_name(slurm) -> None:
    slurm.set(
        ended=[
            ["12_0", "s-0", "COMPLETED", "0:0", "n1"],
            ["12_1", "s-0", "CANCELLED by 0", "0:15", "None assigned"],
            ["12_[2-3%1]", "s-0", "CANCELLED by 1000", "0:0", "None assigned"],
            ["13", "s-1", "OUT_OF_MEMORY", "0:125", "n2"],
            # The id was given out anew after the controller had lost its state.
            ["14", "somebody-else-s", "FAILED", "1:0", "n2"],
            ["15", "s-0", "FAILED", "1:0", "n2"],
        ]
    )
    found = queue.ended({"12": "s-0", "13": "s-1", "14": "s-2", "15": "s-3"})
    assert {task: (job.state, job.reason) for task, job in found.items()} == {
        ("s-0", 0): ("COMPLETED", "0:0"),
        ("s-0", 1): ("CANCELLED", "0:15"),
        ("s-0", 2): ("CANCELLED", "0:0"),
        ("s-0", 3): ("CANCELLED", "0:0"),
        ("s-1", 0): ("OUT_OF_MEMORY", "0:125"),
    }
    assert len(slurm.calls("sacct")) == 1


def test_accounting_may_not_know_a_name_yet(slurm) -> None:
    slurm.set(ended=[["12_0", "allocation", "FAILED", "1:0", "n1"]])
    found = queue.ended({"12": "s-0"})
    assert found["s-0", 0].state == "FAILED"


def test_a_command_that_fails_is_one_line(slurm) -> None:
    down = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)\nmore"
    slurm.set(refuse={"squeue": [down, 0], "sacct": ["Connection refused", 0], "scancel": ["", 0]})
    with pytest.raises(
        UserError, match=r"\Asqueue: slurm_load_jobs error: Unable to contact.*failure\); SLURM is down.*\Z"
    ):
        queue.live(["s-0"])
    with pytest.raises(UserError, match=r"\Asacct: Connection refused; SLURM is down.*\Z"):
        queue.ended({"12": "s-0"})


def test_a_command_that_fails_silently_is_reported_by_its_exit_code(slurm) -> None:
    (slurm.folder / "scancel").write_text("#!/bin/sh\nexit 8\n")
    with pytest.raises(UserError, match=r"\Ascancel: exit code 8; SLURM is down.*\Z"):
        queue.cancel(["12"])


def test_a_command_that_hangs_is_given_up(slurm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "SECONDS", 1)
    slurm.set(hang=["squeue", "sacct"])
    with pytest.raises(UserError, match=r"\Asqueue: no answer in 1 s; SLURM is busy or down, try again\Z"):
        queue.live(["s-0"])
    with pytest.raises(UserError, match=r"\Asacct: no answer in 1 s"):
        queue.ended({"12": "s-0"})


def test_a_machine_without_slurm_says_so(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not queue.available()
    with pytest.raises(UserError, match="squeue: no such command; run it on a SLURM client"):
        queue.live(["s-0"])


def test_jobs_are_cancelled_by_id_in_one_call(slurm) -> None:
    assert queue.available()
    slurm.set(queue=[[id, "s-0", "PENDING", "None", ""] for id in ("12_0", "12_1", "13", "14")])
    queue.cancel(["12", "13"])
    assert slurm.calls("scancel") == [["--quiet", "12", "13"]]
    assert [row[0] for row in slurm.queue] == ["14"]


def test_limits_are_the_cluster_s_own(slurm) -> None:
    assert queue.limits() == Limits(1000, 10_000)
    slurm.set(config=["Configuration data", "MaxArraySize            = 101", "MaxJobCount             = 500"])
    # The highest number of a task is one less than what is called the size.
    assert queue.limits() == Limits(100, 500)
    slurm.set(config=["MaxArraySize            = 0"])
    assert queue.limits().tasks == 1
