"""Whole sweeps of `mini` on a real cluster, and all that may happen to them there: nothing is lost, and
nothing is computed twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from cluster import Cluster

from mi_sweeps import cli
from mi_sweeps.jobs.execute import execute
from mi_sweeps.models.mini import FOLDER
from mi_sweeps.slurm import states, steer, submissions
from mi_sweeps.store.files import read_table
from mi_sweeps.store.folders import Folder
from mi_sweeps.sweeps import plan as planning
from mi_sweeps.sweeps.grid import expand
from mi_sweeps.sweeps.plan import Plan
from mi_sweeps.sweeps.points import GridPoint

JOB = ("launcher=slurm", "launcher.threads=1", "launcher.cpus=4", "launcher.memory=2500M", "launcher.time=5")
IN_JOBS = Path(__file__).with_name("in_jobs")
"""What the jobs' Python imports first."""
SECONDS = 300
"""How long anything may take here; the machine may be busy."""


@dataclass(frozen=True)
class Sweep:
    """A sweep as a user has it: overrides, and commands on them."""

    cluster: Cluster
    overrides: tuple[str, ...]
    output: Path
    marks: Path
    """A file here with the id of a run or patch job makes its job stop; see in_jobs."""

    @property
    def words(self) -> list[str]:
        return [*self.overrides, f"output={self.output}"]

    @property
    def points(self) -> list[GridPoint]:
        return expand(self.words)

    def run(self, *more: str) -> int:
        """`mi-sweeps run`; its exit code."""
        return command("run", *self.words, *more)

    def plan(self) -> Plan:
        """The states as `status` has them."""
        return states.look(planning.make(self.points), submissions.of_output(self.output))[0]

    def states(self) -> tuple[dict[str, int], dict[str, int]]:
        runs, patches = self.plan().counts()
        return dict(runs), dict(patches)

    def wait(self) -> Plan:
        """Until no job of it is left."""
        self.cluster.wait_until(lambda: not self.cluster.jobs(), SECONDS, "all jobs ended")
        return planning.make(self.points)

    def job(self, id: str) -> str:
        """The job that an id was submitted in last."""
        (place, *_) = states.places(submissions.of_output(self.output))[id]
        return place.array.jobs[place.number]

    def attempts(self) -> list[int]:
        """Of all fine-tunes and patch jobs."""
        return [status.attempts for status in planning.make(self.points).statuses]

    def hold(self, *folders: Folder) -> None:
        """Fine-tunes or patch jobs that have not begun stop at the second checkpoint or table of their attempt."""
        for folder in folders:
            (self.marks / folder.path.name).touch()

    @contextmanager
    def held(self, *folders: Folder) -> Iterator[list[str]]:
        """The jobs of fine-tunes or patch jobs, each stopped at the second checkpoint or table of its attempt.

        They go on when the context ends, so what happens to them happens amid their work, however short that is.
        """
        self.hold(*folders)
        jobs = [self.job(folder.path.name) for folder in folders]
        self.cluster.wait_until(lambda: all(map(self.cluster.stopped, jobs)), SECONDS, f"{jobs} stopped", every=0.2)
        for folder in folders:
            (self.marks / folder.path.name).unlink()
        stopped = [pid for job in jobs for pid in self.cluster.pids(job)]
        try:
            yield jobs
        finally:
            for pid in stopped:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def requeue(self, job: str) -> None:
        self.cluster.run("scontrol", "requeue", job)
        self.cluster.wait_until(lambda: self.cluster.jobs()[job].state != "RUNNING", what=f"{job} requeued")

    def preempt(self, job: str) -> None:
        node = self.cluster.jobs()[job].node
        urgent = self.cluster.submit("true", "--partition=high", f"--nodelist={node}", "--exclusive")
        self.cluster.wait_for(urgent, "COMPLETED", SECONDS)


def command(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main([*words])
    return int(ended.value.code or 0)


@pytest.fixture
def make_sweep(
    cluster: Cluster, small: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Sweep]:
    marks = tmp_path / "held"
    marks.mkdir()
    # Jobs start with the environment of those who submit them.
    monkeypatch.setenv("HELD", str(marks))
    monkeypatch.setenv("PYTHONPATH", str(IN_JOBS))
    # This controller serves nobody else.
    monkeypatch.setattr(steer, "ASK_SECONDS", 1.0)
    return lambda *words: Sweep(cluster, (*small, *JOB, "sweep.name=s", *words), tmp_path / "outputs", marks)


def undisturbed(sweep: Sweep, folder: Path) -> Iterator[tuple[GridPoint, GridPoint]]:
    """Each point of a sweep, and the same computed here without a break."""
    points = expand([*sweep.overrides, f"output={folder}"])
    assert not execute(points).failed
    return zip(sweep.points, points, strict=True)


def assert_same_bits(sweep: Sweep, folder: Path) -> None:
    for disturbed, whole in undisturbed(sweep, folder):
        (run, patch), (other_run, other_patch) = planning.folders_of(disturbed), planning.folders_of(whole)
        assert read_table(run.metrics).equals(read_table(other_run.metrics))
        for step in disturbed.checkpoint_steps:
            assert run.checkpoint(step).read_bytes() == other_run.checkpoint(step).read_bytes()
        for step in disturbed.patch_steps:
            assert read_table(patch.table(step)).equals(read_table(other_patch.table(step)))


def test_a_whole_sweep_that_two_submit_at_once_and_the_second_subject_later(make_sweep, cluster, capsys):
    first = make_sweep("seed=0,1", "corruption=first", "launcher.pack=2")
    both = [
        subprocess.Popen(
            [sys.executable, "-m", "mi_sweeps.cli", "run", *first.words], stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    said = "".join(one.communicate(timeout=SECONDS)[0] for one in both)
    assert [one.returncode for one in both] == [0, 0]
    (submission,) = submissions.of_output(first.output)
    assert said.count("2 fine-tunes: 1 task in 1 array") == said.count("2 patch jobs: 1 task in 1 array") == 1
    assert sum(map(sum, (counts.values() for counts in first.states()))) == 4
    assert first.run() == 0, "what is queued is left alone"
    assert len(submissions.of_output(first.output)) == 1
    assert first.wait().is_done
    ids = [array.id for array in submission.arrays]
    cluster.wait_until(lambda: cluster.states(*ids) == ["COMPLETED"] * 2, what="sacct")
    assert first.attempts() == [1] * 4
    capsys.readouterr()
    assert first.run() == 0
    assert "nothing to do" in capsys.readouterr().out
    assert command("status", f"output={first.output}") == 0
    assert "2 fine-tunes (2 done), 2 patch jobs (2 done)" in capsys.readouterr().out

    second = make_sweep("seed=0,1", "corruption=second", "launcher.pack=2", "launcher.patch.split=2")
    assert second.run() == 0
    newest = submissions.of_output(second.output)[-1]
    assert [(array.stage, len(array.tasks), len(array.tasks[0])) for array in newest.arrays] == [("patch", 1, 2)] * 2
    assert second.wait().is_done
    assert first.attempts() == [1] * 4, "nothing is fine-tuned again"
    for point in second.points:
        parts = planning.folders_of(point)[1].all_parts()
        assert [part.status().state for part in parts] == ["done", "done"]


def test_a_series_is_measured_once_and_its_checkpoints_patched_by_two_tasks(make_sweep, capsys, written):
    sweep = make_sweep(
        "model=series",
        f"model.path={written}/checkpoint-{{step}}",
        f"model.tokenizer={FOLDER}",
        "checkpoint.steps=null",
        "patching.steps=null",
        "launcher.patch.split=2",
    )
    assert sweep.run() == 0
    said = capsys.readouterr().out
    assert "1 series of 4 checkpoints (1 to do)" in said
    assert "1 series: 1 task in 1 array" in said and "1 patch job: 2 tasks in 2 arrays" in said
    assert sweep.wait().is_done
    _, patch = planning.folders_of(sweep.points[0])
    assert sorted(part.path.name for part in patch.all_parts()) == ["0-of-2", "1-of-2"]
    assert patch.steps() == [0, 8, 16, 24]


def test_what_failed_waits_for_a_retry_of_its_kind(make_sweep, cluster, capsys):
    """A point runs out of memory; then a task lacks a module; then one of its points fails, and stops not the other."""
    sweep = make_sweep("seed=0,1", "corruption=first", "launcher.pack=2")
    bad, good = sweep.points

    def refused(*words: str) -> None:
        assert sweep.run(*words) == 1
        assert not cluster.jobs()

    assert sweep.run("seed=0", "launcher.memory=100M") == 0
    sweep.wait()
    cluster.wait_for(sweep.job(bad.run_id), "FAILED")
    status = sweep.plan().runs[bad.run_id]
    assert (status.state, status.failure) == ("failed", "oom")
    assert "launcher.memory" in status.error and "_log.out" in status.error
    refused("seed=0")
    refused("seed=0", "--retry=error,timeout")

    assert sweep.run("--retry=oom", 'launcher.setup=["echo no module; exit 3"]') == 0
    sweep.wait()
    cluster.wait_for(sweep.job(bad.run_id), "FAILED")
    assert sweep.states() == ({"failed": 2}, {"to do": 2})
    refused()
    capsys.readouterr()
    assert command("logs", f"output={sweep.output}", "--failed") == 0
    assert capsys.readouterr().out.count("\nno module\n") == 1

    broken = planning.folders_of(bad)[0].metrics
    broken.mkdir(parents=True)
    assert sweep.run("--retry=error") == 0
    sweep.wait()
    cluster.wait_for(sweep.job(bad.run_id), "FAILED")
    cluster.wait_for(sweep.job(bad.patch_id), "CANCELLED")
    assert sweep.states() == ({"failed": 1, "done": 1}, {"to do": 1, "done": 1})
    capsys.readouterr()
    assert command("status", f"output={sweep.output}") == 0
    assert "metrics.parquet" in capsys.readouterr().out
    refused("--retry=timeout,node")

    broken.rmdir()
    assert sweep.run("--retry=error") == 0
    assert sweep.wait().is_done
    assert sweep.plan().runs[bad.run_id].attempts == status.attempts + 2
    assert sweep.plan().runs[good.run_id].attempts == 1


def test_a_point_that_no_time_limit_lets_pass_fails(make_sweep, cluster):
    sweep = make_sweep("seed=0", "corruption=first")
    assert sweep.run() == 0
    point = sweep.points[0]
    run, _ = planning.folders_of(point)
    cluster.wait_until(lambda: run.status().state == "running", SECONDS, "a first attempt")
    # What SLURM sends before the limit, which is a minute at least.
    cluster.run("scancel", "--signal=USR2", sweep.job(point.run_id))
    sweep.wait()
    cluster.wait_for(sweep.job(point.run_id), "FAILED")
    cluster.wait_for(sweep.job(point.patch_id), "CANCELLED")
    status = sweep.plan().runs[point.run_id]
    assert (status.state, status.failure, status.attempts) == ("failed", "timeout", 1)
    assert "launcher.time" in status.error


def test_what_is_interrupted_goes_on_where_it_was(make_sweep, cluster, tmp_path):
    """Each of two fine-tunes has two of a time limit, a requeue, preemption and a dead node; then one patch job is
    requeued, and the other preempted and killed."""
    sweep = make_sweep("seed=0,1", "corruption=first", "train.steps=8", "checkpoint.every=1", "patching.steps=null")
    # Each has a node of its own.
    assert sweep.run("launcher.partition=low", "launcher.cpus=8") == 0
    runs, patches = zip(*map(planning.folders_of, sweep.points), strict=True)
    with sweep.held(*runs) as (limited, requeued):
        cluster.run("scancel", "--signal=USR2", limited)
        sweep.requeue(requeued)
    with sweep.held(*runs) as (preempted, on_dead_node):
        node = cluster.jobs()[on_dead_node].node
        cluster.down(node)
        sweep.preempt(preempted)
        # The fine-tunes may be done, and their patch jobs too, before the node is back.
        sweep.hold(*patches)
    cluster.resume(node)
    fine_tunes = {
        preempted: ["REQUEUED", "REQUEUED", "COMPLETED"],
        on_dead_node: ["REQUEUED", "NODE_FAIL", "COMPLETED"],
    }

    with sweep.held(*patches) as (preempted, requeued):
        sweep.requeue(requeued)
        sweep.preempt(preempted)
    with sweep.held(patches[0]) as (killed,):
        for pid in cluster.pids(killed):
            os.kill(pid, signal.SIGKILL)
    sweep.wait()
    cluster.wait_for(killed, "FAILED")
    assert sweep.states() == ({"done": 2}, {"done": 1, "failed": 1})
    sweep.run()
    assert not cluster.jobs()
    assert sweep.run("--retry=error") == 0
    assert sweep.wait().is_done

    assert sweep.attempts() == [3, 3, 3, 2]
    assert {job: cluster.states(job) for job in fine_tunes} == fine_tunes
    for run in runs:
        rows = read_table(run.metrics).to_pylist()
        measured = Counter((row["step"], row["split"], row["metric"]) for row in rows)
        assert set(measured.values()) == {1}, "each step is measured once"
    assert_same_bits(sweep, tmp_path / "whole")


def test_jobs_that_are_cancelled_or_lost_come_back_by_run_alone(make_sweep, cluster, capsys):
    sweep = make_sweep("seed=0", "corruption=first", "train.steps=8", "checkpoint.every=1")
    run_id = sweep.points[0].run_id
    run, _ = planning.folders_of(sweep.points[0])
    assert sweep.run("launcher.partition=low") == 0
    with sweep.held(run) as (job,):
        cluster.run("scancel", job)
    sweep.wait()
    cluster.wait_for(job, "CANCELLED")
    assert planning.make(sweep.points).runs[run_id].state == "cancelled"
    assert sweep.states() == ({"to do": 1}, {"to do": 1})

    assert cluster.lose(sweep.run) == 0
    lost = sweep.job(run_id)
    # Their ids are given to somebody else's.
    others = [cluster.submit("sleep 300", "--job-name=another") for _ in range(2)]
    assert sweep.states() == ({"to do": 1}, {"to do": 1})

    assert sweep.run() == 0
    assert lost != sweep.job(run_id)
    with sweep.held(run):
        cluster.restart("slurmctld")
        capsys.readouterr()
        assert command("cancel", "s", f"output={sweep.output}") == 0
    assert "2 tasks cancelled" in capsys.readouterr().out
    assert set(cluster.jobs()) == set(others), "jobs of other names are not ours to cancel"
    cluster.wait_until(lambda: "CANCELLED" in cluster.states(sweep.job(run_id)), what="sacct")
    cluster.run("scancel", *others)

    before = sweep.attempts()
    cluster.stop("slurmdbd")
    assert sweep.run() == 0, "without accounting too"
    cluster.restart("slurmctld")
    assert sweep.wait().is_done
    assert sweep.states() == ({"done": 1}, {"done": 1})
    assert sweep.attempts() == [before[0] + 1, 1]
