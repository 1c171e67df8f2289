"""`run` and `plan` with `launcher=slurm`, against a fake scheduler."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mi_sweeps.slurm import queue, submissions, submit
from mi_sweeps.slurm.queue import Limits
from mi_sweeps.store.files import write_bytes, write_json
from mi_sweeps.sweeps import manifest
from mi_sweeps.sweeps import plan as planning
from mi_sweeps.sweeps.grid import expand
from mi_sweeps.sweeps.points import GridPoint

GRID = ("seed=0,1", "corruption=first,second", "sweep.name=s", "launcher=slurm")

LATER = "2100-01-01T00:00:00.000000+00:00"


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "outputs"


@pytest.fixture
def words(output: Path) -> list[str]:
    return [*GRID, f"output={output}"]


def finish(points: list[GridPoint]) -> None:
    """Fine-tunes that are done, as far as their folders say."""
    for point in points:
        run, _ = planning.folders_of(point)
        write_json(run.path / "status.json", {"state": "done", "attempts": 1})
        write_bytes(run.metrics, b"")
        for step in point.patch_steps:
            write_bytes(run.checkpoint(step), b"")


def fail(point: GridPoint, kind: str, when: str = "2020-01-01") -> None:
    """Its fine-tune has failed."""
    status = {"state": "failed", "attempts": 1, "finished": when, "failure": kind, "error": f"RuntimeError: {kind}"}
    write_json(planning.folders_of(point)[0].path / "status.json", status)


def submitted(output: Path) -> set[str]:
    """Ids in all submissions that are on disk."""
    return {one for *_, one in submissions.tasks(submissions.of_output(output))}


def test_run_submits_and_returns(call: Callable, slurm, words: list[str], output: Path) -> None:
    code, printed, complained = call("run", *words)
    assert (code, complained) == (0, "")
    assert "2 fine-tunes: 2 tasks in 1 array, each 60 min" in printed
    assert "4 patch jobs: 4 tasks in 2 arrays, each 60 min" in printed
    assert (
        f"submitted: fine-tunes in job 100; patch jobs in jobs 101, 102; see `mi-sweeps status s output={output}`"
        in (printed)
    )
    (submission,) = submissions.of_output(output)
    assert [array.jobs for array in submission.arrays] == [(f"{id}_0", f"{id}_1") for id in (100, 101, 102)]
    assert {row[1] for row in slurm.queue} == {array.name for array in submission.arrays}
    assert ["aftercorr:100" in script for script in slurm.scripts] == [False, True, True]


def test_a_zoom_is_submitted_like_a_sweep(call: Callable, slurm, output: Path) -> None:
    points = expand(["seed=0", "corruption=first,second", "sweep.name=s", f"output={output}"])
    manifest.add(output, "s", points, "mi-sweeps run")
    finish(points)
    run_id = points[0].run_id
    code, printed, complained = call("zoom", run_id[:6], "from=9", "to=11", "launcher=slurm", f"output={output}")
    assert (code, complained) == (0, "")
    assert f"sweep zoom-{run_id}: 1 fine-tune (1 to do), 2 patch jobs (2 to do)" in printed
    assert "submitted: fine-tunes in job 100; patch jobs in job" in printed
    assert len(slurm.queue) == 3


def test_a_task_takes_no_module_from_the_folder_where_it_was_submitted(
    call: Callable, slurm, words: list[str], tmp_path: Path
) -> None:
    """What srun runs, where there is a `queue.py`."""
    call("run", *words)
    (line,) = [line for line in slurm.scripts[0].splitlines() if line.startswith("srun")]
    command = shlex.split(line)
    (tmp_path / "queue.py").write_text("raise RuntimeError('not this one')")
    job = {"SUBMITIT_EXECUTOR": "local", "SUBMITIT_LOCAL_JOB_ID": "1", "SUBMITIT_LOCAL_GLOBALID": "0"}
    pickle = Path(command[-1]) / "1_submitted.pkl"
    pickle.write_bytes(b"no pickle")
    done = subprocess.run(
        command[command.index(sys.executable) :],
        cwd=tmp_path,
        env={**os.environ, **job},
        capture_output=True,
        text=True,
    )
    assert str(pickle) in done.stdout + done.stderr
    assert "UnpicklingError" in done.stderr


def test_single_tasks_wait_too(call: Callable, slurm, words: list[str]) -> None:
    """They are no arrays, of which tasks of the same number would be paired."""
    assert call("run", *words, "seed=0")[0] == 0
    assert ["--dependency=afterok:100" in script for script in slurm.scripts] == [False, True, True]


def test_a_submission_is_known_before_the_first_job_is(call: Callable, slurm, words: list[str]) -> None:
    call("run", *words)
    known = [one for (one,) in slurm.records("sbatch")]
    assert [[bool(array["jobs"]) for array in one["arrays"]] for one in known] == [
        [False, False, False],
        [True, False, False],
        [True, True, False],
    ]
    for one, script in zip(known, slurm.scripts, strict=True):
        assert any(f"--job-name={array['name']}\n" in script for array in one["arrays"])


def test_nothing_heavy_is_imported_where_jobs_are_submitted(slurm, words: list[str], output: Path) -> None:
    code = """
import sys
from mi_sweeps import cli
for command in (["run", *sys.argv[1:]], ["status", sys.argv[-1]]):
    try:
        cli.main(command)
    except SystemExit as ended:
        assert not ended.code
heavy = {"torch", "transformers", "transformer_lens", "pandas", "matplotlib", "wandb"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert len(slurm.queue) == 6
    assert "queue: 6 waiting (Priority)" in done.stdout


def test_what_is_queued_is_not_submitted_again(call: Callable, slurm, words: list[str], output: Path) -> None:
    call("run", *words)
    code, printed, _ = call("run", *words)
    assert code == 0
    assert f"nothing to submit; `mi-sweeps wait s output={output}` waits" in printed
    assert "2 fine-tunes (2 queued), 4 patch jobs (4 queued)" in printed
    assert len(slurm.scripts) == 3


def test_nor_is_it_under_another_sweep_s_name(call: Callable, slurm, words: list[str]) -> None:
    call("run", *words)
    for name in ("a", "z"):
        assert "nothing to submit" in call("run", *words, f"sweep.name={name}")[1]
    assert len(slurm.scripts) == 3


def test_a_done_fine_tune_is_only_patched(call: Callable, slurm, words: list[str]) -> None:
    finish(expand(words))
    _, printed, _ = call("run", *words)
    assert "fine-tunes:" not in printed
    (script,) = slurm.scripts
    assert "--array=0-3" in script and "dependency" not in script


def test_more_patch_jobs_wait_for_fine_tunes_that_are_queued(call: Callable, slurm, words: list[str]) -> None:
    call("run", *words, "corruption=first")
    code, printed, _ = call("run", *words)
    assert code == 0
    assert "  2 patch jobs: 2 tasks in 1 array" in printed
    assert len(slurm.scripts) == 3
    assert "--dependency=afterany:100" in slurm.scripts[-1]


def test_they_wait_though_the_submitting_process_was_killed_before_it_knew_the_job_id(
    call: Callable, slurm, words: list[str], output: Path
) -> None:
    call("run", *words, "corruption=first")
    (submission,) = submissions.of_output(output)
    values = json.loads(submission.path.read_text())
    for array in values["arrays"]:
        array["jobs"] = []
    write_json(submission.path, values)
    slurm.set(queue=[row for row in slurm.queue if row[1] == values["arrays"][0]["name"]])
    assert call("run", *words)[0] == 0
    assert len(slurm.scripts) == 3, "the fine-tunes are found by name"
    assert "--dependency=afterany:100" in slurm.scripts[-1]
    assert slurm.scripts[-1].count("--array=0-3") == 1


def test_fine_tunes_that_are_gone_are_waited_for_no_more(call: Callable, slurm, words: list[str], output: Path) -> None:
    """Somebody computes them without the cluster; the record of lost jobs has no id to wait for."""
    call("run", *words)
    (submission,) = submissions.of_output(output)
    values = json.loads(submission.path.read_text())
    for array in values["arrays"]:
        array["jobs"] = []
    write_json(submission.path, values)
    slurm.set(queue=[])
    run, _ = planning.folders_of(expand([*words, "seed=0"])[0])
    with run.claim():
        write_json(run.path / "status.json", {"state": "running", "attempts": 1})
        assert call("run", *words, "seed=0")[0] == 0
    assert "dependency" not in slurm.scripts[-1]


@pytest.mark.parametrize("lost", ["forgotten", "id reused", "name reused by accounting"])
def test_lost_jobs_are_submitted_again(call: Callable, slurm, words: list[str], lost: str) -> None:
    call("run", *words)
    foreign = [[id, "somebody-else-s", *rest] for id, _, *rest in slurm.queue]
    slurm.set(queue=foreign if lost == "id reused" else [])
    if lost == "name reused by accounting":
        slurm.set(ended=[[id, "somebody-else-s", "FAILED", "1:0", "n1"] for id, *_ in foreign])
    code, printed, _ = call("run", *words)
    assert code == 0
    assert "2 fine-tunes (2 to do), 4 patch jobs (4 to do)" in printed
    assert len(slurm.scripts) == 6


def test_a_failed_job_waits_for_retry(call: Callable, slurm, words: list[str]) -> None:
    call("run", *words, "seed=0", "corruption=first")
    slurm.end("OUT_OF_MEMORY", "0:125")
    code, printed, _ = call("run", *words, "seed=0", "corruption=first")
    assert code == 1
    assert "no memory left; raise launcher.memory (OUT_OF_MEMORY, exit code 0:125, n1)" in printed
    assert len(slurm.scripts) == 2
    assert call("run", *words, "seed=0", "corruption=first", "--retry")[0] == 0
    assert len(slurm.scripts) == 4


def test_retry_takes_the_kinds_that_are_named(call: Callable, slurm, output: Path) -> None:
    kinds = ("timeout", "node", "oom", "error")
    words = ["seed=range(0,4)", "corruption=first", "sweep.name=s", "launcher=slurm", f"output={output}"]
    points = expand(words)
    for point, kind in zip(points, kinds, strict=True):
        fail(point, kind)
    assert call("run", *words)[0] == 1
    assert slurm.scripts == []
    code, printed, _ = call("run", *words, "--retry=timeout,node")
    assert code == 0
    assert "2 fine-tunes: 2 tasks in 1 array" in printed
    chosen = {id for point in points[:2] for id in (point.run_id, point.patch_id)}
    assert submitted(output) == chosen
    (submission,) = submissions.of_output(output)
    assert submission.retry == ("timeout", "node"), "its tasks take up no others"
    assert "nothing to submit" in call("run", *words, "--retry=timeout,node")[1]
    code, _, complained = call("run", *words, "--retry=tiemout")
    assert code == 2 and "error,oom,timeout,node" in complained


@pytest.mark.parametrize("after", [0, 2])
def test_a_refused_submission_leaves_nothing(call: Callable, slurm, words: list[str], output: Path, after: int) -> None:
    message = "sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified"
    slurm.set(refuse={"sbatch": [f"sbatch: error: lua: no\n{message}", after]})
    code, _, complained = call("run", *words)
    assert code == 2
    assert complained.startswith("error: sbatch: ") and complained.count("\n") == 1
    assert "lua: no; Batch job submission failed: Invalid account or account/partition combination" in complained
    assert "nothing was submitted" in complained
    assert slurm.queue == []
    assert submissions.of_output(output) == []
    slurm.set(refuse={})
    assert call("run", *words)[0] == 0
    assert len(slurm.queue) == 6


def test_sbatch_that_hangs_is_given_up(
    call: Callable, slurm, words: list[str], output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cluster that is full lets it wait without end, and one that has lost its disk too."""
    monkeypatch.setattr(submit, "SBATCH_SECONDS", 1)
    slurm.set(hang=["sbatch"])
    code, _, complained = call("run", *words)
    assert code == 2
    assert complained.startswith("error: sbatch: no answer in 1 s") and complained.count("\n") == 1
    assert "MaxJobCount" in complained and "nothing was submitted" in complained
    assert (slurm.queue, submissions.of_output(output)) == ([], [])


def test_what_may_have_been_submitted_is_remembered_if_it_cannot_be_cancelled(
    call: Callable, slurm, words: list[str], output: Path
) -> None:
    down = "error: Unable to contact slurm controller"
    slurm.set(refuse={"sbatch": [f"sbatch: {down}", 1], "scancel": [f"scancel: {down}", 0]})
    code, _, complained = call("run", *words)
    assert (code, complained.count("\n")) == (2, 1)
    assert "`mi-sweeps cancel s output=" in complained and "ends what was submitted" in complained
    slurm.set(refuse={})
    (submission,) = submissions.of_output(output)
    assert [array.id for array in submission.arrays] == ["100", "", ""]
    assert "1 array" in call("run", *words)[1], "the patch jobs, which wait for the fine-tunes that are queued"
    assert "--dependency=afterany:100" in slurm.scripts[-1]


def test_more_jobs_than_the_cluster_holds_is_one_line(call: Callable, slurm, words: list[str], output: Path) -> None:
    slurm.set(config=["MaxArraySize = 1001", "MaxJobCount = 4"])
    code, printed, _ = call("plan", *words)
    assert code == 0
    *_, warning = printed.splitlines()
    assert warning.startswith("warning: launcher.pack=1: 6 tasks") and "the folders" not in printed
    assert "4 jobs (MaxJobCount)" in warning and "launcher.pack=2" in warning
    assert call("run", *words) == (2, "", f"error: {warning.removeprefix('warning: ')}\n")
    assert (slurm.scripts, submissions.of_output(output)) == ([], [])
    assert call("run", *words, "launcher.pack=2")[0] == 0
    assert len(slurm.queue) == 3


def test_arrays_are_as_long_as_the_cluster_takes(call: Callable, slurm, words: list[str]) -> None:
    slurm.set(config=["MaxArraySize = 3"])
    assert call("run", *words, "seed=0,1,2", "corruption=first")[0] == 0
    assert [sum(row[0].partition("_")[0] == str(id) for row in slurm.queue) for id in range(100, 104)] == [2, 2, 1, 1]


def test_two_at_once_submit_each_point_once(slurm, words: list[str], output: Path) -> None:
    command = [sys.executable, "-m", "mi_sweeps.cli", "run", *words]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=100) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert sorted("nothing to submit" in printed for printed, _ in said) == [False, True]
    assert len(slurm.scripts) == 3
    assert len(submissions.of_output(output)) == 1


def test_waiting_too_long_for_another_submission_is_an_error(
    call: Callable, slurm, words: list[str], output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submit, "LOCK_SECONDS", 0)
    with submit.submitting(output):
        code, _, complained = call("run", *words)
    assert code == 2
    assert "another process is submitting; try again when it is done" in complained
    assert slurm.scripts == []


def test_plan_shows_what_would_be_requested_and_submits_nothing(
    call: Callable, slurm, words: list[str], output: Path
) -> None:
    settings = [
        "launcher.partition=gpu",
        "launcher.gpus=1",
        "launcher.time=30",
        "launcher.pack=2",
        "launcher.memory=8G",
    ]
    code, printed, _ = call("plan", *words, *settings, "launcher.patch.cpus=4", "launcher.patch.sbatch.nice=5")
    assert code == 0
    assert "launcher slurm" in printed
    assert "  2 fine-tunes: 1 task in 1 array, each 30 min, 1 GPU, 8G, partition gpu\n" in printed
    assert "  4 patch jobs: 2 tasks in 2 arrays, each 30 min, 4 CPUs, 1 GPU, 8G, partition gpu, --nice=5\n" in printed
    assert "  at most 1.5 GPU-hours, if every task runs once, to its time limit\n" in printed
    assert slurm.scripts == []
    assert not output.exists()


@pytest.mark.parametrize(
    ("option", "shown", "counted"),
    [
        ("{gres: 'gpu:1'}", "--gres=gpu:1", False),
        ("{gpus_per_task: 1}", "--gpus-per-task=1", False),
        ("{gres: 'shard:1'}", "--gres=shard:1", True),
        ("{exclusive: true}", "--exclusive\n", True),
    ],
)
def test_plan_shows_gpus_that_it_does_not_count(
    call: Callable, slurm, words: list[str], option: str, shown: str, counted: bool
) -> None:
    code, printed, _ = call("plan", *words, f"launcher.sbatch={option}")
    assert code == 0
    assert shown in printed
    assert ("  GPUs in launcher.sbatch are not counted in GPU-hours" in printed) is not counted


def test_plan_knows_what_is_queued(call: Callable, slurm, words: list[str]) -> None:
    call("run", *words, "corruption=first")
    _, printed, _ = call("plan", *words)
    assert "2 fine-tunes (2 queued), 4 patch jobs (2 queued, 2 to do)" in printed
    assert "  2 patch jobs: 2 tasks in 1 array" in printed


def test_plan_needs_no_cluster_and_run_says_that_it_does(
    call: Callable, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(queue, "Limits", lambda: Limits(jobs=4))
    code, printed, _ = call("plan", *words)
    assert code == 0
    assert "4 patch jobs: 4 tasks in 2 arrays" in printed
    assert "6 tasks, and SLURM by default holds 4 jobs" in printed
    code, _, complained = call("run", *words)
    assert code == 2 and complained.startswith("error: launcher=slurm: no sbatch") and complained.count("\n") == 1


def test_words_of_the_user_reach_the_cluster_as_text(call: Callable, slurm, tmp_path: Path) -> None:
    """The script is run by a shell, with an srun that writes down what it is given; no word of it may be a command."""
    output = tmp_path / "a 'b' $(touch made-by-output) \"c\""
    hostile = "$(touch made-by-NAME)`touch made-by-NAME`;touch made-by-NAME\ntouch made-by-NAME #"
    given = [f"launcher.{name}={json.dumps(hostile.replace('NAME', name))}" for name in ("account", "qos", "partition")]
    code, _, complained = call("run", "launcher=slurm", "sweep.name=s", *given, f"output={json.dumps(str(output))}")
    assert (code, complained) == (0, "")
    assert len(slurm.scripts) == 2
    place = tmp_path / "place"
    place.mkdir()
    (slurm.folder / "srun").write_text("#!/bin/sh\nfor word; do printf '%s\\n' \"$word\"; done > words.txt\n")
    for script in slurm.scripts:
        subprocess.run(["bash", "-c", script], cwd=place, check=True)
        assert any(str(output) in word for word in (place / "words.txt").read_text().splitlines())
    assert {file.name for file in place.iterdir()} == {"words.txt"}
