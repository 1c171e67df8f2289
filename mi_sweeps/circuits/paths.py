"""Direct-path patching from heads: patches one head's output as seen only by one later head's query, key or value
input, or by the logits (`mi_sweeps.circuits.direct`).

This is the direct path of Goldowsky-Dill et al. (2023, arXiv:2304.05969), patched corrupted <- clean like all sites
here. It is not the path patching of Wang et al. (2022, arXiv:2211.00593, appendix B). They freeze heads but recompute
MLPs, so that their paths from head to head also run through the MLPs in between; they patch clean <- corrupted; and
they patch one position (the last, or the second subject's), often into several receivers at once. After the receiver,
both do the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from mi_sweeps.circuits.direct import Reader, patch_direct
from mi_sweeps.circuits.engine import summaries
from mi_sweeps.circuits.fast import MEMORY, budget, n_places
from mi_sweeps.circuits.network import Network
from mi_sweeps.circuits.packed import pack
from mi_sweeps.circuits.paired_runs import in_groups, run_both
from mi_sweeps.config import PathsConfig
from mi_sweeps.errors import UserError
from mi_sweeps.graph import Node
from mi_sweeps.tasks.pairs import Pairs

Input = Literal["q", "k", "v", "logits"]
Head = tuple[int, int]
"""Layer and index; for inputs k and v under grouped-query attention, the index of a key/value head."""
Receiver = Head | None
"""A head, or None for the logits."""


@dataclass(frozen=True)
class Paths:
    """Logit differences of every patched prompt; `path_rows` averages them."""

    clean: Float[Tensor, " prompt"]
    corrupted: Float[Tensor, " prompt"]
    edges: dict[tuple[Head, Receiver, Input], Float[Tensor, " prompt"]]
    """By source, receiver and the receiver's input."""


@torch.no_grad()
def patch_paths(network: Network, pairs: Pairs, paths: PathsConfig, memory: int = MEMORY) -> Paths:
    """Patches the direct path from every head to each receiver's inputs and to the logits, one at a time.

    Args:
        memory: see `mi_sweeps.circuits.fast.FastEngine`.

    Raises:
        UserError: a receiver is not a head of the model, or is in its first layer.
    """
    n_layers, n_heads = len(network.blocks), network.blocks[0].n_heads
    nodes = [Node("head", layer, head) for layer, head in product(range(n_layers), range(n_heads))]
    wanted = [
        (receiver, into)
        for into in paths.inputs
        for receiver in receivers(paths, into, n_layers, n_places(network.blocks[0], into))
    ]
    readers = [_reader(network, receiver, into) for receiver, into in wanted]
    edges = [
        ((source // n_heads, source % n_heads), receiver, into)
        for (receiver, into), reader in zip(wanted, readers, strict=True)
        for source in reader.sources
    ]
    prompts, tokens = budget(network, pairs, memory, nodes=len(nodes))
    network = pack(network)
    parts = []
    for part in in_groups(pairs, prompts):
        runs = run_both(network, part)
        results = patch_direct(runs, readers, nodes, paths.norm, tokens)
        parts.append((runs.clean_logit_diff.cpu(), runs.corrupted_logit_diff.cpu(), results.cpu()))
    clean, corrupted, values = (torch.cat(part, dim=-1) for part in zip(*parts, strict=True))
    return Paths(clean, corrupted, dict(zip(edges, values, strict=True)))


def _reader(network: Network, receiver: Receiver, into: Input) -> Reader:
    """A reader whose sources are all heads in earlier layers."""
    block = network.blocks[0]
    layer = receiver[0] if receiver else len(network.blocks)
    size = block.n_heads // n_places(block, into)
    heads = range(receiver[1] * size, (receiver[1] + 1) * size) if receiver else range(0)
    return Reader(into, layer, heads, range(layer * block.n_heads))


def receivers(paths: PathsConfig, into: Input, n_layers: int, n_heads: int) -> Sequence[Receiver]:
    """The requested receivers for one input. The logits are always included.

    Args:
        n_heads: key/value heads for inputs k and v.

    Raises:
        UserError: one is not a head of the model, or is in its first layer, so that it has no source.
    """
    if into == "logits":
        return [None]
    if paths.receivers == "all":
        return list(product(range(1, n_layers), range(n_heads)))
    for layer, head in paths.receivers:
        if not (1 <= layer < n_layers and head < n_heads):
            raise UserError(
                f"patching.paths.receivers: [{layer}, {head}] cannot receive by {into}; choose a layer from 1 to "
                f"{n_layers - 1} and a head from 0 to {n_heads - 1}"
            )
    return list(dict.fromkeys(paths.receivers))


def path_rows(paths: Paths) -> list[dict[str, Any]]:
    """The rows of the paths table: means over prompts, and each prompt's value."""
    if not paths.edges:
        return []
    found = summaries(torch.stack([*paths.edges.values()]), paths.clean, paths.corrupted)
    return [
        {
            "kind": "path",
            "site": into,
            "source_layer": source[0],
            "source_head": source[1],
            "layer": None if receiver is None else receiver[0],
            "head": None if receiver is None else receiver[1],
            **row,
        }
        for (source, receiver, into), row in zip(paths.edges, found, strict=True)
    ]
