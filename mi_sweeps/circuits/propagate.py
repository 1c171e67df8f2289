"""Propagates changes of the corrupted run to its end, computing nothing else.

A change replaces the residual stream in some last columns of a prompt, at one layer. Its consequences are exact:

- Attention is causal, so columns before the first changed one keep the corrupted run's keys and values; only the
  `span` columns from there to the end are computed.
- If a single changed column enters a layer, the others' queries, keys and values there are still the corrupted run's.
- In a parallel block the MLP does not read attention's output, so a change in that output enters after the layer.
- In the last layer only the last column's output is read, so only its attention, MLP and logits are computed, and the
  other columns' keys and values need not be.
- All changes in flight pass through a layer together, as rows of the same matrix products, whatever their spans and
  the layers at which they entered. All rows of a prompt share the keys and values of unchanged columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_sweeps.circuits.activations import LayerActivations, Layout
from mi_sweeps.circuits.network import Block, Network, Rotation, rotate
from mi_sweeps.circuits.readout import ReadOut
from mi_sweeps.models.head import capped

Stage = Literal["pre", "mid"]
"""The residual stream before a layer's attention, or before its MLP. A parallel block has only the first."""


@dataclass(frozen=True, eq=False)
class Group:
    """Prompts in which a change can reach the last `span` columns."""

    prompts: Int[Tensor, " prompt"]
    span: int


@dataclass(frozen=True)
class Change:
    """Changes that enter at the same layer, prompts and columns."""

    layer: int
    stage: Stage
    """`pre` with the layer after the last means that the change is read out directly."""
    group: Group
    result_index: Int[Tensor, "prompt change"]
    """Where each logit difference is written in the results."""
    resid: Callable[[slice], Float[Tensor, "prompt change col d_model"]]
    """Computes the changed residual stream of some of the changes: all columns of the span, or only the first. Called
    when the change enters, so that waiting changes take no memory."""

    @property
    def columns(self) -> int:
        """The number of columns computed in each layer."""
        return self.result_index.numel() * self.group.span

    def part(self, start: int, stop: int) -> Change:
        """Some of the changes."""
        return replace(
            self,
            result_index=self.result_index[:, start:stop],
            resid=lambda _: self.resid(slice(start, stop)),
        )


@dataclass(frozen=True)
class CachedRun:
    """A run whose activations are kept, and how its logit difference is read out."""

    network: Network
    layout: Layout
    layers: Sequence[LayerActivations]
    read_out: ReadOut

    def after_attention(self, layer: int) -> tuple[int, Stage, Float[Tensor, "prompt col d_model"]]:
        """Where a change in attention's output enters the stream, and the rest of the stream there."""
        cached = self.layers[layer]
        if self.network.blocks[layer].parallel:
            return layer + 1, "pre", cached.resid_pre + cached.mlp_out
        return layer, "mid", cached.resid_pre

    def with_heads_changed(
        self, layer: int, prompts: Int[Tensor, " prompt"], change: Float[Tensor, "prompt change col d_model"]
    ) -> Float[Tensor, "prompt change col d_model"]:
        """The residual stream after attention in the last columns, given a change in the heads' summed output."""
        _, _, others = self.after_attention(layer)
        columns = slice(-change.shape[2], None)
        z = self.layers[layer].z[prompts, None, columns].flatten(-2)
        resid = others + self.layers[layer].attn_out
        return self.network.blocks[layer].attn_out_changed(z, change) + resid[prompts, None, columns]


@dataclass(frozen=True)
class _Rows:
    """Changes of one group in flight."""

    group: Group
    result_index: Int[Tensor, "prompt change"]
    resid: Float[Tensor, "prompt change col d_model"]

    @property
    def whole(self) -> bool:
        """Whether all columns of the span are present, or only the first."""
        return self.resid.shape[2] == self.group.span

    @property
    def flat(self) -> Float[Tensor, "token d_model"]:
        return self.resid.flatten(0, 2)


def propagate(run: CachedRun, changes: Iterable[Change], results: Float[Tensor, " result"], columns: int) -> None:
    """Writes the logit difference that each change leads to into `results`.

    Args:
        columns: the most columns in flight. Affects memory only, not results.
    """
    for batch in batches(changes, columns):
        for rows in _to_end(run, batch):
            results[rows.result_index] = run.read_out(rows.resid[:, :, -1], rows.group.prompts)


def batches(changes: Iterable[Change], columns: int) -> Iterator[list[Change]]:
    """Yields the changes in order of their layers, as many at a time as fit."""
    batch: list[Change] = []
    total = 0
    for change in sorted(changes, key=lambda change: (change.layer, change.stage == "mid")):
        # Split evenly into parts that fit; a single change cannot be split.
        count = change.result_index.shape[1]
        parts = -(-count // max(1, columns // (change.columns // count)))
        borders = [count * part // parts for part in range(parts + 1)]
        for start, stop in zip(borders, borders[1:], strict=False):
            part = change.part(start, stop) if parts > 1 else change
            if batch and total + part.columns > columns:
                yield batch
                batch, total = [], 0
            batch.append(part)
            total += part.columns
    if batch:
        yield batch


def _to_end(run: CachedRun, changes: Sequence[Change]) -> list[_Rows]:
    """The main loop: propagates all changes layer by layer, each from where it enters."""
    blocks = run.network.blocks
    rows: list[_Rows] = []
    for layer in range(changes[0].layer, len(blocks)):
        rows = _merge([*rows, *_entering(changes, layer, "pre")])
        if rows:
            attend_rows = _attend_at_end if layer == len(blocks) - 1 else _attend
            rows = attend_rows(blocks[layer], run.layers[layer], run.layout, rows)
        rows = [*rows, *_entering(changes, layer, "mid")]
        if rows and not blocks[layer].parallel:
            resid = torch.cat([row.flat for row in rows])
            blocks[layer].add_mlp(resid)
            rows = _split(resid, rows)
    return [*rows, *_entering(changes, len(blocks), "pre")]


def _entering(changes: Sequence[Change], layer: int, stage: Stage) -> list[_Rows]:
    return [
        _Rows(change.group, change.result_index, change.resid(slice(0, change.result_index.shape[1])))
        for change in changes
        if change.layer == layer and change.stage == stage
    ]


def _merge(rows: Sequence[_Rows]) -> list[_Rows]:
    """Merges rows with the same group and the same columns."""
    found: dict[tuple[Group, bool], list[_Rows]] = {}
    for row in rows:
        found.setdefault((row.group, row.whole), []).append(row)
    return [
        same[0]
        if len(same) == 1
        else _Rows(
            same[0].group,
            torch.cat([row.result_index for row in same], dim=1),
            torch.cat([row.resid for row in same], dim=1),
        )
        for same in found.values()
    ]


def _split(flat: Float[Tensor, "token d_model"], rows: Sequence[_Rows]) -> list[_Rows]:
    """The inverse of `flat`, for many rows."""
    parts = flat.split([row.resid.shape[:3].numel() for row in rows])
    return [replace(row, resid=part.view(row.resid.shape)) for row, part in zip(rows, parts, strict=True)]


def _attend(block: Block, cached: LayerActivations, layout: Layout, rows: Sequence[_Rows]) -> list[_Rows]:
    """The residual stream after attention, in all columns of each span."""
    read = block.read(torch.cat([row.flat for row in rows]))
    sizes = [row.resid.shape[:3] for row in rows]
    queries, keys, values = (
        [part.unflatten(0, size) for part, size in zip(flat.split([s.numel() for s in sizes]), sizes, strict=True)]
        for flat in (block.queries(read), block.keys(read), block.values(read))
    )
    outputs, before = [], []
    for row, q, k, v in zip(rows, queries, keys, values, strict=True):
        prompts, resid = row.group.prompts, row.resid
        start = cached.k.shape[1] - row.group.span
        rotation = rotation_of(layout, block, prompts, start, start + row.resid.shape[2])
        q, k = rotate(q, rotation), rotate(k, rotation)
        if not row.whole:
            q, k, v, resid = (
                _complete(changed, corrupted, row.group)
                for changed, corrupted in ((q, cached.q), (k, cached.k), (v, cached.v), (resid, cached.resid_pre))
            )
        # Columns before the span may be padding; those in it never are.
        mask = layout.mask[prompts, -1, :start]
        before_span = cached.k[prompts, :start], cached.v[prompts, :start]
        outputs.append(attend(q * block.scale, k, v, *before_span, mask, block.cap))
        before.append(replace(row, resid=resid))
    return _combine(block, before, outputs)


def _attend_at_end(block: Block, cached: LayerActivations, layout: Layout, rows: Sequence[_Rows]) -> list[_Rows]:
    """The residual stream of the last column after the last layer's attention: nothing else is read.

    With a single query for all normed columns n of a span, it is cheaper to map the query back than to map every column
    to keys and values: q . (n W_K) = (q W_K^T) . n, and the mean of n W_V is (the mean of n) W_V. Keys that are
    normalised or rotated are not linear in n, so they are computed.
    """
    n_kv, group_size = block.n_kv_heads, block.n_heads // block.n_kv_heads
    absorbs_keys = block.rotation is None and block.key_norm is None
    whole = [
        row if row.whole else replace(row, resid=_complete(row.resid, cached.resid_pre, row.group)) for row in rows
    ]
    reads = [part.resid for part in _split(block.read(torch.cat([row.flat for row in whole])), whole)]
    ends = [replace(row, resid=row.resid[:, :, -1:]) for row in whole]
    end_queries = block.queries(torch.cat([part[:, :, -1:].flatten(0, 2) for part in reads]))
    outputs = []
    for row, normed, q in zip(
        ends, reads, end_queries.split([row.resid.shape[:3].numel() for row in ends]), strict=True
    ):
        prompts = row.group.prompts
        width = cached.k.shape[1]
        start = width - row.group.span
        q = rotate(q.unflatten(0, row.resid.shape[:3]), rotation_of(layout, block, prompts, width - 1, width))[:, :, 0]
        q = q.unflatten(2, (n_kv, group_size)) * block.scale  # [prompt, change, kv_head, head of the group, d_head]
        before_scores = torch.einsum("pchge,pbhe->pchgb", q, cached.k[prompts, :start])
        before_scores = capped(before_scores, block.cap) + layout.mask[prompts, -1, :start][:, None, None, None]
        if absorbs_keys:
            weight = block.key.weight.unflatten(1, (n_kv, -1))
            span_scores = torch.einsum("pchge,dhe->pchgd", q, weight).flatten(2, 3) @ normed.mT
            span_scores = span_scores.unflatten(2, (n_kv, group_size))
            if block.key.bias is not None:
                span_scores = span_scores + (q * block.key.bias.view(n_kv, 1, -1)).sum(dim=-1, keepdim=True)
        else:
            k = rotate(block.keys(normed), rotation_of(layout, block, prompts, start, width))
            span_scores = torch.einsum("pchge,pcshe->pchgs", q, k)
        pattern = torch.cat([before_scores, capped(span_scores, block.cap)], dim=-1).softmax(dim=-1)
        span_pattern = pattern[..., start:]
        mean = (span_pattern.flatten(2, 3) @ normed).unflatten(2, (n_kv, group_size))
        z = torch.einsum("pchgd,dhe->pchge", mean, block.value.weight.unflatten(1, (n_kv, -1)))
        if block.value.bias is not None:
            z = z + span_pattern.sum(dim=-1, keepdim=True) * block.value.bias.view(n_kv, 1, -1)
        z = z + torch.einsum("pchgb,pbhe->pchge", pattern[..., :start], cached.v[prompts, :start])
        outputs.append(z.flatten(2).unsqueeze(2))
    return _combine(block, ends, outputs)


def _combine(block: Block, rows: Sequence[_Rows], outputs: Sequence[Tensor]) -> list[_Rows]:
    """Adds attention's output to the residual stream, and in a parallel block the MLP's output too."""
    resid = torch.cat([row.flat for row in rows])
    if block.parallel:
        block.add_mlp(resid)
    block.add_attention(resid, torch.cat([z.flatten(0, 2) for z in outputs]))
    return _split(resid, rows)


def _complete(
    changed: Float[Tensor, "prompt change 1 ..."], corrupted: Float[Tensor, "all_prompts all_cols ..."], group: Group
) -> Float[Tensor, "prompt change col ..."]:
    """Joins the changed first column of a span with the corrupted run's other columns."""
    others = corrupted[group.prompts, corrupted.shape[1] - group.span + 1 :].unsqueeze(1)
    return torch.cat([changed, others.expand(-1, changed.shape[1], *others.shape[2:])], dim=2)


def rotation_of(layout: Layout, block: Block, prompts: Tensor, start: int, stop: int) -> Rotation | None:
    """The rotation for tensors of shape [prompt, change, col, head, d_head]."""
    rotation = layout.rotation(block)
    if rotation is None:
        return None
    cos, sin = rotation
    return cos[prompts, None, start:stop], sin[prompts, None, start:stop]


def attend(
    q: Float[Tensor, "prompt change query head d_head"],
    k: Float[Tensor, "prompt change span kv_head d_head"],
    v: Float[Tensor, "prompt change span kv_head d_head"],
    k_before: Float[Tensor, "prompt before kv_head d_head"],
    v_before: Float[Tensor, "prompt before kv_head d_head"],
    mask: Float[Tensor, "prompt before"],
    cap: float | None = None,
) -> Float[Tensor, "prompt change query d_heads"]:
    """z of the last queries of each change, over keys shared by a prompt's changes and keys of the change's own.

    Args:
        q: already scaled.
        mask: added to the scores of the shared keys.
        cap: of the scores (`mi_sweeps.models.head.capped`).
    """
    n_prompts, n_changes, n_queries, n_heads, _ = q.shape
    span, n_kv = k.shape[2], k.shape[3]
    # Heads that share keys are rows of the same product: [prompt, kv_head, change, head of the group, query, d_head].
    q = q.unflatten(3, (n_kv, n_heads // n_kv)).permute(0, 3, 1, 4, 2, 5).contiguous()
    shared = q.flatten(2, 4) @ k_before.permute(0, 2, 3, 1)
    own = q.flatten(3, 4) @ k.permute(0, 3, 1, 4, 2)
    later = torch.ones(span, span, dtype=torch.bool, device=q.device).triu(1)[span - n_queries :]
    scores = torch.cat(
        [
            (capped(shared, cap) + mask[:, None, None]).view(*q.shape[:-1], -1),
            capped(own, cap).view(*q.shape[:-1], -1).masked_fill_(later, -torch.inf),
        ],
        dim=-1,
    )
    pattern = scores.softmax(dim=-1)
    before = mask.shape[1]
    z = pattern[..., :before].flatten(2, 4) @ v_before.transpose(1, 2)
    z = z.view_as(q) + (pattern[..., before:].flatten(3, 4) @ v.permute(0, 3, 1, 2, 4)).view_as(q)
    return z.permute(0, 2, 4, 1, 3, 5).flatten(3)
