"""An MLP recomputed for one head's change: the same output, for less."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mi_sweeps.circuits import narrow as module
from mi_sweeps.circuits.families import describe
from mi_sweeps.circuits.narrow import Narrow, applies
from mi_sweeps.circuits.paired_runs import run_both
from mi_sweeps.circuits.propagate import Group


@pytest.fixture(autouse=True)
def small_ones_too(monkeypatch):
    monkeypatch.setattr(module, "LEAST", 0)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@torch.no_grad()
def test_the_mlp_after_one_head_equals_the_whole_mlp_and_takes_fewer_products(name, make_model, make_short_pairs):
    network, pairs = describe(make_model(name)), make_short_pairs("second")
    run, block = run_both(network, pairs).corrupted, network.blocks[1]
    group = Group(torch.arange(3), 4)
    narrow, heads, d_head = Narrow.of(run), slice(2, 3), len(block.combine.weight) // block.n_heads
    assert applies(block, 1) and not applies(block, block.n_heads)
    # As many changes as there are slices and one more.
    z = torch.randn(3, 500, 4, d_head)
    resid = run.with_heads_changed(1, group.prompts, z @ block.W_O[heads].flatten(0, 1))
    whole, found = resid.clone(), resid.clone()
    with FlopCounterMode(display=False) as plain:
        whole += block.mlp_written(block.mlp_norm(whole))
    shared = narrow.of_run(1, group, 4), narrow.of_heads(1, 2, 3)
    with FlopCounterMode(display=False) as counted:
        narrow.add_mlp(block, *shared, z, found)
    torch.testing.assert_close(found, whole, atol=1e-5, rtol=1e-5)
    assert (whole - resid).abs().max() > 0.01, "the MLP does something"
    # `addmm_` is not among the products that are counted: its share is that of d_head in d_model.
    assert counted.get_total_flops() < 0.55 * plain.get_total_flops()
    assert narrow.of_run(1, group, 4) is shared[0], "computed once"


def test_it_does_not_apply_to_norms_between_heads_and_mlp_or_parallel_mlps(make_model):
    assert not applies(describe(make_model("gpt_neox")).blocks[0], 1), "the MLP does not read what heads write"
    assert not applies(describe(make_model("gemma2")).blocks[0], 1), "what heads write is normalised together"
