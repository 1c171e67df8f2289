"""Hugging Face models under PyTorch's hooks, one forward per question: plain and slow, nothing shared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import product

import torch
from torch import Tensor
from transformers import PreTrainedModel

from mi_sweeps.graph import Graph, Node, Receiver


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

    def circuit(self, clean: Tensor, corrupted: Tensor, graph: Graph, edges: set[str]) -> Tensor:
        """Logits of the run in which each input reads, of every node before it, what the node writes in this run if
        the edge is in the set, and else what it writes in the corrupted run."""
        wrote, _ = self.run(corrupted)
        now: dict[str, Tensor] = {}

        def stream(name: str, sources: Sequence[Node], bias: Tensor) -> Tensor:
            total = wrote["input"] - wrote["input"] + bias
            for node in sources:
                total = total + (now if f"{node.name}->{name}" in edges else wrote)[node.name]
            return total

        def bias(layer: int) -> Tensor:
            """What the layers before add that no node writes."""
            found = [self.parts(number)[3].bias for number in range(layer)]
            return sum((value for value in found if value is not None), torch.zeros(()))

        def projected(module: torch.nn.Module, args: tuple[Tensor], out: Tensor, layer: int, kinds: str) -> Tensor:
            out = out.clone()
            for into, head in product(kinds, range(self.n_heads)):
                _, part = self.projection(layer, into, head)
                receiver = Receiver(into, layer, head)
                sources = graph.nodes[: graph.reads(receiver)]
                read = self.parts(layer)[0].forward(stream(receiver.name, sources, bias(layer)))
                part(out).copy_(part(module.forward(read)))
            return out

        def combined(module: torch.nn.Module, args: tuple[Tensor], layer: int) -> None:
            weight = module.weight if self.kind == "gpt2" else module.weight.T
            for head, z in enumerate(args[0].unflatten(-1, (self.n_heads, -1)).unbind(-2)):
                now[f"a{layer}.h{head}"] = z @ weight.unflatten(0, (self.n_heads, -1))[head]

        def through_mlp(module: torch.nn.Module, args: tuple[Tensor], out: Tensor, layer: int) -> Tensor:
            receiver = Receiver("mlp", layer)
            own = bias(layer if self.kind == "gpt_neox" else layer + 1)
            read = stream(receiver.name, graph.nodes[: graph.reads(receiver)], own)
            now[f"m{layer}"] = module.forward(self.parts(layer)[1].forward(read))
            return now[f"m{layer}"]

        def first(module: torch.nn.Module, args: tuple[Tensor]) -> None:
            now["input"] = args[0]

        def last(module: torch.nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
            return (stream("logits", graph.nodes, bias(len(self.layers))),)

        with ExitStack() as stack:
            stack.callback(self.parts(0)[0].register_forward_pre_hook(first).remove)
            stack.callback(self.final.register_forward_pre_hook(last).remove)
            for layer in range(len(self.layers)):
                _, _, mlp, combine = self.parts(layer)
                modules = [(self.projection(layer, into, 0)[0], into) for into in "qkv"]
                for module in dict.fromkeys(module for module, _ in modules):
                    kinds = "".join(into for one, into in modules if one is module)
                    hook = partial(projected, layer=layer, kinds=kinds)
                    stack.callback(module.register_forward_hook(hook).remove)
                stack.callback(combine.register_forward_pre_hook(partial(combined, layer=layer)).remove)
                stack.callback(mlp.register_forward_hook(partial(through_mlp, layer=layer)).remove)
            return self.model(clean).logits


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
