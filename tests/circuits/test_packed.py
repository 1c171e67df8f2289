"""Weights in oneDNN's layout, against the same weights in the usual one."""

from __future__ import annotations

import pytest
import torch

from mi_sweeps.circuits import packed
from mi_sweeps.circuits.families import describe
from mi_sweeps.circuits.families.activations import ACTIVATIONS
from mi_sweeps.circuits.fast import FastEngine
from mi_sweeps.circuits.network import Linear
from mi_sweeps.circuits.packed import PackedLinear, pack

pytestmark = pytest.mark.skipif(
    not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")),
    reason="this PyTorch has no oneDNN",
)


@pytest.fixture
def every_matrix(monkeypatch):
    """Also those that are too small to gain anything."""
    monkeypatch.setattr(packed, "LEAST", 0)


def equal(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def a_linear(bias: bool) -> Linear:
    torch.manual_seed(0)
    # A part of a larger matrix, as queries are.
    return Linear(torch.randn(32, 96)[:, 16:64], torch.randn(48) if bias else None)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", [None, *ACTIVATIONS])
@torch.no_grad()
def test_a_packed_map_is_the_map(every_matrix, bias, name):
    linear = a_linear(bias)
    ours, then = packed._pack(linear), name and ACTIVATIONS[name]
    assert isinstance(ours, PackedLinear)
    x = 3 * torch.randn(2, 7, 32)
    equal(ours(x, then=then), linear(x, then=then))


@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_a_packed_map_is_added_in_place(every_matrix, bias):
    linear = a_linear(bias)
    x, total = torch.randn(7, 32), torch.randn(7, 48)
    expected = total + linear(x)
    packed._pack(linear).add_to(total, x)
    equal(total, expected)


def test_small_matrices_stay_as_they_are(make_model):
    network = describe(make_model("gpt2"))
    assert pack(network) == network


@pytest.mark.filterwarnings("ignore:TF32")  # PyTorch's own, whenever the flags are set
def test_without_onednn_nothing_is_packed(make_model, every_matrix):
    network = describe(make_model("gpt2"))
    with torch.backends.mkldnn.flags(enabled=False):
        assert pack(network) is network


def test_the_engine_is_as_exact_with_packed_matrices(
    make_model, family, make_short_pairs, patching, every_matrix, monkeypatch
):
    engine = FastEngine(describe(make_model(family)))
    sites = patching("resid_pre", "attn_out", "mlp_out", "z", "q", "k", "v", "pattern")
    pairs = make_short_pairs("second")
    ours = engine.patch(pairs, sites)
    monkeypatch.setattr(packed, "LEAST", 1 << 40)
    theirs = engine.patch(pairs, sites)
    equal(ours.corrupted, theirs.corrupted)
    for site, values in theirs.sites.items():
        torch.testing.assert_close(ours.sites[site], values, atol=1e-5, rtol=0, equal_nan=True)


def test_weights_that_change_between_checkpoints_are_packed_again(make_model, make_short_pairs, patching, every_matrix):
    model = make_model("gpt2")
    engine, pairs = FastEngine(describe(model)), make_short_pairs("second")
    before = engine.patch(pairs, patching("z"))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    after = engine.patch(pairs, patching("z"))
    anew = FastEngine(describe(model)).patch(pairs, patching("z"))
    assert not torch.equal(before.sites["z"], after.sites["z"])
    assert torch.equal(after.sites["z"], anew.sites["z"])
