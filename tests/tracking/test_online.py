"""The client protocol, online: real wandb against a server on this machine that is busy, silent, lost or refuses, and
jobs that are killed at any moment. Whatever happens, every checkpoint is on the server in the end, with its value."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time

import pyarrow as pa
import pytest
import wandb

from mi_sweeps.store.files import read_json, write_table
from mi_sweeps.sweeps import manifest, plan
from mi_sweeps.sweeps.grid import expand
from mi_sweeps.tracking import mirror as mirrors
from mi_sweeps.tracking import wandb_folders
from mi_sweeps.tracking.mirror import mirror

STEPS = tuple(range(0, 18, 2))


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Patience for a server on this machine."""
    for setting, seconds in (("TRANSMIT_INTERVAL", 0.05), ("TIMEOUT_SECONDS", 1)):
        monkeypatch.setenv(f"WANDB__FILE_STREAM_{setting}", str(seconds))
    monkeypatch.setattr(mirrors, "FINISH_SECONDS", 4.0)
    monkeypatch.setattr(mirrors, "INIT_SECONDS", 5.0)


@pytest.fixture(scope="module")
def values():
    """A point that is mirrored online; nothing is computed."""
    (point,) = expand(["sweep.name=mine", "tracking=wandb", "tracking.mode=online"])
    return point


@pytest.fixture
def point(values, tmp_path):
    point = type(values)({**values.values, "output": str(tmp_path / "outputs")}, {}, values.run_id, values.patch_id)
    manifest.add(point.output, "mine", [point], "")
    return point


@pytest.fixture
def run(point):
    return plan.folders_of(point)[0]


def measure(run, step):
    """What a fine-tune does at a checkpoint."""
    row = {"step": step, "split": "heldout", "metric": "win_rate", "value": step / 16, "n": 20}
    known = [{**row, "step": one, "value": one / 16} for one in STEPS if one <= step]
    write_table(run.metrics, pa.Table.from_pylist(known))
    return [row]


def track(point, run, steps=STEPS, between=lambda step: None):
    with mirror(point.config, run) as tracked:
        for step in steps:
            tracked.log(step, measure(run, step))
            between(step)


def has_all(seen, steps=STEPS):
    """Every checkpoint with its value; one may be there twice."""
    points = [(row["checkpoint"], row["heldout/win_rate"]) for row in seen.rows if "heldout/win_rate" in row]
    return set(points) == {(step, step / 16) for step in steps}


def test_a_run_is_seen_with_its_names_and_tags_and_needs_no_sync(call, point, run, online):
    track(point, run)
    (seen,) = online.runs.values()
    assert (seen.name, seen.project, seen.group, seen.job_type) == (run.run_id, "mi-sweeps", "mine", "finetune")
    assert seen.tags == ["mini", "constant"]
    assert f"in {run.path}" in seen.notes
    assert read_json(run.wandb) == {"url": f"{online.url}/somebody/mi-sweeps/runs/{run.run_id}"}
    assert seen.config["setting"]["value"].startswith("model=mini task=ioi3 ")
    assert seen.column("checkpoint") == list(STEPS)
    assert (seen.summary["first_step_90"], seen.summary["heldout/win_rate"]) == (16, 1.0)


def test_a_resumed_run_goes_on_at_the_step_after(call, point, run, online):
    track(point, run, STEPS[:2])
    track(point, run, STEPS[2:])
    (seen,) = online.runs.values()
    assert (seen.resumed, seen.exit_code) == (1, 0)
    assert seen.column("checkpoint") == list(STEPS)
    assert seen.column("_step") == list(range(len(STEPS)))
    requests = online.requests
    code, printed, _ = call("sync", "mine", f"output={point.output}")
    assert (code, online.requests) == (0, requests)
    assert "1 run: 1 uploaded before" in printed


@pytest.mark.parametrize(
    "what, fault",
    [
        ("file_stream", 429),
        ("file_stream", 500),
        ("file_stream", "time-out"),
        ("storage", 500),
        ("UpsertBucket", 500),
        ("RunResumeStatus", 429),
    ],
)
@pytest.mark.slow
def test_a_server_that_is_busy_or_slow_for_a_while_is_asked_again(call, point, run, online, what, fault):
    def fails(request):
        if (request.what, request.count) != (what, 1):
            return None
        if fault != "time-out":
            return fault
        time.sleep(1.5)
        return 503

    online.fault = fails
    track(point, run)
    assert online.calls[what] > 1
    assert has_all(online.runs[run.run_id])
    assert "1 run: 1 uploaded before" in call("sync", "mine", f"output={point.output}")[1]


def unreachable(server, monkeypatch):
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")


def failing(server, monkeypatch):
    server.fault = lambda request: 500


def refusing(server, monkeypatch):
    server.fault = lambda request: 403


def silent(server, monkeypatch):
    server.fault = lambda request: time.sleep(3) or 503


@pytest.mark.parametrize("how", [unreachable, failing, refusing, silent])
@pytest.mark.slow
def test_without_a_server_the_run_is_mirrored_offline_and_uploaded_later(
    call, point, run, online, monkeypatch, caplog, how
):
    monkeypatch.setattr(mirrors, "INIT_SECONDS", 1.0)
    with monkeypatch.context() as lost:
        how(online, lost)
        track(point, run)
        requests = online.requests
    assert "mirrored offline, for `mi-sweeps sync`" in caplog.text
    assert [attempt.is_online for attempt in wandb_folders.of_run(run)] == [False]
    online.fault = lambda request: None
    assert online.requests == requests
    code, printed, _ = call("sync", "mine", f"output={point.output}")
    assert code == 0, printed
    seen = online.runs[run.run_id]
    assert seen.column("checkpoint") == list(STEPS)


def test_a_server_that_did_not_answer_is_not_asked_by_every_job(point, run, online, caplog):
    online.fault = lambda request: 403
    track(point, run, STEPS[:2])
    requests = online.requests
    track(point, run, STEPS[2:])
    assert online.requests == requests
    assert caplog.text.count("not online") == 1


@pytest.mark.parametrize("status", [500, 403])
@pytest.mark.slow
def test_a_server_that_is_lost_in_the_middle_has_all_after_a_sync(call, point, run, online, caplog, status):
    def between(step):
        if step == 2:
            time.sleep(0.3)
            online.fault = lambda request: status if request.what == "file_stream" else None

    track(point, run, between=between)
    assert "`mi-sweeps sync` uploads" in caplog.text
    online.fault = lambda request: None
    code, printed, _ = call("sync", "mine", f"output={point.output}")
    assert code == 0, printed
    assert has_all(online.runs[run.run_id])
    assert "1 run: 1 uploaded before" in call("sync", "mine", f"output={point.output}")[1]


def test_of_two_jobs_at_once_one_is_mirrored_offline(call, point, run, online, caplog):
    """The server keeps points by their number, and one would overwrite the other's."""
    _, patch = plan.folders_of(point)
    row = {"kind": "layer", "component": "attn", "layer": 0, "head": None, "logit_diff": 1.0}
    measure(run, 0)
    with wandb_folders.online_lock(run), mirror(point.config, run, patch) as tracked:
        tracked.log(0, [row])
    assert "another job is uploading to this run" in caplog.text
    note = patch.path / "unmirrored.json"
    assert read_json(note) == {"why": "another job was uploading to this run", "mended_by": "sync"}
    code, printed, _ = call("sync", "mine", f"output={point.output}")
    assert code == 0, printed
    assert not note.exists()
    seen = online.runs[run.run_id]
    assert seen.column("first/logit_diff/attn_0") == [1.0]
    assert seen.summary["heldout/win_rate"] == 0.0, "the summary is of the whole run"


JOB = """
import sys, time
from tests.tracking.test_online import STEPS, track
from mi_sweeps.store.files import read_table
from mi_sweeps.store.folders import run_folder
from mi_sweeps.sweeps.grid import expand

mode, output = sys.argv[1:]
(point,) = expand(["sweep.name=mine", "tracking=wandb", f"tracking.mode={mode}", f"output={output}"])
run = run_folder(point.output, point.run_id)
done = max(read_table(run.metrics)["step"].to_pylist()) if run.metrics.exists() else -1
print("begins", flush=True)
track(point, run, [step for step in STEPS if step > done], between=lambda step: time.sleep(0.1))
"""


@pytest.mark.slow
def test_kills_at_any_moment_lose_nothing(call, point, run, server, cores):
    """Of the job, of wandb's own process, or of both, as by a node that dies."""
    chance = random.Random(0)
    environment = {key: value for key, value in os.environ.items() if key != "WANDB_SERVICE"}
    for mode in (*chance.sample(["online", "offline", "online"], 3), None):
        command = [sys.executable, "-c", JOB, mode or "offline", str(point.output)]
        job = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment)
        try:
            assert job.stdout.readline() == b"begins\n"
            if mode:
                time.sleep(chance.uniform(0.0, 1.5))
                victims = chance.choice(["job", "wandb", "both"])
                for core in cores(job.pid) if victims != "job" else ():
                    os.kill(core, signal.SIGKILL)
                if victims != "wandb":
                    job.kill()
            assert job.wait(timeout=90) == 0 or mode
        finally:
            job.kill()
            job.stdout.close()
    code, printed, _ = call("sync", "mine", f"output={point.output}")
    assert code == 0, printed
    seen = server.runs[run.run_id]
    assert has_all(seen)
    # Of a younger attempt that had arrived before, the points are older than the summary: docs/wandb.md says so.
    last = wandb_folders.of_job(run.path)[-1]
    assert seen.summary.get("first_step_90") == 16 or last.is_online
    assert call("sync", "mine", f"output={point.output}")[0] == 0


KEY = os.environ.get("WANDB_API_KEY")
LIVE = KEY and os.environ.get("MI_SWEEPS_WANDB_LIVE") == "1"


@pytest.mark.skipif(not LIVE, reason="asks wandb.ai; run with MI_SWEEPS_WANDB_LIVE=1 and WANDB_API_KEY")
def test_wandb_ai_itself(call, values, tmp_path, monkeypatch):
    """Half of a run online and half of it offline, joined by sync; then the run is deleted."""
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    project = "mi-sweeps-live-test"
    wandb.teardown()
    tracking = {**values.values["tracking"], "project": project}
    changed = {**values.values, "output": str(tmp_path / "outputs"), "tracking": tracking}
    point = type(values)(changed, {}, f"live{random.SystemRandom().randrange(16**8):08x}", values.patch_id)
    manifest.add(point.output, "mine", [point], "")
    run, _ = plan.folders_of(point)
    monkeypatch.setattr(mirrors, "FINISH_SECONDS", 60.0)
    monkeypatch.setattr(mirrors, "INIT_SECONDS", 60.0)
    for variable in ("WANDB__FILE_STREAM_TRANSMIT_INTERVAL", "WANDB__FILE_STREAM_TIMEOUT_SECONDS"):
        monkeypatch.delenv(variable)
    track(point, run, STEPS[:4])
    with wandb_folders.online_lock(run):
        track(point, run, STEPS[4:])
    assert [attempt.is_online for attempt in wandb_folders.of_run(run)] == [True, False]
    code, printed, _ = call("sync", "mine", f"output={point.output}")
    assert code == 0, printed
    time.sleep(10)  # Until it can be asked for.
    seen = wandb.Api().run(f"{project}/{point.run_id}")
    try:
        rows = list(seen.scan_history(keys=["checkpoint", "heldout/win_rate"]))
        assert [(row["checkpoint"], row["heldout/win_rate"]) for row in rows] == [(step, step / 16) for step in STEPS]
        assert seen.summary["first_step_90"] == 16
        assert seen.config["lr"] == 1e-4
    finally:
        seen.delete()
