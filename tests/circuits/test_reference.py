"""The reference engine against TransformerLens's own functions, one prompt at a time, and by hand."""

from __future__ import annotations

import pytest
import torch
from transformer_lens import patching as lens_patching
from transformers import GPT2Config, GPT2LMHeadModel

from mi_sweeps.circuits.engine import table_rows
from mi_sweeps.circuits.reference import ReferenceEngine, wrap
from mi_sweeps.config import PatchingConfig

LENS_FUNCTIONS = {
    "resid_pre": lens_patching.get_act_patch_resid_pre,
    "attn_out": lens_patching.get_act_patch_attn_out,
    "mlp_out": lens_patching.get_act_patch_mlp_out,
    "z": lens_patching.get_act_patch_attn_head_out_all_pos,
    "q": lens_patching.get_act_patch_attn_head_q_all_pos,
    "k": lens_patching.get_act_patch_attn_head_k_all_pos,
    "v": lens_patching.get_act_patch_attn_head_v_all_pos,
    "pattern": lens_patching.get_act_patch_attn_head_pattern_all_pos,
}


def patching(*sites: str, heads: str = "all") -> PatchingConfig:
    return PatchingConfig(
        name="test",
        sites=sites,
        heads=heads,
        exact=True,
        approximate=False,
        paths=None,
        prompts=6,
        measures=(),
        measured_prompts=6,
        steps=None,
        tf32=False,
        engine="reference",
        memory=None,
    )


@pytest.fixture
def bridge(random_model, mini_tokenizer):
    return wrap(random_model, mini_tokenizer)


def test_every_site_equals_transformer_lens(bridge, make_test_pairs):
    pairs = make_test_pairs("first", one_length=True)
    patched = ReferenceEngine(bridge).patch(pairs, patching(*LENS_FUNCTIONS))
    _, cache = bridge.run_with_cache(pairs.clean.tokens)
    for site, function in LENS_FUNCTIONS.items():
        theirs = function(
            bridge, pairs.corrupted.tokens, cache, lambda logits: pairs.logit_diff(logits[:, -1]), reduce="none"
        )
        torch.testing.assert_close(patched.sites[site], theirs.values, atol=1e-5, rtol=0, msg=site)
        assert (patched.sites[site] - patched.corrupted).abs().max() > 1e-3, f"{site}: no patch has an effect"


@pytest.mark.parametrize("heads", ["all", "end"])
@pytest.mark.parametrize("corruption", ["second", "both"])
@pytest.mark.slow
def test_prompts_of_unequal_length_in_one_batch_equal_one_at_a_time(bridge, make_short_pairs, corruption, heads):
    pairs = make_short_pairs(corruption)
    assert len(set(pairs.clean.end.tolist())) > 1
    sites = patching("resid_pre", "z", "v", "pattern", heads=heads)
    together = ReferenceEngine(bridge).patch(pairs, sites)
    for row in range(len(pairs.clean)):
        single = type(pairs)(pairs.clean.select([row]), pairs.corrupted.select([row]), pairs.subject_weights)
        alone = ReferenceEngine(bridge).patch(single, sites)
        torch.testing.assert_close(together.clean[row], alone.clean[0], atol=1e-5, rtol=0)
        torch.testing.assert_close(together.corrupted[row], alone.corrupted[0], atol=1e-5, rtol=0)
        for site in ("z", "v", "pattern"):
            torch.testing.assert_close(together.sites[site][..., row], alone.sites[site][..., 0], atol=1e-5, rtol=0)
        for place, role in enumerate(together.roles):
            values = together.sites["resid_pre"][:, place, row]
            if role not in alone.roles:
                assert values.isnan().all()
                continue
            expected = alone.sites["resid_pre"][:, alone.roles.index(role), 0]
            torch.testing.assert_close(values, expected, atol=1e-5, rtol=0)


def test_heads_at_the_end_only_change_what_the_last_position_gets(bridge, make_test_pairs):
    """With the corruption before the end, the last layer's z matters at the end alone, so both ways agree there."""
    pairs = make_test_pairs("second")
    everywhere = ReferenceEngine(bridge).patch(pairs, patching("z"))
    at_end = ReferenceEngine(bridge).patch(pairs, patching("z", heads="end"))
    torch.testing.assert_close(everywhere.sites["z"][-1], at_end.sites["z"][-1], atol=1e-5, rtol=0)
    assert (everywhere.sites["z"][0] - at_end.sites["z"][0]).abs().max() > 1e-4


def test_a_micro_model_by_hand(mini_tokenizer, make_test_pairs):
    """One layer, one head that attends evenly and copies, no MLP: what it copies can be counted.

    Embeddings are one-hot, positions zero, and query and key zero, so the head gives each position the mean of the
    tokens up to it. With value and output the identity, the logit of a token at the end is its share in the prompt
    (plus the residual, which holds the last token only). There is no final normalisation to speak of: its weight is
    set so that the scale is undone for one known prompt, and signs tell the rest.
    """
    pairs = make_test_pairs("first", one_length=True, count=1)
    n = len(mini_tokenizer)
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=n, n_embd=n, n_layer=1, n_head=1, n_positions=32, n_inner=1, attn_implementation="eager")
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.transformer.wte.weight.copy_(torch.eye(n))
        block = model.transformer.h[0]
        block.ln_1.weight.fill_(1)
        block.attn.c_attn.weight[:, 2 * n :] = torch.eye(n)
        block.attn.c_proj.weight.copy_(torch.eye(n))
        model.transformer.ln_f.weight.fill_(1)
    engine = ReferenceEngine(wrap(model, mini_tokenizer))
    patched = engine.patch(pairs, patching("z", "v", "pattern", "mlp_out"))
    # Clean: the answer is listed once and the replaced subject twice. Corrupted: twice and once.
    assert patched.clean.item() < 0 < patched.corrupted.item()
    assert patched.clean.item() == pytest.approx(-patched.corrupted.item(), rel=1e-4)
    # The head carries everything, by its values; its pattern is the same in both runs, and there is no MLP.
    assert patched.sites["z"][0, 0, 0] == pytest.approx(patched.clean.item(), rel=1e-4)
    assert patched.sites["v"][0, 0, 0] == pytest.approx(patched.clean.item(), rel=1e-4)
    assert patched.sites["pattern"][0, 0, 0] == pytest.approx(patched.corrupted.item(), rel=1e-4)
    assert patched.sites["mlp_out"][0, :, 0].tolist() == pytest.approx(
        [patched.corrupted.item()] * len(patched.roles), rel=1e-4
    )


def test_rows_are_means_over_the_prompts_that_have_the_role(bridge, make_test_pairs):
    pairs = make_test_pairs("second", count=12)
    patched = ReferenceEngine(bridge).patch(pairs, patching("attn_out"))
    rows = table_rows(patched)
    counts = {row["position"]: row["n"] for row in rows}
    assert counts["end"] == 12
    rare = next(role for role, count in counts.items() if count < 12)
    having = torch.tensor([rare in roles for roles in pairs.clean.roles])
    row = next(row for row in rows if row["position"] == rare and row["layer"] == 1)
    place = patched.roles.index(rare)
    assert row["n"] == having.sum()
    assert row["patched"] == pytest.approx(patched.sites["attn_out"][1, place][having].mean().item(), abs=1e-5)
    assert row["clean"] == pytest.approx(patched.clean[having].mean().item(), abs=1e-5)
    assert row["corrupted"] == pytest.approx(patched.corrupted[having].mean().item(), abs=1e-5)
