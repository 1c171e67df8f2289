"""The stages of a series: its metrics, and its patch jobs."""

from __future__ import annotations

import gc
import shutil
import weakref

import pytest
import torch

from mi_sweeps.errors import UserError
from mi_sweeps.identity import patch_id, run_id
from mi_sweeps.jobs.finetune import finetune
from mi_sweeps.jobs.measure_series import measure_series
from mi_sweeps.jobs.patch import patch
from mi_sweeps.store.files import read_json, read_table
from mi_sweeps.store.folders import run_folder
from mi_sweeps.tasks.load import load
from mi_sweeps.training import models_at
from mi_sweeps.training.evaluate import evaluate
from tests.series.conftest import STEPS


def place(config):
    run = run_folder(config.output, run_id(config))
    return run, run.patch(patch_id(config))


def test_every_checkpoint_is_measured_as_its_own_model_is(series, make, checkpoints_of, mini_tokenizer):
    config = make(series)
    run, _ = place(config)
    finetune(config, run)
    task = load(config, mini_tokenizer)
    expected = [
        row
        for step, model in checkpoints_of.items()
        for split, batch in task.splits.items()
        for row in evaluate(model, task, batch, step=step, split=split)
    ]
    assert read_table(run.metrics).to_pylist() == [pytest.approx(row, abs=1e-6) for row in expected]
    assert len({row["value"] for row in expected if row["metric"] == "loss"}) == 12
    assert run.status().state == "done" and run.status().missing_steps == ()
    assert not list(run.path.rglob("*.safetensors"))  # Nobody needs a copy.


def test_patching_gives_what_plain_hooks_give_at_every_checkpoint(series, make, checkpoints_of, mini_tokenizer):
    config = make(series, "corruption=second")
    run, folder = place(config)
    finetune(config, run)
    patch(config, run, folder)
    pairs = load(config, mini_tokenizer).pairs("second", config.patching.prompts)
    for step, model in checkpoints_of.items():
        rows = read_table(folder.table(step)).to_pylist()
        found = {(row["layer"], row["head"]): row["by_prompt"] for row in rows if row["site"] == "z"}
        assert found.keys() == {(layer, head) for layer in range(2) for head in range(4)}
        for (layer, head), values in found.items():
            expected = patched_z(model, pairs, layer, slice(8 * head, 8 * head + 8))
            torch.testing.assert_close(torch.tensor(values), expected, atol=2e-5, rtol=0, msg=f"{step} {layer}.{head}")


@torch.no_grad()
def patched_z(model, pairs, layer, columns):
    """Logit differences of the corrupted prompts with one head's output from the clean ones, by hooks of PyTorch's."""
    kept = []

    def put(module, given):
        if not kept:
            kept.append(given[0].clone())
            return given
        return (torch.cat([given[0][..., : columns.start], kept[0][..., columns], given[0][..., columns.stop :]], -1),)

    handle = model.gpt_neox.layers[layer].attention.dense.register_forward_pre_hook(put)
    model(pairs.clean.tokens)
    logits = model(pairs.corrupted.tokens).logits
    handle.remove()
    return pairs.logit_diff(pairs.at_end(logits))


def test_a_gap_is_named_and_has_no_numbers(series, make, caplog):
    (series / "checkpoint-16" / "model.safetensors").unlink()
    config = make(series, "checkpoint.steps=[0,8,16,20,24]")
    run, folder = place(config)
    finetune(config, run)
    patch(config, run, folder)
    assert run.status().missing_steps == (16, 20)
    result = read_json(run.series)
    assert [one["step"] for one in result["missing_steps"]] == [16, 20] and "no weights" in result["missing_steps"][0][
        "reason"
    ]
    assert [one["step"] for one in result["checkpoints"]] == [0, 8, 24]
    assert {row["step"] for row in read_table(run.metrics).to_pylist()} == {0, 8, 24}
    assert folder.steps() == [0, 8, 24]
    assert folder.status().state == "done"
    assert "step 16 counts as missing: " in run.log_file.read_text()


def test_copies_of_unknown_steps_count_as_missing(series, make):
    shutil.copy(series / "checkpoint-24" / "model.safetensors", series / "checkpoint-0" / "model.safetensors")
    config = make(series)
    run, _ = place(config)
    finetune(config, run)
    why = "its weights are the same at steps 0 and 24; which step they belong to is unknown"
    assert run.status().missing_steps == (0, 24)
    reasons = {one["step"]: one["reason"] for one in read_json(run.series)["missing_steps"]}
    assert reasons.keys() == {0, 24} and all(reason.startswith(why) for reason in reasons.values())
    assert {row["step"] for row in read_table(run.metrics).to_pylist()} == {8, 16}
    assert f"step 0 counts as missing: {why}" in run.log_file.read_text()


def test_a_series_of_nothing_but_gaps_is_refused(series, make):
    for step in STEPS[1:]:
        shutil.copy(series / "checkpoint-0" / "model.safetensors", series / f"checkpoint-{step}")
    config = make(series)
    run, _ = place(config)
    with pytest.raises(UserError, match="no checkpoint is usable"):
        finetune(config, run)
    assert not run.metrics.exists()


def test_what_was_measured_before_an_interruption_is_not_measured_again(series, make, monkeypatch):
    config = make(series)
    run, folder = place(config)

    class Killed(BaseException):
        pass

    def killed(step, rows):
        if step == 8:
            raise Killed

    with pytest.raises(Killed), run.claim(), run.attempt() as check:
        measure_series(config, run, before_write=check, on_checkpoint=killed)
    before = read_table(run.metrics).to_pylist()
    read = []
    load_network = models_at.load_network
    monkeypatch.setattr(
        models_at, "load_network", lambda model, *rest: read.append(model.path.name) or load_network(model, *rest)
    )
    finetune(config, run)
    assert read == ["checkpoint-16", "checkpoint-24"]
    rows = read_table(run.metrics).to_pylist()
    assert rows[: len(before)] == before and sorted({row["step"] for row in rows}) == [*STEPS]
    read.clear()
    finetune(config, run)
    assert not read  # It is done.


@pytest.mark.slow
def test_no_two_checkpoints_are_in_memory_at_once(series, make, monkeypatch):
    config = make(series)
    run, folder = place(config)
    alive: list[weakref.ref] = []
    load_network = models_at.load_network

    def counted(model, *rest):
        gc.collect()
        assert not [one for one in alive if one() is not None]
        network = load_network(model, *rest)
        alive.append(weakref.ref(network))
        return network

    monkeypatch.setattr(models_at, "load_network", counted)
    finetune(config, run)
    patch(config, run, folder)
    assert len(alive) == 2 * len(STEPS)


def test_weights_that_change_after_the_plan_are_not_examined_as_if_they_were_the_same(series, make):
    config = make(series)
    run, folder = place(config)
    finetune(config, run)
    weights = series / "checkpoint-8" / "model.safetensors"
    weights.write_bytes((series / "checkpoint-16" / "model.safetensors").read_bytes())
    with pytest.raises(UserError, match="have changed since this was planned"):
        patch(config, run, folder)
    assert folder.steps() == []


def test_weights_that_change_while_others_are_examined_are_not_measured(series, make, monkeypatch):
    config = make(series)
    run, _ = place(config)
    load_network = models_at.load_network

    def slow(model, *rest):
        shutil.copy(series / "checkpoint-24" / "model.safetensors", series / "checkpoint-8" / "model.safetensors")
        return load_network(model, *rest)

    monkeypatch.setattr(models_at, "load_network", slow)
    with pytest.raises(UserError, match=r"checkpoint-8: its files changed while this series was examined"):
        finetune(config, run)
    assert {row["step"] for row in read_table(run.metrics).to_pylist()} == {0}


def test_a_patch_job_of_nothing_but_gaps_is_refused_and_no_part_of_one_is(series, make):
    shutil.copy(series / "checkpoint-24" / "model.safetensors", series / "checkpoint-0" / "model.safetensors")
    config = make(series)
    run, folder = place(config)
    finetune(config, run)
    with pytest.raises(
        UserError,
        match=r"patching.steps=\[0, 24\]: this series has no usable checkpoint at any of them \(.*series.json",
    ):
        patch(make(series, "patching.steps=[0,24]"), run, folder)
    patch(config, run, folder, part=0, parts=4)
    patch(config, run, folder)
    assert folder.steps() == [8, 16]


def test_a_step_that_the_trainer_counts_otherwise_is_examined_when_that_is_mended(series, make):
    state = series / "checkpoint-16" / "trainer_state.json"
    for step in STEPS:
        (state.parents[1] / f"checkpoint-{step}" / state.name).write_text(f'{{"global_step": {step}}}')
    right = run_id(make(series))
    state.write_text('{"global_step": 8}')
    run, _ = place(make(series))
    finetune(make(series), run)
    assert run.status().missing_steps == (16,) and run.run_id != right
    state.write_text('{"global_step": 16}')
    assert run_id(make(series)) == right
    state.unlink()
    assert run_id(make(series)) == right


def test_parts_of_a_patch_job_share_the_checkpoints(series, make):
    config = make(series)
    run, folder = place(config)
    finetune(config, run)
    patch(config, run, folder, part=1, parts=2)
    assert folder.steps() == [8, 24]
    patch(config, run, folder, part=0, parts=2)
    assert folder.steps() == [*STEPS] and folder.status().state == "done"


def test_from_the_hub_it_is_the_same_as_from_folders(hub, hub_cache, series, make, make_config, tmp_path):
    from tests.series.conftest import FEW

    local = make(series, "checkpoint.steps=[0,8]")
    for step in (0, 8):
        hub.add("org/lm", f"step{step}", series / f"checkpoint-{step}")
    words = ["model=series", "model.hub=org/lm", "model.revision=step{step}", "checkpoint.steps=[0,4,8]", *FEW]
    config = make_config(*words, "model.keep=false")
    tables = []
    for one in (local, config):
        run, folder = place(one)
        finetune(one, run)
        patch(one, run, folder)
        tables.append([read_table(file).to_pylist() for file in (run.metrics, folder.table(0), folder.table(8))])
    assert tables[0] == tables[1]
    assert place(config)[0].status().missing_steps == (4,)
    assert not list(hub_cache.rglob("model.safetensors"))
