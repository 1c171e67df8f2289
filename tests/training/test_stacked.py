"""Runs trained together equal runs trained alone."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from mi_sweeps.identity import run_id
from mi_sweeps.jobs.finetune import finetune, training_turns
from mi_sweeps.models.load import load_model
from mi_sweeps.store.endings import Busy, Cancelled, Interrupted, Superseded
from mi_sweeps.store.files import read_table
from mi_sweeps.store.folders import run_folder
from mi_sweeps.training import stacked
from mi_sweeps.training.run import TrainingState
from mi_sweeps.training.stacked import can_stack, train_together

TINY = (
    "model=nope",
    "task=previous_token",
    "corruption=previous",
    "model.d_model=16",
    "model.heads=2",
    "model.d_head=8",
    "task.d_vocab=12",
    "task.length=8",
    "task.heldout=16",
    "train.batch_size=8",
    "train.steps=6",
    "checkpoint.every=3",
    "checkpoint.steps=[]",
    "optim.lr=1e-2",
)
"""Overrides under which a run takes milliseconds."""

DIFFERENT = (
    ("seed=0",),
    ("seed=1", "optim.lr=3e-3", "optim.weight_decay=0.1"),
    ("seed=2", "schedule=cosine", "train.clip=0.01"),
    ("seed=3", "optim.betas=[0.8,0.95]"),
)
"""What runs of one stack may differ in."""


@pytest.fixture
def make_configs(make_config):
    """Configurations of runs that differ."""

    def make(*overrides, different=DIFFERENT):
        return [make_config(*overrides, *own) for own in different]

    return make


def folder_of(config):
    return run_folder(config.output, run_id(config))


def turns(config, on_step=lambda step: None):
    return training_turns(config, folder_of(config), needed=(), on_step=on_step)


def alone(configs):
    """Losses of the runs trained one after another in a folder of their own, by run."""
    moved = [config.model_copy(update={"output": config.output / "alone"}) for config in configs]
    for config in moved:
        finetune(config, folder_of(config))
    return [losses(config) for config in moved]


def losses(config):
    """By split and step."""
    rows = read_table(folder_of(config).metrics).to_pylist()
    return {(row["split"], row["step"]): row["value"] for row in rows if row["metric"] == "loss"}


def assert_equal(ours, theirs, tolerance=1e-5):
    for mine, other in zip(ours, theirs, strict=True):
        assert mine == pytest.approx(other, abs=tolerance)


def states(configs):
    return [folder_of(config).status().state for config in configs]


def raise_at(step, error):
    def on_step(done):
        if done == step:
            raise error

    return on_step


@pytest.mark.parametrize("mlp", ["null", "32"])
@pytest.mark.parametrize("layers", [1, 2])
def test_each_run_is_as_if_alone(make_configs, layers, mlp):
    configs = make_configs(*TINY, f"model.layers={layers}", f"model.d_mlp={mlp}")
    assert train_together([turns(config) for config in configs]) == [None] * 4
    assert states(configs) == ["done"] * 4
    assert_equal([losses(config) for config in configs], alone(configs))
    assert len({losses(config)["heldout", 6] for config in configs}) == 4
    assert not any(folder_of(config).resume.exists() for config in configs)


@pytest.mark.parametrize("task", ["previous_token", "ioi3"])
@pytest.mark.slow
def test_two_hundred_steps_are_as_if_alone(make_configs, task):
    """At d_model 64; prompts of `ioi3` have different lengths, so they are padded to each other's."""
    length = ("train.steps=200", "train.batch_size=4", "checkpoint.every=200", "checkpoint.steps=[]")
    if task == "ioi3":
        tasks = ("task.prompts.train=120", "task.prompts.heldout=12", "task.prompts.two_name=4", "optim.lr=3e-5")
    else:
        tasks = ("model=nope", "task=previous_token", "corruption=previous", "task.length=16", "optim.lr=1e-3")
    configs = make_configs(*length, *tasks, different=(("seed=0",), ("seed=1", "schedule=cosine")))
    train_together([turns(config) for config in configs])
    assert_equal([losses(config) for config in configs], alone(configs))


def test_the_runs_are_computed_as_one(make_configs, monkeypatch):
    """Otherwise every test here would hold without a stack."""
    configs = make_configs(*TINY)
    monkeypatch.setattr(stacked, "train_step", None)
    assert train_together([turns(config) for config in configs]) == [None] * 4


@pytest.mark.parametrize(
    ("error", "stop"), [(Cancelled, 2), (Cancelled, 3), (Cancelled, 4), (Interrupted, 3), (KeyboardInterrupt, 4)]
)
def test_what_ends_the_process_ends_all_and_they_go_on_later(make_configs, error, stop):
    configs = make_configs(*TINY)
    with pytest.raises(error):
        train_together([turns(config, raise_at(stop, error) if config.seed == 1 else print) for config in configs])
    assert states(configs) == ["interrupted" if error is Interrupted else "cancelled"] * 4
    taken = []
    train_together([turns(config, taken.append) for config in configs])
    # Each goes on from its newest checkpoint; those after the one that was stopped had not kept theirs yet.
    assert min(taken) == (1 if stop < 4 else 4)
    assert states(configs) == ["done"] * 4
    assert {folder_of(config).status().attempts for config in configs} == {2}
    assert_equal([losses(config) for config in configs], alone(configs))


def test_a_run_that_is_behind_catches_up(make_configs):
    configs = make_configs(*TINY)
    with pytest.raises(Cancelled):
        finetune(configs[1], folder_of(configs[1]), on_step=raise_at(4, Cancelled))
    order = []
    train_together([turns(config, lambda step, seed=config.seed: order.append((step, seed))) for config in configs])
    assert [seed for step, seed in order if step == 4] == [0, 1, 2, 3]
    assert (1, 1) not in order
    assert_equal([losses(config) for config in configs], alone(configs))


def test_a_run_that_diverges_leaves_and_the_others_go_on(make_configs):
    """At a learning rate at which the weights are soon not finite: nothing of it reaches another run."""
    configs = make_configs(*TINY, different=(("seed=0",), ("seed=1", "optim.lr=1e30"), ("seed=2",)))
    assert train_together([turns(config) for config in configs]) == [None] * 3
    statuses = [folder_of(config).status() for config in configs]
    assert [status.state for status in statuses] == ["done"] * 3
    assert [status.diverged is None for status in statuses] == [True, False, True]
    sound = [configs[0], configs[2]]
    assert_equal([losses(config) for config in sound], alone(sound))


def test_a_run_whose_disk_is_full_fails_alone(make_configs, monkeypatch):
    configs = make_configs(*TINY)
    real = TrainingState.write_checkpoint

    def keep(run):
        if run.config.seed == 1 and run.step == 3:
            raise OSError(28, "No space left on device", "x")
        real(run)

    monkeypatch.setattr(TrainingState, "write_checkpoint", keep)
    errors = train_together([turns(config) for config in configs])
    assert [type(error) for error in errors] == [type(None), OSError, type(None), type(None)]
    assert states(configs) == ["done", "failed", "done", "done"]
    assert "disk full" in folder_of(configs[1]).status().error
    others = [config for config in configs if config.seed != 1]
    monkeypatch.undo()
    assert_equal([losses(config) for config in others], alone(others))


def test_a_step_that_fails_fails_for_all_that_take_it(make_configs, monkeypatch):
    configs = make_configs(*TINY)

    def step(stack, batches):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(stacked.Stack, "step", step)
    errors = train_together([turns(config) for config in configs])
    assert all(isinstance(error, RuntimeError) for error in errors)
    assert {folder_of(config).status().failure for config in configs} == {"oom"}


def test_a_step_that_fails_leaves_other_stacks_alone(make_configs, monkeypatch):
    """Six runs in two stacks, of which one fails at its first step."""
    configs = make_configs(*TINY, different=[(f"seed={seed}",) for seed in range(6)])
    monkeypatch.setattr(stacked, "TOKENS", 5 * 8 * 8)
    real = stacked.Stack.step

    def step(stack, batches):
        if stack.runs[0].config.seed == 0:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        real(stack, batches)

    monkeypatch.setattr(stacked.Stack, "step", step)
    errors = train_together([turns(config) for config in configs])
    assert [type(error) for error in errors] == 3 * [RuntimeError] + 3 * [type(None)]
    monkeypatch.undo()
    assert_equal([losses(config) for config in configs[3:]], alone(configs[3:]))


def test_a_run_that_another_process_has_is_left_out(make_configs):
    configs = make_configs(*TINY)
    with folder_of(configs[2]).claim():
        errors = train_together([turns(config) for config in configs])
    assert [type(error) for error in errors] == [type(None), type(None), Busy, type(None)]
    assert states(configs) == ["done", "done", "todo", "done"]


def test_a_run_that_a_later_attempt_took_over_is_left_to_it(make_configs):
    configs = make_configs(*TINY)
    errors = train_together(
        [turns(config, raise_at(2, Superseded("later")) if config.seed == 1 else print) for config in configs]
    )
    assert [type(error) for error in errors] == [type(None), Busy, type(None), type(None)]
    assert states(configs) == ["done", "interrupted", "done", "done"]


def test_a_log_is_about_its_own_run_only(make_configs):
    configs = make_configs(*TINY)
    train_together([turns(config) for config in configs])
    for config in configs:
        lines = folder_of(config).log_file.read_text().splitlines()
        assert sum("step 3: heldout" in line for line in lines) == 1
        assert sum("training 4 runs together" in line for line in lines) == 1


def test_what_cannot_be_stacked_is_trained_alone(make_configs, make_config, small, tmp_path, mini_tokenizer):
    """Dropout, beside runs that have none."""
    model, _ = load_model(make_config().model)
    assert can_stack(model, make_config().train)
    model.config.resid_pdrop = 0.1
    model.save_pretrained(tmp_path / "model")
    mini_tokenizer.save_pretrained(tmp_path / "model")
    dropping = make_configs(*small, "model=local", f"model.path={tmp_path / 'model'}", different=DIFFERENT[:2])
    configs = [*dropping, *make_configs(*small, different=DIFFERENT[:2])]
    assert train_together([turns(config) for config in configs]) == [None] * 4
    assert states(configs) == ["done"] * 4


def test_runs_that_take_turns_drop_what_they_drop_alone(make_configs, small):
    """Each draws its own random numbers, also when it goes on after an interruption."""
    lora = ("train.method=lora", "train.lora.dropout=0.5", "optim.lr=1e-2")
    configs = make_configs(*small, *lora, different=DIFFERENT[:2])
    stopped = [turns(configs[0], raise_at(3, Interrupted())), turns(configs[1])]
    with pytest.raises(Interrupted):
        train_together(stopped)
    assert train_together([turns(config) for config in configs]) == [None] * 2
    assert [losses(config) for config in configs] == alone(configs)


def test_no_llama(make_model, make_config):
    assert not can_stack(make_model("llama"), make_config().train)


@pytest.mark.parametrize(
    "override",
    ["method=lora", "only=attention", "weights=bf16", "micro_batch=4", "gradient_checkpointing=true"],
)
def test_what_does_not_train_all_weights_at_once_is_trained_alone(mini_model, make_config, override):
    assert not can_stack(mini_model, make_config(f"train.{override}").train)


@pytest.mark.parametrize(("fit", "sizes"), [(6, [6]), (5, [3, 3]), (4, [3, 3]), (3, [])])
def test_no_more_are_computed_at_once_than_the_cache_holds(make_configs, monkeypatch, fit, sizes):
    """Six runs, in parts of one size; runs of which few fit are trained alone."""
    configs = make_configs(*TINY, "train.steps=1", different=[(f"seed={seed}",) for seed in range(6)])
    seen = []
    real = stacked.Stack.step
    monkeypatch.setattr(stacked, "TOKENS", fit * 8 * 8)
    monkeypatch.setattr(
        stacked.Stack, "step", lambda stack, batches: (seen.append(len(batches)), real(stack, batches))[1]
    )
    train_together([turns(config) for config in configs])
    assert seen == sizes
    assert states(configs) == ["done"] * 6


def test_moments_are_handed_back(make_configs):
    """What a stacked run saves is what it would have saved alone."""
    configs = make_configs(*TINY, different=DIFFERENT[:2])
    moved = [config.model_copy(update={"output": config.output / "alone"}) for config in configs]
    with pytest.raises(Cancelled):
        train_together([turns(configs[0]), turns(configs[1], raise_at(4, Cancelled))])
    for config in moved:
        with pytest.raises(Cancelled):
            finetune(config, folder_of(config), on_step=raise_at(4, Cancelled))
    for ours, theirs in zip(configs, moved, strict=True):
        mine, other = (load_file(folder_of(config).resume) for config in (ours, theirs))
        assert mine.keys() == other.keys()
        assert int(mine["step.lm_head.weight"]) == 3
        for name in mine.keys() - {"random.cpu"}:
            torch.testing.assert_close(mine[name], other[name], atol=1e-4 if "weight." in name else 1e-6, rtol=0)
