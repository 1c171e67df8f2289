from __future__ import annotations

import pytest
from torch import nn

from mi_sweeps.errors import UserError
from mi_sweeps.training.only import chosen, kind

GPT2 = [
    "transformer.wte.weight",
    "transformer.wpe.weight",
    *(
        f"transformer.h.{layer}.{name}"
        for layer in range(3)
        for name in ("ln_1.bias", "attn.c_attn.weight", "attn.c_proj.bias", "ln_2.weight", "mlp.c_fc.weight")
    ),
    "transformer.ln_f.weight",
]


@pytest.mark.parametrize(
    ("only", "learns"),
    [
        (["attention"], {f"transformer.h.{n}.attn.{w}" for n in range(3) for w in ("c_attn.weight", "c_proj.bias")}),
        (["attention:2"], {"transformer.h.2.attn.c_attn.weight", "transformer.h.2.attn.c_proj.bias"}),
        (["mlp:1-"], {"transformer.h.1.mlp.c_fc.weight", "transformer.h.2.mlp.c_fc.weight"}),
        (["mlp:0-1"], {"transformer.h.0.mlp.c_fc.weight", "transformer.h.1.mlp.c_fc.weight"}),
        (["layers:2-"], {name for name in GPT2 if ".h.2." in name}),
        (["layers"], {name for name in GPT2 if ".h." in name}),
        (["embeddings"], {"transformer.wte.weight", "transformer.wpe.weight"}),
        (["norms"], {name for name in GPT2 if "ln_" in name}),
        (["norms:1"], {"transformer.h.1.ln_1.bias", "transformer.h.1.ln_2.weight"}),
        (["transformer.wpe.weight", "*.c_fc.*"], {name for name in GPT2 if "wpe" in name or "c_fc" in name}),
        (["transformer.h.1.attn"], {"transformer.h.1.attn.c_attn.weight", "transformer.h.1.attn.c_proj.bias"}),
        (["mlp:0", "mlp:2"], {"transformer.h.0.mlp.c_fc.weight", "transformer.h.2.mlp.c_fc.weight"}),
        ([], set(GPT2)),
    ],
)
def test_names_patterns_and_words(only, learns):
    assert chosen(only, GPT2) == [name for name in GPT2 if name in learns]


@pytest.mark.parametrize("only", ["attention:3-", "layers:7", "*.q_proj.*", "mlp:-", "transformer", "mlps"])
def test_what_chooses_nothing_is_refused_with_names_that_there_are(only):
    if only in ("mlp:-", "transformer"):
        assert chosen([only], GPT2), "from the first layer to the last; a module's name"
        return
    with pytest.raises(UserError, match=r"no parameter of this model; .*transformer\.wte\.weight, .*attn\.c_attn"):
        chosen(["attention", only], GPT2)


def owner(model: nn.Module, name: str) -> str | None:
    """The same from the classes of modules and not from names."""
    *parts, _ = name.split(".")
    modules = [model.get_submodule(".".join(parts[: end + 1])) for end in range(len(parts))]
    layer = next((at for at, part in enumerate(parts) if part.isdigit()), len(parts))
    kinds = [type(module).__name__ for module in modules[layer + 1 :]]
    if "norm" in type(modules[-1]).__name__.lower():
        return "norms"
    if any("Attention" in one for one in kinds):
        return "attention"
    if any(word in one for one in kinds for word in ("MLP", "Mlp", "Moe")):
        return "mlp"
    if isinstance(modules[-1], nn.Embedding) or modules[-1] is model.get_output_embeddings():
        return "embeddings"
    return None


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen3", "nope", "gpt_neox", "mixtral", "olmo2", "bloom"])
def test_words_mean_what_the_modules_are(make_model, make_nope, name):
    from transformers import AutoConfig, AutoModelForCausalLM

    if name == "nope":
        model = make_nope(d_mlp=16)
    elif name in ("gpt2", "llama", "qwen3"):
        model = make_model(name)
    else:
        import torch

        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 64}
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **sizes))
    names = [name for name, _ in model.named_parameters()]
    assert {name: kind(name)[0] for name in names} == {name: owner(model, name) for name in names}
    assert {"norms", "attention", "mlp", "embeddings"} <= {kind(name)[0] for name in names}
