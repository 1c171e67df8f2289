"""Finding the checkpoints of a series."""

from __future__ import annotations

import shutil

import pytest

from mi_sweeps.config import SeriesConfig
from mi_sweeps.errors import UserError
from mi_sweeps.identity import patch_id, run_id
from mi_sweeps.models.hub import download
from mi_sweeps.series.checkpoints import find
from mi_sweeps.store import hashes
from mi_sweeps.sweeps.grid import expand
from tests.hub import a_new_process
from tests.series.conftest import FEW


def pattern(path=None, hub=None, revision=None) -> SeriesConfig:
    same = {"name": "series", "tokenizer": None, "base": None, "prepend_bos": False, "keep": True}
    return SeriesConfig.model_validate({**same, "path": path, "hub": hub, "revision": revision})


def test_all_checkpoints_are_found_in_order_of_their_steps(series, make):
    (series / "checkpoint-latest").mkdir()  # Is no step.
    (series / "checkpoint-32").write_text("no folder")
    config = make(series)
    assert config.checkpoint_steps == [0, 8, 16, 24]
    assert [one.step for one in find(config.model, None).checkpoints] == [0, 8, 16, 24]


def test_patching_steps_that_are_no_checkpoints_are_refused_in_one_line(series, make):
    with pytest.raises(UserError, match=r"^patching.steps: \[9\] are not checkpoints of this run \(\[0, 8, 16, 24\]\)"):
        make(series, "patching.steps=[8,9]")


def test_a_step_that_is_not_there_is_a_gap_and_so_is_one_without_weights(series):
    (series / "checkpoint-16" / "model.safetensors").unlink()
    (series / "checkpoint-24" / "config.json").unlink()
    found = find(pattern(series / "checkpoint-{step}"), [0, 8, 12, 16, 24])
    assert [one.step for one in found.checkpoints] == [0, 8]
    assert found.missing_steps.keys() == {12, 16, 24}
    assert "nothing there for step 12" in found.missing_steps[12]
    assert "no weights" in found.missing_steps[16] and "no config.json" in found.missing_steps[24]


def test_names_beside_the_step_match_anything_and_two_of_one_step_are_refused(series):
    (series / "checkpoint-8").rename(series / "stage1-step0008-tokens2B")
    (series / "checkpoint-16").rename(series / "stage1-step16-tokens4B")
    given = pattern(series / "stage1-step{step}-tokens{tokens}B")
    assert [(one.step, one.name) for one in find(given, None).checkpoints] == [
        (8, f"{series}/stage1-step0008-tokens2B"),
        (16, f"{series}/stage1-step16-tokens4B"),
    ]
    shutil.copytree(series / "stage1-step16-tokens4B", series / "stage1-step16-tokens5B")
    with pytest.raises(UserError, match="are both step 16; give a narrower pattern"):
        find(given, None)


def test_revisions_are_matched_by_the_same_pattern(hub, series):
    commits = {
        step: hub.add("org/lm", f"stage1-step{step}-tokens{step // 4}B", series / f"checkpoint-{step}")
        for step in (8, 16)
    }
    hub.add("org/lm", "main", series / "checkpoint-16")
    found = find(pattern(hub="org/lm", revision="stage1-step{step}-tokens{tokens}B"), [8, 12, 16])
    assert {one.step: one.model.revision for one in found.checkpoints} == commits
    assert "nothing there for step 12" in found.missing_steps[12]


def test_the_seed_says_which_of_several_series(series, tmp_path, make_config):
    shutil.copytree(series, tmp_path / "seed3")
    shutil.copytree(series, tmp_path / "seed4")
    (tmp_path / "seed4" / "checkpoint-8" / "model.safetensors").write_bytes(
        (series / "checkpoint-16" / "model.safetensors").read_bytes()
    )
    path = f"model.path={tmp_path}/seed{{seed}}/checkpoint-{{step}}"
    points = expand(["model=series", path, "seed=3,4", f"output={tmp_path}/outputs", *FEW])
    assert [point.config.meant()["seed"] for point in points] == [3, 4]
    assert len({point.run_id for point in points}) == 2


@pytest.mark.parametrize("key", ["seed=0,1", "optim.lr=1e-4,1e-3", "train.steps=4,8", "schedule=constant,cosine"])
def test_what_changes_nothing_of_a_series_cannot_be_swept(series, make, key):
    with pytest.raises(UserError, match="computes the same"):
        make(series, key)


def test_it_is_its_weights_and_not_where_they_lie(series, make, tmp_path):
    config = make(series)
    before = run_id(config), patch_id(config)

    def ids(folder, *overrides):
        config = make(folder, *overrides)
        return run_id(config), patch_id(config)

    assert ids(shutil.copytree(series, tmp_path / "elsewhere")) == before
    for same in ("model.keep=false", "checkpoint.steps=[0,8,16,24]"):
        assert ids(series, same) == before
    for other in ("checkpoint.steps=[0,8,16]", "checkpoint.steps=[0,8,16,24,32]"):
        assert ids(series, other)[0] != before[0]
    weights = series / "checkpoint-16" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
    assert ids(series)[0] != before[0]


def test_it_is_the_same_series_from_the_hub_its_cache_and_with_other_names(hub, series, tmp_path, monkeypatch):
    monkeypatch.setattr("mi_sweeps.models.hub.questions.REFS_SECONDS", 0.0)  # Time passes.
    for step in (0, 8):
        hub.add("org/lm", f"step{step}", series / f"checkpoint-{step}")
    words = ["model=series", "model.hub=org/lm", "model.revision=step{step}", f"output={tmp_path}/outputs", *FEW]
    (point,) = expand([*words, "checkpoint.steps=[0,8]"])
    hub.add("org/lm", "step8", series / "checkpoint-16")  # Uploaded anew under the same name.
    (other,) = expand([*words, "checkpoint.steps=[0,8]"])
    assert point.run_id != other.run_id
    assert expand(words)[0].run_id == other.run_id


def test_without_the_hub_what_the_cache_lacks_is_no_gap(hub, series, tmp_path):
    for step in (0, 8):
        hub.add("org/lm", f"step{step}", series / f"checkpoint-{step}")
    given = pattern(hub="org/lm", revision="step{step}")
    first = find(given, [0, 4])
    assert [*first.missing_steps] == [4]
    download("org/lm", str(first.checkpoints[0].model.revision), ["config.json", "model.safetensors"])
    hashes.keep(tmp_path)
    a_new_process()
    hub.down()
    assert [one.step for one in find(given, [0]).checkpoints] == [0]
    for steps, says in (([0, 8], "so it is unknown whether there is a step 8"), (None, "which checkpoints there are")):
        with pytest.raises(UserError, match=rf"{says}.*give checkpoint.steps, of which the cache has 0$"):
            find(given, steps)
    hashes.recall(tmp_path)  # The hub had said which revisions there are.
    assert find(given, [0, 4]) == first
