"""Measures on clean held-out prompts: where position is encoded, which heads attend to the previous token, and how much
loss each part accounts for.

They show how a model without positional embeddings finds out where its tokens are, and work for any model that the fast
engine supports. They do not depend on the corruption.

Probes and heads are read from the third token on. The first is often BOS, which reveals its position by its identity,
and which idle heads attend to (Xiao et al. 2023, arXiv:2309.17453, on attention sinks); the second has it as its
previous token.

BOS can also reveal other positions: its share of the attention depends on the number of tokens.
`position_r2_without_bos` is the same probe, fitted and evaluated with an ordinary first token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mi_sweeps.circuits.ablation import Component, ablated_losses
from mi_sweeps.circuits.activations import LayerActivations, layer_by_layer
from mi_sweeps.circuits.network import Network
from mi_sweeps.circuits.packed import pack
from mi_sweeps.circuits.probes import Moments, fit, moments, r2
from mi_sweeps.config import Measure
from mi_sweeps.errors import UserError
from mi_sweeps.tasks.tokens import Batch

FIRST = 2
"""The first position that is measured, counted from 0."""

Value = tuple[Component, float, int]
"""The component, its value, and the number of tokens."""


@torch.no_grad()
def take(
    network: Network, heldout: Batch, measures: Sequence[Measure], memory: int, without_bos: Batch | None = None
) -> list[dict[str, Any]]:
    """The rows of the measures table.

    Args:
        heldout: prompts with their scored tokens.
        memory: approximate limit for activations, in bytes, but at least one prompt's need. Does not change results.
        without_bos: the same prompts with an ordinary first token, if the task has them.

    Raises:
        UserError: there are too few prompts for a probe, they are too long for the network, or there are none without
            BOS.
    """
    check_prompts(measures, len(heldout), without_bos=without_bos is not None)
    width = heldout.tokens.shape[1]
    if network.longest and width > network.longest:
        raise UserError(
            f"patching.measures: a held-out prompt has {width} tokens, and beyond {network.longest} the attention of "
            "this model is not supported (a sliding window); use shorter prompts or patching.measures=[]"
        )
    size = prompts_at_once(network, heldout, memory)
    network = pack(network)
    return [
        {
            "kind": "measure",
            "measure": name,
            "component": component,
            "layer": layer,
            "head": head,
            "value": value,
            "n": n,
        }
        for name, measured in MEASURES.items()
        if name in measures
        for (component, layer, head), value, n in measured(
            network, _parts(without_bos if without_bos and name == "position_r2_without_bos" else heldout, size)
        )
    ]


def _parts(prompts: Batch, size: int) -> list[Batch]:
    return [prompts.select(range(start, min(start + size, len(prompts)))) for start in range(0, len(prompts), size)]


def check_prompts(measures: Sequence[Measure], n_prompts: int, *, without_bos: bool) -> None:
    """Checks that the measures have the prompts that they need.

    Raises:
        UserError: there are too few prompts to evaluate a probe, or none without BOS.
    """
    if "position_r2_without_bos" in measures and not without_bos:
        raise UserError(
            "patching.measures: position_r2_without_bos needs the split without_bos, which this task lacks; leave it "
            "out, or use task=previous_token"
        )
    probes = [measure for measure in measures if measure.startswith("position_r2")]
    if probes and n_prompts < 2:
        raise UserError(
            f"patching.measures: {probes[0]} fits a probe to half of the prompts and tests it on the others, but there "
            "is only one prompt; give patching.measured_prompts and the task's heldout at least 2, or leave it out"
        )


def prompts_at_once(network: Network, heldout: Batch, memory: int) -> int:
    """The number of prompts that take about `memory` bytes, one layer at a time."""
    block, width = network.blocks[0], heldout.tokens.shape[1]
    d_model, d_vocab = network.unembed.weight.shape
    d_heads, d_mlp = block.combine.weight.shape[0], block.mlp.up.weight.shape[1]
    # Probes read the stream in 64 bits; scores and logits need three copies each.
    token = 14 * d_model + 8 * d_heads + 2 * d_mlp + 3 * block.n_heads * width
    scored = -(-len(heldout.scored[0]) // len(heldout))
    return max(1, memory // (4 * (width * token + 3 * scored * d_vocab)))


def position_r2(network: Network, batches: Sequence[Batch]) -> Iterator[Value]:
    """R² of a linear probe of each token's position in its prompt, from the residual stream before each layer and after
    the last, and from what each layer's attention and MLP write into it.

    The probe is fitted to one half of the prompts, always the same random half, and evaluated on the other.
    """
    fitted = fitted_half(sum(map(len, batches))).to(batches[0].end.device)
    of_batches = fitted[:, None].split([len(batch) for batch in batches])
    last = len(network.blocks) - 1
    for number, parts in enumerate(layer_by_layer(network, batches)):
        found: dict[str, list[tuple[Moments, Moments]]] = {}
        for fits, (layout, layer) in zip(of_batches, parts, strict=True):
            halves = [(layout.positions >= FIRST) & half for half in (fits, ~fits)]
            for name, values in _streams(layer, mlp=network.has_mlps, after=number == last):
                one, other = (moments(values[half], layout.positions[half]) for half in halves)
                found.setdefault(name, []).append((one, other))
        for name, summed in found.items():
            one, other = (sum(half) for half in zip(*summed, strict=True))
            yield (name, number, None), r2(fit(one), other), int(other[-2, -2])


def fitted_half(n_prompts: int) -> Bool[Tensor, " prompt"]:
    """The half of the prompts that probes are fitted to, drawn at random in case their order matters."""
    fitted = torch.zeros(n_prompts, dtype=torch.bool)
    fitted[torch.randperm(n_prompts, generator=torch.Generator().manual_seed(0))[: n_prompts // 2]] = True
    return fitted


def _streams(
    layer: LayerActivations, *, mlp: bool, after: bool
) -> Iterator[tuple[str, Float[Tensor, "prompt col d_model"]]]:
    """The activations in one layer that probes read."""
    yield "resid_pre", layer.resid_pre
    yield "attn_out", layer.attn_out
    if mlp:
        yield "mlp_out", layer.mlp_out
    if after:
        yield "resid_post", layer.resid_post


def previous_token(network: Network, batches: Sequence[Batch]) -> Iterator[Value]:
    """Each head's attention to the previous token, averaged over tokens: 0 to 1."""
    return _attention(network, batches, back=1)


def diagonal(network: Network, batches: Sequence[Batch]) -> Iterator[Value]:
    """Each head's attention to the token itself, averaged over the same tokens."""
    return _attention(network, batches, back=0)


def _attention(network: Network, batches: Sequence[Batch], back: int) -> Iterator[Value]:
    """Each head's attention from each token to the one `back` tokens before."""
    n = sum(int((batch.end + 1 - FIRST).clamp(min=0).sum()) for batch in batches)
    for number, parts in enumerate(layer_by_layer(network, batches)):
        found = []
        for layout, layer in parts:
            paid = layer.pattern.diagonal(-back, -2, -1)[..., 1 - back :]
            found.append((paid.double() * (layout.positions[:, None, 1:] >= FIRST)).sum(dim=(0, 2)))
        for head, mean in enumerate((sum(found) / n).tolist()):
            yield ("head", number, head), mean, n


def ablated_loss(network: Network, batches: Sequence[Batch]) -> Iterator[Value]:
    """See `mi_sweeps.circuits.ablation`."""
    n = sum(len(batch.scored[0]) for batch in batches)
    for component, loss in ablated_losses(network, batches).items():
        yield component, loss, n


MEASURES: Mapping[Measure, Callable[[Network, Sequence[Batch]], Iterable[Value]]] = {
    "position_r2": position_r2,
    "position_r2_without_bos": position_r2,
    "previous_token": previous_token,
    "diagonal": diagonal,
    "ablated_loss": ablated_loss,
}
"""The measures, by their names in `patching.measures`."""
