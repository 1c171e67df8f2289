"""Where heads look: the attention of each head from some tokens of a prompt to others, by role.

Each token is assigned to the first of these keys that applies, so that a query's attention adds up to 1 over the keys:

    self                        the query's own token
    answer, listed subject 1    where the answer and each subject are listed
    after listed subject 1      the token after it, which an induction head attends to from the subject
    subject 1, subject 2        the repeated names
    name, successor, ...        for prompts without name slots: the parts that the task names, with all their tokens
    first                       the prompt's first token
    previous                    the token before the query's
    other                       all other tokens

A prompt without a token for a key has no value there; in sums over keys it counts as 0. Corrupted prompts are read at
the positions of their clean partners.

`value_weighted` weights the attention to each token by the norm of what is moved: |a v W_O| divided by the sum of these
norms over the query's tokens (Kobayashi et al. 2020, arXiv:2004.10102). v includes its bias; the output of W_O is taken
before any norm after attention. `uniform` is the value for uniform attention.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mi_sweeps.circuits.activations import LayerActivations, Layout, align, each_layer, embed, spread
from mi_sweeps.circuits.measures import prompts_at_once
from mi_sweeps.circuits.network import Block, Network
from mi_sweeps.circuits.paired_runs import in_groups
from mi_sweeps.circuits.tables import TABLES
from mi_sweeps.tasks.pairs import Pairs
from mi_sweeps.tasks.prompts import Prompt
from mi_sweeps.tasks.roles import RELATIVE, role_order, role_positions
from mi_sweeps.tasks.tokens import Batch

if TYPE_CHECKING:
    from mi_sweeps.circuits.view import View

SIDES = ("clean", "corrupted")
COUNTED = re.compile(r" \d+$|^end-\d+$")
"""Roles that merely number tokens. Roles that count back from the end of a part ("name -1") belong to that part."""


@dataclass(frozen=True)
class Places:
    """The query tokens, and the key of each token that they attend to."""

    queries: tuple[str, ...]
    keys: tuple[str, ...]
    at: Int[Tensor, "prompt query"]
    """The position of each query; -1 if a prompt lacks it."""
    member: Bool[Tensor, "prompt query key pos"]
    """Each token up to the query has exactly one key; later tokens have none."""


@torch.no_grad()
def table(view: View) -> pa.Table:
    """The table `looks` of a checkpoint."""
    places = find_places(view.pairs.clean)
    return _rows(places, look(view.network, view.pairs, places, view.memory))


@torch.no_grad()
def patterns(view: View) -> pa.Table:
    """The table `patterns` of a checkpoint: every head's whole pattern in the first few prompts, in half precision."""
    assert view.patching.looks is not None
    count = min(view.patching.looks.patterns, len(view.pairs.clean))
    columns: dict[str, list[object]] = {name: [] for name in TABLES["patterns"].names}
    pairs = view.pairs.select(range(count)) if count else None
    for side in SIDES if pairs else ():
        for prompt in range(count):
            batch = getattr(pairs, side).select([prompt])
            lower = torch.ones(len(batch.roles[0]), len(batch.roles[0]), dtype=torch.bool).tril()
            for number, (_, layer) in enumerate(layers(view.network, batch)):
                for head, pattern in enumerate(layer.pattern[0].cpu()):
                    for name, value in zip(
                        columns, (prompt, side, number, head, pattern[lower].half().numpy()), strict=True
                    ):
                        columns[name].append(value)
    return pa.table(columns, TABLES["patterns"])


def find_places(clean: Batch) -> Places:
    """Finds the queries (the repeated subjects and the end) and the keys of all tokens before them."""
    first = clean.prompts[0]
    if isinstance(first, Prompt):
        queries, named = [*_subjects(first), "end"], _slots(clean)
    else:
        queries, named = ["end"], _named(clean)
    at = role_positions(clean, queries)
    width = clean.tokens.shape[1]
    positions = torch.arange(width, device=at.device)
    left = (positions <= at[..., None]) & (at >= 0)[..., None]
    claims = (
        positions == at[..., None],
        *(tokens[:, None] for tokens in named.values()),
        positions == 0,
        positions == at[..., None] - 1,
        torch.ones_like(left),
    )
    found = []
    for claim in claims:
        found.append(left & claim)
        left = left & ~claim
    own, *rest = RELATIVE
    keys = (own, *named, *rest)
    return Places(tuple(queries), keys, at, torch.stack(found, dim=2))


def _subjects(prompt: Prompt) -> list[str]:
    """The roles of the repeated names."""
    return ["subject"] if prompt.n_subjects == 1 else [f"subject {place + 1}" for place in range(prompt.n_subjects)]


def _slots(clean: Batch) -> dict[str, Bool[Tensor, "prompt pos"]]:
    """The tokens of the names, by their function in the prompt."""
    subjects = _subjects(clean.prompts[0])  # type: ignore[arg-type]
    listed = ["answer", *(f"listed {name}" for name in subjects)]
    after = [f"after listed {name}" for name in subjects]
    found: dict[str, list[int]] = {name: [] for name in (*listed, *after, *subjects)}
    for prompt, roles in zip(clean.prompts, clean.roles, strict=True):
        assert isinstance(prompt, Prompt)
        for name, key in zip((prompt.answer, *prompt.subjects), listed, strict=True):
            role = f"name {prompt.listed.index(name) + 1}" if name in prompt.listed else ""
            found[key].append(roles.index(role) if role in roles else -1)
        for key in after:
            before = found[key.removeprefix("after ")][-1]
            found[key].append(before + 1 if before >= 0 else -1)
        for role in subjects:
            found[role].append(roles.index(role) if role in roles else -1)
    positions = torch.arange(clean.tokens.shape[1])
    return {name: (positions == torch.tensor(where)[:, None]).to(clean.tokens.device) for name, where in found.items()}


def _named(clean: Batch) -> dict[str, Bool[Tensor, "prompt pos"]]:
    """The tokens of the parts that a task names."""
    width = clean.tokens.shape[1]
    parts = [[re.sub(r" -\d+$", "", role) for role in roles] for roles in clean.roles]
    order = dict.fromkeys(re.sub(r" -\d+$", "", role) for role in role_order(clean))
    # "doc 1" is a part that a task names, but "again 1" merely numbers a token of a sequence.
    given = {part for prompt in clean.prompts for part in getattr(prompt, "parts", ())}
    named = [name for name in order if name in given or not COUNTED.search(name)]
    names = [name for name in named if name not in ("bos", "end")]
    masks = {name: [[part == name for part in row] + [False] * (width - len(row)) for row in parts] for name in names}
    return {name: torch.tensor(mask, device=clean.tokens.device) for name, mask in masks.items()}


@dataclass(frozen=True)
class HeadAttention:
    """The attention of heads to keys in each prompt; 0 if a prompt lacks the key or query."""

    attention: Float[Tensor, "side layer head query key prompt"]
    value_weighted: Float[Tensor, "side layer head query key prompt"]
    """NaN if a head moves nothing at all."""
    uniform: Float[Tensor, "query key prompt"]
    there: Bool[Tensor, "query key prompt"]


@torch.no_grad()
def look(network: Network, pairs: Pairs, places: Places, memory: int) -> HeadAttention:
    """The attention of every head from each query to each key.

    Args:
        memory: approximate limit for activations, in bytes, but at least one prompt's need. Does not change results.
    """
    size = prompts_at_once(network, pairs.clean, memory)
    parts = []
    start = 0
    for part in in_groups(pairs, size):
        chosen = slice(start, start := start + len(part.clean))
        at, member = places.at[chosen], places.member[chosen]
        sides = [_side(network, getattr(part, side), at, member) for side in SIDES]
        parts.append(torch.stack([torch.stack(found) for found in zip(*sides, strict=True)]))
    attention, weighted = torch.cat(parts, dim=-1)
    counts = places.member.sum(dim=-1)
    uniform = (counts.double() / (places.at + 1).clamp(min=1)[..., None]).movedim(0, -1)
    return HeadAttention(attention.cpu(), weighted.cpu(), uniform.cpu(), (counts > 0).movedim(0, -1).cpu())


def _side(
    network: Network, batch: Batch, at: Int[Tensor, "prompt query"], member: Bool[Tensor, "prompt query key pos"]
) -> tuple[Float[Tensor, "layer head query key prompt"], Float[Tensor, "layer head query key prompt"]]:
    """Attention, plain and value-weighted, on one side of some pairs."""
    found = []
    for block, (layout, layer) in zip(network.blocks, layers(network, batch), strict=True):
        width = layout.positions.shape[1]
        # Converts positions, counted from a prompt's first token, to columns, aligned at its last.
        before = (width - 1 - batch.end)[:, None]
        rows = torch.arange(len(batch), device=at.device)[:, None]
        pattern = layer.pattern.transpose(1, 2)[rows, (at + before).clamp(min=0)]  # prompt query head col
        index = layout.positions.clamp(min=0)[:, None, None].expand(-1, *member.shape[1:3], -1)
        keys = member.gather(-1, index) & (layout.positions >= 0)[:, None, None]
        keys = keys.to(torch.float64)
        moved = pattern.double() * norms(block, layer).double()[:, None]
        shares = moved / moved.sum(dim=-1, keepdim=True)
        found.append(tuple(torch.einsum("pqhc,pqkc->hqkp", values.double(), keys) for values in (pattern, shares)))
    attention, weighted = zip(*found, strict=True)
    return torch.stack(attention), torch.stack(weighted)


def norms(block: Block, layer: LayerActivations) -> Float[Tensor, "prompt head col"]:
    """|v W_O| of every head and token: the norm of what the head moves with all attention on that token."""
    # W_O = R' Q' with orthonormal Q, so |v W_O| = |v R'|, which is only d_head wide.
    triangle = torch.linalg.qr(block.W_O.mT, mode="r").R
    written = torch.einsum("pkhd,hed->phke", spread(layer.v, block.n_heads), triangle)
    return written.norm(dim=-1)


def layers(network: Network, batch: Batch) -> Iterator[tuple[Layout, LayerActivations]]:
    """Yields the activations of one layer after another."""
    layout = align(network, batch.end)
    for layer in each_layer(network.blocks, embed(network, batch, layout), layout):
        yield layout, layer


def _rows(places: Places, looked: HeadAttention) -> pa.Table:
    """One row per side, head, query and key that occurs in any prompt."""
    there = looked.there.numpy()
    n = there.sum(axis=-1)
    heads, n_prompts = math.prod(looked.attention.shape[:3]), looked.attention.shape[-1]
    missing = np.where(there, 0.0, np.nan)

    def mean(values: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            return np.where(there, values, 0.0).sum(axis=-1) / n

    attention, weighted, uniform = (
        values.numpy() for values in (looked.attention, looked.value_weighted, looked.uniform)
    )
    kept = np.broadcast_to(n > 0, attention.shape[:-1]).ravel()
    numbers = [grid.ravel()[kept] for grid in np.indices(attention.shape[:-1])]
    columns = {
        "side": _words(SIDES, numbers[0]),
        "layer": numbers[1],
        "head": numbers[2],
        "query": _words(places.queries, numbers[3]),
        "key": _words(places.keys, numbers[4]),
        "attention": mean(attention).ravel()[kept],
        "value_weighted": pa.array(mean(weighted).ravel()[kept], pa.float64(), from_pandas=True),
        "uniform": np.tile(mean(uniform).ravel(), heads)[kept],
        "n": np.tile(n.ravel(), heads)[kept],
        "by_prompt": lists((attention + missing).reshape(-1, n_prompts)[kept]),
        "uniform_by_prompt": lists(np.broadcast_to(uniform + missing, attention.shape).reshape(-1, n_prompts)[kept]),
    }
    return pa.table(columns, TABLES["looks"])


def _words(words: Sequence[str], numbers: np.ndarray) -> pa.Array:
    return pa.DictionaryArray.from_arrays(numbers, list(words)).cast(pa.string())


def lists(values: Float[np.ndarray, "row prompt"]) -> pa.Array:
    """Each row as a list."""
    offsets = np.arange(0, values.size + 1, max(values.shape[1], 1), dtype=np.int32)
    return pa.ListArray.from_arrays(offsets, values.astype(np.float32).ravel())
