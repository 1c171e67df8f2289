"""Kinds of runs: training from scratch, losses of batches, and runs that diverge."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel, Trainer

from mi_sweeps.config import Config
from mi_sweeps.errors import UserError
from mi_sweeps.identity import patch_id, run_id
from mi_sweeps.jobs.finetune import finetune as job
from mi_sweeps.jobs.patch import patch
from mi_sweeps.store.endings import Diverged
from mi_sweeps.store.files import read_table
from mi_sweeps.store.folders import run_folder
from mi_sweeps.sweeps import plan, show
from mi_sweeps.sweeps.grid import expand
from mi_sweeps.tasks.tokens import Batch
from mi_sweeps.training import loop
from mi_sweeps.training.loop import finetune
from mi_sweeps.training.run import MEAN_OF, RECORD_EVERY, TrainingState, parameter_groups

Make = Callable[..., Config]

SCRATCH = (
    *("model=nope", "model.layers=1", "model.heads=2", "model.d_model=16", "model.d_head=8"),
    *("task=previous_token", "task.d_vocab=8", "task.length=8", "task.heldout=12", "corruption=previous"),
    *("train.steps=30", "train.batch_size=4", "checkpoint.every=10", "checkpoint.steps=[]", "optim.lr=1e-3"),
    *("patching=heads", "patching.prompts=4"),
)
"""A model that is trained from nothing within a second."""


def test_what_decays_is_what_decays_in_a_trainer(random_model: PreTrainedModel) -> None:
    decaying, others = parameter_groups(random_model.parameters(), 0.1)
    assert (decaying["weight_decay"], others["weight_decay"]) == (0.1, 0)
    names = Trainer.get_decay_parameter_names(None, random_model)  # type: ignore[arg-type]
    assert set(decaying["params"]) == {random_model.get_parameter(name) for name in names}
    assert len(decaying["params"]) + len(others["params"]) == len(list(random_model.parameters()))


def batch_losses(folder: Any) -> list[float]:
    rows = read_table(folder.metrics).to_pylist()
    return [row["value"] for row in rows if row["split"] == "batch"]


def scripted(losses: Callable[[int], float]) -> Callable[[TrainingState, Batch], None]:
    """A training step whose loss is given and that trains nothing."""
    return lambda run, batch: run.losses.append(torch.tensor(losses(run.step)))


def test_from_nothing_a_seed_is_another_model_and_the_same_seed_the_same(make_config: Make) -> None:
    found = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        folder = run_folder(make_config().output, name)
        finetune(make_config(*SCRATCH, f"seed={seed}"), folder)
        found.append((batch_losses(folder), folder.checkpoint(0).read_bytes(), folder.checkpoint(30).read_bytes()))
    assert found[0] == found[1]
    assert all(one != other for one, other in zip(found[0], found[2], strict=True))
    assert len(found[0][0]) == 30
    assert found[0][0][0] == pytest.approx(math.log(8), abs=0.2), "it knows nothing at first"


def test_two_layers_learn_the_previous_token_and_one_does_not(make_config: Make) -> None:
    """The experiment in small. One layer can copy tokens, but it cannot know which was the last."""
    sizes = ("model.heads=2", "model.d_model=32", "model.d_head=16", "task.d_vocab=16", "task.length=10")
    train = ("task.heldout=64", "train.batch_size=32", "train.steps=150", "checkpoint.every=150", "optim.lr=1e-2")
    reached = {}
    for layers in (1, 2):
        config = make_config(*SCRATCH, *sizes, *train, "schedule=constant", f"model.layers={layers}")
        finetune(config, folder := run_folder(config.output, str(layers)))
        rows = read_table(folder.metrics).to_pylist()
        reached[layers] = {
            row["step"]: row["value"] for row in rows if (row["split"], row["metric"]) == ("heldout", "accuracy")
        }
    assert reached[1][0] < 0.15 and reached[2][0] < 0.15, "chance is 1/15"
    assert reached[1][150] < 0.6
    assert reached[2][150] > 0.9


def test_an_interrupted_run_from_nothing_ends_with_the_same_bits(make_config: Make) -> None:
    config = make_config(*SCRATCH)
    whole, broken = run_folder(config.output, "whole"), run_folder(config.output, "broken")
    finetune(config, whole)

    class Stop(Exception):
        pass

    def stop(step: int) -> None:
        if step == 25:
            raise Stop

    with pytest.raises(Stop):
        finetune(config, broken, on_step=stop)
    finetune(config, broken)
    assert whole.checkpoint(30).read_bytes() == broken.checkpoint(30).read_bytes()
    assert read_table(whole.metrics).equals(read_table(broken.metrics))


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("at", [1, 9, 10, 27])
def test_a_loss_that_is_not_finite_ends_the_run(
    make_config: Make, monkeypatch: pytest.MonkeyPatch, value: float, at: int
) -> None:
    config = make_config(*SCRATCH)
    folder = run_folder(config.output, "run")
    monkeypatch.setattr(loop, "train_step", scripted(lambda step: value if step >= at else 2.0))
    with pytest.raises(Diverged) as result:
        finetune(config, folder)
    assert result.value.step == at
    assert batch_losses(folder) == [2.0] * at
    kept = [step for step in (0, 10, 20) if step <= at]
    assert sorted(path.name for path in folder.checkpoint(0).parent.iterdir()) == [f"{s:06d}.safetensors" for s in kept]


def test_a_loss_that_stays_far_above_the_first_ends_the_run(make_config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_config(*SCRATCH, "train.diverged=2.0", "train.steps=60")
    monkeypatch.setattr(loop, "train_step", scripted(lambda step: 3.0 if step < 25 else 15.0))
    with pytest.raises(Diverged) as result:
        finetune(config, run_folder(config.output, "run"))
    # Of the last MEAN_OF losses the third 15.0 makes a mean of 6.6.
    assert MEAN_OF == 10
    assert result.value.step == 27
    config = make_config(*SCRATCH, "train.diverged=null", "train.steps=60")
    finetune(config, run_folder(config.output, "unlimited"))


@pytest.mark.parametrize("at", [1, 5, MEAN_OF - 1, RECORD_EVERY])
def test_one_bad_batch_is_a_spike_and_no_end(make_config: Make, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    config = make_config(*SCRATCH, "train.diverged=3.0", f"train.steps={2 * RECORD_EVERY}")
    monkeypatch.setattr(loop, "train_step", scripted(lambda step: 40.0 if step == at else 3.0))
    finetune(config, run_folder(config.output, "run"))


def test_a_model_that_knows_its_task_at_first_may_forget_it(make_config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guessing is no divergence, however small the first loss was; what is far worse than guessing is."""
    config = make_config(*SCRATCH, "train.diverged=3.0", "train.steps=40")
    monkeypatch.setattr(loop, "train_step", scripted(lambda step: 0.01 if step < 5 else 2 * math.log(8)))
    finetune(config, run_folder(config.output, "guesses"))
    monkeypatch.setattr(loop, "train_step", scripted(lambda step: 0.01 if step < 5 else 4 * math.log(8)))
    with pytest.raises(Diverged):
        finetune(config, run_folder(config.output, "worse"))


def test_a_sweep_takes_divergence_as_a_result(tmp_path: Any) -> None:
    """With a learning rate of a million the weights are of no use at once; the others go on, and nothing is to do."""
    points = expand([*SCRATCH, "optim.lr=1e-3,1e6", "train.diverged=1.5", f"output={tmp_path}"])
    for point in points:
        config = point.config
        run = run_folder(config.output, run_id(config))
        job(config, run)
        patch(config, run, run.patch(patch_id(config)))
    made = plan.make(points)
    good, bad = (made.runs[point.run_id] for point in points)
    assert (good.state, good.diverged) == ("done", None)
    assert bad.state == "done"
    assert bad.diverged is not None
    assert made.is_done
    assert made.to_do(("error",)) == 0
    assert show.summary(made) == "2 fine-tunes (1 done, 1 diverged), 2 patch jobs (2 done)"
    tables = run_folder(points[1].output, points[1].run_id).patch(points[1].patch_id).path / "tables"
    steps = [int(path.stem) for path in tables.iterdir()]
    assert steps
    assert max(steps) < bad.diverged


def test_a_model_that_lacks_the_tasks_tokens_is_refused(make_config: Make) -> None:
    config = make_config(*SCRATCH, "model.d_vocab=7")
    with pytest.raises(UserError, match=r"task: uses token 7, but the model's vocabulary has 7"):
        finetune(config, run_folder(config.output, "run"))


def test_text_needs_a_tokenizer(make_config: Make) -> None:
    config = make_config("model=nope", "model.d_vocab=64")
    with pytest.raises(UserError, match=r"task: its prompts are text, but the model has no tokenizer; use .*"):
        finetune(config, run_folder(config.output, "run"))


def test_numbers_need_none(make_config: Make) -> None:
    """A pretrained model takes a task of token numbers too."""
    given = [override for override in SCRATCH if not override.startswith("model")]
    config = make_config(*given, "train.steps=2", "checkpoint.every=2")
    folder = run_folder(config.output, "run")
    finetune(config, folder)
    metrics = {row["metric"] for row in read_table(folder.metrics).to_pylist()}
    assert {"accuracy", "win_rate", "logit_diff_replaced"} <= metrics
