"""The model without positional embeddings: only the causal mask depends on position."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mi_sweeps.config import Config
from mi_sweeps.models.nope import NopeForCausalLM, build

Make = Callable[..., NopeForCausalLM]

TOKENS = [0, 3, 7, 1, 11, 5, 2, 9]


@torch.no_grad()
def logits(model: NopeForCausalLM, *rows: list[int]) -> torch.Tensor:
    return model(torch.tensor(rows)).logits


@pytest.mark.parametrize("d_mlp", [None, 24])
@given(order=st.permutations(range(len(TOKENS) - 1)))
def test_one_layer_cannot_know_the_order_of_what_came_before(
    make_nope: Make, d_mlp: int | None, order: list[int]
) -> None:
    """Each token is embedded alone, and attention is a mean over a set: absent, not zeroed by accident."""
    model = make_nope(layers=1, d_mlp=d_mlp)
    before, after = logits(model, TOKENS, [TOKENS[place] for place in order] + TOKENS[-1:])
    torch.testing.assert_close(before[-1], after[-1], atol=1e-5, rtol=0)


def test_two_layers_can_for_the_first_one_s_heads_saw_fewer_tokens_early(make_nope: Make) -> None:
    before, after = logits(make_nope(layers=2), TOKENS, [*TOKENS[:4][::-1], *TOKENS[4:]])
    assert (before[-1] - after[-1]).abs().max() > 0.01


@pytest.mark.parametrize("d_mlp", [None, 24])
@given(changed=st.integers(1, len(TOKENS) - 1), token=st.integers(0, 11))
def test_what_comes_later_changes_nothing(make_nope: Make, d_mlp: int | None, changed: int, token: int) -> None:
    other = [*TOKENS[:changed], token, *TOKENS[changed + 1 :]]
    before, after = logits(make_nope(d_mlp=d_mlp), TOKENS, other)
    torch.testing.assert_close(before[:changed], after[:changed], atol=1e-6, rtol=0)


@pytest.mark.parametrize("d_mlp", [None, 24])
def test_a_token_alone_is_the_same_wherever_it_repeats(make_nope: Make, d_mlp: int | None) -> None:
    """With equal tokens all means are equal, so even two layers see no position."""
    found = logits(make_nope(d_mlp=d_mlp), [5] * 8)[0]
    torch.testing.assert_close(found, found[:1].expand_as(found), atol=1e-5, rtol=0)


@pytest.mark.parametrize("d_mlp", [None, 24])
def test_nothing_in_the_model_knows_a_context_s_length(make_config: Callable[..., Config], d_mlp: int | None) -> None:
    length = 37
    mlp = "null" if d_mlp is None else str(d_mlp)
    config = make_config("model=nope", f"model.d_mlp={mlp}", "task=previous_token", f"task.length={length}")
    model = build(config.model, seed=0).eval()
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    assert all(length not in tensor.shape for tensor in tensors.values())
    assert not any("pos" in name for name in tensors)
    tokens = torch.randint(1, 64, (1, 3 * length)).tolist()[0]
    torch.testing.assert_close(logits(model, tokens[:length])[0], logits(model, tokens)[0, :length])


def test_sizes_are_the_configuration_s(make_config: Callable[..., Config]) -> None:
    sizes = ["model.layers=3", "model.heads=2", "model.d_model=20", "model.d_head=6", "task.d_vocab=9"]
    model = build(make_config("model=nope", "task=previous_token", *sizes, "model.d_mlp=14").model, seed=0)
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    assert shapes["model.embed.weight"] == shapes["lm_head.weight"] == (9, 20)
    assert shapes["model.layers.2.attention.query.weight"] == (12, 20)
    assert shapes["model.layers.2.mlp.up.weight"] == (14, 20)
    assert "model.layers.3.attention.query.weight" not in shapes
    alone = build(make_config("model=nope", "task=previous_token", *sizes).model, seed=0)
    assert not [name for name, _ in alone.named_parameters() if "mlp" in name]


def test_a_seed_makes_the_same_model_whatever_was_drawn_before(make_config: Callable[..., Config]) -> None:
    config = make_config("model=nope", "task=previous_token", "model.init_std=0.05").model
    torch.manual_seed(1)
    one = build(config, seed=5).state_dict()
    drawn = torch.rand(1)
    again, other = build(config, seed=5).state_dict(), build(config, seed=6).state_dict()
    torch.manual_seed(1)
    assert torch.equal(drawn, torch.rand(1)), "nobody else's random numbers change"
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["lm_head.weight"], other["lm_head.weight"])
    assert one["model.embed.weight"].std().item() == pytest.approx(0.05, rel=0.05)
    assert one["model.layers.0.attention.query.bias"].abs().max() == 0


def test_attention_is_a_mean_of_values_weighed_by_softmax(make_nope: Make) -> None:
    """One query of one head, by hand."""
    attention = make_nope().model.layers[0].attention
    x = torch.randn(1, 5, 16)
    with torch.no_grad():
        found = attention(x)[0, 3]
        q, k, v = attention.query(x[0, 3]), attention.key(x[0, :4]), attention.value(x[0, :4])
        heads = [slice(0, 8), slice(8, 16)]
        z = [((q[head] @ k[:, head].T) / 8**0.5).softmax(dim=0) @ v[:, head] for head in heads]
        torch.testing.assert_close(found, attention.combine(torch.cat(z)), atol=1e-6, rtol=1e-5)
