"""Uploads of what wandb wrote offline.

The decisions, with a stand-in for wandb that notes how it was called; and the client protocol: real wandb, from the
offline folders that it wrote itself to a server on this machine.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mi_sweeps.store.files import read_json
from mi_sweeps.sweeps import manifest, plan
from mi_sweeps.sweeps.grid import expand
from mi_sweeps.tracking import sync, wandb_folders
from mi_sweeps.tracking.mirror import mirror


@pytest.fixture
def points(tmp_path):
    """Two runs of a sweep `mine`; nothing is computed."""
    output = tmp_path / "outputs"
    found = expand(["seed=0,1", "sweep.name=mine", "tracking=wandb", "tracking.entity=team", f"output={output}"])
    manifest.add(output, "mine", found, "")
    return found


VERSION, RUN = b"version", b"run"


def record(content, kind=1):
    """A chunk as wandb writes it; nobody here looks at the checksum."""
    return bytes(4) + len(content).to_bytes(2, "little") + bytes([kind]) + content


def attempt(folder, time, *records, header=b":W&B\xe1\xbe\x00"):
    """An offline folder."""
    file = folder.path / "wandb" / f"offline-run-20260101_{time:06d}-id" / "run-id.wandb"
    file.parent.mkdir(parents=True)
    file.write_bytes(header + b"".join(map(record, records)))
    return file


STAND_IN = """
import json, os, pathlib, sys
here = pathlib.Path(__file__).parent
words = sys.argv[1:]
folders = [pathlib.Path(word) for word in words if pathlib.Path(word).is_dir()]
refused = json.loads((here / "refused.json").read_text()) if (here / "refused.json").exists() else []
note = {"words": words, "places": [len(list(folder.glob("*.syncstate"))) for folder in folders]}
with (here / "calls.jsonl").open("a") as calls:
    calls.write(json.dumps(note) + "\\n")
if "exit" in refused:
    sys.exit("Error: No API key configured.")
if "crash" in refused:
    raise RuntimeError("broken")
logs = pathlib.Path(os.environ["WANDB_DIR"], "wandb", "logs")
logs.mkdir(parents=True)
with (logs / "debug-sync.1.log").open("w") as log:
    for folder in folders:
        file = next(folder.glob("*.wandb"))
        pathlib.Path(f"{file}.syncstate").write_text("{}")
        if "mark" not in refused:
            pathlib.Path(f"{file}.synced").touch()
        entry = {"level": "INFO", "msg": "fine", "sync_path": str(file)}
        if folder.name in refused:
            entry |= {"level": "ERROR+4", "msg": "filestream: 403 Forbidden"}
        log.write(json.dumps(entry) + "\\n")
    if "half" in refused:
        log.write('{"level": "ERR')
print("wandb: View run x at http://server/runs/id")
"""


class StandIn:
    """In place of wandb: records its calls, makes its marks, and refuses the chosen uploads."""

    def __init__(self, folder):
        self.file = folder / "wandb.py"
        self.file.write_text(STAND_IN)

    @property
    def calls(self):
        notes = self.file.with_name("calls.jsonl")
        return [json.loads(line) for line in notes.read_text().splitlines()] if notes.exists() else []

    @property
    def times(self):
        """The times of the attempts in each call."""
        return [[int(word[-9:-3]) for word in call["words"] if word.endswith("-id")] for call in self.calls]

    def refuse(self, *what):
        """Files of attempts; "mark": its marks; "exit": everything; "crash" and "half": see there."""
        names = [one.parent.name if isinstance(one, Path) else one for one in what]
        self.file.with_name("refused.json").write_text(json.dumps(names))


@pytest.fixture
def wandb(tmp_path, monkeypatch):
    folder = tmp_path / "stand-in"
    folder.mkdir()
    stand_in = StandIn(folder)
    monkeypatch.setattr(sync, "COMMAND", (sys.executable, str(stand_in.file)))
    monkeypatch.setattr(sync, "SETTLE_SECONDS", 0.0)
    return stand_in


def test_one_call_a_run_with_all_its_attempts_oldest_first(call, points, wandb):
    run, patch = plan.folders_of(points[0])
    attempt(patch, 3, VERSION, RUN)
    attempt(run, 1, VERSION, RUN)
    attempt(patch.part(0, 2), 4, VERSION, RUN)
    attempt(run, 2, VERSION, RUN)
    other, _ = plan.folders_of(points[1])
    attempt(other, 5, VERSION, RUN)
    code, printed, _ = call("sync", "mine", f"output={points[0].config.output}")
    assert code == 0
    assert wandb.times == [[1, 2, 3, 4], [5]]
    assert wandb.calls[0]["words"][:4] == ["--project", "mi-sweeps", "--entity", "team"]
    assert f"{run.run_id}: uploaded to http://server/runs/id" in printed
    assert read_json(run.wandb) == {"url": "http://server/runs/id"}
    assert "2 runs: 2 uploaded" in printed
    code, printed, _ = call("sync", f"output={points[0].config.output}")
    assert (code, len(wandb.calls)) == (0, 2), "never twice"
    assert "2 runs: 2 uploaded before" in printed


def test_a_new_attempt_goes_alone(call, points, wandb):
    run, _ = plan.folders_of(points[0])
    attempt(run, 1, VERSION, RUN)
    call("sync", "mine", f"output={points[0].config.output}")
    attempt(run, 2, VERSION, RUN)
    call("sync", "mine", f"output={points[0].config.output}")
    assert wandb.times == [[1], [2]]


def test_what_was_refused_is_uploaded_again_and_nothing_else(call, points, wandb):
    run, _ = plan.folders_of(points[0])
    files = [attempt(run, time, VERSION, RUN) for time in (1, 2, 3)]
    wandb.refuse(files[0])
    code, printed, _ = call("sync", "mine", f"output={points[0].config.output}")
    assert code == 1
    assert "failed: filestream: 403 Forbidden (3 attempts, 2 uploaded)" in printed
    assert Path(f"{files[0]}.synced").exists(), "wandb's own mark cannot be trusted"
    wandb.refuse()
    code, printed, _ = call("sync", "mine", f"output={points[0].config.output}")
    assert code == 0
    assert wandb.times == [[1, 2, 3], [1]]
    assert wandb.calls[1]["places"] == [0], "its place has been taken by younger ones"


def test_the_oldest_keeps_its_place_until_a_younger_one_is_uploaded(call, points, wandb):
    run, _ = plan.folders_of(points[0])
    files = [attempt(run, time, VERSION, RUN) for time in (1, 2)]
    wandb.refuse(*files)
    for _ in range(2):
        code, _, _ = call("sync", "mine", f"output={points[0].config.output}")
        assert code == 1
    assert [one["places"] for one in wandb.calls] == [[0, 0], [1, 0]]


def test_an_upload_that_left_no_mark_is_not_done(call, points, wandb):
    run, _ = plan.folders_of(points[0])
    attempt(run, 1, VERSION, RUN)
    wandb.refuse("mark")
    code, printed, _ = call("sync", "mine", f"output={points[0].config.output}")
    assert code == 1
    assert "1 attempt, 0 uploaded" in printed
    wandb.refuse()
    assert call("sync", "mine", f"output={points[0].config.output}")[0] == 0


def test_what_somebody_uploaded_by_hand_is_left(call, points, wandb):
    run, _ = plan.folders_of(points[0])
    file = attempt(run, 1, VERSION, RUN)
    Path(f"{file}.synced").touch()
    code, printed, _ = call("sync", "mine", f"output={points[0].config.output}")
    assert (code, wandb.calls) == (0, [])
    assert "1 run: 1 uploaded before" in printed


def test_an_upload_that_was_killed_is_made_again(call, points, wandb):
    run, _ = plan.folders_of(points[0])
    file = attempt(run, 1, VERSION, RUN)
    Path(f"{file}.synced").touch()
    Path(f"{file}.uploading").touch()
    assert call("sync", "mine", f"output={points[0].config.output}")[0] == 0
    assert wandb.times == [[1]]


@pytest.mark.parametrize("content", [(b"",), (b":W&B\xe1\xbe\x00",), (b":W&B\xe1\xbe\x00", VERSION)])
def test_an_empty_attempt_is_skipped_and_fails_nothing(call, points, wandb, content):
    run, _ = plan.folders_of(points[0])
    header, *records = content
    attempt(run, 1, *records, header=header)
    attempt(run, 2, VERSION, RUN)
    code, printed, _ = call("sync", "mine", f"output={points[0].config.output}")
    assert code == 0
    assert wandb.times == [[2]]
    assert "skipped: 1 attempt, killed before anything was written" in printed


def test_half_a_record_at_the_end_is_cut_off(call, points, wandb):
    """wandb uploads no attempt that comes after such a one."""
    run, _ = plan.folders_of(points[0])
    file = attempt(run, 1, VERSION, RUN, b"history")
    whole = file.read_bytes()
    for half in (record(b"more")[:3], record(b"more")[:-1], record(b"first", kind=2), record(b"first", kind=2) + b"x"):
        file.write_bytes(whole + half)
        Path(f"{file}.synced").unlink(missing_ok=True)
        call("sync", "mine", "--dry-run", f"output={points[0].config.output}")
        assert file.read_bytes() == whole + half, "a dry run changes nothing"
        assert call("sync", "mine", f"output={points[0].config.output}")[0] == 0
        assert file.read_bytes() == whole


def test_a_run_that_is_still_written_is_left_for_later(call, points, wandb):
    run, patch = plan.folders_of(points[0])
    attempt(run, 1, VERSION, RUN)
    part = patch.part(1, 2)
    with part.claim(), part.attempt():
        code, printed, _ = call("sync", "mine", f"output={points[0].config.output}")
    assert (code, wandb.calls) == (0, [])
    assert f"{run.run_id}: still running; left for later" in printed
    assert call("sync", "mine", f"output={points[0].config.output}")[0] == 0
    assert wandb.times == [[1]]


def test_a_dry_run_uploads_nothing(call, points, wandb):
    run, _ = plan.folders_of(points[0])
    file = attempt(run, 1, VERSION, RUN)
    before = sorted(points[0].config.output.rglob("*"))
    code, printed, _ = call("sync", "mine", "--dry-run", f"output={points[0].config.output}")
    assert (code, wandb.calls) == (0, [])
    assert f"{run.run_id}: would upload {file.parent}" in printed
    assert sorted(points[0].config.output.rglob("*")) == before


def test_without_an_account_it_stops_at_once(call, points, wandb):
    for point in points:
        attempt(plan.folders_of(point)[0], 1, VERSION, RUN)
    wandb.refuse("exit")
    code, _, complaint = call("sync", "mine", f"output={points[0].config.output}")
    assert (code, len(wandb.calls)) == (2, 1)
    assert complaint == "error: wandb sync: No API key configured.\n"


def test_a_wandb_that_crashes_fails_that_run_only(call, points, wandb):
    for point in points:
        attempt(plan.folders_of(point)[0], 1, VERSION, RUN)
    wandb.refuse("crash")
    code, printed, complaint = call("sync", "mine", f"output={points[0].config.output}")
    assert (code, complaint, len(wandb.calls)) == (1, "", 2)
    assert printed.count("wandb ended with exit code 1: RuntimeError: broken (1 attempt, 0 uploaded)") == 2
    assert "2 runs: 2 failed" in printed
    wandb.refuse()
    assert call("sync", "mine", f"output={points[0].config.output}")[0] == 0


def test_half_a_line_in_wandbs_log_is_no_failure(call, points, wandb):
    attempt(plan.folders_of(points[0])[0], 1, VERSION, RUN)
    wandb.refuse("half")
    code, printed, _ = call("sync", "mine", f"output={points[0].config.output}")
    assert code == 0 and "1 run: 1 uploaded" in printed


def test_a_server_that_refuses_everything_is_not_asked_forever(call, tmp_path, wandb):
    output = tmp_path / "many"
    points = expand(["seed=range(0,5)", "sweep.name=many", "tracking=wandb", f"output={output}"])
    manifest.add(output, "many", points, "")
    wandb.refuse(*[attempt(plan.folders_of(point)[0], 1, VERSION, RUN) for point in points])
    code, printed, _ = call("sync", "many", f"output={output}")
    assert (code, len(wandb.calls)) == (1, 3)
    assert "5 runs: 3 failed, 2 not tried" in printed


def test_two_do_not_upload_at_once(call, points, wandb):
    attempt(plan.folders_of(points[0])[0], 1, VERSION, RUN)
    with sync.alone(points[0].config.output):
        code, _, complaint = call("sync", "mine", f"output={points[0].config.output}")
    assert (code, wandb.calls) == (2, [])
    assert "another `mi-sweeps sync` or `track` is running" in complaint


def test_a_sweep_without_tracking_says_what_to_do(call, points, wandb):
    code, printed, _ = call("sync", "mine", f"output={points[0].config.output}")
    assert code == 0
    assert "wandb wrote nothing; run it with tracking=wandb" in printed
    assert f"`mi-sweeps track mine output={points[0].config.output}`" in printed


def test_of_the_usual_folder_of_results_the_advice_is_short(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    manifest.add(Path("outputs"), "mine", expand(["sweep.name=mine"]), "")
    assert "or use `mi-sweeps track mine`" in call("sync", "mine")[1]


# The client protocol.


def metrics(value):
    return [{"split": "heldout", "metric": "win_rate", "value": value}]


LAYER = {"kind": "layer", "component": "attn", "layer": 0, "head": None, "logit_diff": 1.0}


def track(point, run, steps, patch=None):
    """An attempt of a fine-tune, or of a patch job, that logs these checkpoints."""
    with mirror(point.config, run, patch) as tracked:
        for step in steps:
            tracked.log(step, [LAYER] if patch else metrics(step / 100))


def offline(folder):
    return sorted(folder.path.glob("wandb/offline-run-*/*.wandb"))


def increasing(values):
    return all(low < high for low, high in zip(values, values[1:], strict=False))


def test_attempts_become_one_run_with_all_points(call, points, server):
    point = points[0]
    run, patch = plan.folders_of(point)
    track(point, run, [0, 8])
    track(point, run, [16, 24])
    track(point, run, [0, 24], patch)
    code, printed, _ = call("sync", "mine", f"output={point.config.output}")
    assert code == 0, printed
    assert list(server.runs) == [point.run_id]
    seen = server.runs[point.run_id]
    assert (seen.project, seen.group, seen.exit_code, seen.resumed) == ("mi-sweeps", "mine", 0, 2)
    assert seen.column("checkpoint") == [0, 8, 16, 24, 0, 24]
    assert increasing(seen.column("_step")), "wandb's server orders rows by it"
    assert f"uploaded to {server.url}/team/mi-sweeps/runs/{point.run_id}" in printed


def test_a_later_attempt_is_added_to_what_was_uploaded(call, points, server):
    point = points[0]
    run, _ = plan.folders_of(point)
    track(point, run, [0, 8])
    assert call("sync", "mine", f"output={point.config.output}")[0] == 0
    track(point, run, [16])
    assert call("sync", "mine", f"output={point.config.output}")[0] == 0
    assert call("sync", "mine", f"output={point.config.output}")[0] == 0
    seen = server.runs[point.run_id]
    assert seen.column("checkpoint") == [0, 8, 16]
    assert increasing(seen.column("_step"))


def test_points_that_the_server_refused_come_with_the_next_upload(call, points, server):
    """The first attempt's are refused, the second's are not: the first must not be put where the second now is."""
    point = points[0]
    run, _ = plan.folders_of(point)
    track(point, run, [0, 8])
    track(point, run, [16])
    server.fault = lambda request: 403 if (request.what, request.count) == ("file_stream", 1) else None
    code, printed, _ = call("sync", "mine", f"output={point.config.output}")
    assert code == 1
    assert "failed to upload: 403 Forbidden" in printed
    assert "(2 attempts, 1 uploaded)" in printed
    assert all(Path(f"{file}.synced").exists() for file in offline(run)), "what wandb says of it"
    assert call("sync", "mine", f"output={point.config.output}")[0] == 0
    seen = server.runs[point.run_id]
    assert sorted(seen.column("checkpoint")) == [0, 8, 16]
    assert increasing(seen.column("_step"))


def test_a_picture_that_the_server_refused_is_a_failure(call, points, server):
    point = points[0]
    run, patch = plan.folders_of(point)
    row = {"kind": "patch", "site": "z", "layer": 0, "head": 0, "patched": 1.0, "clean": 2.0, "corrupted": 0.0}
    with mirror(point.config, run, patch) as tracked:
        tracked.log(0, [row])
    server.fault = lambda request: 403 if request.what == "storage" else None
    code, printed, _ = call("sync", "mine", f"output={point.config.output}")
    assert code == 1
    assert "failed to upload: status: 403 Forbidden" in printed
    server.fault = lambda request: None
    assert call("sync", "mine", f"output={point.config.output}")[0] == 0
    assert any(name.startswith(f"{point.run_id}/media/images/first/heads/z") for name in server.files)


def test_a_server_that_is_busy_is_asked_again(call, points, server):
    point = points[0]
    track(point, plan.folders_of(point)[0], [0, 8])
    busy = {("file_stream", 1): 429, ("storage", 1): 503}
    server.fault = lambda request: busy.get((request.what, request.count))
    code, printed, _ = call("sync", "mine", f"output={point.config.output}")
    assert code == 0, printed
    assert server.runs[point.run_id].column("checkpoint") == [0, 8]


def test_a_server_that_does_not_answer_is_given_up(call, points, server, monkeypatch):
    monkeypatch.setattr(sync, "RETRIES", 1)
    track(points[0], plan.folders_of(points[0])[0], [0])
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    code, printed, _ = call("sync", "mine", f"output={points[0].config.output}")
    assert code == 1
    assert "giving up after 2 attempt(s)" in printed
    assert "connection refused" in printed


@pytest.mark.parametrize("key", ["", "short"])
def test_nobody_is_logged_in(call, points, server, monkeypatch, tmp_path, key):
    for point in points:
        track(point, plan.folders_of(point)[0], [0])
    with monkeypatch.context() as nobody:
        nobody.setenv("NETRC", str(tmp_path / "netrc"))
        nobody.setenv("WANDB_API_KEY", key)
        code, printed, complaint = call("sync", "mine", f"output={points[0].config.output}")
    assert (code, printed, complaint.count("\n")) == (2, "", 1)
    assert complaint.startswith("error: wandb sync: ") and "API" in complaint


@pytest.mark.slow
def test_a_server_that_is_silent_is_not_waited_for_for_ever(call, points, server, monkeypatch):
    for point in points:
        track(point, plan.folders_of(point)[0], [0, 8])
    awake = threading.Event()

    def silent(request: object) -> int:
        awake.wait(60)
        return 500  # What a killed process had asked for must not be done when the server wakes up.

    server.fault = silent
    with monkeypatch.context() as impatient:
        impatient.setattr(sync, "UPLOAD_SECONDS", 1.0)
        code, printed, complaint = call("sync", "mine", f"output={points[0].config.output}")
    server.fault = lambda request: None
    awake.set()
    assert (code, complaint) == (1, "")
    assert printed.count("failed: wandb did not end in 1 s, and was killed (1 attempt, 0 uploaded)") == 2
    assert "2 runs: 2 failed" in printed, "the others are tried"
    code, printed, _ = call("sync", "mine", f"output={points[0].config.output}")
    assert code == 0, printed
    assert [server.runs[point.run_id].column("checkpoint") for point in points] == [[0, 8], [0, 8]]


def test_attempts_that_were_killed_are_joined_too(call, points, server):
    """One as it was begun, and one in the middle of a record; wandb alone would upload neither what comes after."""
    point = points[0]
    run, _ = plan.folders_of(point)
    for steps in ([0], [0, 8], [16]):
        track(point, run, steps)
    time.sleep(0.5)
    empty, half, _ = offline(run)
    empty.write_bytes(empty.read_bytes()[: wandb_folders.HEADER])
    content = half.read_bytes()
    # The point at 8 is the last history record: leave half of it.
    half.write_bytes(content[: content.rindex(b"checkpoint") + 3])
    code, printed, _ = call("sync", "mine", f"output={point.config.output}")
    assert code == 0, printed
    assert "skipped: 1 attempt, killed before anything was written" in printed
    seen = server.runs[point.run_id]
    assert seen.column("checkpoint") == [0, 16]
    assert increasing(seen.column("_step"))


def test_records_are_counted_as_wandb_counts_them(points):
    """In a file of several blocks."""
    point = points[0]
    run, _ = plan.folders_of(point)
    with mirror(point.config, run) as tracked:
        for step in range(60):
            tracked.log(step, [{"split": "heldout", "metric": f"m{n}", "value": n / 7} for n in range(40)])
    (file,) = offline(run)
    time.sleep(0.5)
    assert file.stat().st_size > 2 * wandb_folders.BLOCK
    inspected = subprocess.run(
        [sys.executable, "-m", "wandb", "leet", "inspect", "--json", file], capture_output=True, text=True, check=True
    )
    assert wandb_folders.records(file) == (len(inspected.stdout.splitlines()), file.stat().st_size)
