from __future__ import annotations

import json
import subprocess
import sys

import pytest

from mi_sweeps.store.files import write_json
from mi_sweeps.sweeps import manifest, plan
from mi_sweeps.sweeps.grid import expand


@pytest.fixture
def points(small, tmp_path):
    return expand([*small, "seed=0,1", "corruption=first,second", f"output={tmp_path / 'outputs'}"])


def finish(point, *, run=True, patch=True):
    """Folders as a finished point leaves them."""
    folder, examined = plan.folders_of(point)
    if run:
        for file in (folder.metrics, *map(folder.checkpoint, point.config.checkpoint_steps)):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
        write_json(folder.path / "status.json", {"state": "done", "attempts": 1})
    if patch:
        for step in point.config.patch_steps:
            examined.table(step).parent.mkdir(parents=True, exist_ok=True)
            examined.table(step).touch()
        write_json(examined.path / "status.json", {"state": "done", "attempts": 1})


def test_corruptions_share_their_fine_tunes(points):
    made = plan.make(points)
    assert (len(made.runs), len(made.patches)) == (2, 4)
    assert made.to_do() == 6


def test_planning_writes_nothing(points):
    plan.make(points)
    assert not points[0].config.output.exists()


def test_the_second_corruption_alone_needs_no_training(small, tmp_path):
    first = expand([*small, "seed=0,1", "corruption=first", f"output={tmp_path}"])
    for point in first:
        finish(point)
    second = plan.make(expand([*small, "seed=0,1", "corruption=second", f"output={tmp_path}"]))
    runs, patches = second.counts()
    assert runs == {"done": 2}
    assert patches == {"to do": 2}


def test_all_done(points):
    for point in points:
        finish(point)
    assert plan.make(points).is_done


def test_a_deleted_run_folder_brings_back_itself_and_its_patch_jobs(points):
    import shutil

    for point in points:
        finish(point)
    shutil.rmtree(plan.folders_of(points[0])[0].path)
    runs, patches = plan.make(points).counts()
    assert runs == {"done": 1, "to do": 1}
    assert patches == {"done": 2, "to do": 2}


def test_a_deleted_table_brings_back_its_patch_job(points):
    for point in points:
        finish(point)
    plan.folders_of(points[0])[1].table(4).unlink()
    runs, patches = plan.make(points).counts()
    assert runs == {"done": 2}
    assert patches == {"done": 3, "to do": 1}


def test_weights_that_nobody_needs_may_be_deleted(points):
    for point in points:
        finish(point)
    folder, examined = plan.folders_of(points[0])
    folder.checkpoint(4).unlink()
    assert plan.make(points).is_done
    examined.table(4).unlink()
    assert plan.make(points).runs[points[0].run_id].state == "todo"


def test_failed_waits_for_retry(points):
    folder, _ = plan.folders_of(points[0])
    write_json(folder.path / "status.json", {"state": "failed", "attempts": 1, "error": "x"})
    made = plan.make(points)
    assert made.to_do() == 3, "the patch jobs of a failed fine-tune wait for it"
    assert made.to_do(retry=["error"]) == 6


def test_a_patch_job_in_parts_is_running_while_one_is_at_work(points):
    folder = plan.folders_of(points[0])[1]
    parts = [folder.part(part, 2) for part in range(2)]
    write_json(parts[0].path / "status.json", {"state": "failed", "attempts": 1, "error": "x"})
    with parts[1].claim():
        write_json(parts[1].path / "status.json", {"state": "running", "attempts": 1})
        assert plan.make(points).patches[points[0].patch_id].state == "running"
    assert plan.make(points).patches[points[0].patch_id].state == "failed"


def test_a_killed_run_is_to_do_again(points):
    folder, _ = plan.folders_of(points[0])
    write_json(folder.path / "status.json", {"state": "running", "attempts": 1, "pid": 1})
    made = plan.make(points)
    assert made.runs[points[0].run_id].state == "interrupted"
    assert made.to_do() == 6


def test_a_slow_disk_is_looked_at_by_many_with_the_same_result(small, tmp_path, monkeypatch):
    points = expand([*small, "seed=range(0,50)", "corruption=first,second", f"output={tmp_path / 'outputs'}"])
    for point in points[::3]:
        finish(point)
    write_json(plan.folders_of(points[1])[1].path / "status.json", {"state": "failed", "attempts": 1, "error": "x"})
    plans = []
    for seconds in (0.0, 60.0):
        monkeypatch.setattr(plan, "SLOW_SECONDS", seconds)
        plans.append(plan.make(points))
    assert plans[0] == plans[1]
    assert plans[0].counts() == ({"done": 34, "to do": 16}, {"done": 34, "to do": 65, "failed": 1})


COUNTING = """
import sys
from pathlib import Path
from mi_sweeps.sweeps import manifest, plan

output, asked = Path(sys.argv[1]), []
points = [entry.point(output) for entry in manifest.load(output, "mine")]

def hook(event, arguments):
    if event in ("open", "os.listdir", "os.scandir") and str(arguments[0]).startswith(str(output)):
        asked.append(str(Path(arguments[0]).relative_to(output)))

sys.addaudithook(hook)
assert plan.make(points).is_done
print(*asked, sep="\\n")
"""


def test_a_look_at_a_finished_point_asks_the_disk_twice(points):
    """On a shared disk every question is a message: a status, a list of tables, no lock, nothing for each file."""
    for point in points:
        finish(point)
    output = points[0].output
    manifest.add(output, "mine", points, "")
    asked = subprocess.run([sys.executable, "-c", COUNTING, output], check=True, capture_output=True, text=True)
    of_patches = [path for point in points for path in of_patch_job(point)]
    of_runs = [f"runs/{run_id}/status.json" for run_id in {point.run_id for point in points}]
    assert sorted(asked.stdout.split()) == sorted(["runs", *of_patches, *of_runs])


def of_patch_job(point):
    folder = f"runs/{point.run_id}/patches/{point.patch_id}"
    return [f"{folder}/status.json", f"{folder}/tables"]


def test_a_manifest_grows_and_survives_a_move(points, tmp_path):
    output = points[0].config.output
    manifest.add(output, "mine", points[:1], "mi-sweeps run 1")
    manifest.add(output, "mine", points, "mi-sweeps run 2")
    manifest.add(output, "mine", points[:1], "mi-sweeps run 3")
    moved = output.rename(tmp_path / "elsewhere")
    again = [entry.point(moved) for entry in manifest.load(moved, "mine")]
    assert [point.patch_id for point in again] == [point.patch_id for point in points]
    assert again[0].config.output == moved
    assert json.loads(manifest.path(moved, "mine").read_text())["command"] == "mi-sweeps run 3"
    assert manifest.names(moved) == ["mine"]
