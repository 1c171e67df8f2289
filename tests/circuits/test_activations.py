"""Aligned prompts together against Hugging Face, one prompt at a time."""

from __future__ import annotations

import pytest
import torch
from transformers import PreTrainedModel

from mi_sweeps.circuits.activations import LayerActivations, align, embed, forward, spread
from mi_sweeps.circuits.families import describe
from mi_sweeps.circuits.network import Network
from mi_sweeps.tasks.tokens import Batch

BY_LAYER = {
    "layer_types": ["sliding_attention", "full_attention"],
    "rope_parameters": {
        "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
        "full_attention": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0},
    },
}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 8}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}


def run(network: Network, batch: Batch) -> tuple[list[LayerActivations], torch.Tensor]:
    layout = align(network, batch.end)
    with torch.no_grad():
        return forward(network, embed(network, batch, layout), layout)


def theirs(model: PreTrainedModel, tokens: torch.Tensor) -> dict[str, list[torch.Tensor]]:
    """Hugging Face's own activations of one prompt, by our names, a list over layers."""
    found: dict[str, list[torch.Tensor]] = {"z": [], "v": [], "attn_out": [], "mlp_out": [], "resid_mid": []}

    def keep(name: str, value: torch.Tensor | tuple) -> None:
        value = (value[0] if isinstance(value, tuple) else value)[0]
        if name in ("attn_out", "mlp_out"):
            value = value * getattr(model.config, "residual_multiplier", 1.0)
        found[name].append(value)

    def part(module: torch.nn.Module, *names: str) -> torch.nn.Module:
        return next(getattr(module, name) for name in names if hasattr(module, name))

    handles = []
    for layer in part(model.base_model, "h", "layers"):
        attention = part(layer, "attn", "self_attn", "attention")
        n_heads = model.config.num_attention_heads
        if hasattr(attention, "c_attn"):
            handles.append(attention.c_attn.register_forward_hook(lambda *x: keep("v", x[2].chunk(3, dim=-1)[2])))
        elif hasattr(attention, "query_key_value"):
            handles.append(
                attention.query_key_value.register_forward_hook(
                    lambda *x, n=n_heads: keep("v", x[2].unflatten(-1, (n, 3, -1))[..., 2, :].flatten(-2))
                )
            )
        else:
            handles.append(attention.v_proj.register_forward_hook(lambda *x: keep("v", x[2])))
        combine = part(attention, "c_proj", "o_proj", "dense")
        handles.append(combine.register_forward_pre_hook(lambda _, given: keep("z", given[0])))
        attn_out, mlp_out = attention, layer.mlp
        before_mlp = getattr(layer, "ln_2", None) or getattr(layer, "post_attention_layernorm", None)
        if hasattr(layer, "post_feedforward_layernorm"):  # What is written is normalised.
            attn_out, mlp_out = layer.post_attention_layernorm, layer.post_feedforward_layernorm
            before_mlp = getattr(layer, "pre_feedforward_layernorm", layer.mlp)
        handles.append(attn_out.register_forward_hook(lambda *x: keep("attn_out", x[2])))
        if before_mlp is not None and not getattr(layer, "use_parallel_residual", False):
            handles.append(before_mlp.register_forward_pre_hook(lambda _, given: keep("resid_mid", given[0])))
        handles.append(mlp_out.register_forward_hook(lambda *x: keep("mlp_out", x[2])))
    with torch.no_grad():
        output = model(tokens[None], output_hidden_states=True, output_attentions=True)
    for handle in handles:
        handle.remove()
    found["resid_pre"] = [state[0] for state in output.hidden_states[:-1]]
    found["pattern"] = [pattern[0] for pattern in output.attentions]
    found["normed"] = [output.hidden_states[-1][0]]
    return found


def equal(ours: torch.Tensor, theirs: torch.Tensor, name: str) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5, msg=lambda text: f"{name}: {text}")


def compare(model: PreTrainedModel, batch: Batch) -> None:
    """Every activation of every layer, at the tokens that there are."""
    network = describe(model)
    layers, resid = run(network, batch)
    for row, end in enumerate(batch.end.tolist()):
        expected = theirs(model, batch.tokens[row, : end + 1])
        columns = slice(-end - 1, None)
        for number, layer in enumerate(layers):
            for name in ("resid_pre", "attn_out", "resid_mid", "mlp_out"):
                if name == "resid_mid" and not expected[name]:
                    continue  # attention and MLP side by side
                equal(getattr(layer, name)[row, columns], expected[name][number], f"layer {number} {name}")
            for name in ("z", "v"):
                equal(getattr(layer, name)[row, columns].flatten(-2), expected[name][number], f"layer {number} {name}")
            equal(layer.pattern[row, :, columns, columns], expected["pattern"][number], f"layer {number} pattern")
        equal(network.final_norm(resid[row, columns]), expected["normed"][0], "final norm")


def test_activations_equal_hugging_face_s_prompt_by_prompt(make_model, make_short_pairs, family):
    batch = make_short_pairs("first").clean
    assert len(set(batch.end.tolist())) == 3
    compare(make_model(family), batch)


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("gpt2", {"scale_attn_weights": False}),
        ("gpt2", {"tie_word_embeddings": False, "activation_function": "relu"}),
        ("gpt2", {"n_layer": 1, "n_head": 1, "n_inner": 48}),
        ("llama", {"tie_word_embeddings": True, "hidden_act": "gelu"}),
        ("llama", {"num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1}),
        ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}}),
        ("llama", {"rope_parameters": LLAMA3}),
        ("qwen3", {"rope_parameters": YARN}),
        ("qwen3", {"attention_bias": True, "num_key_value_heads": 4}),
        ("olmo2", {"attention_bias": True, "num_key_value_heads": 4}),
        ("olmo3", BY_LAYER),
        ("gemma", {"tie_word_embeddings": True}),
        ("gemma2", {"attention_bias": True, "attn_logit_softcapping": None, "final_logit_softcapping": None}),
        ("gemma3", {**BY_LAYER, "attn_logit_softcapping": 3.0}),  # which it does not read
        ("phi", {"qk_layernorm": True}),
        ("stablelm", {}),
        ("stablelm", {"use_parallel_residual": True, "use_qkv_bias": False}),
        ("starcoder2", {}),
        ("starcoder2", {"use_bias": False, "tie_word_embeddings": False}),
        ("gpt_neox", {"use_parallel_residual": False}),
        ("gpt_neox", {"attention_bias": False, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}),
    ],
    ids=lambda given: given if isinstance(given, str) else "-".join(given),
)
def test_options_of_a_family_are_followed(make_model, make_short_pairs, family, options):
    compare(make_model(family, **options), make_short_pairs("first").clean)


@pytest.mark.parametrize("family", ["mistral", "starcoder2"])
def test_prompts_as_long_as_a_sliding_window_are_still_known_and_longer_ones_are_not(
    make_model, make_short_pairs, family
):
    batch = make_short_pairs("first").clean
    length = int(batch.end.max()) + 1
    model = make_model(family, sliding_window=length)
    assert describe(model).longest == length
    compare(model, batch)
    with pytest.raises(AssertionError):
        compare(make_model(family, sliding_window=length - 1), batch)


@pytest.mark.parametrize("family", ["olmo3", "gemma2", "gemma3"])
def test_layers_with_a_window_beside_others_limit_the_length_that_is_known(make_model, make_short_pairs, family):
    batch = make_short_pairs("first").clean
    length = int(batch.end.max()) + 1
    options = {"layer_types": BY_LAYER["layer_types"]}
    compare(make_model(family, **options, sliding_window=length), batch)
    assert describe(make_model(family, **options, sliding_window=length)).longest == length
    assert describe(make_model(family, layer_types=["full_attention"] * 2, sliding_window=length)).longest is None
    with pytest.raises(AssertionError):
        compare(make_model(family, **options, sliding_window=length - 1), batch)


def test_one_sliding_layer_limits_the_length_that_is_known(make_model, make_short_pairs):
    batch = make_short_pairs("first").clean
    length = int(batch.end.max()) + 1
    options = {"use_sliding_window": True, "max_window_layers": 1}
    model = make_model("qwen2", sliding_window=length, **options)
    assert model.config.layer_types == ["full_attention", "sliding_attention"]
    assert describe(model).longest == length
    compare(model, batch)
    with pytest.raises(AssertionError):
        compare(make_model("qwen2", sliding_window=length - 1, **options), batch)


def test_prompts_are_aligned_at_their_ends(make_model, make_short_pairs):
    batch = make_short_pairs("first").clean
    layout = align(describe(make_model("llama")), batch.end)
    tokens = layout.tokens(batch)
    for row, end in enumerate(batch.end.tolist()):
        assert torch.equal(tokens[row, -end - 1 :], batch.tokens[row, : end + 1])
        assert layout.positions[row, -end - 1 :].tolist() == list(range(end + 1))
        assert (layout.positions[row, : -end - 1] < 0).all()


def test_nothing_attends_to_padding_and_nothing_becomes_nan(make_model, make_short_pairs, family):
    batch = make_short_pairs("first").clean
    layers, resid = run(describe(make_model(family)), batch)
    width = resid.shape[1]
    for layer in layers:
        assert all(value.isfinite().all() for value in vars(layer).values())
        for row, end in enumerate(batch.end.tolist()):
            padding = width - 1 - end
            assert (layer.pattern[row, :, padding:, :padding] == 0).all()
            assert (layer.pattern[row].triu(1)[:, padding:] == 0).all()


def test_what_the_padding_is_changes_nothing(make_model, make_short_pairs, family):
    batch = make_short_pairs("first").clean
    network = describe(make_model(family))
    other = batch.tokens.clone()
    for row, end in enumerate(batch.end.tolist()):
        other[row, end + 1 :] = 7
    assert not torch.equal(batch.tokens, other)
    changed = type(batch)(batch.prompts, other, batch.end, batch.answers, batch.subjects, batch.roles)
    assert torch.equal(run(network, batch)[1][:, -1], run(network, changed)[1][:, -1])


def test_a_key_value_head_is_spread_over_its_group():
    heads = torch.randn(2, 5, 2, 3)
    spread_out = spread(heads, 6)
    for head in range(6):
        assert torch.equal(spread_out[:, :, head], heads[:, :, head // 3])
