from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch

from mi_sweeps import cli
from mi_sweeps.models.load import load_model
from mi_sweeps.store.folders import run_folder
from mi_sweeps.sweeps import memory
from mi_sweeps.sweeps.grid import expand
from mi_sweeps.training.loop import train_step
from mi_sweeps.training.run import begin


@pytest.fixture
def saved(make_model, mini_tokenizer, tmp_path):
    """Overrides for a model of some sizes, saved in a folder."""

    def save(name: str, **sizes: object) -> tuple[str, ...]:
        make_model(name, **sizes).save_pretrained(tmp_path / "model")
        mini_tokenizer.save_pretrained(tmp_path / "model")
        return ("model=local", f"model.path={tmp_path / 'model'}")

    return save


@pytest.mark.parametrize("overrides", [(), ("model=nope", "task=previous_token", "corruption=previous")])
def test_parameters_are_counted(make_config, overrides):
    config = make_config(*overrides)
    model, _ = load_model(config.model)
    sizes = memory.read(config.model)
    biases = sum(weight.numel() for weight in model.parameters() if weight.dim() < 2)
    assert sizes.parameters <= sum(weight.numel() for weight in model.parameters()) <= sizes.parameters + biases


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("gpt2", {"n_embd": 512, "n_layer": 3, "n_head": 8}),
        ("gpt2", {"n_embd": 128, "n_layer": 4, "n_head": 4, "attn_pdrop": 0.1}),
        ("llama", {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 3}),
    ],
)
@pytest.mark.parametrize("again", [False, True])
def test_activations_are_what_pytorch_keeps(saved, make_config, name, options, again):
    """Counted by its own hooks, and rather too many than too few."""
    config = make_config(*saved(name, **options), f"train.gradient_checkpointing={again}", "train.batch_size=8")
    model, _ = load_model(config.model)
    model.train()
    if again:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    own = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    tokens = torch.zeros(8, memory.LENGTH, dtype=torch.long)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        hidden = model.base_model(input_ids=tokens, use_cache=False).last_hidden_state
    found = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    del hidden
    estimated = memory._activations(memory.read(config.model), config, 8)
    if again:  # Beside what is kept, some layers are there while they are computed again.
        assert found < estimated
        deep = replace(memory.read(config.model), layers=24)
        whole = config.model_copy(update={"train": config.train.model_copy(update={"gradient_checkpointing": False})})
        assert memory._activations(deep, config, 8) < 0.3 * memory._activations(deep, whole, 8)
    else:
        assert found < estimated < 2 * found


@pytest.mark.parametrize("override", ["method=full", "method=lora", "only=attention", "only=norms", "weights=bf16"])
def test_weights_gradients_and_moments(make_config, small, monkeypatch, override):
    """Against the tensors that there are after a step."""
    monkeypatch.setattr(memory, "_activations", lambda *_: 0.0)
    monkeypatch.setattr(memory, "_forward", lambda *_: 0.0)
    config = make_config(*small, f"train.{override}")
    run = begin(config, run_folder(config.output, "run"))
    train_step(run, run.batch())
    learned = list(run.trainable.learned.values())
    there = {id(weight): weight for weight in [*run.model.parameters(), *learned]}
    tensors = [*there.values(), *(weight.grad for weight in learned)]
    tensors += [value for state in run.optimizer.state.values() for value in state.values()]
    found = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    estimated = memory.finetune(memory.read(config.model), config).working
    copied = 4 * sum(weight.numel() for weight in run.model.parameters())  # of what a checkpoint has, to be written
    assert found <= 1.001 * estimated
    assert estimated < 1.2 * (found + copied)


def messages(*overrides: str, **there: float) -> list[str]:
    return list(memory.lines(expand([*overrides, "launcher.device=cpu"]), **there))


def test_a_plan_says_how_much_and_warns(saved, capsys):
    model = saved("gpt2", n_embd=256, n_layer=4)
    (line,) = messages(*model, "optim.lr=1e-4,1e-3")
    assert re.fullmatch(r"memory: about 0\.\d GB for a fine-tune and 1\.\d GB for a patch job", line)
    _, warning, *_ = messages(*model, "train.batch_size=512", machine=7e8)
    assert warning.startswith("warning: a fine-tune may take 4.")
    assert "but this machine has 0.7 GB; a fine-tune takes 1." in warning
    assert "GB with train.micro_batch=128, 3." in warning
    assert "train.gradient_checkpointing=true" in warning
    _, warning = messages(*model, "launcher=local", "launcher.workers=3", "patching.memory=1", machine=2e9)[:2]
    assert warning.startswith("warning: 3 at once may take 2.")
    slurm = messages(*model, "launcher=slurm", "launcher.memory=100M")
    assert sum("but launcher.memory=100M" in line for line in slurm) == 2
    assert any(
        "the GPU has 0.1 GB" in line and "train.weights=bf16" in line
        for line in messages(*model, "train.batch_size=512", gpu=1e7)
    )
    with pytest.raises(SystemExit):
        cli.main(["plan", *model])
    assert "memory: about 0." in capsys.readouterr().out


def test_less_memory_is_estimated_if_less_is_trained(saved):
    model = saved("gpt2", n_embd=256, n_layer=4)
    (whole, lora, only, halves) = (
        memory.finetune(memory.read(point.config.model), point.config)
        for override in ("train.method=full", "train.method=lora", "train.only=layers:3-", "train.micro_batch=2")
        for point in expand([*model, override])
    )
    assert max(lora.working, only.working, halves.working) < whole.working
    assert replace(whole, host=0).total == whole.working


def test_a_model_that_is_not_here_has_no_line(saved, tmp_path):
    model = saved("gpt2")
    (tmp_path / "model" / "model.safetensors").unlink()
    assert messages(*model) == []
