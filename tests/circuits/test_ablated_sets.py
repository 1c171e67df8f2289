"""Ablated sets of nodes, each against one forward of Hugging Face's model under PyTorch's own hooks."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from mi_sweeps.circuits.ablated_sets import Node, ablate_sets, nodes_of
from mi_sweeps.circuits.families import describe
from mi_sweeps.circuits.fast import MEMORY
from mi_sweeps.circuits.means import mean_outputs
from mi_sweeps.errors import UserError
from mi_sweeps.tasks.pairs import Pairs
from mi_sweeps.tasks.tokens import Batch

FAMILIES = ("gpt2", "llama", "gpt_neox", "gemma2", "olmo2")
"""Plain; grouped-query attention; parallel; norms behind the parts, and capped; norms of all heads together."""


class Hooked:
    """A model whose parts write given values."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        stem = model.base_model
        self.layers = stem.h if hasattr(stem, "h") else stem.layers
        self.z: dict[int, Tensor] = {}
        self.mlp: dict[int, Tensor] = {}
        self.n_heads = model.config.num_attention_heads

    def parts(self, layer: nn.Module) -> tuple[nn.Module, nn.Module]:
        """What is given the heads' outputs, and what gives out what the MLP adds."""
        for names in (("attn", "c_proj"), ("self_attn", "o_proj"), ("attention", "dense")):
            if hasattr(layer, names[0]):
                combine = getattr(getattr(layer, names[0]), names[1])
        return combine, getattr(layer, "post_feedforward_layernorm", layer.mlp)

    @torch.no_grad()
    def run(self, tokens: Tensor, off: dict[Node, Tensor] | None = None) -> Tensor:
        """Logits; what all nodes wrote is in `z` and `mlp`."""
        off = off or {}
        handles = []
        for number, layer in enumerate(self.layers):

            def before(module, args, number=number):
                z = args[0].unflatten(-1, (self.n_heads, -1)).clone()
                for head in range(self.n_heads):
                    if (number, head) in off:
                        z[:, :, head] = off[number, head]
                self.z[number] = z
                return (z.flatten(-2),)

            def after(module, args, out, number=number):
                self.mlp[number] = off.get((number, None), out)
                return self.mlp[number]

            combine, mlp = self.parts(layer)
            handles += [combine.register_forward_pre_hook(before), mlp.register_forward_hook(after)]
        try:
            return self.model(tokens, use_cache=False).logits
        finally:
            for handle in handles:
                handle.remove()

    def written(self, tokens: Tensor) -> dict[Node, Tensor]:
        """What each node writes, [prompt, pos, ...]."""
        self.run(tokens)
        found: dict[Node, Tensor] = {(layer, None): out for layer, out in self.mlp.items()}
        return found | {(layer, head): z[:, :, head] for layer, z in self.z.items() for head in range(self.n_heads)}


def by_role(written: dict[Node, Tensor], averaged: Batch, batch: Batch) -> dict[Node, Tensor]:
    """Means over prompts, put where a batch's tokens have the same roles."""
    found = {}
    for node, values in written.items():
        of: dict[str, list[Tensor]] = {}
        for prompt, roles in enumerate(averaged.roles):
            for position, role in enumerate(roles):
                of.setdefault(role, []).append(values[prompt, position])
        means = {role: torch.stack(rows).mean(dim=0) for role, rows in of.items()}
        found[node] = torch.zeros(*batch.tokens.shape, values.shape[-1])
        for prompt, roles in enumerate(batch.roles):
            for position, role in enumerate(roles):
                found[node][prompt, position] = means[role]
    return found


def slow(hooked: Hooked, pairs: Pairs, off: dict[Node, Tensor], nodes: Sequence[Node], kept: Tensor) -> Tensor:
    """One forward a set."""
    found = []
    for row in kept.tolist():
        ablated = {node: off[node] for node, is_kept in zip(nodes, row, strict=True) if not is_kept}
        found.append(pairs.logit_diff(pairs.at_end(hooked.run(pairs.clean.tokens, ablated))))
    return torch.stack(found)


def some_sets(n_nodes: int) -> Tensor:
    """Nothing, all, all but one, one alone, and sparse and dense ones at random."""
    one = torch.eye(n_nodes, dtype=torch.bool)
    random = torch.Generator().manual_seed(1)
    drawn = [torch.rand(3, n_nodes, generator=random) < share for share in (0.2, 0.5, 0.8)]
    return torch.cat([torch.zeros(1, n_nodes).bool(), torch.ones(1, n_nodes).bool(), ~one, one, *drawn])


@pytest.mark.parametrize("name", FAMILIES)
def test_every_set_equals_a_forward_under_hooks(name, make_model, make_short_pairs):
    model = make_model(name)
    pairs, others = make_short_pairs("second"), make_short_pairs("both").corrupted
    network, hooked = describe(model), Hooked(model)
    nodes = nodes_of(network)
    assert len(nodes) == 2 * (4 + 1)
    kept = some_sets(len(nodes))
    means = mean_outputs(network, others, prompts=3)
    off = by_role(hooked.written(others.tokens), others, pairs.clean)
    expected = slow(hooked, pairs, off, nodes, kept)
    found = ablate_sets(network, pairs, nodes, kept, means, MEMORY)
    torch.testing.assert_close(found, expected, atol=3e-5, rtol=0)
    assert expected.std(dim=0).min() > 0.05, "the sets differ"
    # By corrupted values, and with so little memory that each set goes alone; in the last layer nothing is shared.
    off, kept = hooked.written(pairs.corrupted.tokens), kept[::3]
    expected = slow(hooked, pairs, off, nodes, kept)
    torch.testing.assert_close(ablate_sets(network, pairs, nodes, kept, None, 1), expected, atol=3e-5, rtol=0)


def test_models_without_mlps_and_sets_of_heads_alone(make_nope, make_sequences):
    network = describe(make_nope())
    pairs = make_sequences().pairs("previous", 4)
    nodes = nodes_of(network)
    assert nodes == [(0, 0), (0, 1), (1, 0), (1, 1)]
    found = ablate_sets(network, pairs, nodes, torch.tensor([[1, 1, 1, 1], [0, 0, 0, 0]]).bool(), None, MEMORY)
    clean, corrupted = (
        pairs.logit_diff(pairs.at_end(network_logits(network, batch))) for batch in (pairs.clean, pairs.corrupted)
    )
    torch.testing.assert_close(found[0], clean, atol=1e-5, rtol=0)
    torch.testing.assert_close(found[1], corrupted, atol=1e-5, rtol=0, msg="the last token is the same in both")


def network_logits(network, batch):
    from mi_sweeps.circuits.activations import align, embed, forward

    layout = align(network, batch.end)
    _, resid = forward(network, embed(network, batch, layout), layout)
    return network.logits(resid)


def test_mlps_that_are_no_nodes_are_always_kept(make_model, make_short_pairs):
    network, pairs = describe(make_model("gpt2")), make_short_pairs("first")
    everything, heads = nodes_of(network), nodes_of(network, mlps=False)
    of_all = torch.tensor([[head is None or (layer, head) == (1, 2) for layer, head in everything]])
    of_heads = torch.tensor([[node == (1, 2) for node in heads]])
    a, b = (
        ablate_sets(network, pairs, nodes, kept, None, MEMORY)
        for nodes, kept in ((everything, of_all), (heads, of_heads))
    )
    torch.testing.assert_close(a, b, atol=0, rtol=0)


def test_a_role_that_no_averaged_prompt_has_is_refused(make_model, make_short_pairs):
    pairs = make_short_pairs("both")
    network = describe(make_model("gpt2"))
    means = mean_outputs(network, pairs.corrupted.select([0]), prompts=1)
    with pytest.raises(UserError, match="patching.circuits.ablation=mean: no prompt that is averaged has a token of"):
        ablate_sets(network, pairs, nodes_of(network), some_sets(10), means, MEMORY)
