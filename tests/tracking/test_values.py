"""The values that wandb shows for a run, without wandb."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mi_sweeps.analysis.frames import load
from mi_sweeps.analysis.inference import words
from mi_sweeps.analysis.inference.courses import courses
from mi_sweeps.analysis.inference.families import family, jobs
from mi_sweeps.store.files import read_json, read_table, write_table
from mi_sweeps.store.folders import PatchFolder, run_folder
from mi_sweeps.sweeps import manifest, plan
from mi_sweeps.sweeps.grid import expand
from mi_sweeps.sweeps.show import win_rates as win_rates_shown
from mi_sweeps.tasks.metrics import win_rates
from mi_sweeps.tracking import values

LR, SEED, CLIP = st.sampled_from([1e-5, 3e-5]), st.integers(0, 3), st.sampled_from([1.0, 2.0])


@pytest.fixture(scope="module")
def base():
    (point,) = expand([])
    return point.config


@pytest.fixture
def run(output):
    return plan.folders_of(manifest.load(output, "mine")[0].point(output))[0]


def head(layer, head, recovered, gap=2.0, site="z"):
    place = {"kind": "patch", "site": site, "layer": layer, "head": head}
    return {**place, "patched": 1.0 + recovered * gap, "clean": 1.0 + gap, "corrupted": 1.0}


@given(first=st.tuples(LR, SEED, CLIP), second=st.tuples(LR, SEED, CLIP))
def test_settings_are_equal_where_all_but_the_seed_is(base, first, second):
    one, other = (
        base.model_copy(
            update={
                "optim": base.optim.model_copy(update={"lr": lr}),
                "train": base.train.model_copy(update={"clip": clip}),
                "seed": seed,
            }
        )
        for lr, seed, clip in (first, second)
    )
    same = (first[0], first[2]) == (second[0], second[2])
    assert (values.setting(one) == values.setting(other)) == same


def test_a_setting_says_what_sweeps_vary(make_config):
    result = values.setting(make_config("optim.lr=3e-5", "schedule=cosine", "seed=7"))
    assert result.startswith(
        "model=mini task=ioi3 schedule=cosine lr=3e-05 weight_decay=0 steps=184 batch_size=16 rest="
    )
    assert (
        values.setting(make_config("optim.lr=3e-5", "schedule=cosine", "corruption=second", "tracking=wandb")) == result
    )
    assert values.setting(make_config("optim.lr=3e-5", "schedule=cosine", "schedule.warmup_ratio=0.1")) != result


def test_runs_of_other_weights_have_another_setting(make_config):
    config = make_config()
    contents = ({"model_content": content} for content in ("one", "one", "other"))
    one, same, other = (values.settings(config, of)["setting"] for of in contents)
    assert one == same != other


def test_flat_keys_to_group_by_and_all_of_the_configuration(make_config):
    found = values.settings(make_config("optim.lr=3e-5", "seed=1"))
    assert {key: found[key] for key in ("lr", "schedule", "seed", "model", "task")} == {
        "lr": 3e-5,
        "schedule": "constant",
        "seed": 1,
        "model": "mini",
        "task": "ioi3",
    }
    assert found["config"]["optim"]["lr"] == 3e-5
    assert found["config"]["task"]["prompts"]["train"] == 1200


def prompts(*gaps):
    return [{"kind": "prompt", "clean": 1.0 + gap, "corrupted": 1.0, "site": None, "head": None} for gap in gaps]


@pytest.mark.parametrize(
    ("gap", "of_prompts", "is_there"),
    [
        (0.05, prompts(0.05, 0.051, 0.049), True),  # small, and the same for all prompts
        (0.5, prompts(3.0, -2.0, 0.5), False),  # large, and of a few prompts only
        (0.5, [], True),  # of tables that do not tell prompts apart
        (0.00005, [], False),
    ],
)
def test_nothing_is_recovered_where_the_corruption_makes_no_measurable_difference(gap, of_prompts, is_there):
    rows = [head(0, 0, 0.5, gap), head(0, 2, 0.5, gap, site="v"), *of_prompts]
    found = values.of_table("first", rows, values.shown(rows))
    assert found == ({"first/recovered/z/0.0": pytest.approx(0.5)} if is_there else {})


def test_measures_are_of_the_model_and_not_of_a_corruption():
    at = {"kind": "measure", "layer": 1, "head": None}
    rows = [
        {**at, "measure": "position_r2", "component": "resid_pre", "value": 0.5},
        {**at, "measure": "ablated_loss", "component": "none", "layer": None, "value": 2.0},
    ]
    found = {"measures/position_r2/resid_pre_1": 0.5, "measures/ablated_loss/none": 2.0}
    assert values.of_table("previous", rows, frozenset()) == found
    heads = [
        {**at, "measure": "diagonal", "component": "head", "head": head, "value": 0.1}
        for head in range(values.MOST_HEADS + 1)
    ]
    assert len(values.of_table("previous", [*rows, *heads[:-1]], frozenset())) == 2 + values.MOST_HEADS
    few = values.of_table("previous", [*rows, *heads], frozenset({(1, 7)}))
    assert few == {**found, "measures/diagonal/1.7": 0.1}, "a larger model's that are shown"


def test_what_each_prompt_has_stays_on_disk(run):
    """Attribution and patches alike: it is many times as much as their means."""
    for corruption, patch in values._patches(run):
        on_disk = read_table(patch.table(4)).to_pylist()
        listed = {row["kind"] for row in on_disk if row["by_prompt"]}
        assert listed == {"lens", "layer", "head", "patch"}
        assert all("by_prompt" not in row for row in values.read(patch, 4))
        found = values.of_table(corruption, on_disk, values.shown(on_disk))
        assert found and all(isinstance(value, float) for value in found.values())
    points = [point for _, rows in values.tables(run).values() for row in rows for point in row]
    assert not any(isinstance(point, list) for point in points)


def test_a_small_model_shows_all_heads_and_a_large_one_those_that_ever_mattered():
    small = [head(0, one, 0.0) for one in range(values.MOST_HEADS)]
    assert len(values.shown(small)) == values.MOST_HEADS
    large = [*small, head(1, 0, -0.5)]
    assert values.shown(large) == {(1, 0)}
    later = [*small, head(1, 0, 0.0)]
    assert values.shown(later) == frozenset()
    assert values.shown(later, values.shown(large)) == {(1, 0)}, "a curve does not end"


def test_the_summary_is_of_the_last_checkpoint_of_everything(run):
    found = values.summary(run)
    last = {
        f"{row['split']}/{row['metric']}": row["value"]
        for row in read_table(run.metrics).to_pylist()
        if row["step"] == 4
    }
    assert found["checkpoint"] == 4
    assert {key: found[key] for key in last} == last
    for corruption in ("first", "second"):
        assert f"{corruption}/logit_diff/attn_0" in found
        rows = values.read(PatchFolder(of_corruption(run, corruption)), 4)
        heads = [key for key in found if key.startswith(f"{corruption}/recovered/z/")]
        assert len(heads) == (16 if values.has_gap(rows) else 0)


def of_corruption(run, corruption):
    (folder,) = [
        path for path in run.path.glob("patches/*") if read_json(path / "patch.json")["corruption"] == corruption
    ]
    return folder


def judged(run, corruption):
    """The family of z of a patch job, as the tables of verdicts have it."""
    frames = load(run.path.parent.parent)
    ids = frames.patches.query("run_id == @run.run_id and corruption == @corruption")["patch_id"]
    return family("z", jobs(frames.output, frames.runs, ids))


def test_what_is_concluded_are_the_verdicts_of_all_checkpoints(run):
    found = values.conclusions(run)
    for corruption in ("first", "second"):
        own = judged(run, corruption)
        verdict = own.judged.words[own.at(4)]
        assert found[f"{corruption}/conclusions"] == " ".join(words.sentences(own, courses(own)))
        assert "for other prompts in this run, not for other seeds" in found[f"{corruption}/conclusions"]
        assert found[f"{corruption}/undecided"] == (verdict == "undecided").sum()
        result = found[f"{corruption}/matter"]
        there = [words.name(place) for place, word in zip(own.places, verdict, strict=True) if word == "matters"]
        assert result in ("none shown", "not defined") if not there else len(result.split("], ")) == len(there)
        assert all(f"{name} " in result for name in there)


def test_heads_that_matter_come_with_their_intervals_the_largest_first(run):
    """Two heads are made to matter, and one to be lost."""
    recovered = {0: {(1, 0): 0.9}, 4: {(0, 1): 0.4, (2, 1): -0.7}}
    for step in (0, 4):
        table = PatchFolder(of_corruption(run, "first")).table(step)
        rows = read_table(table).to_pylist()
        random = np.random.default_rng(step)
        gaps = 2 + 0.1 * random.normal(size=sum(row["kind"] == "prompt" for row in rows))
        for row in rows:
            if row["kind"] == "prompt":
                row |= {"clean": gaps[row["prompt"]], "corrupted": 0.0}
            elif row["kind"] == "patch" and row["site"] == "z":
                share = recovered.get(step, {}).get((row["layer"], row["head"]), 0.0)
                row |= {"by_prompt": (share * gaps).tolist(), "patched": share * gaps.mean(), "corrupted": 0.0}
                row |= {"clean": gaps.mean()}
        write_table(table, pa.Table.from_pylist(rows, read_table(table).schema))
    found = values.conclusions(run)
    assert found["first/matter"] == "2.1 -0.70 [-0.70, -0.70], 0.1 0.40 [0.40, 0.40]"
    assert (found["first/lost"], found["first/undecided"]) == ("1.0 0.90", 0)


@pytest.mark.parametrize(
    "key, metric, rates, expected",
    [
        ("first_step_90", "win_rate", [0.5, 0.9, 0.8, 0.95], 1),
        ("first_step_90", "win_rate", [0.5, 0.89], None),
        ("first_step_90", "win_rate", [0.5, 0.8999999761581421, 0.95], 1),  # as earlier versions have it
        ("first_step_90", "win_rate", [0.5, 0.89999, 0.95], 2),
        ("first_step_50", "accuracy", [0.1, 0.49, 0.5, 0.4], 2),
    ],
)
def test_when_it_was_learned(tmp_path, key, metric, rates, expected):
    run = run_folder(tmp_path, "run")
    rows = [
        {"step": step, "split": split, "metric": metric, "value": rate, "n": 100}
        for step, rate in enumerate(rates)
        for split in ("heldout", "two_name")
    ]
    write_table(run.metrics, pa.Table.from_pylist(rows))
    found = values.summary(run)
    assert {name: found[name] for name in values.REACHED if name in found} == (
        {} if expected is None else {key: expected}
    )


@pytest.mark.parametrize(("wins", "expected"), [([89, 200, 7], "worse than at the start"), ([89, 80], ""), ([7], "")])
def test_how_it_ended(tmp_path, wins, expected):
    run = run_folder(tmp_path, "run")
    rows = [
        {"step": step, "split": "heldout", "metric": metric, "value": value, "n": n}
        for step, count in enumerate(wins)
        for metric, value, n in win_rates(torch.arange(240) < count)
    ]
    write_table(run.metrics, pa.Table.from_pylist(rows))
    assert values.summary(run)["outcome"] == expected
    point = SimpleNamespace(run_id="run", output=tmp_path, patch_id="none")
    (result,) = win_rates_shown([point]).values()
    assert result.endswith(expected or "%")


def test_tables_of_all_that_is_there(run):
    found = values.tables(run)
    columns, rows = found["tables/metrics"]
    assert columns[0] == "checkpoint"
    assert "heldout/win_rate" in columns
    assert [row[0] for row in rows] == [0, 2, 4]
    columns, rows = found["tables/heads"]
    assert columns == ["corruption", "site", "layer", "head", "recovered", "patched", "clean", "corrupted", "n"]
    assert len(rows) == 2 * 3 * 16, "corruptions, sites, heads"


def test_a_run_that_has_nothing_yet_says_nothing(tmp_path, run):
    empty = run_folder(tmp_path, "other")
    assert values.conclusions(empty) == {}
    assert values.summary(empty) == {}
    assert values.tables(empty) == {}
    shutil.rmtree(run.path / "patches")
    assert not any(key.startswith("first/") for key in values.summary(run))
