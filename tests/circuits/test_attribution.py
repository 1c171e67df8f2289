"""Attribution of both engines, against the logit difference and against folded weights."""

from __future__ import annotations

import pytest
import torch

from mi_sweeps.circuits.attribution import attribute, check_lens
from mi_sweeps.circuits.fast import FastEngine
from mi_sweeps.circuits.network import describe
from mi_sweeps.circuits.reference import ReferenceEngine, wrap
from mi_sweeps.errors import UserError
from mi_sweeps.training.evaluate import end_logits


@pytest.fixture
def own_logits(random_model):
    """Asked for before the model is wrapped."""

    def of(pairs):
        with torch.no_grad():
            return end_logits(random_model, pairs.clean)

    return of


@pytest.mark.parametrize("corruption", ["first", "second", "both"])
def test_terms_add_up_to_the_logit_difference(own_logits, random_model, mini_tokenizer, make_test_pairs, corruption):
    pairs = make_test_pairs(corruption)
    expected = pairs.logit_diff(own_logits(pairs)).mean().item()
    for engine in (FastEngine(describe(random_model)), ReferenceEngine(wrap(random_model, mini_tokenizer))):
        rows = attribute(engine.at_end(pairs), pairs)
        total = sum(row["logit_diff"] for row in rows if row["kind"] == "layer")
        lens = {(row["component"], row["layer"]): row["logit_diff"] for row in rows if row["kind"] == "lens"}
        assert total == pytest.approx(expected, abs=1e-4)
        assert lens[("resid_post", 1)] == pytest.approx(expected, abs=1e-4)
        layers = {(row["component"], row["layer"]): row["logit_diff"] for row in rows if row["kind"] == "layer"}
        for layer in (0, 1):
            step = lens[("resid_mid", layer)] - lens[("resid_pre", layer)]
            assert step == pytest.approx(layers[("attn", layer)], abs=1e-4)


def test_both_engines_attribute_alike(random_model, mini_tokenizer, make_test_pairs):
    pairs = make_test_pairs("second", count=12)
    fast = attribute(FastEngine(describe(random_model), memory=1).at_end(pairs), pairs)
    reference = attribute(ReferenceEngine(wrap(random_model, mini_tokenizer)).at_end(pairs), pairs)
    assert [{**row, "logit_diff": None} for row in fast] == [{**row, "logit_diff": None} for row in reference]
    assert [row["logit_diff"] for row in fast] == pytest.approx([row["logit_diff"] for row in reference], abs=1e-5)


def test_heads_equal_those_of_folded_and_centred_weights(random_model, mini_tokenizer, make_test_pairs):
    """TransformerLens's compatibility mode folds the normalisations and value biases away; we take them off."""
    pairs = make_test_pairs("first", one_length=True)
    rows = [row for row in attribute(FastEngine(describe(random_model)).at_end(pairs), pairs) if row["kind"] == "head"]
    bridge = wrap(random_model, mini_tokenizer)
    bridge.enable_compatibility_mode()
    with torch.no_grad():
        logits, cache = bridge.run_with_cache(pairs.clean.tokens)
        tokens, weights = pairs.tokens_and_weights()
        direction = torch.einsum("dpt,t->pd", bridge.W_U[:, tokens], weights) / cache["ln_final.hook_scale"][:, -1]
        for row in rows:
            z = cache[f"blocks.{row['layer']}.attn.hook_z"][:, -1, row["head"]]
            theirs = ((z @ bridge.blocks[row["layer"]].attn.W_O[row["head"]]) * direction).sum(-1).mean().item()
            assert row["logit_diff"] == pytest.approx(theirs, abs=2e-4)


def test_the_engine_is_checked_against_the_model_s_own_logits(
    own_logits, random_model, mini_tokenizer, make_test_pairs
):
    pairs = make_test_pairs("first")
    logits = own_logits(pairs)
    for engine in (FastEngine(describe(random_model)), ReferenceEngine(wrap(random_model, mini_tokenizer))):
        end = engine.at_end(pairs)
        assert check_lens(end, logits) < 1e-4
        with pytest.raises(UserError, match="patching: logits differ by 1.0e-02"):
            check_lens(end, logits + 0.01)
