from __future__ import annotations

import errno

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from mi_sweeps.errors import UserError
from mi_sweeps.training import checkpoints
from mi_sweeps.training.checkpoints import load_weights, save_weights

BASE = {"a": torch.tensor([1.0, 2.0, 3.0]), "b": torch.ones(2, 2)}


def nudged(amount: float) -> dict[str, torch.Tensor]:
    return {name: tensor + amount for name, tensor in BASE.items()}


def test_full_checkpoints_come_back_bit_for_bit(tmp_path):
    weights = nudged(1e-7)
    save_weights(tmp_path / "w.safetensors", weights, BASE, "full")
    loaded = {name: torch.zeros_like(tensor) for name, tensor in BASE.items()}
    load_weights(tmp_path / "w.safetensors", loaded, BASE)
    assert all(torch.equal(weights[name], loaded[name]) for name in BASE)


def test_a_delta_is_half_the_size_and_precise_in_the_change(tmp_path):
    torch.manual_seed(0)
    base = {"a": torch.randn(100, 100)}
    weights = {"a": base["a"] + 1e-3 * torch.randn(100, 100)}
    save_weights(tmp_path / "full.safetensors", weights, base, "full")
    save_weights(tmp_path / "delta.safetensors", weights, base, "delta")
    loaded = {"a": torch.zeros(100, 100)}
    load_weights(tmp_path / "delta.safetensors", loaded, base)
    # bf16 has 8 bits: the error is a 256th of the change, where bf16 weights would lose it altogether.
    change = (weights["a"] - base["a"]).abs()
    assert ((loaded["a"] - weights["a"]).abs() <= change / 256 + 1e-7).all()
    assert (tmp_path / "delta.safetensors").stat().st_size < 0.51 * (tmp_path / "full.safetensors").stat().st_size


def test_step_zero_of_a_delta_is_the_base_model(tmp_path):
    save_weights(tmp_path / "w.safetensors", BASE, BASE, "delta")
    loaded = nudged(1)
    load_weights(tmp_path / "w.safetensors", loaded, BASE)
    assert all(torch.equal(BASE[name], loaded[name]) for name in BASE)


@pytest.mark.parametrize("kept", [0, 10, 200])
def test_a_truncated_checkpoint_is_named(tmp_path, kept):
    file = tmp_path / "000008.safetensors"
    save_weights(file, {"a": torch.randn(100)}, {}, "full")
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(UserError, match="000008.safetensors: damaged .*; delete it and run the sweep again"):
        load_weights(file, {"a": torch.zeros(100)}, {})


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(UserError, match="000008.safetensors: missing; run the sweep again"):
        load_weights(tmp_path / "000008.safetensors", {}, {})


def test_weights_of_another_model_are_refused(tmp_path):
    save_weights(tmp_path / "w.safetensors", BASE, BASE, "full")
    with pytest.raises(UserError, match="is from another model"):
        load_weights(tmp_path / "w.safetensors", {"c": torch.zeros(1)}, {})


def test_others_may_read_a_checkpoint(tmp_path):
    (tmp_path / "checkpoints").mkdir(mode=0o755)
    save_weights(tmp_path / "checkpoints" / "w.safetensors", BASE, BASE, "full")
    assert (tmp_path / "checkpoints" / "w.safetensors").stat().st_mode & 0o777 == 0o644


def test_a_full_disk_is_an_operating_system_error(tmp_path, monkeypatch):
    def full(*args):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(OSError) as error:
        save_weights(tmp_path / "w.safetensors", BASE, BASE, "full")
    assert error.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("storage", ["full", "delta"])
def test_a_checkpoint_with_another_byte_is_refused(tmp_path, storage):
    file = tmp_path / "000008.safetensors"
    save_weights(file, nudged(0.5), BASE, storage)
    content = file.read_bytes()
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 1 + place % 255
        file.write_bytes(damaged)
        with pytest.raises(UserError, match="000008.safetensors: damaged"):
            load_weights(file, nudged(0), BASE)


def test_checkpoints_of_earlier_versions_are_read(tmp_path):
    save_file(nudged(1), tmp_path / "w.safetensors", {"storage": "full"})
    loaded = nudged(0)
    load_weights(tmp_path / "w.safetensors", loaded, BASE)
    assert all(torch.equal(nudged(1)[name], loaded[name]) for name in BASE)
