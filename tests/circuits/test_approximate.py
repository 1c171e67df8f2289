"""Attribution patching, against numerical derivatives of the model under hooks."""

from __future__ import annotations

from functools import partial
from typing import get_args

import pytest
import torch
from transformer_lens.utilities import get_act_name

from mi_sweeps.circuits.approximate import estimate
from mi_sweeps.circuits.families import describe
from mi_sweeps.circuits.reference import wrap
from mi_sweeps.config import Site

SITES = get_args(Site)
STEP = 1e-3


@pytest.mark.parametrize("heads", ["all", "end"])
def test_estimates_are_derivatives_along_the_change(random_model, mini_tokenizer, make_test_pairs, patching, heads):
    """In 64 bits: (LD(corrupted + h change) - LD(corrupted - h change)) / 2h, one site at a time."""
    pairs = make_test_pairs("second", count=2)
    estimated = estimate(describe(random_model), pairs, patching(*SITES, heads=heads))
    bridge = wrap(random_model.double(), mini_tokenizer)
    ends = pairs.clean.end
    with torch.no_grad():
        _, clean = bridge.run_with_cache(pairs.clean.tokens)
        _, corrupted = bridge.run_with_cache(pairs.corrupted.tokens)
        for site in SITES:
            if site in ("q", "k") and bridge.blocks[0].attn.submodules.get("q_norm"):
                continue  # the estimate is for what comes after that normalisation, the hook before it
            name = get_act_name(site, 1)
            change = clean[name] - corrupted[name]
            for place in (0, estimated.sites[site].shape[1] - 1):
                part = torch.zeros_like(change)
                for row, end in enumerate(ends.tolist()):
                    if site in ("resid_pre", "attn_out", "mlp_out"):
                        role = estimated.roles[place]
                        if role in pairs.clean.roles[row]:
                            column = pairs.clean.roles[row].index(role)
                            part[row, column] = change[row, column]
                    elif site == "pattern":
                        queries = slice(end, end + 1) if heads == "end" else slice(0, end + 1)
                        part[row, place, queries] = change[row, place, queries]
                    else:
                        columns = slice(end, end + 1) if heads == "end" else slice(0, end + 1)
                        part[row, columns, place] = change[row, columns, place]
                high, low = (difference(bridge, pairs, name, part * sign * STEP) for sign in (1, -1))
                expected = (high - low) / (2 * STEP)
                found = estimated.sites[site][1, place].double() - estimated.corrupted.double()
                torch.testing.assert_close(found.nan_to_num(), expected, atol=2e-4, rtol=1e-3, msg=f"{site} {place}")


def difference(bridge, pairs, name, change):
    logits = pairs.at_end(
        bridge.run_with_hooks(pairs.corrupted.tokens, fwd_hooks=[(name, partial(add, change=change))])
    )
    return pairs.contrast.of(logits.double())


def add(activation, hook, *, change):
    return activation + change


def test_groups_of_prompts_change_nothing(random_model, make_test_pairs, patching):
    pairs, sites = make_test_pairs("both"), patching(*SITES)
    network = describe(random_model)
    together, apart = estimate(network, pairs, sites), estimate(network, pairs, sites, prompts=2)
    for site in SITES:
        torch.testing.assert_close(together.sites[site], apart.sites[site], atol=1e-5, rtol=0, equal_nan=True)


def test_the_model_keeps_no_gradient(random_model, make_test_pairs, patching):
    estimate(describe(random_model), make_test_pairs("first"), patching("z"))
    assert all(parameter.grad is None for parameter in random_model.parameters())
