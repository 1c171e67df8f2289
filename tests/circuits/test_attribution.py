from __future__ import annotations

import pytest
import torch

from mi_sweeps.circuits.attribution import attribute, check_lens
from mi_sweeps.circuits.reference import wrap
from mi_sweeps.errors import UserError
from mi_sweeps.training.evaluate import end_logits


@pytest.mark.parametrize("corruption", ["first", "second", "both"])
def test_terms_add_up_to_the_logit_difference(random_model, mini_tokenizer, make_test_pairs, corruption):
    pairs = make_test_pairs(corruption)
    with torch.no_grad():
        expected = pairs.logit_diff(end_logits(random_model, pairs.clean)).mean().item()
    rows = attribute(wrap(random_model, mini_tokenizer), pairs)
    total = sum(row["logit_diff"] for row in rows if row["kind"] == "layer")
    lens = {(row["component"], row["layer"]): row["logit_diff"] for row in rows if row["kind"] == "lens"}
    assert total == pytest.approx(expected, abs=1e-4)
    assert lens[("resid_post", 1)] == pytest.approx(expected, abs=1e-4)
    layers = {(row["component"], row["layer"]): row["logit_diff"] for row in rows if row["kind"] == "layer"}
    for layer in (0, 1):
        step = lens[("resid_mid", layer)] - lens[("resid_pre", layer)]
        assert step == pytest.approx(layers[("attn", layer)], abs=1e-4)


def test_heads_equal_those_of_folded_and_centred_weights(random_model, mini_tokenizer, make_test_pairs):
    """TransformerLens's compatibility mode folds the normalisations and value biases away; we take them off."""
    pairs = make_test_pairs("first", one_length=True)
    bridge = wrap(random_model, mini_tokenizer)
    rows = [row for row in attribute(bridge, pairs) if row["kind"] == "head"]
    bridge.enable_compatibility_mode()
    with torch.no_grad():
        logits, cache = bridge.run_with_cache(pairs.clean.tokens)
        tokens, weights = pairs.tokens_and_weights()
        direction = torch.einsum("dpt,t->pd", bridge.W_U[:, tokens], weights) / cache["ln_final.hook_scale"][:, -1]
        for row in rows:
            z = cache[f"blocks.{row['layer']}.attn.hook_z"][:, -1, row["head"]]
            theirs = ((z @ bridge.blocks[row["layer"]].attn.W_O[row["head"]]) * direction).sum(-1).mean().item()
            assert row["logit_diff"] == pytest.approx(theirs, abs=2e-4)


def test_lens_is_checked_against_the_model_s_own_logits(random_model, mini_tokenizer, make_test_pairs):
    pairs = make_test_pairs("first")
    with torch.no_grad():
        logits = end_logits(random_model, pairs.clean)
    bridge = wrap(random_model, mini_tokenizer)
    assert check_lens(bridge, pairs, logits) < 1e-4
    with pytest.raises(UserError, match="logit lens: logits differ by 1.0e-02"):
        check_lens(bridge, pairs, logits + 0.01)
