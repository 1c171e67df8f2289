"""Mean ablation against hooks that replace outputs, and by hand."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from mi_sweeps.circuits.ablation import NONE, ablated_losses
from mi_sweeps.circuits.families import describe


def by_hooks(plain, batch, component):
    """The loss with one part replaced by its mean, wherever it is but at the first token and in the padding."""
    name, layer, head = component
    logits, cache = plain.run(batch.tokens)
    if component != NONE:
        site = "z" if name == "head" else name
        columns = torch.arange(batch.tokens.shape[1])
        chosen = (columns >= 1) & (columns <= batch.end[:, None])
        mean = cache[site, layer][chosen].mean(dim=0)

        def change(value):
            value = value.clone()
            for prompt, position in chosen.nonzero().tolist():
                if head is None:
                    value[prompt, position] = mean
                else:
                    value[prompt, position, head] = mean[head]
            return value

        logits, _ = plain.run(batch.tokens, {(site, layer): change})
    prompts, positions, targets = batch.scored
    return functional.cross_entropy(logits[prompts, positions], targets).item()


def parts(plain, mlp=True):
    layers = range(plain.n_layers)
    yield NONE
    yield from (("attn_out", layer, None) for layer in layers)
    yield from (("mlp_out", layer, None) for layer in layers if mlp)
    yield from (("head", layer, head) for layer in layers for head in range(plain.n_heads))


def same(found, plain, batch, mlp=True):
    expected = {component: by_hooks(plain, batch, component) for component in parts(plain, mlp)}
    assert found == pytest.approx(expected, abs=1e-5)
    assert len({round(loss, 4) for loss in expected.values()}) > len(expected) // 2, "parts differ"


@pytest.mark.parametrize("d_mlp", [None, 24], ids=["attention-only", "mlp"])
def test_ablations_are_those_of_plain_hooks(make_nope, make_sequences, hooked, d_mlp):
    model, batch = make_nope(d_mlp=d_mlp), make_sequences().splits["heldout"]
    same(ablated_losses(describe(model), [batch]), hooked(model), batch, mlp=d_mlp is not None)


def test_ablations_are_those_of_transformer_lens_for_prompts_of_unequal_length(random_model, make_short_pairs, hooked):
    batch = make_short_pairs("first").clean
    same(ablated_losses(describe(random_model), [batch]), hooked(random_model), batch)


def test_batches_change_nothing(make_nope, make_sequences):
    network, batch = describe(make_nope(d_mlp=24)), make_sequences().splits["heldout"]
    apart = ablated_losses(network, [batch.select([0, 1, 2, 3]), batch.select([4]), batch.select(range(5, 9))])
    assert apart == pytest.approx(ablated_losses(network, [batch]), abs=1e-5)


@torch.no_grad()
def test_a_part_that_always_says_the_same_is_worth_nothing(make_nope, make_sequences):
    """Whose weights are zero, so that it says its bias."""
    model = make_nope(d_mlp=24)
    model.model.layers[1].mlp.down.weight.zero_()
    model.model.layers[0].attention.value.weight[:8] = 0  # head 0.0
    losses = ablated_losses(describe(model), [make_sequences().splits["heldout"]])
    whole = losses.pop(NONE)
    unchanged = {component for component, loss in losses.items() if abs(loss - whole) < 1e-6}
    assert unchanged == {("mlp_out", 1, None), ("head", 0, 0)}
