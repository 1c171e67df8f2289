"""`mi-sweeps track`: wandb runs for a sweep without wandb, as if it had run with it."""

from __future__ import annotations

import shutil

import pytest
import wandb

from mi_sweeps.store.files import read_table
from mi_sweeps.store.folders import PatchFolder
from mi_sweeps.sweeps import manifest, plan
from mi_sweeps.tracking import values, wandb_folders
from mi_sweeps.tracking.mirror import mirror


@pytest.fixture
def points(output):
    return [entry.point(output) for entry in manifest.load(output, "mine")]


@pytest.fixture
def run(points):
    return plan.folders_of(points[0])[0]


def steps(run):
    """The checkpoints of each attempt, by the name of its job."""
    return {attempt.folder.parent.parent.name: sorted(attempt.steps()) for attempt in wandb_folders.of_run(run)}


@pytest.mark.slow
def test_a_sweep_that_was_not_tracked_is_uploaded_as_if_it_had_been(call, output, points, run, server):
    code, printed, _ = call("track", "mine", f"output={output}")
    assert code == 0
    assert f"{run.run_id}: mirrored offline: checkpoints of fine-tune 3, patch job 2, patch job 2" in printed
    assert f"`mi-sweeps sync mine output={output}` uploads" in printed
    code, printed, _ = call("sync", f"output={output}")
    assert code == 0, printed
    seen = server.runs[run.run_id]
    assert (seen.project, seen.group, seen.exit_code) == ("mi-sweeps", "mine", 0)
    assert seen.tags == ["mini", "constant", "first", "second"]
    assert seen.notes.endswith(str(run.path))
    assert seen.column("checkpoint") == [0, 2, 4, 0, 4, 0, 4]
    for row in read_table(run.metrics).to_pylist():
        if row["split"] == "batch":  # Of every step: too many for a mirror.
            continue
        assert row["value"] in seen.column(f"{row['split']}/{row['metric']}")
    for corruption in ("first", "second"):
        (point,) = [point for point in points if point.choices == {"corruption": corruption}]
        patch = PatchFolder(run.path / "patches" / point.patch_id)
        with_gap = [step for step in (0, 4) if values.has_gap(values.read(patch, step))]
        assert len(seen.column(f"{corruption}/recovered/z/2.1")) == len(with_gap)
        assert len(seen.column(f"{corruption}/heads/z")) == 2
    assert {"heldout/win_rate", "first/matter", "second/conclusions", "tables/metrics", "tables/heads"} <= set(
        seen.summary
    )
    tables = [name for name in server.files if name.startswith(f"{run.run_id}/media/table/tables/")]
    assert {name.rsplit("/", 1)[1].split("_")[0] for name in tables} == {"metrics", "heads"}


def test_nothing_is_made_twice(call, output, run):
    call("track", f"output={output}")
    before = sorted(output.rglob("*"))
    code, printed, _ = call("track", "mine", f"output={output}")
    assert (code, sorted(output.rglob("*"))) == (0, before)
    assert f"{run.run_id}: mirrored before" in printed
    assert "1 runs: 1 mirrored before" not in printed
    assert "1 run: 1 mirrored before" in printed
    # What `wandb clean` leaves of attempts that were uploaded.
    for attempt in wandb_folders.of_run(run):
        shutil.rmtree(attempt.folder)
    assert "mirrored before" in call("track", "mine", f"output={output}")[1]


def test_only_what_is_missing_is_made(call, points, run, output):
    config = points[0].config.model_copy(
        update={"tracking": points[0].config.tracking.model_copy(update={"mode": "offline"})}
    )
    with mirror(config, run) as tracked:
        tracked.log(0, [{"split": "heldout", "metric": "win_rate", "value": 0.5}])
    first, second = (plan.folders_of(point)[1] for point in points)
    (second.path / "status.json").unlink()
    code, printed, complaint = call("track", "mine", f"output={output}")
    assert (code, complaint) == (0, "")
    assert "checkpoints of fine-tune 2, patch job 2; 1 not done" in printed
    assert sorted(step for attempt in wandb_folders.of_job(run.path) for step in attempt.steps()) == [0, 2, 4]
    assert set(steps(run)) == {run.run_id, first.patch_id}


def test_again_takes_the_place_of_what_is_there(call, output, run):
    call("track", "mine", f"output={output}")
    before = {attempt.folder for attempt in wandb_folders.of_run(run)}
    code, printed, _ = call("track", "mine", "--again", f"output={output}")
    assert code == 0
    assert "checkpoints of fine-tune 3, patch job 2, patch job 2" in printed
    after = {attempt.folder for attempt in wandb_folders.of_run(run)}
    assert len(after) == 3
    assert not before & after or sorted(steps(run).values()) == [[0, 2, 4], [0, 4], [0, 4]]


def test_a_run_at_work_is_left_for_later(call, output, run):
    with run.claim(), run.attempt():
        code, printed, _ = call("track", "mine", f"output={output}")
    assert code == 0
    assert f"{run.run_id}: still running" in printed
    assert wandb_folders.of_run(run) == []


def test_one_that_was_killed_leaves_nothing_that_looks_mirrored(call, output, run, monkeypatch):
    begun = []

    def killed(*args, **options):
        begun.append(True)
        raise KeyboardInterrupt

    monkeypatch.setattr(wandb.sdk.wandb_run.Run, "finish", killed)
    code, _, _ = call("track", "mine", f"output={output}")
    assert (code, begun) == (130, [True])
    assert wandb_folders.of_run(run) == []
    monkeypatch.undo()
    wandb.teardown()
    assert "mirrored offline: checkpoints of fine-tune 3" in call("track", "mine", f"output={output}")[1]


def test_a_failing_wandb_is_reported(call, output, run, monkeypatch):
    def broken(**options):
        raise RuntimeError("no room")

    monkeypatch.setattr(wandb, "init", broken)
    code, printed, _ = call("track", "mine", f"output={output}")
    assert code == 1
    assert f"{run.run_id}: failed: 3 of 3 jobs" in printed
    assert wandb_folders.of_run(run) == []


def test_a_sweep_has_one_project(call, output, points):
    manifest.add(output, "mine", [with_tracking(point, project="one") for point in points], "")
    code, _, complaint = call("track", "mine", "--project", "two", f"output={output}")
    assert code == 2
    assert "--project two: mine is mirrored with tracking.project=one" in complaint


def with_tracking(point, **changes):
    tracking = {**point.values["tracking"], "name": "wandb", "mode": "offline", **changes}
    return type(point)({**point.values, "tracking": tracking}, point.choices, point.run_id, point.patch_id)


def test_online_at_once(call, output, run, online):
    code, printed, _ = call("track", "mine", "--mode", "online", "--project", "other", f"output={output}")
    assert code == 0, printed
    assert "mirrored online" in printed
    seen = online.runs[run.run_id]
    assert seen.project == "other"
    assert seen.column("checkpoint") == [0, 2, 4, 0, 4, 0, 4]
    assert seen.resumed == 2
    assert "1 run: 1 uploaded before" in call("sync", "mine", f"output={output}")[1]


def test_a_damaged_table_fails_its_run_only(call, output, run):
    run.metrics.write_bytes(b"PAR1")
    code, printed, complaint = call("track", "mine", f"output={output}")
    assert (code, complaint) == (1, "")
    assert f"{run.run_id}: failed: {run.metrics}: damaged; delete it" in printed
    assert printed.endswith("1 run: 1 failed\n")
