"""Whole sweeps of the embedded model on a real cluster, and all that may happen to them there: nothing is lost, and
nothing is computed twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cluster import Cluster

from mi_sweeps import cli
from mi_sweeps.models.mini import FOLDER
from mi_sweeps.slurm import states, submissions
from mi_sweeps.store.files import read_table
from mi_sweeps.store.folders import PatchFolder, RunFolder
from mi_sweeps.sweeps import plan as planning
from mi_sweeps.sweeps.execute import execute
from mi_sweeps.sweeps.grid import expand
from mi_sweeps.sweeps.plan import Plan
from mi_sweeps.sweeps.points import GridPoint

JOB = ("launcher=slurm", "launcher.threads=1", "launcher.cpus=4", "launcher.memory=2500M", "launcher.time=5")
LONG = ("train.steps=800", "checkpoint.every=40", "patching.steps=[0,40]")
"""Some ten seconds, in which something may happen, with a checkpoint every half second."""
LONG_PATCHING = ("train.steps=16", "checkpoint.every=1", "patching.steps=null", "patching.engine=reference")
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

    def folders(self, point: GridPoint) -> tuple[RunFolder, PatchFolder]:
        return planning.folders_of(point)

    def until_checkpoints(self, run_id: str, count: int = 3) -> None:
        self._until(self.output / "runs" / run_id / "checkpoints", count)

    def until_tables(self, point: GridPoint, count: int = 2) -> None:
        self._until(self.folders(point)[1].path / "tables", count)

    def _until(self, folder: Path, count: int) -> None:
        self.cluster.wait_until(lambda: len(list(folder.glob("[0-9]*"))) >= count, SECONDS, f"{count} in {folder}")


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


def test_a_whole_sweep(make_sweep, cluster, capsys):
    sweep = make_sweep("seed=0,1", "corruption=first,second")
    assert sweep.run() == 0
    said = capsys.readouterr().out
    assert "2 fine-tunes: 2 tasks in 1 array" in said
    assert "4 patch jobs: 4 tasks in 2 arrays" in said
    assert sum(map(sum, (counts.values() for counts in sweep.states()))) == 6
    assert sweep.run() == 0, "what is queued is left alone"
    assert sweep.wait().is_done
    (submission,) = submissions.of_output(sweep.output)
    ids = [array.id for array in submission.arrays]
    cluster.wait_until(lambda: cluster.states(*ids) == ["COMPLETED"] * 6, what="sacct")
    assert sweep.attempts() == [1] * 6
    capsys.readouterr()
    assert sweep.run() == 0
    assert "nothing to do" in capsys.readouterr().out
    assert command("status", f"output={sweep.output}") == 0
    assert "2 fine-tunes (2 done), 4 patch jobs (4 done)" in capsys.readouterr().out


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
        "launcher.patch.split=2",
    )
    assert sweep.run() == 0
    said = capsys.readouterr().out
    assert "2 series of 2 to 4 checkpoints (2 to do)" in said
    assert "2 series: 2 tasks in 1 array" in said and "2 patch jobs: 4 tasks in 2 arrays" in said
    assert sweep.wait().is_done
    for point, steps in zip(sweep.points, ([0, 8, 16, 24], [2, 4]), strict=True):
        _, patch = planning.folders_of(point)
        assert sorted(part.path.name for part in patch.all_parts()) == ["0-of-2", "1-of-2"]
        assert patch.steps() == steps


def test_the_second_subject_later_fine_tunes_nothing(make_sweep, cluster):
    first = make_sweep("seed=0,1", "corruption=first", "launcher.pack=2")
    assert first.run() == 0
    assert first.wait().is_done
    second = make_sweep("seed=0,1", "corruption=second", "launcher.pack=2", "launcher.patch.split=2")
    assert second.run() == 0
    newest = submissions.of_output(second.output)[-1]
    assert [(array.stage, len(array.tasks), len(array.tasks[0])) for array in newest.arrays] == [("patch", 1, 2)] * 2
    assert second.wait().is_done
    assert first.attempts() == [1] * 4
    for point in second.points:
        parts = planning.folders_of(point)[1].all_parts()
        assert [part.status().state for part in parts] == ["done", "done"]


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


def test_a_time_limit_is_survived(make_sweep, cluster, tmp_path):
    sweep = make_sweep("seed=0", "corruption=first", *LONG)
    assert sweep.run() == 0
    point = sweep.points[0]
    sweep.until_checkpoints(point.run_id)
    # What SLURM sends before the limit, which is a minute at least.
    cluster.run("scancel", "--signal=USR2", sweep.job(point.run_id))
    assert sweep.wait().is_done
    assert cluster.states(sweep.job(point.run_id)) == ["REQUEUED", "COMPLETED"]
    assert sweep.attempts() == [2, 1]
    rows = read_table(planning.folders_of(point)[0].metrics).to_pylist()
    measured = Counter((row["step"], row["split"], row["metric"]) for row in rows)
    assert set(measured.values()) == {1}, "each step is measured once"
    assert_same_bits(sweep, tmp_path / "whole")


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


def test_fine_tunes_survive_preemption_a_dead_node_and_a_requeue(make_sweep, cluster, tmp_path):
    sweep = make_sweep("seed=0,1,2", "corruption=first", *LONG)
    # Each has a node of its own.
    assert sweep.run("launcher.partition=low", "launcher.cpus=8") == 0
    preempted, dead, requeued = (point.run_id for point in sweep.points)
    jobs = {run_id: sweep.job(run_id) for run_id in (preempted, dead, requeued)}
    for run_id in jobs:
        sweep.until_checkpoints(run_id)
    node = {run_id: cluster.jobs()[job].node for run_id, job in jobs.items()}
    cluster.run("scontrol", "requeue", jobs[requeued])
    cluster.down(node[dead])
    urgent = cluster.submit("true", "--partition=high", f"--nodelist={node[preempted]}", "--exclusive")
    cluster.wait_for(urgent, "COMPLETED", SECONDS)
    cluster.resume(node[dead])
    assert sweep.wait().is_done
    assert sweep.attempts() == [2, 2, 2, 1, 1, 1]
    assert_same_bits(sweep, tmp_path / "whole")


def test_patch_jobs_survive_preemption_a_killed_step_and_a_requeue(make_sweep, cluster, tmp_path):
    sweep = make_sweep("seed=0", "corruption=first,second,both", *LONG_PATCHING)
    assert sweep.run("launcher.partition=low", "launcher.cpus=8") == 0
    preempted, killed, requeued = sweep.points
    jobs = [sweep.job(point.patch_id) for point in sweep.points]
    for point in sweep.points:
        sweep.until_tables(point)
    node = cluster.jobs()[jobs[0]].node
    cluster.run("scontrol", "requeue", jobs[2])
    for pid in cluster.pids(jobs[1]):
        os.kill(pid, signal.SIGKILL)
    urgent = cluster.submit("true", "--partition=high", f"--nodelist={node}", "--exclusive")
    cluster.wait_for(urgent, "COMPLETED", SECONDS)
    sweep.wait()
    cluster.wait_for(jobs[1], "FAILED")
    assert sweep.states() == ({"done": 1}, {"done": 2, "failed": 1})
    sweep.run()
    assert not cluster.jobs()
    assert sweep.run("--retry=error") == 0
    assert sweep.wait().is_done
    assert sweep.attempts() == [1, 2, 2, 2]
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
    assert sweep.run("launcher.partition=low") == 0
    sweep.until_checkpoints(run_id)
    cluster.run("scancel", sweep.job(run_id))
    sweep.wait()
    cluster.wait_for(sweep.job(run_id), "CANCELLED")
    assert planning.make(sweep.points).runs[run_id].state == "cancelled"
    assert sweep.states() == ({"to do": 1}, {"to do": 1})
    assert sweep.run() == 0
    sweep.until_checkpoints(run_id, 8)
    capsys.readouterr()
    assert command("cancel", f"output={sweep.output}") == 0
    assert "2 tasks cancelled" in capsys.readouterr().out
    assert not cluster.jobs()
    cluster.wait_until(lambda: "CANCELLED" in cluster.states(sweep.job(run_id)), what="sacct")
    assert sweep.run() == 0
    assert sweep.wait().is_done
    assert sweep.attempts() == [3, 1]


def test_two_who_submit_the_same_sweep_at_once_compute_it_once(make_sweep, cluster):
    sweep = make_sweep("seed=0,1", "corruption=first", "launcher.pack=2")
    both = [
        subprocess.Popen([sys.executable, "-m", "mi_sweeps.cli", "run", *sweep.words], stdout=subprocess.DEVNULL)
        for _ in range(2)
    ]
    assert [one.wait(timeout=SECONDS) for one in both] == [0, 0]
    assert len(submissions.of_output(sweep.output)) == 1
    assert sweep.wait().is_done
    assert sweep.attempts() == [1] * 4
