"""The parts of a network's description, against the Hugging Face modules that they describe."""

from __future__ import annotations

import pytest
import torch
from transformers import BloomConfig, BloomForCausalLM, LlamaConfig
from transformers.activations import ACT2FN, NewGELUActivation
from transformers.models.gpt2.modeling_gpt2 import GPT2MLP
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm, LlamaRotaryEmbedding, apply_rotary_pos_emb
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm
from transformers.pytorch_utils import Conv1D

from mi_sweeps.circuits import network
from mi_sweeps.circuits.families import FAMILIES, describe
from mi_sweeps.circuits.families.activations import ACTIVATIONS, gelu_tanh
from mi_sweeps.circuits.network import Linear, Mlp, Norm, rotate


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def spoil(module: torch.nn.Module) -> torch.nn.Module:
    """Weights that are neither 0 nor 1."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return module


def equal(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_layer_norm():
    theirs = spoil(torch.nn.LayerNorm(32, eps=1e-3))
    x = 0.1 * torch.randn(2, 5, 32) + 1
    equal(Norm(theirs.weight, theirs.bias, 1e-3, centres=True)(x), theirs(x))


@pytest.mark.parametrize("module", [LlamaRMSNorm, Qwen3RMSNorm])
def test_rms_norm(module):
    theirs = spoil(module(32, eps=1e-3))
    x = 0.1 * torch.randn(2, 5, 32)
    equal(Norm(theirs.weight, None, 1e-3, centres=False)(x), theirs(x))


@pytest.mark.parametrize("centres", [True, False])
def test_a_norm_is_what_it_centres_divided_by_its_scale(centres):
    norm = Norm(torch.randn(32), torch.randn(32) if centres else None, 1e-3, centres)
    x = 0.1 * torch.randn(4, 3, 32) + 1
    expected = norm.centre(x) / norm.scale(x) * norm.weight
    equal(norm(x), expected + norm.bias if centres else expected)


def test_linear_is_a_conv1d():
    theirs = spoil(Conv1D(48, 32))
    x = torch.randn(2, 5, 32)
    equal(Linear(theirs.weight, theirs.bias)(x), theirs(x))


@pytest.mark.parametrize("bias", [True, False])
def test_linear_is_a_transposed_torch_linear(bias):
    theirs = torch.nn.Linear(32, 48, bias=bias)
    x = torch.randn(2, 5, 32)
    equal(Linear(theirs.weight.T, theirs.bias)(x), theirs(x))


def test_linear_of_a_part_of_a_matrix_is_that_part_of_the_product():
    theirs = spoil(Conv1D(48, 32))
    x = torch.randn(7, 32)
    for part in range(3):
        columns = slice(16 * part, 16 * part + 16)
        equal(Linear(theirs.weight[:, columns], theirs.bias[columns])(x), theirs(x)[:, columns])


@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_linear_is_added_in_place(bias):
    linear = Linear(torch.randn(32, 48), torch.randn(48) if bias else None)
    x, total = torch.randn(7, 32), torch.randn(7, 48)
    expected = total + linear(x)
    linear.add_to(total, x)
    equal(total, expected)


@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_mlp_with_a_gate_is_llama_s(bias):
    config = LlamaConfig(hidden_size=32, intermediate_size=64, mlp_bias=bias)
    theirs = spoil(LlamaMLP(config))
    up, gate, down = (
        Linear(module.weight.T, module.bias) for module in (theirs.up_proj, theirs.gate_proj, theirs.down_proj)
    )
    x = torch.randn(2, 5, 32)
    equal(Mlp(up, gate, down, ACTIVATIONS[config.hidden_act])(x), theirs(x))


@torch.no_grad()
def test_mlp_without_a_gate_is_gpt2_s(make_model):
    config = make_model("gpt2").config
    theirs = spoil(GPT2MLP(64, config)).eval()
    up, down = (Linear(module.weight, module.bias) for module in (theirs.c_fc, theirs.c_proj))
    x = torch.randn(2, 5, 32)
    equal(Mlp(up, None, down, ACTIVATIONS[config.activation_function])(x), theirs(x))


@torch.no_grad()
def test_adding_an_mlp_in_slices_equals_adding_it_whole(make_model, monkeypatch):
    block = describe(make_model("llama-biases")).blocks[0]
    resid = torch.randn(50, 32)
    expected = resid + block.mlp_out(resid, torch.zeros_like(resid))
    monkeypatch.setattr(network, "SLICE", 16)
    block.add_mlp(resid)
    equal(resid, expected)


@pytest.mark.parametrize("grad", [True, False])
def test_gelu_tanh_is_new_gelu(grad):
    x = torch.cat([torch.linspace(-30, 30, 2001), torch.tensor([0.0, 1e-20, -1e-20, 1e10, -1e10])])
    before = x.clone()
    with torch.set_grad_enabled(grad):
        ours = gelu_tanh(x)
    equal(ours, NewGELUActivation()(x))
    assert torch.equal(x, before)


def test_gelu_tanh_has_the_gradient_of_new_gelu():
    x = torch.linspace(-6, 6, 241).requires_grad_()
    (ours,) = torch.autograd.grad(gelu_tanh(x).sum(), x)
    (theirs,) = torch.autograd.grad(NewGELUActivation()(x).sum(), x)
    equal(ours, theirs)


@pytest.mark.parametrize("name", ACTIVATIONS)
@torch.no_grad()
def test_activations_have_hugging_face_s_names(name):
    x = torch.linspace(-8, 8, 1001)
    equal(ACTIVATIONS[name](x), ACT2FN[name](x))


def test_rotate_is_hugging_face_s():
    embedding = LlamaRotaryEmbedding(LlamaConfig(hidden_size=32, num_attention_heads=4))
    q, k = torch.randn(2, 7, 4, 8), torch.randn(2, 7, 2, 8)
    rotation = embedding(q, position_ids=torch.tensor([[0, 1, 2, 3, 4, 5, 6], [3, 1, 4, 1, 5, 9, 26]]))
    theirs = apply_rotary_pos_emb(q.transpose(1, 2), k.transpose(1, 2), *rotation)
    equal(rotate(q, rotation), theirs[0].transpose(1, 2))
    equal(rotate(k, rotation), theirs[1].transpose(1, 2))


def test_without_a_rotation_nothing_is_rotated():
    q = torch.randn(2, 7, 4, 8)
    assert rotate(q, None) is q


def test_every_family_is_described(make_model, family):
    model = make_model(family)
    described = describe(model)
    assert model.config.model_type in FAMILIES
    assert len(described.blocks) == model.config.num_hidden_layers
    assert described.longest == (4096 if family in ("mistral", "gemma2") else None)


@torch.no_grad()
def test_heads_write_what_combine_writes(make_model, family):
    block = describe(make_model(family)).blocks[1]
    z = torch.randn(5, block.n_heads, block.W_O.shape[1])
    written = torch.einsum("chd,hdm->cm", z, block.W_O)
    equal(block.combine(z.flatten(-2)), written if block.combine.bias is None else written + block.combine.bias)


def test_an_unknown_architecture_is_not_described():
    assert describe(BloomForCausalLM(BloomConfig(vocab_size=8, hidden_size=16, n_layer=1, n_head=2))) is None


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("gpt2", {"activation_function": "quick_gelu"}),
        ("gpt2", {"add_cross_attention": True}),
        ("llama", {"hidden_act": "relu2"}),
        ("starcoder2", {"hidden_act": "relu2"}),
        ("gemma2", {"hidden_activation": "relu2"}),
        ("stablelm", {"qk_layernorm": True}),
        ("gemma3", {"use_bidirectional_attention": True}),
        ("gpt_neox", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "partial_rotary_factor": 0.5}}),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}}),
        (
            "llama",
            {
                "rope_parameters": {
                    "rope_type": "longrope",
                    "rope_theta": 10000.0,
                    "short_factor": [1.0] * 4,
                    "long_factor": [2.0] * 4,
                    "original_max_position_embeddings": 32,
                }
            },
        ),
    ],
    ids=lambda given: given if isinstance(given, str) else "-".join(given),
)
def test_an_option_that_is_not_covered_is_not_described(make_model, family, options):
    assert describe(make_model(family, **options)) is None


@torch.no_grad()
def test_weights_that_change_in_place_are_seen(make_model, family):
    """Every tensor of a description is a view of the model's own."""
    model = make_model(family)
    described = describe(model)
    for parameter in model.parameters():
        parameter.copy_(torch.randn_like(parameter))
    again = describe(model)
    tokens, positions = torch.arange(12).view(2, 6), torch.arange(6).expand(2, 6)
    assert torch.equal(described.embed(tokens, positions), again.embed(tokens, positions))
    assert torch.equal(described.final_norm.weight, again.final_norm.weight)
    assert torch.equal(described.unembed.weight, again.unembed.weight)
    owned = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    for block, other in zip(described.blocks, again.blocks, strict=True):
        ours, theirs = tensors(block), tensors(other)
        assert len(ours) >= 9
        for one, two in zip(ours, theirs, strict=True):
            assert torch.equal(one, two)
            assert one.untyped_storage().data_ptr() in owned


def tensors(part: object) -> list[torch.Tensor]:
    """Every tensor of a block."""
    if isinstance(part, torch.Tensor):
        return [part]
    return [tensor for inner in vars(part).values() for tensor in tensors(inner)] if hasattr(part, "__dict__") else []
