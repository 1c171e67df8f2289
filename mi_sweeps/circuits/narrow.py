"""Computes a layer's MLP faster if its input changed only by the output of one head of that layer.

A norm is linear but for its scale. So with x the run's stream, dz the change in the head's output, and N the norm (with
gain g, bias b, and c subtracting the mean if it centres),

    W N(x + dz W_O) = (W g c(x) + dz (W g c(W_O))) / scale(x + dz W_O) + W b

The first term is the run's own, and the second has a matrix with d_head rows instead of d_model: the MLP's first half
costs d_head / d_model of the usual amount. Exact up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from mi_sweeps.circuits.network import SLICE, Block, Linear, Norm
from mi_sweeps.circuits.propagate import CachedRun, Group

Halves = Sequence[Float[Tensor, "... d_mlp"]]
"""Outputs of the MLP's first matrices before scale and bias: of `gate`, if there is one, and of `up`."""


LEAST = 1 << 17
"""Size of the MLP's first matrix below which nothing is gained."""


def applies(block: Block, heads: int) -> bool:
    """Whether the output of `heads` heads is narrower than the stream and is added to it unchanged."""
    if block.mlp.up.parameter.numel() < LEAST:
        return False
    d_model, d_heads = block.combine.weight.shape[1], heads * len(block.combine.weight) // block.n_heads
    return not block.parallel and not block.rescales and d_heads < d_model


@dataclass(frozen=True)
class Narrow:
    """Terms that all changes of a run share, computed on first use."""

    of_run: Callable[[int, Group, int], Halves]
    """By layer, prompts and number of last columns: [prompt, 1, col, d_mlp]."""
    of_heads: Callable[[int, int, int], Halves]
    """By layer, first head and end of the range of heads: [head * d_head, d_mlp]."""

    @classmethod
    def of(cls, run: CachedRun) -> Narrow:
        """Caches little, because layers come one after another."""
        blocks = run.network.blocks

        def of_run(layer: int, group: Group, columns: int) -> Halves:
            cached = run.layers[layer]
            mid = (cached.resid_pre + cached.attn_out)[group.prompts, None, -columns:]
            return _halves(blocks[layer], mid)

        def of_heads(layer: int, start: int, stop: int) -> Halves:
            return _halves(blocks[layer], blocks[layer].W_O[start:stop].flatten(0, 1))

        return cls(lru_cache(maxsize=16)(of_run), lru_cache(maxsize=blocks[0].n_heads)(of_heads))

    def add_mlp(
        self,
        block: Block,
        of_run: Halves,
        of_heads: Halves,
        z: Float[Tensor, "prompt change col d_heads"],
        resid: Float[Tensor, "prompt change col d_model"],
    ) -> None:
        """Adds the MLP's output in place.

        Args:
            z: the change in the heads' outputs.
            resid: the MLP's input, including that change.
        """
        size = max(1, SLICE // (len(z) * z.shape[2]))
        for part, change in zip(resid.split(size, dim=1), z.split(size, dim=1), strict=True):
            norm = block.mlp_norm
            factor = 1.0 / norm.scale(part) if norm else part.new_ones(*part.shape[:-1], 1)
            scaled = (change * factor).flatten(0, 2)
            found = []
            for linear, own, written in zip(_first(block), of_run, of_heads, strict=True):
                hidden = torch.addcmul(_constant(linear, norm), own, factor).contiguous()
                hidden.view(-1, hidden.shape[-1]).addmm_(scaled, written)
                found.append(hidden)
            part += block.mlp_of_hidden(block.mlp.activated(*found))


def _first(block: Block) -> list[Linear]:
    return [linear for linear in (block.mlp.gate, block.mlp.up) if linear is not None]


def _halves(block: Block, x: Float[Tensor, "... d_model"]) -> Halves:
    norm = block.mlp_norm
    centred = norm.centre(x) * norm.gain if norm else x
    return [centred @ linear.weight for linear in _first(block)]


def _constant(linear: Linear, norm: Norm | None) -> Float[Tensor, " d_mlp"]:
    """The constant due to the biases of norm and matrix."""
    constant = linear.weight.new_zeros(linear.weight.shape[1]) if linear.bias is None else linear.bias
    return constant if norm is None or norm.bias is None else constant + norm.bias @ linear.weight
