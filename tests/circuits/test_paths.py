"""Direct paths, against TransformerLens and against hooks on its bridge."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from transformer_lens.patching import get_act_patch_direct_path
from transformers import LlamaConfig, LlamaForCausalLM

from mi_sweeps.circuits.families import describe
from mi_sweeps.circuits.paths import patch_paths, path_rows
from mi_sweeps.circuits.reference import wrap
from mi_sweeps.config import PathsConfig
from mi_sweeps.errors import UserError


def paths(receivers="all", inputs=("q", "k", "v"), norm="recomputed") -> PathsConfig:
    return PathsConfig(receivers=receivers, inputs=inputs, norm=norm)


@pytest.fixture(scope="module")
def llama(mini_tokenizer):
    """Three layers, and as many key/value heads as heads: else TransformerLens refuses inputs k and v."""
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(mini_tokenizer),
            hidden_size=24,
            num_hidden_layers=3,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=64,
            initializer_range=0.2,
            attn_implementation="eager",
        )
    ).eval()


def test_recomputed_paths_equal_transformer_lens(llama, mini_tokenizer, make_test_pairs):
    pairs = make_test_pairs("first", one_length=True, count=2)
    found = patch_paths(describe(llama), pairs, paths())
    assert len(found.edges) == 3 * (2 * 2 + 4 * 2), "sources before layer 1 and 2, two receivers each, three inputs"
    bridge = wrap(llama, mini_tokenizer)
    with torch.no_grad():
        _, clean = bridge.run_with_cache(pairs.clean.tokens)
        _, corrupted = bridge.run_with_cache(pairs.corrupted.tokens)
        for layer in (0, 1):
            for into in ("q", "k", "v"):
                theirs = get_act_patch_direct_path(
                    bridge,
                    pairs.corrupted.tokens,
                    clean,
                    corrupted,
                    lambda logits: pairs.logit_diff(logits[:, -1]).mean(),
                    layer,
                    1,
                    into,
                    verbose=False,
                )
                for ((at, head), receiver, kind), values in found.edges.items():
                    if (at, head, kind) == (layer, 1, into):
                        assert values.mean().item() == pytest.approx(theirs[receiver].item(), abs=1e-5)
    changes = torch.stack([(values - found.corrupted).abs().max() for values in found.edges.values()])
    assert (changes > 1e-4).all(), "some path does nothing"


@pytest.mark.parametrize("norm", ["recomputed", "frozen"])
def test_paths_equal_hooks_on_every_input(random_model, mini_tokenizer, make_test_pairs, norm):
    """The plain way, one forward a path, also under grouped-query attention and for prompts of unequal length."""
    pairs = make_test_pairs("second", count=3)
    found = patch_paths(describe(random_model), pairs, paths(norm=norm), memory=1)
    bridge = wrap(random_model, mini_tokenizer)
    block = bridge.blocks[1]
    names = ("blocks.0.attn.hook_z", "blocks.1.hook_resid_pre")
    with torch.no_grad():
        clean, corrupted = (
            bridge.run_with_cache(batch.tokens, names_filter=lambda name: name in names)[1]
            for batch in (pairs.clean, pairs.corrupted)
        )
        for (source, receiver, into), values in found.edges.items():
            head = source[1]
            change = (clean[names[0]] - corrupted[names[0]])[:, :, head] @ bridge.blocks[0].attn.W_O[head]
            normed = normalised(block.ln1.original_component, corrupted[names[1]], change, norm)
            weight, bias = (getattr(block.attn, f"{kind}_{into.upper()}") for kind in ("W", "b"))
            projected = normed @ weight[receiver[1]] + (0 if bias is None else bias.view(len(weight), -1)[receiver[1]])
            logits = bridge.run_with_hooks(
                pairs.corrupted.tokens,
                fwd_hooks=[(f"blocks.1.attn.hook_{into}", partial(put, value=projected, head=receiver[1]))],
            )
            expected = pairs.logit_diff(pairs.at_end(logits))
            torch.testing.assert_close(values, expected, atol=2e-5, rtol=0, msg=f"{source} {receiver} {into}")


@pytest.mark.parametrize("norm", ["recomputed", "frozen"])
def test_paths_to_the_logits_equal_one_forward_each(random_model, mini_tokenizer, make_test_pairs, norm):
    """Put where only the final normalisation reads it: behind the last layer."""
    pairs = make_test_pairs("second", count=3)
    found = patch_paths(describe(random_model), pairs, paths(inputs=["logits"], norm=norm), memory=1)
    bridge = wrap(random_model, mini_tokenizer)
    sources = [(layer, head) for layer in range(2) for head in range(bridge.cfg.n_heads)]
    assert list(found.edges) == [(source, None, "logits") for source in sources], "also from the last layer"
    last = "blocks.1.hook_resid_post"
    with torch.no_grad():
        (_, clean), (_, corrupted) = (bridge.run_with_cache(batch.tokens) for batch in (pairs.clean, pairs.corrupted))
        for (layer, head), values in zip(sources, found.edges.values(), strict=True):
            z = f"blocks.{layer}.attn.hook_z"
            change = (clean[z] - corrupted[z])[:, :, head] @ bridge.blocks[layer].attn.W_O[head]
            if norm == "recomputed":
                seen = bridge.run_with_hooks(
                    pairs.corrupted.tokens, fwd_hooks=[(last, lambda resid, hook, change=change: resid + change)]
                )
            else:
                module = bridge.ln_final.original_component
                seen = random_model.lm_head(normalised(module, corrupted[last], change, norm))
            torch.testing.assert_close(values, pairs.logit_diff(pairs.at_end(seen)), atol=2e-5, rtol=0)
    assert max((values - found.corrupted).abs().max() for values in found.edges.values()) > 1e-3


def test_the_logits_are_a_receiver_beside_the_heads_that_are_named(llama, make_test_pairs):
    pairs = make_test_pairs("first", count=2)
    network = describe(llama)
    found = patch_paths(network, pairs, paths([(2, 1)], ["k", "logits", "q"]))
    kinds = [(receiver, into) for _, receiver, into in found.edges]
    assert kinds == [((2, 1), "k")] * 4 + [(None, "logits")] * 6 + [((2, 1), "q")] * 4
    alone = patch_paths(network, pairs, paths([], ["logits"])).edges | patch_paths(network, pairs, paths()).edges
    for edge, values in found.edges.items():
        torch.testing.assert_close(values, alone[edge], atol=1e-5, rtol=0)
    rows = [row for row in path_rows(found) if row["site"] == "logits"]
    assert [(row["source_layer"], row["source_head"]) for row in rows] == [(a, b) for a in range(3) for b in range(2)]
    assert all(row["layer"] is None and row["head"] is None and len(row["by_prompt"]) == 2 for row in rows)


def normalised(module, read, change, norm):
    """By the Hugging Face module where the normalisation is recomputed, and by its formula where it is frozen."""
    if norm == "recomputed":
        return module(read + change)
    if isinstance(module, torch.nn.LayerNorm):
        centred = change - change.mean(-1, keepdim=True)
        return module(read) + centred / (read.var(-1, keepdim=True, correction=0) + module.eps).sqrt() * module.weight
    scale = (read.pow(2).mean(-1, keepdim=True) + module.variance_epsilon).sqrt()
    return module(read) + change / scale * module.weight


def put(heads, hook, *, value, head):
    heads[:, :, head] = value
    return heads


def test_receivers_can_be_chosen(llama, make_test_pairs):
    pairs = make_test_pairs("first", count=2)
    network = describe(llama)
    every, chosen = patch_paths(network, pairs, paths()), patch_paths(network, pairs, paths([(2, 1)], ["k"]))
    assert list(chosen.edges) == [((layer, head), (2, 1), "k") for layer in (0, 1) for head in (0, 1)]
    for edge, values in chosen.edges.items():
        torch.testing.assert_close(values, every.edges[edge], atol=1e-5, rtol=0)


@pytest.mark.parametrize("receiver", [(0, 0), (3, 0), (1, 2)])
def test_what_is_no_receiver_is_refused(llama, make_test_pairs, receiver):
    with pytest.raises(UserError, match=r"patching.paths.receivers: \[\d, \d\] cannot receive by q; choose"):
        patch_paths(describe(llama), make_test_pairs("first", count=2), paths([receiver]))


def test_rows_name_source_and_receiver(llama, make_test_pairs):
    found = patch_paths(describe(llama), make_test_pairs("first", count=2), paths([(1, 0)], ["v"]))
    rows = path_rows(found)
    assert [
        (row["kind"], row["site"], row["source_layer"], row["source_head"], row["layer"], row["head"]) for row in rows
    ] == [("path", "v", 0, head, 1, 0) for head in (0, 1)]
    values = found.edges[((0, 1), (1, 0), "v")]
    assert rows[1]["patched"] == pytest.approx(values.mean().item())
    assert rows[1]["by_prompt"] == pytest.approx(values.tolist())
