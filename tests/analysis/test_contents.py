"""Runs of a setting differ in their seed only, also where no configuration says what else they depend on."""

from __future__ import annotations

import json

import pytest

from mi_sweeps.analysis.contents import unrecorded
from mi_sweeps.analysis.derived import findings
from mi_sweeps.analysis.folder import read
from mi_sweeps.analysis.frames import load
from mi_sweeps.analysis.inference.families import groups
from mi_sweeps.store.hashes import digest

OLD, NEW = "0a1b2c3d4e5f", "0a1b99999999"


@pytest.fixture
def record(tmp_path):
    """Writes things into run.json."""

    def write(run_id, name="run.json", **values):
        file = tmp_path / "outputs" / "runs" / run_id / name
        file.write_text(json.dumps(json.loads(file.read_text()) | values))

    return write


def settings(output):
    runs = load(output).runs
    return dict(zip(runs["run_id"], runs["setting"], strict=True))


def test_runs_of_other_weights_are_another_setting(tmp_path, folders, record):
    for content, seeds in ((OLD, (0, 1)), (NEW, (2, 3, 4))):
        for seed in seeds:
            folders.write_run(tmp_path / "outputs", f"run-{seed}", seed=seed)
            record(f"run-{seed}", contents={"model_content": content, "task_code": "abcdefabcdef"})
    names = settings(tmp_path / "outputs")
    assert [names[f"run-{seed}"] for seed in range(5)] == ["model content 0a1b2"] * 2 + ["model content 0a1b9"] * 3


def test_contents_that_a_configuration_tells_are_in_no_name(tmp_path, folders, record):
    """Other learning rates have another model here."""
    for lr, content in ((1e-4, OLD), (2e-4, NEW)):
        for seed in (0, 1):
            folders.write_run(tmp_path / "outputs", f"run-{lr}-{seed}", lr=lr, seed=seed)
            record(f"run-{lr}-{seed}", contents={"model_content": content})
    assert sorted(set(settings(tmp_path / "outputs").values())) == ["lr 0.0001", "lr 0.0002"]


def test_a_seed_that_occurs_twice_is_no_second_seed(tmp_path, folders, make_output):
    """In a folder of an earlier version, whose runs do not say in what else they differ."""
    output = make_output(seeds=(0, 1), corruptions=("first",), by_prompt=True, steps=(0, 8))
    folders.write_run(output, "again", seed=0, steps=(0, 8))
    folders.write_patch(output, "again", "again-first", seed=0, steps=(0, 8), by_prompt=True)
    frames = load(output)
    assert settings(output)["again"] == "contents not recorded, run again"
    assert frames.runs["setting"].nunique() == 3
    assert {len(ids) for _, ids in groups(frames.patches, frames.runs)} == {1}
    found = findings(frames)
    assert len(found) and set(found["runs"]) == {1}
    assert not found["scope"].str.contains("for other prompts and other seeds").any()
    assert "seeds" not in set(found["question"])


def test_series_of_changed_files_are_two_settings(tmp_path, folders):
    for run_id in ("before", "after"):
        folders.write_series(tmp_path / "outputs", run_id)
    assert load(tmp_path / "outputs").runs["setting"].nunique() == 2


def test_seeds_of_a_series_have_a_model_each(tmp_path, folders, record):
    for seed in (0, 1):
        folders.write_series(tmp_path / "outputs", f"series-{seed}", seed=seed)
    record("series-1", contents={}, identity={"series": "one", "data": "two"})
    assert load(tmp_path / "outputs").runs["setting"].nunique() == 1


@pytest.mark.parametrize("changed", [False, True])
def test_a_run_of_before_is_told_by_its_id(tmp_path, folders, record, changed):
    """Its id is the hash of what it depends on."""
    identity = {"model": OLD, "optim": {"lr": 1e-4}}
    before = digest(identity | {"seed": 0} | ({"model": NEW} if changed else {}))[:12]
    for run_id, seed in ((before, 0), ("later", 1)):
        folders.write_run(tmp_path / "outputs", run_id, seed=seed)
    record("later", contents={"model_content": OLD}, identity=identity | {"seed": 1})
    names = settings(tmp_path / "outputs")
    expected = ("made by an earlier version", "made with recorded contents") if changed else ("all", "all")
    assert (names[before], names["later"]) == expected


def test_code_that_earlier_versions_recorded_counts(tmp_path, folders, record):
    for seed in (0, 1):
        folders.write_run(tmp_path / "outputs", f"run-{seed}", seed=seed)
        record(f"run-{seed}", sources={"task": {"own": str(seed)}})
    assert all(name.startswith("task code ") for name in settings(tmp_path / "outputs").values())
    assert len(set(settings(tmp_path / "outputs").values())) == 2


def test_files_that_nobody_recorded_are_told(tmp_path, folders, record):
    def told():
        return unrecorded(read(tmp_path / "outputs").runs, settings(tmp_path / "outputs"))

    for seed in (0, 1):
        folders.write_run(tmp_path / "outputs", f"run-{seed}", seed=seed)
    assert told() == ""
    for run in read(tmp_path / "outputs").runs:
        record(run.run_id, config=run.config | {"model": {"name": "local", "path": "/a/model"}})
    assert told().startswith("2 runs were made by a version that did not record")
    for run_id in ("run-0", "run-1"):
        record(run_id, contents={"model_content": OLD})
    assert told() == ""
    folders.write_series(tmp_path / "outputs", "series")
    assert told() == ""
    folders.write_series(tmp_path / "outputs", "again")
    assert told().startswith("2 runs share a configuration with others, and some of them a seed too.")


def test_two_patch_jobs_of_a_run_are_not_two_runs(folders, make_output):
    output = make_output(seeds=(0, 1), corruptions=("first",), by_prompt=True, steps=(0, 8))
    folders.write_patch(output, "run-0.0001-constant-0", "again", seed=0, steps=(0, 8), by_prompt=True)
    frames = load(output)
    assert all("contents not recorded, patch job" in name for name in frames.patches["patching"])
    assert {len(ids) for _, ids in groups(frames.patches, frames.runs)} == {1}


@pytest.mark.parametrize("recorded", [False, True])
def test_prompts_of_another_task_are_told_apart(folders, make_output, record, recorded):
    output = make_output(seeds=(0, 1), corruptions=("first",), steps=(0, 8))
    patching = {"name": "full", "task": {"name": "prompts", "path": "mine.jsonl"}}
    for seed, content in ((0, OLD), (1, NEW)):
        name = f"run-0.0001-constant-{seed}", f"patches/run-0.0001-constant-{seed}-first/patch.json"
        values = {"contents": {"task_path_content": content}} if recorded else {"prompts": [{"clean": content}]}
        record(*name, config={"patching": patching}, **values)
    names = load(output).patches["patching"]
    assert names.nunique() == 2
    assert all("task path content 0a1b" in name if recorded else "prompts content" in name for name in names)
