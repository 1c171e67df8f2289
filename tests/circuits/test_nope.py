"""Patching models without positional embeddings: the fast engine against plain hooks on the model itself."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from mi_sweeps.circuits.attribution import lens_error
from mi_sweeps.circuits.families import describe
from mi_sweeps.circuits.fast import FastEngine
from mi_sweeps.config import Site
from mi_sweeps.training.evaluate import end_logits

SITES = get_args(Site)


@pytest.mark.parametrize("corruption", ["previous", "earlier"])
@pytest.mark.parametrize("d_mlp", [None, 24], ids=["attention-only", "mlp"])
@torch.no_grad()
def test_patches_are_those_of_plain_hooks(make_nope, make_sequences, hooked, patching, corruption, d_mlp):
    model = make_nope(layers=3, d_mlp=d_mlp)
    pairs = make_sequences().pairs(corruption, 5)
    sites = [site for site in SITES if d_mlp or site != "mlp_out"]
    found = FastEngine(describe(model)).patch(pairs, patching(*sites))
    plain = hooked(model)
    _, clean = plain.run(pairs.clean.tokens)
    for site in sites:
        at_position = site in ("resid_pre", "attn_out", "mlp_out")
        for layer in range(plain.n_layers):
            for place in range(pairs.clean.tokens.shape[1] if at_position else plain.n_heads):
                heads_first = at_position or site == "pattern"
                where = (slice(None), place) if heads_first else (slice(None), slice(None), place)

                def change(value, where=where, source=clean[site, layer]):
                    value = value.clone()
                    value[where] = source[where]
                    return value

                logits, _ = plain.run(pairs.corrupted.tokens, {(site, layer): change})
                expected = pairs.logit_diff(logits[:, -1])
                torch.testing.assert_close(
                    found.sites[site][layer, place], expected, atol=1e-5, rtol=0, msg=f"{site} {layer} {place}"
                )
        assert (found.sites[site] != found.corrupted).any(), "the test would see nothing otherwise"


@pytest.mark.parametrize("d_mlp", [None, 24], ids=["attention-only", "mlp"])
def test_the_description_is_the_model(make_nope, make_sequences, d_mlp):
    model = make_nope(d_mlp=d_mlp)
    pairs = make_sequences().pairs("previous", 5)
    with torch.no_grad():
        assert lens_error(FastEngine(describe(model)).at_end(pairs), end_logits(model, pairs.clean)) < 1e-5
    assert describe(model).has_mlps == (d_mlp is not None)
