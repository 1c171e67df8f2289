"""Whole sweeps of the embedded model on a real cluster, and all that may happen to them there: nothing is lost, and
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
from mi_sweeps.models.mini import FOLDER
from mi_sweeps.slurm import states, submissions
from mi_sweeps.store.files import read_table
from mi_sweeps.store.folders import Folder
from mi_sweeps.sweeps import plan as planning
from mi_sweeps.sweeps.execute import execute
from mi_sweeps.sweeps.grid import expand
from mi_sweeps.sweeps.plan import Plan
from mi_sweeps.sweeps.points import GridPoint

JOB = ("launcher=slurm", "launcher.threads=1", "launcher.cpus=4", "launcher.memory=2500M", "launcher.time=5")
LONG = ("train.steps=80", "checkpoint.every=4", "patching.steps=[0,40]")
"""A second or two, with a checkpoint every tenth: enough for `Sweep.held`."""
LONG_PATCHING = (
    *("train.steps=16", "checkpoint.every=1", "patching.steps=null"),
    *("patching.engine=reference", "patching.sites=[z]"),
)
"""The same for patch jobs and their tables."""
SECONDS = 300
"""How long anything may take here; the machine may be busy."""


@dataclass(frozen=True)
class Sweep:
    """A sweep as a user has it: overrides, and commands on them."""

    cluster: Cluster
    overrides: tuple[str, ...]
    output: Path

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

    @contextmanager
    def held(self, *folders: Folder) -> Iterator[list[str]]:
        """The jobs of fine-tunes or patch jobs, each stopped once it has written two more checkpoints or tables.

        They go on when the context ends, so what happens to them happens amid their work, however short that is.
        """

        def written(folder: Folder) -> int:
            return sum(len(list(part.glob("[0-9]*"))) for part in folder.parts)

        jobs = {folder: self.job(folder.path.name) for folder in folders}
        enough = {folder: written(folder) + 2 for folder in folders}
        stopped: dict[Folder, list[int]] = {}

        def all_stopped() -> bool:
            for folder, job in jobs.items():
                if folder not in stopped and written(folder) >= enough[folder]:
                    stopped[folder] = self.cluster.pids(job)
                    assert stopped[folder], f"{job} has ended before it could be stopped"
                    for pid in stopped[folder]:
                        os.kill(pid, signal.SIGSTOP)
            return len(stopped) == len(folders)

        try:
            self.cluster.wait_until(all_stopped, SECONDS, f"{jobs} stopped", every=0.02)
            yield list(jobs.values())
        finally:
            for pid in (pid for pids in stopped.values() for pid in pids):
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
def make_sweep(cluster: Cluster, small: tuple[str, ...], tmp_path: Path) -> Callable[..., Sweep]:
    return lambda *overrides: Sweep(cluster, (*small, *JOB, "sweep.name=s", *overrides), tmp_path / "outputs")


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
    first = make_sweep("seed=0,1", "corruption=first")
    both = [
        subprocess.Popen(
            [sys.executable, "-m", "mi_sweeps.cli", "run", *first.words], stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    said = "".join(one.communicate(timeout=SECONDS)[0] for one in both)
    assert [one.returncode for one in both] == [0, 0]
    (submission,) = submissions.of_output(first.output)
    assert said.count("2 fine-tunes: 2 tasks in 1 array") == said.count("2 patch jobs: 2 tasks in 1 array") == 1
    assert sum(map(sum, (counts.values() for counts in first.states()))) == 4
    assert first.run() == 0, "what is queued is left alone"
    assert len(submissions.of_output(first.output)) == 1
    assert first.wait().is_done
    ids = [array.id for array in submission.arrays]
    cluster.wait_until(lambda: cluster.states(*ids) == ["COMPLETED"] * 4, what="sacct")
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


def test_series_are_measured_once_and_their_checkpoints_patched_by_two_tasks(
    make_sweep, cluster, capsys, written, trained
):
    """One of whole weights, and one of a trainer's adapters."""
    sweep = make_sweep(
        "model=series",
        f"model.path={written}/checkpoint-{{step}},{trained}/lora/checkpoint-{{step}}",
        f"model.tokenizer={FOLDER}",
        "checkpoint.steps=null",
        "patching.steps=null",
        "launcher.pack=2",
        "launcher.patch.split=2",
    )
    assert sweep.run() == 0
    said = capsys.readouterr().out
    assert "2 series of 2 to 4 checkpoints (2 to do)" in said
    assert "2 series: 1 task in 1 array" in said and "2 patch jobs: 2 tasks in 2 arrays" in said
    assert sweep.wait().is_done
    for point, steps in zip(sweep.points, ([0, 8, 16, 24], [2, 4]), strict=True):
        _, patch = planning.folders_of(point)
        assert sorted(part.path.name for part in patch.all_parts()) == ["0-of-2", "1-of-2"]
        assert patch.steps() == steps


def test_a_point_that_fails_in_a_pack_stops_no_other(make_sweep, cluster, capsys):
    sweep = make_sweep("seed=0,1", "corruption=first", "launcher.pack=2")
    bad, good = sweep.points
    broken = planning.folders_of(bad)[0].metrics
    broken.mkdir(parents=True)
    assert sweep.run() == 0
    job = sweep.job(bad.run_id)
    sweep.wait()
    cluster.wait_for(job, "FAILED")
    cluster.wait_for(sweep.job(bad.patch_id), "CANCELLED")
    assert sweep.states() == ({"failed": 1, "done": 1}, {"to do": 1, "done": 1})
    assert command("status", f"output={sweep.output}") == 0
    assert "metrics.parquet" in capsys.readouterr().out
    for more in ((), ("--retry=timeout,node",)):
        sweep.run(*more)
        assert not cluster.jobs(), "a failed point waits for --retry"
    broken.rmdir()
    assert sweep.run("--retry=error") == 0
    assert sweep.wait().is_done
    assert sweep.plan().runs[bad.run_id].attempts == 2
    assert sweep.plan().runs[good.run_id].attempts == 1


def test_a_pack_that_dies_before_its_first_point_waits_for_retry(make_sweep, cluster, capsys):
    sweep = make_sweep("seed=0,1", "corruption=first", "launcher.pack=2", 'launcher.setup=["echo no module; exit 3"]')
    assert sweep.run() == 0
    sweep.wait()
    cluster.wait_for(sweep.job(sweep.points[0].run_id), "FAILED")
    assert sweep.states() == ({"failed": 2}, {"to do": 2})
    sweep.run()
    assert not cluster.jobs(), "it would die again"
    assert command("logs", f"output={sweep.output}", "--failed") == 0
    assert capsys.readouterr().out.count("\nno module\n") == 1


def test_a_point_without_enough_memory_says_so_and_is_done_with_more(make_sweep, cluster, capsys):
    sweep = make_sweep("seed=0", "corruption=first")
    assert sweep.run("launcher.memory=100M") == 0
    sweep.wait()
    point = sweep.points[0]
    cluster.wait_for(sweep.job(point.run_id), "FAILED")
    status = sweep.plan().runs[point.run_id]
    assert (status.state, status.failure) == ("failed", "oom")
    assert "launcher.memory" in status.error and "_log.out" in status.error
    assert sweep.run("--retry=error,timeout") == 1
    assert not cluster.jobs()
    assert sweep.run("--retry=oom") == 0
    assert sweep.wait().is_done


def test_a_point_that_no_time_limit_lets_pass_fails(make_sweep, cluster):
    sweep = make_sweep(
        "seed=0", "corruption=first", "train.steps=100000", "checkpoint.every=100000", "patching.steps=[0]"
    )
    # SLURM may send its signal up to a minute early: perhaps before the first checkpoint, perhaps after it.
    assert sweep.run("launcher.finetune.time=1") == 0
    sweep.wait()
    point = sweep.points[0]
    cluster.wait_for(sweep.job(point.run_id), "FAILED")
    cluster.wait_for(sweep.job(point.patch_id), "CANCELLED")
    status = sweep.plan().runs[point.run_id]
    assert (status.state, status.failure) == ("failed", "timeout")
    assert "launcher.time" in status.error
    assert status.attempts <= 2


def test_fine_tunes_survive_a_time_limit_a_requeue_preemption_and_a_dead_node(make_sweep, cluster, tmp_path):
    """Each of two in an array has two of these."""
    sweep = make_sweep("seed=0,1", "corruption=first", *LONG)
    # Each has a node of its own.
    assert sweep.run("launcher.partition=low", "launcher.cpus=8") == 0
    runs = [planning.folders_of(point)[0] for point in sweep.points]
    with sweep.held(*runs) as (limited, requeued):
        # What SLURM sends before the limit, which is a minute at least.
        cluster.run("scancel", "--signal=USR2", limited)
        sweep.requeue(requeued)
    with sweep.held(*runs) as (preempted, on_dead_node):
        node = cluster.jobs()[on_dead_node].node
        cluster.down(node)
        sweep.preempt(preempted)
    cluster.resume(node)
    assert sweep.wait().is_done
    assert sweep.attempts() == [3, 3, 1, 1]
    for run, job, last in zip(runs, (preempted, on_dead_node), ("REQUEUED", "NODE_FAIL"), strict=True):
        assert cluster.states(job) == ["REQUEUED", last, "COMPLETED"]
        rows = read_table(run.metrics).to_pylist()
        measured = Counter((row["step"], row["split"], row["metric"]) for row in rows)
        assert set(measured.values()) == {1}, "each step is measured once"
    assert_same_bits(sweep, tmp_path / "whole")


def test_patch_jobs_survive_preemption_a_requeue_and_a_killed_step(make_sweep, cluster, tmp_path):
    sweep = make_sweep("seed=0", "corruption=first,second", *LONG_PATCHING)
    assert sweep.run("launcher.partition=low", "launcher.cpus=8") == 0
    first, second = (planning.folders_of(point)[1] for point in sweep.points)
    with sweep.held(first, second) as (preempted, requeued):
        sweep.requeue(requeued)
        sweep.preempt(preempted)
    with sweep.held(first) as (killed,):
        for pid in cluster.pids(killed):
            os.kill(pid, signal.SIGKILL)
    sweep.wait()
    cluster.wait_for(killed, "FAILED")
    assert sweep.states() == ({"done": 1}, {"done": 1, "failed": 1})
    sweep.run()
    assert not cluster.jobs()
    assert sweep.run("--retry=error") == 0
    assert sweep.wait().is_done
    assert sweep.attempts() == [1, 3, 2]
    assert_same_bits(sweep, tmp_path / "whole")


def test_jobs_that_the_controller_has_lost_are_submitted_again(make_sweep, cluster):
    sweep = make_sweep("seed=0", "corruption=first")
    assert cluster.lose(sweep.run) == 0
    lost = sweep.job(sweep.points[0].run_id)
    # Their ids are given to somebody else's.
    others = [cluster.submit("sleep 300", "--job-name=another") for _ in range(2)]
    assert sweep.states() == ({"to do": 1}, {"to do": 1})
    assert sweep.run() == 0
    assert lost != sweep.job(sweep.points[0].run_id)
    cluster.restart("slurmctld")
    assert command("cancel", "s", f"output={sweep.output}") == 0
    assert set(others) <= set(cluster.jobs()), "jobs of other names are not ours to cancel"
    cluster.run("scancel", *others)
    cluster.stop("slurmdbd")
    assert sweep.run() == 0, "without accounting too"
    cluster.restart("slurmctld")
    assert sweep.wait().is_done
    assert sweep.states() == ({"done": 1}, {"done": 1})


def test_cancelled_jobs_stay_cancelled_until_they_are_run_again(make_sweep, cluster, capsys):
    sweep = make_sweep("seed=0", "corruption=first", *LONG)
    run_id = sweep.points[0].run_id
    run, _ = planning.folders_of(sweep.points[0])
    assert sweep.run("launcher.partition=low") == 0
    with sweep.held(run) as (job,):
        cluster.run("scancel", job)
    sweep.wait()
    cluster.wait_for(job, "CANCELLED")
    assert planning.make(sweep.points).runs[run_id].state == "cancelled"
    assert sweep.states() == ({"to do": 1}, {"to do": 1})
    assert sweep.run() == 0
    capsys.readouterr()
    with sweep.held(run):
        assert command("cancel", f"output={sweep.output}") == 0
    assert "2 tasks cancelled" in capsys.readouterr().out
    assert not cluster.jobs()
    cluster.wait_until(lambda: "CANCELLED" in cluster.states(sweep.job(run_id)), what="sacct")
    assert sweep.run() == 0
    assert sweep.wait().is_done
    assert sweep.attempts() == [3, 1]
