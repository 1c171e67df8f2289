"""Pieces of one model in another against plain hooks and mixed state dicts on Hugging Face's models."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from mi_sweeps.circuits.families import describe
from mi_sweeps.circuits.transplants import CrossedRuns, cross
from mi_sweeps.errors import UserError
from mi_sweeps.tasks.pairs import Pairs
from mi_sweeps.training.evaluate import end_logits

KINDS = ("activation", "weights", "shapley")
LLAMA = {
    "layers": "model.layers", "embed": ("model.embed_tokens",), "unembed": ("model.norm", "lm_head"),
    "attn": ("self_attn",), "mlp": ("mlp",), "z": "self_attn.o_proj", "norm": "model.norm",
    "q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "o": "self_attn.o_proj",
    "attn_norms": ("input_layernorm",), "mlp_norms": ("post_attention_layernorm",),
    "attn_out": "self_attn", "mlp_out": "mlp",
}  # fmt: skip
POST = {"attn_out": "post_attention_layernorm", "mlp_out": "post_feedforward_layernorm"}
MODULES: dict[str, dict[str, Any]] = {
    "gpt2": {
        "layers": "transformer.h", "embed": ("transformer.wte", "transformer.wpe"),
        "unembed": ("transformer.ln_f", "lm_head"), "attn": ("attn",), "mlp": ("mlp",), "z": "attn.c_proj",
        "norm": "transformer.ln_f", "o": "attn.c_proj", "attn_norms": ("ln_1",), "mlp_norms": ("ln_2",),
        "attn_out": "attn", "mlp_out": "mlp",
    },
    "llama": LLAMA,
    "gemma2": LLAMA | POST | {
        "attn_norms": ("input_layernorm", "post_attention_layernorm"),
        "mlp_norms": ("pre_feedforward_layernorm", "post_feedforward_layernorm"),
    },
    "olmo2": LLAMA | POST | {
        "attn_norms": ("post_attention_layernorm", "self_attn.q_norm", "self_attn.k_norm"),
        "mlp_norms": ("post_feedforward_layernorm",),
    },
    "gpt_neox": {
        "layers": "gpt_neox.layers", "embed": ("gpt_neox.embed_in",),
        "unembed": ("gpt_neox.final_layer_norm", "lm_head"), "attn": ("attention",), "mlp": ("mlp",),
        "z": "attention.dense", "norm": "gpt_neox.final_layer_norm", "o": "attention.dense",
        "attn_norms": ("input_layernorm",), "mlp_norms": ("post_attention_layernorm",),
        "attn_out": "attention", "mlp_out": "mlp",
    },
}  # fmt: skip
"""Where Hugging Face's models have what is mixed."""


def another(model: PreTrainedModel, by: float = 0.5) -> PreTrainedModel:
    """The same model further on."""
    later = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in later.parameters():
            parameter += by * parameter.std() * torch.randn(parameter.shape, generator=generator)
    return later


@contextmanager
def replaced(module: Any, *, what: str, value: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """What a module is given (`in`) or gives (`out`) is a function of itself."""
    if what == "in":
        handle = module.register_forward_pre_hook(lambda module, args: (value(args[0]), *args[1:]))
    else:
        handle = module.register_forward_hook(
            lambda module, args, out: (value(out[0]), *out[1:]) if isinstance(out, tuple) else value(out)
        )
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def logit_diff(model: PreTrainedModel, pairs: Pairs) -> Tensor:
    return pairs.logit_diff(end_logits(model, pairs.clean))


def with_activation(into: PreTrainedModel, source: PreTrainedModel, module: str, what: str, pairs: Pairs, head=None):
    """`into` with what a module has in the run of `source`; of one head where it is given all of them."""
    seen: list[Tensor] = []

    def keep(value: Tensor) -> Tensor:
        seen.append(value)
        return value

    def put(value: Tensor) -> Tensor:
        if head is None:
            return seen[0]
        value, other = (one.unflatten(-1, (into.config.num_attention_heads, -1)).clone() for one in (value, seen[0]))
        value[:, :, head] = other[:, :, head]
        return value.flatten(-2)

    with replaced(source.get_submodule(module), what=what, value=keep):
        logit_diff(source, pairs)
    with replaced(into.get_submodule(module), what=what, value=put):
        return logit_diff(into, pairs)


def with_weights(into, source, pairs, names=(), *, rows=()):
    """`into` with weights from `source`: of all modules below some names, or of some slices of parameters."""
    state, other = dict(into.state_dict()), source.state_dict()
    for key in state:
        if any(key.startswith(f"{name}.") for name in names):
            state[key] = other[key]
    for key, index in rows:
        if key in state:
            state[key] = state[key].clone()
            state[key][index] = other[key][index]
    # Embedding and unembedding may be one in the model, and are not in what is mixed of it.
    config = copy.deepcopy(into.config)
    config.tie_word_embeddings = False
    mixed = type(into)(config).eval()
    mixed.load_state_dict(state)
    return logit_diff(mixed, pairs)


def of_head(kind: str, config: Any, layer: int, piece: str, head: int) -> list[tuple[str, Any]]:
    """The parameters that one piece of a head has, and where."""
    modules = MODULES[kind]
    prefix = f"{modules['layers']}.{layer}"
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    part = slice(head * width, (head + 1) * width)
    if piece == "o":
        key = f"{prefix}.{modules['o']}.weight"
        return [(key, part if kind == "gpt2" else (slice(None), part))]
    if kind == "gpt2":
        start = "qkv".index(piece) * config.hidden_size
        own = slice(start + part.start, start + part.stop)
        return [(f"{prefix}.attn.c_attn.weight", (slice(None), own)), (f"{prefix}.attn.c_attn.bias", own)]
    if kind == "gpt_neox":
        start = (3 * head + "qkv".index(piece)) * width
        name = f"{prefix}.attention.query_key_value"
        return [(f"{name}.{end}", slice(start, start + width)) for end in ("weight", "bias")]
    return [(f"{prefix}.{modules[piece]}.{end}", part) for end in ("weight", "bias")]


@pytest.fixture(scope="module", params=MODULES)
def kind(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def models(kind, make_model) -> tuple[PreTrainedModel, PreTrainedModel]:
    # OLMo's normalisations of all keys are no head's, so heads of its kin with shared keys are no state dict's.
    options = {"num_key_value_heads": 4} if kind == "olmo2" else {}
    into = make_model(kind, **options)
    return into, another(into)


@pytest.fixture(scope="module")
def pairs(make_short_pairs) -> Pairs:
    """Of three lengths."""
    return make_short_pairs("first")


@pytest.fixture(scope="module")
def crossed(models, pairs) -> CrossedRuns:
    into, source = (describe(model) for model in models)
    return cross(into, source, pairs, KINDS, 2, 1 << 20)


def found(crossed: CrossedRuns, kind: str) -> dict[tuple[Any, ...], Tensor]:
    return {key[1:]: value for key, value in zip(crossed.components, crossed.mixed, strict=True) if key[0] == kind}


def equal(ours: Tensor, theirs: Tensor, name: Any, limit: float = 3e-5) -> None:
    torch.testing.assert_close(ours, theirs, atol=limit, rtol=0, msg=lambda text: f"{name}: {text}")


def test_activations_are_those_of_plain_hooks(kind, models, pairs, crossed):
    into, source = models
    equal(crossed.into, logit_diff(into, pairs), "into")
    equal(crossed.source, logit_diff(source, pairs), "source")
    modules, ours = MODULES[kind], found(crossed, "activation")
    expected = {("embed", None, None): (f"{modules['layers']}.0", "in", None)}
    for layer in range(2):
        prefix = f"{modules['layers']}.{layer}"
        expected |= {
            (name, layer, None): (f"{prefix}.{modules[f'{name}_out']}", "out", None) for name in ("attn", "mlp")
        }
        expected |= {("head", layer, head): (f"{prefix}.{modules['z']}", "in", head) for head in range(4)}
    assert ours.keys() == expected.keys()
    for key, (module, what, head) in expected.items():
        theirs = with_activation(into, source, module, what, pairs, head)
        equal(ours[key], theirs, key)
        assert (theirs - crossed.into).abs().max() > 1e-3, key


def test_weights_are_those_of_a_mixed_state_dict(kind, models, pairs, crossed):
    into, source = models
    modules, ours = MODULES[kind], found(crossed, "weights")

    def check(key, names=(), rows=()):
        theirs = with_weights(into, source, pairs, names, rows=rows)
        equal(ours.pop(key), theirs, key)
        assert (theirs - crossed.into).abs().max() > 1e-3 or key[0] == "k", key

    check(("embed", None, None), modules["embed"])
    check(("unembed", None, None), modules["unembed"])
    check(("norm", None, None), [modules["norm"]])
    if kind == "gpt2":
        check(("positional", None, None), ["transformer.wpe"])
    key_values = getattr(into.config, "num_key_value_heads", None) or 4
    for layer in range(2):
        prefix = f"{modules['layers']}.{layer}"
        named = {
            name: [f"{prefix}.{one}" for one in modules[name]] for name in ("attn", "mlp", "attn_norms", "mlp_norms")
        }
        check(("attn", layer, None), named["attn"] + named["attn_norms"])
        check(("mlp", layer, None), named["mlp"] + named["mlp_norms"])
        check(("norm", layer, None), named["attn_norms"] + named["mlp_norms"])
        for head in range(4):
            pieces = {piece: of_head(kind, into.config, layer, piece, head) for piece in "qkvo"}
            for piece in "qo":
                check((piece, layer, head), rows=pieces[piece])
            for piece in "kv" if head < key_values else ():
                check((piece, layer, head), rows=pieces[piece])
            if key_values == 4:
                check(("head", layer, head), rows=[row for piece in "qkvo" for row in pieces[piece]])
    # Where heads share keys and values, those of one head alone are no state dict's of the same model.
    assert not ours if key_values == 4 else {name for name, _, _ in ours} == {"head"}


def test_a_head_that_shares_its_keys_is_replaced_alone(make_model, pairs):
    into = make_model("llama-biases")
    source = another(into)
    ours = found(cross(describe(into), describe(source), pairs, ("weights",), 2, 1 << 20), "weights")

    def spread(model: PreTrainedModel) -> PreTrainedModel:
        """The same model where each head has keys and values of its own."""
        wide = make_model("llama-biases", num_key_value_heads=4)
        state = {
            key: value.unflatten(0, (2, -1)).repeat_interleave(2, dim=0).flatten(0, 1)
            if ".k_proj." in key or ".v_proj." in key
            else value
            for key, value in model.state_dict().items()
        }
        wide.load_state_dict(state)
        return wide

    wide_into, wide_source = spread(into), spread(source)
    for layer in range(2):
        for head in range(4):
            rows = [row for piece in "qkvo" for row in of_head("llama", into.config, layer, piece, head)]
            theirs = with_weights(wide_into, wide_source, pairs, rows=rows)
            equal(ours["head", layer, head], theirs, (layer, head))


def test_shapley_values_sum_to_the_whole_difference_prompt_by_prompt(crossed):
    ours = found(crossed, "shapley")
    assert list(ours) == [
        ("embed", None, None),
        *((name, layer, None) for layer in range(2) for name in ("attn", "mlp")),
        ("unembed", None, None),
    ]
    equal(sum(value - crossed.into for value in ours.values()), crossed.source - crossed.into, "sum", 1e-4)


@pytest.mark.parametrize(("name", "options"), [("phi", {}), ("stablelm", {"use_parallel_residual": True})])
def test_a_norm_that_attention_and_mlp_share_is_replaced_where_each_reads_through_it(name, options, make_model, pairs):
    """One part has the other model's norm, and the other still reads through its own."""
    into = make_model(name, **options)
    source = another(into)
    ours = found(cross(describe(into), describe(source), pairs, ("weights",), 2, 1 << 20), "weights")
    for layer in range(2):
        prefix = f"model.layers.{layer}"
        norm = source.get_submodule(f"{prefix}.input_layernorm")
        whole = with_weights(into, source, pairs, [f"{prefix}.input_layernorm"])
        equal(ours["norm", layer, None], whole, (name, layer))
        for part, module in (("attn", "self_attn"), ("mlp", "mlp")):
            mixed = copy.deepcopy(into)
            read: list[Tensor] = []

            def through(module, args, kwargs, read=read, norm=norm):
                value = norm(read[-1])
                return ((value, *args[1:]), kwargs) if args else ((), {**kwargs, "hidden_states": value})

            mixed.get_submodule(prefix).register_forward_pre_hook(lambda module, args, read=read: read.append(args[0]))
            target = mixed.get_submodule(f"{prefix}.{module}")
            target.load_state_dict(source.get_submodule(f"{prefix}.{module}").state_dict())
            target.register_forward_pre_hook(through, with_kwargs=True)
            theirs = logit_diff(mixed, pairs)
            equal(ours[part, layer, None], theirs, (name, part, layer))
            names = [f"{prefix}.{module}", f"{prefix}.input_layernorm"]
            assert (theirs - with_weights(into, source, pairs, names)).abs().max() > 1e-3, "both through one norm"


def test_shapley_values_of_the_other_way_are_the_same(models, pairs, crossed):
    # Each order is walked backwards too, and backwards into `source` is forwards into `into`.
    back = cross(*(describe(model) for model in reversed(models)), pairs, ("shapley",), 2, 1 << 20)
    for key, value in found(crossed, "shapley").items():
        equal(value - crossed.into, back.into - found(back, "shapley")[key], key, 1e-4)


@pytest.mark.parametrize("name", ["gpt2", "phi"])
def test_a_model_in_itself_changes_nothing(make_model, pairs, name):
    network = describe(make_model(name))
    crossed = cross(network, network, pairs, KINDS, 2, 1 << 20)
    equal(crossed.mixed, crossed.into.expand_as(crossed.mixed), "itself", 1e-5)


def test_memory_changes_no_result(make_model, pairs):
    into, source = describe(make_model("llama")), describe(another(make_model("llama")))
    one, other = (cross(into, source, pairs, KINDS, 4, memory) for memory in (1, 1 << 30))
    equal(one.mixed, other.mixed, "mixed", 1e-5)
    # One prompt at a time, and all four in their own order.
    assert one.error[-1] == pytest.approx(other.error[-1], abs=1e-6)


def test_a_model_of_attention_alone(make_nope, make_sequences):
    into = make_nope(layers=2)
    pairs = make_sequences().pairs("previous", 4)
    crossed = cross(describe(into), describe(another(into)), pairs, KINDS, 2, 1 << 20)
    components = {name for _, name, _, _ in crossed.components}
    assert components == {"embed", "attn", "norm", "head", "q", "k", "v", "o", "unembed"}
    ours = found(crossed, "shapley")
    equal(sum(value - crossed.into for value in ours.values()), crossed.source - crossed.into, "sum", 1e-4)


def test_one_changed_head_is_found_and_no_other(make_model, pairs):
    into = make_model("gpt2", n_layer=3)
    source = copy.deepcopy(into)
    with torch.no_grad():
        for key, index in (row for piece in "qkvo" for row in of_head("gpt2", into.config, 1, piece, 2)):
            source.get_parameter(key)[index] += 0.5
    ours = found(cross(describe(into), describe(source), pairs, ("weights",), 2, 1 << 20), "weights")
    before, after = logit_diff(into, pairs), logit_diff(source, pairs)
    assert (after - before).abs().min() > 1e-2
    for (name, layer, head), value in ours.items():
        if (name, layer, head) in {("head", 1, 2), ("attn", 1, None)}:
            equal(value, after, (name, layer, head))
        elif (layer, head) != (1, 2):  # Its q, k, v and o alone are a part of it.
            equal(value, before, (name, layer, head), 1e-5)


@pytest.mark.parametrize("name", ["attn", "mlp"])
def test_where_one_part_has_changed_its_activation_brings_all(make_model, pairs, name):
    into = make_model("gpt2", n_layer=1)
    source = another(into)
    with torch.no_grad():
        for key, value in source.named_parameters():
            if f".{name}." not in key:
                value.copy_(into.get_parameter(key))
    crossed = cross(describe(into), describe(source), pairs, ("activation",), 2, 1 << 20)
    ours = found(crossed, "activation")
    assert (crossed.source - crossed.into).abs().min() > 1e-2
    equal(ours[name, 0, None], crossed.source, name)
    equal(ours["embed", None, None], crossed.into, "embed")


def test_parts_that_are_not_all_of_a_model_are_refused(make_model, pairs):
    into, source = describe(make_model("llama")), describe(another(make_model("llama")))
    source = type(source)(**{**vars(source), "scaling": type(source.scaling)(factor=1.5)})
    with pytest.raises(UserError, match="all weights of another differs from it by .* patching.cross=null"):
        cross(into, source, pairs, ("weights",), 2, 1 << 20)
