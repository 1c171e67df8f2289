"""The cluster itself: that it does to jobs what a real one does, so that the other tests here mean something."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress

import pytest
from cluster import Cluster

ONCE = 'if [ -z "$SLURM_RESTART_COUNT" ]; then {}; fi'
"""Shell that does something in a job's first attempt only."""


def wait_until_ready(cluster: Cluster, job: str) -> None:
    """Waits until a job has printed "ready", and accounting knows that it runs.

    A process that has set no trap yet ends at a signal. And SLURM may write two attempts into one row of accounting, if
    the first ends while the controller waits for the number of its row.
    """

    def ready() -> bool:
        with suppress(FileNotFoundError):
            return "ready" in cluster.log(job) and cluster.states(job) == ["RUNNING"]
        return False

    cluster.wait_until(ready, what=f"{job} ready")


def test_a_job_ends_as_its_command_does(cluster: Cluster) -> None:
    good, bad = cluster.submit("true"), cluster.submit("echo no; exit 3")
    cluster.wait_for(good, "COMPLETED")
    cluster.wait_for(bad, "FAILED")
    assert [attempt.exit_code for attempt in cluster.attempts(good, bad)] == ["0:0", "3:0"]
    assert cluster.log(bad) == "no\n"


def test_squeue_has_each_task_of_an_array(cluster: Cluster) -> None:
    array = cluster.submit("sleep 60", "--array=0-2%2", "--job-name=three", "--comment=why")
    cluster.wait_until(
        lambda: sorted(job.state for job in cluster.jobs().values()) == ["PENDING", "RUNNING", "RUNNING"]
    )
    jobs = cluster.jobs()
    assert set(jobs) == {f"{array}_{index}" for index in range(3)}
    assert {(job.name, job.comment) for job in jobs.values()} == {("three", "why")}
    assert next(job.reason for job in jobs.values() if job.state == "PENDING") == "JobArrayTaskLimit"


@pytest.mark.parametrize(("option", "devices"), [("--gpus=2", "0,1"), ("--gres=shard:1", "0")])
def test_a_job_sees_its_gpus(cluster: Cluster, option: str, devices: str) -> None:
    assert cluster.run("srun", option, "printenv", "CUDA_VISIBLE_DEVICES").stdout.strip() == devices


def test_the_second_array_follows_the_first_task_by_task(cluster: Cluster) -> None:
    requeued = ONCE.format("echo ready; sleep 60")
    first = cluster.submit(f"case $SLURM_ARRAY_TASK_ID in 1) exit 1;; 2) {requeued};; esac", "--array=0-2")
    second = cluster.submit("true", "--array=0-2", f"--dependency=aftercorr:{first}", "--kill-on-invalid-dep=yes")
    wait_until_ready(cluster, f"{first}_2")
    cluster.run("scontrol", "requeue", f"{first}_2")
    cluster.wait_for(f"{second}_0", "COMPLETED")
    cluster.wait_for(f"{second}_1", "CANCELLED")
    # A requeued task is waited for.
    cluster.wait_for(f"{second}_2", "COMPLETED")
    assert cluster.states(f"{first}_2") == ["REQUEUED", "COMPLETED"]


def test_preempted_jobs_start_again_whether_they_requeue_themselves_or_are_killed(cluster: Cluster) -> None:
    requeue = """srun bash -c 'trap "scontrol requeue $SLURM_JOB_ID; exit 1" TERM; echo ready; sleep 60 & wait'"""
    stay = "srun bash -c 'trap : TERM; echo ready; while true; do sleep 1; done'"
    places = [("--nodelist=n1", "--exclusive"), ("--nodelist=n2", "--exclusive")]
    low = [
        cluster.submit(ONCE.format(script), "--partition=low", *place)
        for script, place in zip((requeue, stay), places, strict=True)
    ]
    for job in low:
        wait_until_ready(cluster, job)
    high = [cluster.submit("true", "--partition=high", *place) for place in places]
    for job in (*high, *low):
        cluster.wait_for(job, "COMPLETED")
    assert [cluster.states(job) for job in low] == [["REQUEUED", "COMPLETED"], ["PREEMPTED", "COMPLETED"]]


def test_a_job_above_its_memory_is_killed(cluster: Cluster) -> None:
    greedy = f"""srun {sys.executable} -c 'import time; x = b"1" * (300 << 20); time.sleep(60)'"""
    job = cluster.submit(greedy, "--mem=50M")
    cluster.wait_for(job, "FAILED")
    assert cluster.attempts(job)[0].exit_code == "9:0"
    assert "exceeded memory limit" in cluster.log(job)


def test_a_step_that_is_killed_fails_its_job(cluster: Cluster) -> None:
    job = cluster.submit("srun sleep 60")
    for pid in cluster.wait_until(lambda: cluster.pids(job)):
        os.kill(pid, signal.SIGKILL)
    cluster.wait_for(job, "FAILED")
    assert cluster.attempts(job)[0].exit_code == "9:0"


def test_jobs_of_a_node_that_fails_start_again_elsewhere(cluster: Cluster) -> None:
    job = cluster.submit(ONCE.format("echo ready; sleep 60"))
    wait_until_ready(cluster, job)
    node = cluster.jobs()[job].node
    cluster.down(node)
    cluster.wait_for(job, "COMPLETED")
    first, second = cluster.attempts(job)
    assert (first.state, first.node, second.state) == ("NODE_FAIL", node, "COMPLETED")
    assert second.node != node
    cluster.resume(node)


def test_accounting_may_be_away_for_a_while(cluster: Cluster) -> None:
    cluster.stop("slurmdbd")
    job = cluster.submit("true")
    result = cluster.run("sacct", f"--jobs={job}", check=False)
    assert result.returncode == 1
    assert "Connection refused" in result.stderr
    cluster.wait_until(lambda: not cluster.jobs())
    cluster.start("slurmdbd")
    cluster.wait_for(job, "COMPLETED")


def test_running_jobs_outlive_the_controller(cluster: Cluster) -> None:
    job = cluster.submit("sleep 8")
    cluster.wait_for(job, "RUNNING")
    cluster.save()
    cluster.kill("slurmctld")
    result = cluster.run("squeue", check=False)
    assert result.returncode == 1
    assert "Unable to contact slurm controller" in result.stderr
    cluster.start("slurmctld")
    cluster.wait_for(job, "COMPLETED")


def test_jobs_that_the_controller_has_forgotten_are_lost_and_their_ids_are_given_again(cluster: Cluster) -> None:
    lost = cluster.lose(lambda: cluster.submit("sleep 60"))
    assert not cluster.jobs()
    assert cluster.submit("true") == lost


def test_clear_heals_the_cluster(cluster: Cluster) -> None:
    cluster.submit("srun bash -c 'trap \"scontrol requeue $SLURM_JOB_ID\" TERM; sleep 60 & wait'")
    cluster.wait_until(lambda: [job for job in cluster.jobs().values() if job.state == "RUNNING"])
    cluster.down("n1")
    cluster.kill("n2")
    cluster.freeze("slurmdbd")
    cluster.freeze("slurmctld")
    cluster.clear()
    assert not cluster.jobs()
    cluster.run("srun", "--nodes=3", "--ntasks=3", "true")
