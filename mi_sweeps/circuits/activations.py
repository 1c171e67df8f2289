"""A plain forward pass that keeps the activations that patching needs.

Prompts are aligned at their ends: column -1 is every prompt's last token, and shorter prompts have padding on the
left that nothing attends to. So a change a given number of tokens before the end reaches the same columns in all
prompts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_sweeps.circuits.network import Block, Network, Rotary, Rotation, rotate
from mi_sweeps.models.head import capped
from mi_sweeps.tasks.tokens import Batch


@dataclass(frozen=True)
class Layout:
    """The positions of prompts that are aligned at the end."""

    positions: Int[Tensor, "prompt col"]
    """The position of each column in its prompt; negative before the prompt begins."""
    rotations: Mapping[Rotary, Rotation]
    """Each of shape [prompt, col, rotated]."""
    mask: Float[Tensor, "prompt col col"]
    """Added to attention scores: 0 where a column may attend, the lowest number elsewhere."""

    def rotation(self, block: Block) -> Rotation | None:
        """The rotation of a layer's queries and keys."""
        return None if block.rotation is None else self.rotations[block.rotation]

    def tokens(self, batch: Batch) -> Int[Tensor, "prompt col"]:
        """The tokens of a batch with this layout, aligned at the end."""
        return batch.tokens.gather(1, self.positions.clamp(min=0))


def align(network: Network, end: Int[Tensor, " prompt"]) -> Layout:
    """The layout of prompts whose last tokens are at `end`."""
    width = int(end.max()) + 1
    columns = torch.arange(width, device=end.device)
    positions = columns - (width - 1 - end)[:, None]
    visible = (columns <= columns[:, None]) & (positions >= 0)[:, None, :]
    # The lowest number instead of -inf, because padding sees nothing at all and must not become NaN.
    mask = torch.zeros(visible.shape, device=end.device).masked_fill(~visible, torch.finfo(torch.float32).min)
    functions = {block.rotation for block in network.blocks if block.rotation is not None}
    return Layout(positions, {rotary: rotary(positions.clamp(min=0)) for rotary in functions}, mask)


@dataclass(frozen=True)
class LayerActivations:
    """The activations of one layer, under TransformerLens's names; queries and keys are already rotated."""

    resid_pre: Float[Tensor, "prompt col d_model"]
    q: Float[Tensor, "prompt col head d_head"]
    k: Float[Tensor, "prompt col kv_head d_head"]
    v: Float[Tensor, "prompt col kv_head d_head"]
    pattern: Float[Tensor, "prompt head col col"]
    z: Float[Tensor, "prompt col head d_head"]
    attn_out: Float[Tensor, "prompt col d_model"]
    mlp_out: Float[Tensor, "prompt col d_model"]

    @property
    def resid_mid(self) -> Float[Tensor, "prompt col d_model"]:
        """The residual stream after attention; in a parallel block nothing reads it."""
        return self.resid_pre + self.attn_out

    @property
    def resid_post(self) -> Float[Tensor, "prompt col d_model"]:
        """The residual stream after the layer."""
        return self.resid_mid + self.mlp_out


def embed(network: Network, batch: Batch, layout: Layout) -> Float[Tensor, "prompt col d_model"]:
    """The residual stream before the first layer."""
    return network.embed(layout.tokens(batch), layout.positions.clamp(min=0))


def forward(
    network: Network, resid: Float[Tensor, "prompt col d_model"], layout: Layout
) -> tuple[list[LayerActivations], Float[Tensor, "prompt col d_model"]]:
    """The activations of every layer, and the residual stream after the last, given the one before the first."""
    layers = list(each_layer(network.blocks, resid, layout))
    return layers, layers[-1].resid_post if layers else resid


def each_layer(
    blocks: Iterable[Block], resid: Float[Tensor, "prompt col d_model"], layout: Layout
) -> Iterator[LayerActivations]:
    """Yields the activations of one layer after another, given the residual stream before the first."""
    for block in blocks:
        read, rotation = block.read(resid), layout.rotation(block)
        q = rotate(block.queries(read), rotation)
        k = rotate(block.keys(read), rotation)
        v = block.values(read)
        pattern = attention_pattern(block, q, k, layout.mask)
        z = weigh(pattern, v)
        attn_out = block.attn_out(z.flatten(-2))
        layer = LayerActivations(resid, q, k, v, pattern, z, attn_out, block.mlp_out(resid, attn_out))
        yield layer
        resid = layer.resid_post


def layer_by_layer(network: Network, batches: Sequence[Batch]) -> Iterator[Iterator[tuple[Layout, LayerActivations]]]:
    """Yields, for each layer, an iterator over the batches' activations, to be exhausted before the next layer. Memory
    holds the residual streams of all batches, but the activations inside a layer of only one."""
    layouts = [align(network, batch.end) for batch in batches]
    resids = [embed(network, batch, layout) for batch, layout in zip(batches, layouts, strict=True)]
    for block in network.blocks:
        yield _through(block, resids, layouts)


def _through(
    block: Block, resids: list[Float[Tensor, "_prompt _col d_model"]], layouts: Sequence[Layout]
) -> Iterator[tuple[Layout, LayerActivations]]:
    """Yields each batch's activations in a layer, and replaces its residual stream with the one after the layer."""
    for index, layout in enumerate(layouts):
        (layer,) = each_layer([block], resids[index], layout)
        resids[index] = layer.resid_post
        yield layout, layer


def attention_pattern(
    block: Block,
    q: Float[Tensor, "prompt query head d_head"],
    k: Float[Tensor, "prompt key kv_head d_head"],
    mask: Float[Tensor, "prompt query key"],
) -> Float[Tensor, "prompt head query key"]:
    """softmax(scale q.k + mask); each key/value head serves its group of query heads."""
    scores = capped(torch.einsum("pqhd,pkhd->phqk", q, spread(k, q.shape[2])) * block.scale, block.cap)
    return (scores + mask[:, None]).softmax(dim=-1)


def weigh(
    pattern: Float[Tensor, "prompt head query key"], v: Float[Tensor, "prompt key kv_head d_head"]
) -> Float[Tensor, "prompt query head d_head"]:
    """z: each head's values, averaged with its pattern as weights."""
    return torch.einsum("phqk,pkhd->pqhd", pattern, spread(v, pattern.shape[1]))


def spread(heads: Float[Tensor, "prompt col kv_head d_head"], n_heads: int) -> Float[Tensor, "prompt col head d_head"]:
    """Repeats keys or values for each query head that uses them."""
    return heads.repeat_interleave(n_heads // heads.shape[2], dim=2)
