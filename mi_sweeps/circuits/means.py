"""The average output of each node over prompts, by the role of the token: what ablated nodes write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_sweeps.circuits.activations import align, embed, forward
from mi_sweeps.circuits.network import Network
from mi_sweeps.errors import UserError
from mi_sweeps.tasks.tokens import Batch


@dataclass(frozen=True)
class Means:
    """The average output of each node by label of the token: its role, or whether it is the first."""

    labels: dict[str, int]
    """The index of each label in the means."""
    z: Sequence[Float[Tensor, "label head d_head"]]
    """Means of each layer."""
    mlp_out: Sequence[Float[Tensor, "label d_model"]]
    overall: bool

    def of(self, batch: Batch) -> tuple[list[Tensor], list[Tensor]]:
        """z and mlp_out of each layer for a batch, [prompt, col, ...], aligned at the end; 0 before a prompt begins.

        Raises:
            UserError: a prompt has a role without a mean.
        """
        rows = _labels(batch, overall=self.overall)
        if unknown := {label for row in rows for label in row} - self.labels.keys():
            raise UserError(
                f"patching.circuits.ablation=mean: no prompt that is averaged has a token of role {min(unknown)!r}; "
                "use patching.circuits.ablation=corrupted"
            )
        index = _numbers(batch, rows, self.labels)
        there = index >= 0
        return (
            [mean[index] * there[..., None, None] for mean in self.z],
            [mean[index] * there[..., None] for mean in self.mlp_out],
        )


def _labels(batch: Batch, *, overall: bool) -> Sequence[tuple[str, ...]]:
    """The label that each token is averaged under: its role; or, if `overall`, whether it is the first token, as first
    tokens are far from all others in many models (Sun et al. 2024, arXiv:2402.17762)."""
    return [("first", *["other"] * (len(row) - 1)) for row in batch.roles] if overall else batch.roles


def _numbers(batch: Batch, rows: Sequence[tuple[str, ...]], labels: dict[str, int]) -> Int[Tensor, "prompt col"]:
    """The number of each column's label, aligned at the end; -1 before a prompt begins."""
    width = int(batch.end.max()) + 1
    numbers = [[-1] * (width - len(row)) + [labels[label] for label in row] for row in rows]
    return torch.tensor(numbers, device=batch.tokens.device)


@torch.no_grad()
def mean_outputs(network: Network, batch: Batch, prompts: int, *, overall: bool = False) -> Means:
    """The average output of each node, over all prompts that have the role.

    Args:
        prompts: number of prompts at a time.
        overall: whether to average over all tokens but the first of each prompt, ignoring roles.
    """
    labels = {
        label: at for at, label in enumerate(sorted({one for row in _labels(batch, overall=overall) for one in row}))
    }
    totals: list[list[Tensor]] = []
    count = torch.zeros(len(labels), dtype=torch.float64, device=batch.tokens.device)
    for start in range(0, len(batch), prompts):
        part = batch.select(range(start, min(start + prompts, len(batch))))
        layout = align(network, part.end)
        layers, _ = forward(network, embed(network, part, layout), layout)
        index = _numbers(part, _labels(part, overall=overall), labels)
        there = index >= 0
        count.index_add_(0, index[there], torch.ones_like(index[there], dtype=torch.float64))
        totals = totals or [
            [part.new_zeros(len(labels), *part.shape[2:], dtype=torch.float64) for part in (layer.z, layer.mlp_out)]
            for layer in layers
        ]
        for sums, layer in zip(totals, layers, strict=True):
            for total, values in zip(sums, (layer.z, layer.mlp_out), strict=True):
                total.index_add_(0, index[there], values[there].double())
    return Means(
        labels,
        [(z / count[:, None, None]).float() for z, _ in totals],
        [(mlp_out / count[:, None]).float() for _, mlp_out in totals],
        overall,
    )
