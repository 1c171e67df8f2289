"""What config.json says of a model against what the model does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mi_sweeps.config import ModelConfig
from mi_sweeps.models import config_json

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
LLAMA = {**SIZES, "intermediate_size": 16, "vocab_size": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
GPT2 = {"n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 32}
MOE = {**LLAMA, "num_local_experts": 16}
ATTENTION = {"kv_n_heads": 1, "rope_theta": 1e4, "clip_qkv": 8}
DBRX = {"d_model": 16, "n_layers": 1, "n_heads": 2, "vocab_size": 32, "attn_config": ATTENTION}
EXPERTS = {"ffn_hidden_size": 16, "moe_num_experts": 2, "moe_top_k": 2}
NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}


def local(folder: Path, kind: str, values: dict[str, Any]) -> ModelConfig:
    """A model of which there is only the config.json."""
    (folder / "config.json").write_text(json.dumps({"model_type": kind, **values}))
    return ModelConfig(name="local", hub=None, revision=None, path=folder, prepend_bos=False)


@pytest.mark.parametrize(
    ("kind", "values", "random"),
    [
        ("gpt2", {**GPT2, **NO_DROPOUT}, False),
        ("gpt2", {**GPT2, **NO_DROPOUT, "embd_pdrop": 0.1}, True),
        ("gpt2", GPT2, True),
        ("gpt2", {**GPT2, "resid_pdrop": 0.0, "embd_pdrop": 0.0}, True),
        ("llama", LLAMA, False),
        ("gpt_neox", LLAMA, False),
        ("mixtral", MOE, False),
        ("mixtral", {**MOE, "router_jitter_noise": 0.3}, True),
        ("dbrx", {**DBRX, "ffn_config": EXPERTS}, False),
        ("dbrx", {**DBRX, "ffn_config": {**EXPERTS, "moe_jitter_eps": 0.3}}, True),
        ("phimoe", {**MOE, "router_jitter_noise": 0.0}, False),
        ("phimoe", MOE, True),
    ],
)
def test_a_model_draws_if_training_steps_from_the_same_weights_differ(
    kind: str, values: dict[str, Any], random: bool, tmp_path: Path
) -> None:
    """With keys that are absent, and so have transformers' defaults; some rates only act where others are not 0."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    model = local(tmp_path, kind, values)
    assert config_json.draws(model) == random
    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path)).train()
    tokens = torch.arange(24)[None] + 3
    gradients = []
    for _ in range(2):
        network.zero_grad()
        network(tokens, labels=tokens).loss.backward()
        gradients.append(torch.cat([one.grad.flatten() for one in network.parameters() if one.grad is not None]))
    assert torch.equal(*gradients) == (not random)


@pytest.mark.parametrize(
    ("kind", "values", "more"),
    [
        ("mixtral", {**MOE, "output_router_logits": True}, True),
        ("mixtral", {**MOE, "output_router_logits": True, "router_aux_loss_coef": 0.0}, False),
        ("mixtral", MOE, False),
        ("llama", LLAMA, False),
    ],
)
def test_a_model_has_a_router_loss_if_its_own_loss_is_more_than_the_cross_entropy(
    kind: str, values: dict[str, Any], more: bool, tmp_path: Path
) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    model = local(tmp_path, kind, values)
    assert config_json.has_router_loss(model) == more
    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path))
    tokens = torch.arange(24)[None] + 3
    with torch.no_grad():
        found = network(tokens, labels=tokens)
    own = torch.nn.functional.cross_entropy(found.logits[0, :-1], tokens[0, 1:])
    assert (abs(found.loss - own) > 1e-4) == more


def test_an_unknown_type_is_not_random(tmp_path: Path) -> None:
    """It cannot be loaded, so nothing is ever trained under its id."""
    assert not config_json.draws(local(tmp_path, "of_tomorrow", {}))
