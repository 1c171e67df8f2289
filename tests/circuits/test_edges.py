"""Every edge, against one forward of the Hugging Face model each, and on a model whose edges are known."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import ExitStack

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from mi_sweeps.circuits.edges import measure, patch_edges, table
from mi_sweeps.circuits.fast import MEMORY
from mi_sweeps.circuits.gradients import Estimates, integrated
from mi_sweeps.circuits.graph import Graph
from mi_sweeps.circuits.network import describe
from mi_sweeps.circuits.view import View
from mi_sweeps.config.edges import EdgesConfig
from tests.circuits.known import known


class Plain:
    """A Hugging Face model under PyTorch's hooks: what its parts write, and one input that reads something else."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model, config = model, model.config
        self.kind, self.n_heads = config.model_type, config.num_attention_heads
        body = model.base_model
        self.layers = body.h if self.kind == "gpt2" else body.layers
        self.final = {"gpt2": "ln_f", "gpt_neox": "final_layer_norm"}.get(self.kind, "norm")
        self.final = getattr(body, self.final)

    def parts(self, layer: int) -> tuple[torch.nn.Module, ...]:
        """Both normalisations, the MLP, and what combines the heads."""
        block = self.layers[layer]
        if self.kind == "gpt2":
            return block.ln_1, block.ln_2, block.mlp, block.attn.c_proj
        attention = block.attention if self.kind == "gpt_neox" else block.self_attn
        combine = attention.dense if self.kind == "gpt_neox" else attention.o_proj
        return block.input_layernorm, block.post_attention_layernorm, block.mlp, combine

    def projection(self, layer: int, into: str, head: int) -> tuple[torch.nn.Module, Callable[[Tensor], Tensor]]:
        """The module that makes a head's queries, keys or values, and where in its output they are."""
        block = self.layers[layer]
        number = "qkv".index(into)
        if self.kind == "gpt2":
            return block.attn.c_attn, lambda out: out.unflatten(-1, (3, self.n_heads, -1))[..., number, head, :]
        if self.kind == "gpt_neox":
            module = block.attention.query_key_value
            return module, lambda out: out.unflatten(-1, (self.n_heads, 3, -1))[..., head, number, :]
        return getattr(block.self_attn, f"{into}_proj"), lambda out: out.unflatten(-1, (self.n_heads, -1))[..., head, :]

    def run(self, tokens: Tensor) -> tuple[dict[str, Tensor], dict[tuple[str, int], Tensor]]:
        """What each node writes, and what each norm reads."""
        wrote: dict[str, Tensor] = {}
        read: dict[tuple[str, int], Tensor] = {}

        def combine(layer: int) -> Callable[..., None]:
            def hook(module: torch.nn.Module, args: tuple[Tensor]) -> None:
                weight = module.weight if self.kind == "gpt2" else module.weight.T
                for head, z in enumerate(args[0].unflatten(-1, (self.n_heads, -1)).unbind(-2)):
                    wrote[f"a{layer}.h{head}"] = z @ weight.unflatten(0, (self.n_heads, -1))[head]

            return hook

        with ExitStack() as stack:
            for layer in range(len(self.layers)):
                norm, mlp_norm, mlp, module = self.parts(layer)
                for name, one in (("attention", norm), ("mlp", mlp_norm)):
                    hook = lambda module, args, name=name, layer=layer: read.update({(name, layer): args[0]})  # noqa: E731
                    stack.callback(one.register_forward_pre_hook(hook).remove)
                said = lambda module, args, out, layer=layer: wrote.update({f"m{layer}": out})  # noqa: E731
                stack.callback(mlp.register_forward_hook(said).remove)
                stack.callback(module.register_forward_pre_hook(combine(layer)).remove)
            self.model(tokens)
        wrote["input"] = read["attention", 0]
        return wrote, read

    def patched(self, tokens: Tensor, receiver, change: Tensor, read: dict[tuple[str, int], Tensor]) -> Tensor:
        """Logits where one input reads the change too."""
        if receiver.input == "logits":
            handle = self.final.register_forward_pre_hook(lambda module, args: (args[0] + change,))
        elif receiver.input == "mlp":
            _, norm, mlp, _ = self.parts(receiver.layer)
            changed = mlp.forward(norm.forward(read["mlp", receiver.layer] + change))
            handle = mlp.register_forward_hook(lambda module, args, out: changed)
        else:
            norm = self.parts(receiver.layer)[0]
            module, part = self.projection(receiver.layer, receiver.input, receiver.head)
            changed = module.forward(norm.forward(read["attention", receiver.layer] + change))

            def put(module: torch.nn.Module, args: tuple[Tensor], out: Tensor) -> Tensor:
                out = out.clone()
                part(out).copy_(part(changed))
                return out

            handle = module.register_forward_hook(put)
        try:
            return self.model(tokens).logits
        finally:
            handle.remove()


def ungrouped(model: PreTrainedModel) -> PreTrainedModel:
    """The same model, in which each head has a copy of the keys and values that it shared."""
    config = type(model.config)(**{**model.config.to_dict(), "num_key_value_heads": model.config.num_attention_heads})
    config._attn_implementation = "eager"
    state = model.state_dict()
    size = model.config.num_attention_heads // model.config.num_key_value_heads
    for name, value in state.items():
        if "k_proj" in name or "v_proj" in name:
            heads = value.unflatten(0, (model.config.num_key_value_heads, -1))
            state[name] = heads.repeat_interleave(size, dim=0).flatten(0, 1)
    copy = type(model)(config).eval()
    copy.load_state_dict(state)
    return copy


@pytest.mark.parametrize("name", ["gpt2", "llama", "gpt_neox"])
@torch.no_grad()
def test_every_edge_equals_one_forward_of_the_model_each(name, make_model, make_short_pairs):
    """Also under grouped-query attention with rotated keys, in parallel blocks, and for prompts of unequal length."""
    model, pairs = make_model(name), make_short_pairs("first").select([0, 1, 3])
    network = describe(model)
    graph = Graph.of(network)
    clean, corrupted, values = patch_edges(network, pairs, graph.edges, memory=1)
    plain = Plain(ungrouped(model) if name == "llama" else model)
    tokens = pairs.corrupted.tokens
    wrote, read = plain.run(tokens)
    theirs, _ = plain.run(pairs.clean.tokens)
    for edge, found in zip(graph.edges, values, strict=True):
        change = theirs[edge.source.name] - wrote[edge.source.name]
        logits = plain.patched(tokens, edge.receiver, change, read)
        torch.testing.assert_close(found, pairs.logit_diff(pairs.at_end(logits)), atol=2e-5, rtol=0, msg=edge.name)
    moved = ((values - corrupted).abs() > 1e-5).any(dim=1)
    still = {edge.name for edge, moves in zip(graph.edges, moved.tolist(), strict=True) if not moves}
    same = ["input", "m0"] if name == "gpt_neox" else ["input"]  # A parallel MLP reads the embedding alone.
    last = {f"{node}->{into}" for node in same for into in ("logits", "m1", *(f"a1.h{head}<q>" for head in range(4)))}
    assert still == last, "there only the last token reads, which is the same in both prompts"
    torch.testing.assert_close(corrupted, pairs.logit_diff(pairs.at_end(plain.model(tokens).logits)), atol=2e-5, rtol=0)


def in_double(model: PreTrainedModel) -> Plain:
    """With as many digits as small differences need."""
    return Plain((ungrouped(model) if model.config.model_type == "llama" else copy.deepcopy(model)).double())


@pytest.mark.parametrize("name", ["gpt2", "llama", "gpt_neox"])
@torch.no_grad()
def test_attribution_is_the_slope_of_the_exact_patch(name, make_model, make_short_pairs):
    """With one step: how fast the logit difference moves as an edge begins to be the clean run's."""
    model, pairs = make_model(name), make_short_pairs("second").select([0, 1, 3])
    network = describe(model)
    graph = Graph.of(network)
    found = integrated(network, pairs, graph, steps=1, memory=1)
    plain = in_double(model)
    wrote, read = plain.run(pairs.corrupted.tokens)
    theirs, _ = plain.run(pairs.clean.tokens)
    # Some parts of the others round to 32 bits whatever they are given.
    step, limits = (1e-2, (1e-3, 1e-2)) if name != "gpt2" else (1e-5, (1e-4, 1e-3))
    for edge, values in list(zip(graph.edges, values_of(found), strict=True))[::5]:
        change = theirs[edge.source.name] - wrote[edge.source.name]
        ends = [
            pairs.logit_diff(pairs.at_end(plain.patched(pairs.corrupted.tokens, edge.receiver, small * change, read)))
            for small in (step, -step)
        ]
        slope = (ends[0] - ends[1]).float() / (2 * step)
        torch.testing.assert_close(values, slope, atol=limits[0], rtol=limits[1], msg=edge.name)


def values_of(found: Estimates) -> Tensor:
    return found.values - found.corrupted


@torch.no_grad()
def test_integrated_gradients_are_a_mean_over_the_way_between_the_prompts(make_model, make_short_pairs):
    """At a quarter of the way, and at the others, the slope is that of a run which begins there."""
    model, pairs = make_model("gpt2"), make_short_pairs("second").select([0, 1])
    network = describe(model)
    graph = Graph.of(network)
    found = values_of(integrated(network, pairs, graph, steps=4))
    plain = in_double(model)
    wrote, ours = plain.run(pairs.corrupted.tokens)
    theirs, clean = plain.run(pairs.clean.tokens)
    first = plain.layers[0]
    for number in range(0, len(graph.edges), 11):
        edge, slopes = graph.edges[number], []
        change = theirs[edge.source.name] - wrote[edge.source.name]
        for step in range(4):
            begin = ours["attention", 0] + step / 4 * (clean["attention", 0] - ours["attention", 0])
            handle = first.register_forward_pre_hook(lambda module, args, begin=begin: (begin, *args[1:]))
            _, read = plain.run(pairs.corrupted.tokens)
            ends = [
                pairs.logit_diff(
                    pairs.at_end(plain.patched(pairs.corrupted.tokens, edge.receiver, small * change, read))
                )
                for small in (1e-5, -1e-5)
            ]
            handle.remove()
            slopes.append((ends[0] - ends[1]) / 2e-5)
        torch.testing.assert_close(found[number], torch.stack(slopes).mean(dim=0).float(), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("backup", [False, True])
def test_the_edges_of_a_known_circuit_are_found_and_no_others(backup):
    truth = known(backup=backup)
    found = measure(truth.network, truth.pairs, EdgesConfig())
    effects = dict(zip([edge.name for edge in found.graph.edges], found.patched - found.corrupted, strict=True))
    assert {name for name, effect in effects.items() if effect.abs().max() > 1e-4} == set(truth.edges)
    assert all((effects[name] > 9.9).all() for name in truth.edges), "in every prompt"
    assert set(found.chosen) == {"all"}


def test_attribution_misses_edges_through_a_saturated_pattern_and_says_that_it_is_approximate():
    """It is why edges are patched: the pattern of a head that is sure has no gradient."""
    truth = known()
    found = measure(truth.network, truth.pairs, EdgesConfig(exact=2))
    names = [edge.name for edge in found.graph.edges]
    place = names.index("a0.h0->a1.h1<k>")
    assert (found.approximate[place] - found.corrupted).abs().max() < 0.1
    assert found.chosen[place] == "rest" and found.patched[place].isnan().all(), "no number where nothing was patched"
    sampled = measure(truth.network, truth.pairs, EdgesConfig(exact=2, sample=len(names)))
    assert sampled.chosen.count("sample") == len(names) - 2, "a sample as large as the rest is the rest"
    assert sampled.patched[place].sub(sampled.corrupted).min() > 9.9


@pytest.fixture(scope="module")
def make_table(make_model, make_short_pairs, patching):
    """The table of a tiny model."""
    network, pairs = describe(make_model("gpt2")), make_short_pairs("second")

    def make(**options):
        asked = patching().model_copy(update={"edges": EdgesConfig(**options)})
        return table(View(0, network, pairs, None, asked, MEMORY, (0,), None)).to_pandas()

    return make


def test_the_table_has_every_edge_and_what_each_prompt_has_where_it_was_patched(make_table):
    every = make_table()
    assert len(every) == 110 and set(every["chosen"]) == {"all"} and set(every["n"]) == {4}
    assert [one.mean() for one in every["by_prompt"]] == pytest.approx(every["patched"].tolist(), abs=1e-5)
    assert every["clean"].nunique() == every["corrupted"].nunique() == 1
    through = every.set_index(["source", "input"])["patched"]
    assert through["embed", "logits"] == pytest.approx(every["corrupted"][0]), "the last token does not differ"
    few, many = make_table(exact=9), make_table(exact=9, sample=20)
    assert few["by_prompt"].notna().sum() == few["patched"].notna().sum() == (few["chosen"] == "top").sum() == 9
    assert many["chosen"].value_counts().to_dict() == {"rest": 81, "sample": 20, "top": 9}
    there = many["patched"].notna()
    assert many["patched"][there].tolist() == pytest.approx(every["patched"][there].tolist(), abs=1e-5)
    size = (many["approximate"] - many["corrupted"]).abs()
    assert size[many["chosen"] == "top"].min() >= size[many["chosen"] != "top"].max()
