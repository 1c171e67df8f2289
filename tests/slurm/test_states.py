"""The state of a fine-tune or patch job, from its folder and from the cluster."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mi_sweeps.slurm import states
from mi_sweeps.slurm.arrays import Array
from mi_sweeps.slurm.queue import Job
from mi_sweeps.slurm.submissions import Submission
from mi_sweeps.store.files import write_json
from mi_sweeps.store.status import Status
from mi_sweeps.sweeps import plan as planning
from mi_sweeps.sweeps.grid import expand

NOON, BEFORE, AFTER = (f"2026-01-01T{hour}:00:00.000000+00:00" for hour in (12, 11, 13))


def submission(*arrays: Array, at: str = NOON) -> Submission:
    return Submission(Path("/o/sweeps/s/slurm/id.json"), "s", at, (), arrays)


ALONE = submission(Array("finetune", (("a",),), name="s-0", jobs=("7",)))
PACKED = submission(Array("finetune", (("a", "b"),), name="s-0", jobs=("7",)))


def joined(
    status: Status,
    live: str | None = None,
    ended: str | None = None,
    code: str = "1:0",
    where: Submission = ALONE,
    reason: str = "Priority",
    node: str = "n1",
) -> tuple[str, str | None, str | None]:
    """State, failure and text of `a`, whose job is in a state of squeue's, or of sacct's."""
    in_queue = {("s-0", 0): Job("s-0", 0, "7", live, reason, node)} if live else {}
    gone = {("s-0", 0): Job("s-0", 0, "7", ended, code, node)} if ended else {}
    found = states.join({"a": status}, states.places([where]), in_queue, gone)["a"]
    return found.state, found.failure, found.error


def test_a_result_is_a_result_whatever_the_cluster_says() -> None:
    for state in ("done", "running"):
        assert joined(Status(state), ended="FAILED")[0] == state
        assert joined(Status(state), live="PENDING")[0] == state


@pytest.mark.parametrize("state", ["todo", "cancelled", "interrupted"])
def test_what_is_in_the_queue_is_not_begun_again(state: str) -> None:
    assert joined(Status(state), live="PENDING") == ("queued", None, "waiting (Priority)")
    assert joined(Status(state), live="RUNNING", reason="None") == ("queued", None, "on n1, not begun")
    assert joined(Status(state), live="COMPLETING", reason="None") == ("queued", None, "on n1, not begun")


@pytest.mark.parametrize("state", ["todo", "cancelled", "interrupted"])
def test_what_is_nowhere_is_as_its_folder_says(state: str) -> None:
    """Lost, cancelled, or a job of another name that has its id now: it is submitted again."""
    for ended in (None, "COMPLETED", "CANCELLED", "PREEMPTED", "REQUEUED", "PENDING"):
        assert joined(Status(state), ended=ended) == (state, None, None)


@pytest.mark.parametrize(
    ("ended", "failure", "words"),
    [
        ("TIMEOUT", "timeout", "ended by its time limit; raise launcher.time (TIMEOUT, exit code 0:0, n1); see "),
        ("DEADLINE", "timeout", "ended by its time limit; raise launcher.time (DEADLINE, exit code 0:0, n1); see "),
        ("OUT_OF_MEMORY", "oom", "no memory left; raise launcher.memory (OUT_OF_MEMORY, exit code 0:0, n1); see "),
        ("NODE_FAIL", "node", "its node failed (NODE_FAIL, exit code 0:0, n1); see "),
        ("BOOT_FAIL", "node", "its node failed (BOOT_FAIL, exit code 0:0, n1); see "),
        ("FAILED", "error", "its job failed (FAILED, exit code 0:0, n1); see "),
    ],
)
@pytest.mark.parametrize("state", ["todo", "interrupted"])
def test_a_job_that_ended_badly_is_a_failure_of_some_kind(state: str, ended: str, failure: str, words: str) -> None:
    log = "/o/sweeps/s/slurm/jobs/7_0_log.out"
    assert joined(Status(state), ended=ended, code="0:0") == ("failed", failure, words + log)


def test_of_several_points_in_a_task_the_one_at_hand_has_failed() -> None:
    assert joined(Status("interrupted"), ended="TIMEOUT", where=PACKED)[:2] == ("failed", "timeout")
    assert joined(Status("todo"), ended="TIMEOUT", where=PACKED) == ("todo", None, None)


@pytest.mark.parametrize(
    ("other", "state"),
    [
        (Status(), "failed"),
        (Status("done", started=BEFORE, finished=BEFORE), "failed"),
        (Status("failed", started=AFTER, finished=AFTER), "todo"),
        (Status("interrupted", started=AFTER), "todo"),
    ],
)
def test_of_a_task_that_died_before_its_first_point_all_have_failed(other: Status, state: str) -> None:
    ended = {("s-0", 0): Job("s-0", 0, "7", "FAILED", "1:0", "n1")}
    found = states.join({"a": Status(), "b": other}, states.places([PACKED]), {}, ended)["a"]
    assert found.state == state
    assert state == "todo" or (found.error or "").endswith("see /o/sweeps/s/slurm/jobs/7_0_log.out")


def test_a_patch_job_that_came_before_its_fine_tune_was_done_is_to_do_then_and_later() -> None:
    def state(array: Array, ended: str, early: bool) -> str:
        gone = {("s-0", 0): Job("s-0", 0, "7", ended, "1:0", "n1")}
        return states.join({"p": Status()}, states.places([submission(array)]), {}, gone, {"p"} if early else ())[
            "p"
        ].state

    free = Array("patch", (("p",),), name="s-0", jobs=("7",))
    waiting = replace(free, after=("r-0",), wait="any")
    assert [state(waiting, "FAILED", early) for early in (True, False)] == ["todo", "todo"]
    assert [state(free, "FAILED", early) for early in (True, False)] == ["todo", "failed"]
    assert state(waiting, "TIMEOUT", True) == "failed", "that is no matter of its fine-tune"


def test_a_failure_of_this_submission_is_reported_while_its_task_goes_on_with_other_points() -> None:
    failed = Status("failed", finished=AFTER, error="ValueError: nan", failure="error")
    assert joined(failed, live="RUNNING", where=PACKED) == ("failed", "error", "ValueError: nan")
    assert joined(failed, ended="FAILED", where=PACKED) == ("failed", "error", "ValueError: nan")


def test_a_failure_from_before_is_about_to_be_tried_again() -> None:
    failed = Status("failed", finished=BEFORE, error="ValueError: nan", failure="error")
    assert joined(failed, live="PENDING") == ("queued", None, "waiting (Priority)")
    assert joined(failed, ended="TIMEOUT") == ("failed", "error", "ValueError: nan")


def test_what_was_never_submitted_is_as_its_folder_says() -> None:
    assert states.join({"z": Status()}, states.places([ALONE]), {}, {})["z"] == Status()


@pytest.mark.parametrize(
    ("log", "failure"),
    [
        ("slurmstepd: error: StepId=7.0 exceeded memory limit (430592000 > 104857600), being killed\n", "oom"),
        ("Traceback\n", "error"),
        (None, "error"),
    ],
)
@pytest.mark.parametrize("code", ["9:0", "0:9"])
def test_a_job_that_was_killed_may_have_had_no_memory(tmp_path: Path, log: str | None, failure: str, code: str) -> None:
    where = replace(ALONE, path=tmp_path / "id.json")
    if log:
        (tmp_path / "jobs").mkdir()
        (tmp_path / "jobs" / "7_0_log.out").write_text("x" * states.LOG_BYTES + log)
    assert joined(Status("interrupted"), ended="FAILED", code=code, where=where)[1] == failure


def parts(count: int, at: str = NOON) -> Submission:
    return submission(
        *(
            Array("patch", (("a",),), part=part, parts=count, name=f"s-{part}", jobs=(str(7 + part),))
            for part in range(count)
        ),
        at=at,
    )


def job(part: int, state: str) -> dict:
    return {(f"s-{part}", 0): Job(f"s-{part}", 0, str(7 + part), state, "1:0", "n1")}


def test_a_split_patch_job_is_queued_while_any_part_is() -> None:
    where = states.places([parts(3)])
    found = states.join({"a": Status()}, where, job(2, "PENDING"), job(0, "COMPLETED") | job(1, "FAILED"))
    assert found["a"].state == "queued"


def test_a_split_patch_job_with_one_failed_part_is_left_to_the_others() -> None:
    """Else `run --retry` would submit all parts once more beside them."""
    where = states.places([parts(2)])
    failed = Status("failed", finished=AFTER, error="ValueError: nan", failure="error")
    assert states.join({"a": failed}, where, job(1, "PENDING"), job(0, "FAILED"))["a"].state == "queued"
    assert states.join({"a": failed}, where, {}, job(0, "FAILED") | job(1, "COMPLETED"))["a"] == failed


def test_a_split_patch_job_has_failed_when_all_parts_are_gone_and_one_ended_badly() -> None:
    where = states.places([parts(3)])
    ended = job(0, "COMPLETED") | job(1, "OUT_OF_MEMORY") | job(2, "COMPLETED")
    found = states.join({"a": Status()}, where, {}, ended)["a"]
    assert (found.state, found.failure) == ("failed", "oom")
    assert found.error is not None and found.error.endswith("/8_0_log.out")


def test_the_newest_submission_counts() -> None:
    newer = replace(ALONE, submitted=AFTER, arrays=(replace(ALONE.arrays[0], name="t-0", jobs=("9",)),))
    (place,) = states.places([parts(2), newer])["a"]
    assert place.key == ("t-0", 0)
    assert place.log.endswith("/9_0_log.out")


@pytest.fixture
def look(tmp_path: Path, slurm) -> Callable[..., planning.Plan]:
    """A plan of one point whose fine-tune was submitted, with what the folder says of it."""
    (point,) = expand(["launcher=slurm", f"output={tmp_path / 'o'}"])

    def run(**status: object) -> planning.Plan:
        path = tmp_path / "o" / "sweeps" / "s" / "slurm" / "id.json"
        write_json(planning.folders_of(point)[0].path / "status.json", status)
        array = Array("finetune", ((point.run_id,),), name="s-0", jobs=("7",))
        return states.look(planning.make([point]), [Submission(path, "s", NOON, ("error",), (array,))])[0]

    return run


def test_a_look_asks_no_accounting_while_the_job_is_in_the_queue(look, slurm) -> None:
    slurm.set(queue=[["7", "s-0", "PENDING", "Priority", ""]])
    assert [status.state for status in look(state="todo").runs.values()] == ["queued"]
    assert (len(slurm.calls("squeue")), len(slurm.calls("sacct"))) == (1, 0)


def test_a_look_asks_accounting_once_when_it_is_gone(look, slurm) -> None:
    slurm.set(ended=[["7", "s-0", "NODE_FAIL", "0:0", "n1"]])
    assert [status.failure for status in look(state="todo").runs.values()] == ["node"]
    assert (len(slurm.calls("squeue")), len(slurm.calls("sacct"))) == (1, 1)
    slurm.set(refuse={"sacct": ["Connection refused", 0]})
    assert [status.state for status in look(state="todo").runs.values()] == ["todo"]


def test_a_look_asks_nothing_when_all_is_done(slurm) -> None:
    (point,) = expand([])
    done = planning.Plan((point,), {point.run_id: Status("done")}, {point.patch_id: Status("done")})
    array = Array("finetune", ((point.run_id,),), name="s-0", jobs=("7",))
    assert states.look(done, [submission(array)]) == (done, None)
    assert slurm.state["calls"] == []


def test_a_failed_run_that_is_tried_again_is_seen_in_the_queue(look, slurm) -> None:
    """Else a second `run --retry` would submit it once more."""
    slurm.set(queue=[["7", "s-0", "PENDING", "Priority", ""]])
    plan = look(state="failed", finished=BEFORE, error="ValueError: nan", failure="error")
    assert [status.state for status in plan.runs.values()] == ["queued"]
