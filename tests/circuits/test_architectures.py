"""Every architecture that `mi_sweeps.circuits.architectures` names, as a small random model at a later checkpoint,
against PyTorch's own hooks on the model that nobody has wrapped."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel

from mi_sweeps.circuits.architectures import FAST, KNOWN, examined, table
from mi_sweeps.circuits.engine import POSITION_SITES
from mi_sweeps.circuits.examine import make_engine, measure, prepare
from mi_sweeps.circuits.families import FAMILIES
from mi_sweeps.config import Site
from mi_sweeps.errors import UserError
from mi_sweeps.tasks.ioi import single_token_names
from mi_sweeps.tasks.pairs import Pairs, make_pairs
from mi_sweeps.tasks.prompts import fill
from mi_sweeps.training.run import check_logits

COMMON = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "word_embed_proj_dim"), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "num_layers", "n_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4),
    **dict.fromkeys(("intermediate_size", "n_inner", "ffn_dim"), 64),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len"), 64),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("initializer_range", "init_std"), 0.2),
    "num_key_value_heads": 2,
    "head_dim": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
"""The names that configurations have for sizes; each takes those that it knows."""

LATENT = {
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 8,
    "head_dim": 4,
    "num_key_value_heads": 4,
}
EXPERTS = {"n_group": 1, "topk_group": 1, "first_k_dense_replace": 1}
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_chunk_size": 8}
LINEAR = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
MULTIPLIED = {"residual_multiplier": 0.3, "embedding_multiplier": 2.0, "logits_scaling": 2.0}
JAMBA = {
    **{"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1},
    **{"mamba_d_state": 8, "mamba_dt_rank": 4, "use_mamba_kernels": False},
}
OWN: dict[str, dict[str, Any]] = {
    "bamba": MAMBA | {"attn_layer_indices": [1]},
    "codegen": {"rotary_dim": 4},
    "deepseek_v2": LATENT | EXPERTS,
    "deepseek_v3": LATENT | EXPERTS,
    "falcon_h1": MAMBA | {"mamba_d_ssm": 32, "mamba_d_head": 8},
    "gemma2": {"query_pre_attn_scalar": 8},
    "gemma4_text": {
        **{"head_dim": 8, "global_head_dim": 8, "layer_types": ["sliding_attention", "full_attention"]},
        "hidden_size_per_layer_input": 0,
    },
    "glm4_moe_lite": LATENT,
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "gptj": {"rotary_dim": 4},
    "granite": MULTIPLIED | {"attention_multiplier": 0.3},
    "granitemoe": MULTIPLIED,
    "jamba": JAMBA,
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "mamba2": {"num_heads": 8, "head_dim": 8, "state_size": 8, "n_groups": 1, "chunk_size": 8},
    "nemotron_h": {
        **{"mamba_num_heads": 4, "mamba_head_dim": 8, "ssm_state_size": 8, "n_groups": 1, "chunk_size": 8},
        "layers_block_type": ["mamba", "attention"],
    },
    "qwen2_moe": {"shared_expert_intermediate_size": 32},
    "qwen3_5_moe_text": LINEAR | {"shared_expert_intermediate_size": 16},
    "qwen3_5_text": LINEAR,
    "qwen3_next": LINEAR | {"shared_expert_intermediate_size": 16},
    "recurrent_gemma": {"block_types": ["recurrent", "attention"], "lru_width": 32, "attention_window_size": 32},
    "youtu": LATENT,
    "zamba2": {
        **{"layers_block_type": ["mamba", "hybrid"], "hybrid_layer_ids": [1], "mamba_d_state": 8, "mamba_ngroups": 1},
        **{"n_mamba_heads": 4, "num_mem_blocks": 1, "adapter_rank": 4},
    },
}
"""What else an architecture needs to be small."""

WITHOUT_HEAD_SIZE = ("falcon", "gemma4_text")
"""Types whose configurations have none to give, or several."""

OUTPUTS = ("o_proj", "out_proj", "c_proj", "dense", "Wo")
"""What attention's output projection is called."""


def build(kind: str, d_vocab: int) -> PreTrainedModel:
    config_class = CONFIG_MAPPING[kind]
    known = config_class()
    sizes = COMMON.keys() - ({"head_dim"} if kind in WITHOUT_HEAD_SIZE else set())
    values = {key: COMMON[key] for key in sizes if hasattr(known, key)}
    config = config_class(vocab_size=d_vocab, **values | OWN.get(kind, {}))
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()


@torch.no_grad()
def train(model: PreTrainedModel) -> None:
    """What a fine-tune does: all weights change in place."""
    random = torch.Generator().manual_seed(2)
    for parameter in model.parameters():
        parameter.add_(0.05 * torch.randn(parameter.shape, generator=random))


@pytest.fixture(scope="module")
def pairs(mini_tokenizer) -> Pairs:
    """Two pairs of unequal length, corrupted at one token."""
    slots = (["Tom", "Mary", "John", "Mary", "John"], "Tom"), (["Jane", "Sean", "Rose", "Jane", "Sean"], "Rose")
    templates = ("{}, {} and {} met, {} and {} to", "{}, {} and {}, {} and {} to")
    prompts = [fill(template, *one, 2) for template, one in zip(templates, slots, strict=True)]
    return make_pairs(prompts, "second", mini_tokenizer, single_token_names(mini_tokenizer), prepend_bos=False)


class Oracle:
    """Patches of the last layer with hooks on Hugging Face's modules, where their names tell what they are."""

    def __init__(self, model: PreTrainedModel, pairs: Pairs) -> None:
        self.model, self.pairs = model, pairs
        self.layer = next(
            module[-1]
            for module in model.modules()
            if isinstance(module, nn.ModuleList) and len(module) == 2 and sum(1 for _ in module[0].parameters()) > 2
        )

    def run(self, tokens: Tensor, module: nn.Module | None, hook: Callable[[Tensor], Tensor]) -> Tensor:
        """Logit differences, with what a module is given replaced."""

        def replace(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if args:
                return (hook(args[0]), *args[1:]), kwargs
            return args, {**kwargs, "hidden_states": hook(kwargs["hidden_states"])}

        handle = module.register_forward_pre_hook(replace, with_kwargs=True) if module is not None else None
        try:
            with torch.no_grad():
                return self.pairs.logit_diff(self.pairs.at_end(self.model(tokens, use_cache=False).logits))
        finally:
            if handle is not None:
                handle.remove()

    def patched(self, module: nn.Module, put: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        kept: list[Tensor] = []
        self.run(self.pairs.clean.tokens, module, lambda value: kept.append(value.clone()) or value)
        return self.run(self.pairs.corrupted.tokens, module, lambda value: put(value.clone(), kept[0]))

    def resid_pre(self, role: str) -> Tensor:
        """The residual stream before the last layer, at the position that each prompt has in a role."""

        def put(value: Tensor, clean: Tensor) -> Tensor:
            for row, roles in enumerate(self.pairs.clean.roles):
                value[row, roles.index(role)] = clean[row, roles.index(role)]
            return value

        return self.patched(self.layer, put)

    def z(self, head: int) -> Tensor | None:
        """A head's output in the last layer; None where the output projection is not found by its name."""
        for name, module in self.layer.named_modules():
            found = [getattr(module, output) for output in OUTPUTS if hasattr(module, output)]
            if "att" in name.rpartition(".")[2] and found:
                width = found[0].weight.numel() // 32 // 4  # d_model and heads

                def put(value: Tensor, clean: Tensor, width: int = width) -> Tensor:
                    value[..., head * width : (head + 1) * width] = clean[..., head * width : (head + 1) * width]
                    return value

                return self.patched(found[0], put)
        return None


@pytest.mark.parametrize("kind", [kind for kind, known in KNOWN.items() if kind != "nope" and not known.refused])
@pytest.mark.slow
def test_a_later_checkpoint_is_patched_as_plain_hooks_patch_it(kind, pairs, patching, mini_tokenizer, caplog):
    known = KNOWN[kind]
    sites = get_args(Site)
    model = build(kind, len(mini_tokenizer))
    assert model.config.get_text_config().model_type == kind
    with caplog.at_level(logging.CRITICAL):
        check_logits(model, pairs.clean)
        make_engine(model, mini_tokenizer, pairs, patching("z"))  # As at the first checkpoint; nothing of it may stay.
        train(model)
        found = prepare(model, mini_tokenizer, pairs, patching(*sites))
        assert (found.engine == "FastEngine") == (known.engine == FAST)
        assert set(sites) - set(found.patching.sites) == set(known.without_sites)
        rows = [f"attribution rows of kind {row}" for row in known.without_rows]
        assert [what for what in found.left_out if what.startswith("attribution")] == rows

        oracle = Oracle(copy.deepcopy(model), pairs)
        some = [site for site in ("resid_pre", "z") if site in found.patching.sites]
        engine, network = make_engine(model, mini_tokenizer, pairs, patching(*some))
        measured = measure(model, engine, network, pairs, patching(*some), "later")
    patches = [row for row in measured if row["kind"] == "patch" and row["layer"] == 1]
    patched = {(row["site"], row["position"] or row["head"]): row["by_prompt"] for row in patches}
    expected = {("resid_pre", "subject 2"): oracle.resid_pre("subject 2")}
    if "z" in some and (of_head := oracle.z(1)) is not None:
        expected["z", 1] = of_head
    untouched = oracle.run(pairs.corrupted.tokens, None, lambda value: value)
    for key, values in expected.items():
        torch.testing.assert_close(torch.tensor(patched[key]), values, atol=2e-5, rtol=0, msg=str(key))
        assert (values - untouched).abs().max() > 1e-4, f"{key}: the patch has no effect"


@pytest.mark.parametrize("kind", [kind for kind, known in KNOWN.items() if known.refused])
def test_what_cannot_be_examined_is_refused_before_it_is_trained(kind, pairs, patching, mini_tokenizer):
    model = build(kind, len(mini_tokenizer))
    with pytest.raises(UserError) as refused:
        check_logits(model, pairs.clean)
        prepare(model, mini_tokenizer, pairs, patching(*POSITION_SITES, "z"))
    assert "\n" not in str(refused.value)


def test_the_table_of_the_docs_is_what_was_tested():
    page = Path(__file__).parents[2] / "docs" / "models.md"
    assert table() in page.read_text(encoding="utf-8")


def test_every_type_listed_as_fully_checked_is(model_types):
    """`nope` has tests of its own."""
    assert model_types | {"nope"} == FAMILIES.keys()


def test_a_plan_says_what_cannot_be_had_of_a_model_that_the_fast_engine_knows(make_config):
    config = make_config("patching=paths", "patching.measures=[diagonal]")
    assert examined(config.model, config.patching, "gpt_neox") is None
    line = examined(config.model, config.patching, "gemma2")
    assert line == "model=mini: models of type gemma2 are patched, without attribution by lens, layer, head"
