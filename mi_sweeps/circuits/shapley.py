"""Shapley values (Shapley 1953): what each of several parts adds to a value, averaged over all orders of the parts.
Here the average is over random orders, each walked forwards and backwards (antithetic sampling; Mitchell et al. 2022,
arXiv:2104.12199), so that a part that comes early in one comes late in the other. Along every order the contributions
add up to the whole difference, and so do the means.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from mi_sweeps.circuits.activations import Layout, each_layer
from mi_sweeps.circuits.mixed import Part, mix, parts
from mi_sweeps.circuits.network import Network
from mi_sweeps.circuits.readout import read_out
from mi_sweeps.tasks.pairs import Pairs

SEED = 0

Walk = Callable[[Sequence[int]], Float[Tensor, "added prompt"]]
"""Maps an order of the parts to the value without any, with the first, with the first two, and so on up to all."""


def marginals(walk: Walk, count: int, permutations: int) -> Float[Tensor, "pair part prompt"]:
    """What each of `count` parts adds to each prompt's value, averaged over an order and its reverse, by such pair.

    The mean over pairs estimates the Shapley value, and pairs are independent.

    Args:
        permutations: number of orders to walk; even.
    """
    generator = torch.Generator().manual_seed(SEED)
    pairs = []
    for _ in range(permutations // 2):
        order = torch.randperm(count, generator=generator)
        both = []
        for one in (order, order.flip(0)):
            added = walk(one.tolist()).double().diff(dim=0)
            both.append(added[one.argsort().to(added.device)])
        pairs.append((both[0] + both[1]) / 2)
    return torch.stack(pairs)


def standard_error(found: Float[Tensor, "pair part prompt"]) -> Float[Tensor, " part"]:
    """The standard error of each part's Shapley value (mean over prompts) due to random orders; NaN for one pair."""
    means = found.mean(dim=-1)
    if len(means) < 2:
        return torch.full_like(means[0], torch.nan)
    return means.std(dim=0) / len(means) ** 0.5


class Mixing:
    """The logit difference of prompts of one length as weights of `source` replace those of `into`, part by part.

    Layers before the first changed one are not computed again.
    """

    def __init__(
        self,
        into: Network,
        source: Network,
        pairs: Pairs,
        layout: Layout,
        streams: Sequence[Float[Tensor, "prompt col d_model"]],
    ) -> None:
        """
        Args:
            streams: the residual stream of `into` before each layer, and after the last.
        """
        self.into, self.source, self.pairs, self.layout = into, source, pairs, layout
        self.streams = list(streams)
        self.parts: list[Part] = parts(into)

    def __call__(self, order: Sequence[int]) -> Float[Tensor, "added prompt"]:
        """See `Walk`."""
        network, streams = self.into, list(self.streams)
        values = [self._value(network, streams)]
        for number in order:
            part = self.parts[number]
            network = mix(network, self.source, [part])
            name, layer = part
            if name == "embed":
                tokens = self.layout.tokens(self.pairs.clean)
                streams[0] = network.embed(tokens, self.layout.positions.clamp(min=0))
            first = len(network.blocks) if name == "unembed" else layer or 0
            for at, after in enumerate(
                each_layer(network.blocks[first:], streams[first], self.layout), start=first + 1
            ):
                streams[at] = after.resid_post
            values.append(self._value(network, streams))
        return torch.stack(values)

    def _value(self, network: Network, streams: Sequence[Tensor]) -> Float[Tensor, " prompt"]:
        return read_out(network, self.pairs)(streams[-1][:, -1], slice(None))
