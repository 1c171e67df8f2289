"""Attribution of both engines, against the logit difference and against folded weights."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from mi_sweeps.circuits import examine
from mi_sweeps.circuits.attribution import attribute, lens_error, misfits
from mi_sweeps.circuits.families import describe
from mi_sweeps.circuits.fast import FastEngine
from mi_sweeps.circuits.fidelity import OwnLogits
from mi_sweeps.circuits.reference import ReferenceEngine, wrap
from mi_sweeps.errors import UserError
from mi_sweeps.training import run
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


def test_every_prompt_s_terms_add_up_to_its_own_logit_difference(own_logits, random_model, make_test_pairs):
    """Also where prompts are computed some at a time."""
    pairs = make_test_pairs("second", count=12)
    expected = pairs.logit_diff(own_logits(pairs))
    rows = attribute(FastEngine(describe(random_model), memory=1).at_end(pairs), pairs)
    total = sum(torch.tensor(row["by_prompt"]) for row in rows if row["kind"] == "layer")
    torch.testing.assert_close(total, expected, atol=1e-4, rtol=0)
    lens = next(row for row in rows if (row["component"], row["layer"]) == ("resid_post", 1))
    torch.testing.assert_close(torch.tensor(lens["by_prompt"]), expected, atol=1e-4, rtol=0)
    assert expected.std() > 0.01, "prompts differ"
    for row in rows:
        assert len(row["by_prompt"]) == row["n"] == 12
        assert torch.tensor(row["by_prompt"]).mean().item() == pytest.approx(row["logit_diff"], abs=1e-6)


def test_both_engines_attribute_alike(random_model, mini_tokenizer, make_test_pairs):
    pairs = make_test_pairs("second", count=12)
    fast = attribute(FastEngine(describe(random_model), memory=1).at_end(pairs), pairs)
    reference = attribute(ReferenceEngine(wrap(random_model, mini_tokenizer)).at_end(pairs), pairs)
    values = {"logit_diff": None, "by_prompt": None}
    assert [row | values for row in fast] == [row | values for row in reference]
    for row, other in zip(fast, reference, strict=True):
        assert [row["logit_diff"], *row["by_prompt"]] == pytest.approx(
            [other["logit_diff"], *other["by_prompt"]], abs=2e-5
        )


def test_heads_equal_those_of_folded_and_centred_weights(random_model, mini_tokenizer, make_test_pairs):
    """TransformerLens's compatibility mode folds the normalisations and value biases away; we take them off."""
    pairs = make_test_pairs("first", one_length=True)
    rows = [row for row in attribute(FastEngine(describe(random_model)).at_end(pairs), pairs) if row["kind"] == "head"]
    bridge = wrap(random_model, mini_tokenizer)
    bridge.enable_compatibility_mode()
    with torch.no_grad():
        logits, cache = bridge.run_with_cache(pairs.clean.tokens)
        tokens, weights = pairs.contrast.tokens, pairs.contrast.weights
        direction = torch.einsum("dpt,pt->pd", bridge.W_U[:, tokens], weights) / cache["ln_final.hook_scale"][:, -1]
        for row in rows:
            z = cache[f"blocks.{row['layer']}.attn.hook_z"][:, -1, row["head"]]
            theirs = ((z @ bridge.blocks[row["layer"]].attn.W_O[row["head"]]) * direction).sum(-1)
            assert row["logit_diff"] == pytest.approx(theirs.mean().item(), abs=2e-4)
            assert row["by_prompt"] == pytest.approx(theirs.tolist(), abs=2e-4)


def test_the_engine_is_checked_against_the_model_s_own_logits(
    own_logits, random_model, mini_tokenizer, make_test_pairs
):
    pairs = make_test_pairs("first")
    logits = own_logits(pairs)
    for engine in (FastEngine(describe(random_model)), ReferenceEngine(wrap(random_model, mini_tokenizer))):
        end = engine.at_end(pairs)
        assert lens_error(end, logits) < 1e-4
        assert misfits(end, pairs, logits) == {}
        assert misfits(end, pairs, logits + 0.01)["lens"].startswith("logits differ by 1.0e-02")


def test_terms_that_do_not_add_up_are_left_out(own_logits, random_model, make_test_pairs):
    """A part of a block that is neither attention nor MLP, and heads whose outputs are not simply added."""
    pairs = make_test_pairs("first")
    logits = own_logits(pairs)
    end = FastEngine(describe(random_model)).at_end(pairs)
    partial = replace(end, mlp_out=end.mlp_out * 0.9)
    assert misfits(partial, pairs, logits).keys() == {"layer", "head"}
    assert {row["kind"] for row in attribute(partial, pairs, misfits(partial, pairs, logits))} == {"lens"}
    scaled = replace(end, heads=replace(end.heads, z=end.heads.z * 0.3))
    found = misfits(scaled, pairs, logits)
    assert (
        found.keys() == {"head"}
        and "the heads of layer 0 add up to the output of attention only within" in found["head"]
    )
    assert {row["kind"] for row in attribute(scaled, pairs, found)} == {"lens", "layer"}
    factor = torch.full_like(end.attn_out, 1 / 0.3)
    mended = replace(scaled, heads=replace(scaled.heads, scale=factor, constant_z=end.heads.constant_z * 0.3))
    assert misfits(mended, pairs, logits).keys() <= {"head"}


@pytest.fixture
def like_gpt2(mini_tokenizer):
    """What GPT-2's weights do to rounding: logits near -100 that are sums of large terms, and outlier dimensions."""
    torch.manual_seed(0)
    sizes = {"n_embd": 512, "n_layer": 2, "n_head": 4, "n_positions": 64, "initializer_range": 0.1}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(mini_tokenizer), attn_implementation="eager", **sizes)).eval()
    with torch.no_grad():
        model.transformer.wpe.weight[:, 3] += 300
        model.transformer.wpe.weight[:, 7] -= 200
        shared, bias = torch.randn(512), 8 * torch.randn(512)
        model.transformer.wte.weight += shared
        model.transformer.ln_f.bias += bias - shared * ((bias @ shared + 100) / (shared @ shared))
    return model


@torch.no_grad()
def test_rounding_of_large_logits_is_no_difference(like_gpt2, make_test_pairs, monkeypatch):
    pairs = make_test_pairs("first")
    logits = end_logits(like_gpt2, pairs.clean)
    exact = end_logits(copy.deepcopy(like_gpt2).double(), pairs.clean).float()
    assert -120 < logits.mean() < -80 and (logits - exact).abs().max() > 2e-5, "fp32 itself is that far off"
    engine = FastEngine(describe(like_gpt2))
    assert misfits(engine.at_end(pairs), pairs, exact) == {}
    assert "lens" in misfits(engine.at_end(pairs), pairs, exact + 1e-3)

    # The head that training uses, and the model's own, in two ways of rounding.
    monkeypatch.setattr(
        run, "end_logits", lambda model, batch: end_logits(copy.deepcopy(model).double(), batch).float()
    )
    run.check_logits(like_gpt2, pairs.clean)


@torch.no_grad()
@pytest.mark.slow
def test_every_checkpoint_is_held_against_the_model_s_own_logits_as_closely_as_fp32_can(
    like_gpt2, mini_tokenizer, make_test_pairs, patching, monkeypatch
):
    """Of large logits the limit is relative, after training too; weights of another checkpoint are found out."""
    pairs, at_first = make_test_pairs("first", count=4), copy.deepcopy(like_gpt2)
    for name, weight in like_gpt2.named_parameters():
        if ".h." in name:
            weight += 0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))

    clean, corrupted = (
        end_logits(copy.deepcopy(like_gpt2).double(), batch).float() for batch in (pairs.clean, pairs.corrupted)
    )
    assert clean.abs().mean() > 80 and (end_logits(like_gpt2, pairs.clean) - clean).abs().max() > 2e-5
    monkeypatch.setattr(examine, "own_logits", lambda *_: OwnLogits(clean, corrupted))
    for engine in (FastEngine(describe(like_gpt2)), ReferenceEngine(wrap(like_gpt2, mini_tokenizer))):
        rows = examine.measure(like_gpt2, engine, None, pairs, patching("z"), "step 8")
        assert {row["kind"] for row in rows} == {"lens", "layer", "head", "prompt", "patch"}
    with pytest.raises(UserError, match="logits differ by .* from the model's own"):
        examine.measure(like_gpt2, FastEngine(describe(at_first)), None, pairs, patching("z"), "step 8")
