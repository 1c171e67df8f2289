"""Runs clean and corrupted prompts on a described network; the fast engine starts from these runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mi_sweeps.circuits.activations import LayerActivations, align, embed, forward
from mi_sweeps.circuits.network import Network
from mi_sweeps.circuits.propagate import CachedRun, Group
from mi_sweeps.circuits.readout import read_out
from mi_sweeps.tasks.pairs import Pairs


@dataclass(frozen=True)
class PairedRuns:
    """The clean and the corrupted run. Columns are aligned at the end (`mi_sweeps.circuits.activations`)."""

    clean: Sequence[LayerActivations]
    corrupted: CachedRun
    clean_logit_diff: Float[Tensor, " prompt"]
    corrupted_logit_diff: Float[Tensor, " prompt"]
    differs: Bool[Tensor, "prompt col"]
    """Where clean and corrupted prompts have different tokens."""

    @cached_property
    def spans(self) -> Int[Tensor, " prompt"]:
        """The number of columns that a patch can change in each prompt: from the first that differs on, or 0."""
        width = self.differs.shape[1]
        first = self.differs.int().argmax(dim=1)
        return torch.where(self.differs.any(dim=1), width - first, 0)

    @cached_property
    def reached(self) -> dict[int, Group]:
        """For each number of last columns, the prompts in which a change can be that far from the end."""
        return {span: Group((self.spans >= span).nonzero()[:, 0], span) for span in range(1, int(self.spans.max()) + 1)}

    @cached_property
    def starting(self) -> dict[int, Group]:
        """The prompts, grouped by the number of columns that a patch can change."""
        groups = {span: Group((self.spans == span).nonzero()[:, 0], span) for span in self.spans.unique().tolist()}
        # Equal prompts and columns form one group, so that their rows are computed together.
        return {
            span: self.reached[span] if len(group.prompts) == len(self.reached[span].prompts) else group
            for span, group in groups.items()
            if span
        }


def run_both(network: Network, pairs: Pairs) -> PairedRuns:
    """Runs one forward pass on each side."""
    layout = align(network, pairs.clean.end)
    clean, clean_resid = forward(network, embed(network, pairs.clean, layout), layout)
    corrupted, corrupted_resid = forward(network, embed(network, pairs.corrupted, layout), layout)
    run = CachedRun(network, layout, corrupted, read_out(network, pairs))
    return PairedRuns(
        clean,
        run,
        run.read_out(clean_resid[:, -1], slice(None)),
        run.read_out(corrupted_resid[:, -1], slice(None)),
        (layout.tokens(pairs.clean) != layout.tokens(pairs.corrupted)) & (layout.positions >= 0),
    )


def in_groups(pairs: Pairs, size: int) -> Iterator[Pairs]:
    """Yields the pairs in parts of at most `size`."""
    for start in range(0, len(pairs.clean), size):
        yield pairs.select(range(start, min(start + size, len(pairs.clean))))
