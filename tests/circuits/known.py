"""A small transformer with a known circuit: its weights are written by hand.

It completes a sequence by induction: in `_ A B C D E A` the token after the earlier A is B, and that is the answer.
The corrupted prompt has A and another token (here C) in each other's places, so that the answer would be D. What
differs is carried by one chain alone:

    embedding -v-> head 0.0 (looks at the token before) -k-> head 1.1 (looks at what followed the same token)
    -> MLP 1 (from the head's letters to the logits' letters) -> logits

All other heads and MLP 0 have random weights, read everything, and write where only others of their kind read. With
`backup` head 1.2 does what head 1.1 does and the MLP cuts the sum off at one, so that either of them is enough.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from mi_sweeps.circuits.network import Activation, Block, Linear, Mlp, Network, Norm
from mi_sweeps.tasks.pairs import Pairs
from mi_sweeps.tasks.prompts import Prompt
from mi_sweeps.tasks.tokens import Batch

LETTERS, WIDTH, N_HEADS = 8, 7, 3
"""The tokens: a first one and 7 others. The columns of a prompt."""
ALL = slice(0, 8)
TOKEN, PLACE, BEFORE, FOUND, ANSWER, JUNK = (slice(8 * part, 8 * part + 8) for part in range(6))
"""Parts of the residual stream."""
D_MODEL, D_HEAD = 48, 8
SHARP = 60.0
"""How large the right attention score is, the others being 0."""


@dataclass(frozen=True)
class Known:
    """The model, prompts, and the members of its circuit by the names that the MIB track gives."""

    network: Network
    pairs: Pairs
    nodes: tuple[str, ...]
    edges: tuple[str, ...]
    """As exact direct-path patches find them one by one: with a backup those of either head are here."""


def known(*, backup: bool = False, prompts: int = 6) -> Known:
    """The same each time."""
    random = torch.Generator().manual_seed(0)
    blocks = (_layer(random, _previous_token(), 0), _layer(random, _induction(), 1, second=2 if backup else None))
    network = Network(_embed, blocks, _no_norm(), Linear(_maps(ANSWER, ALL, d_out=LETTERS) * 10.0, None))
    chains = [1, 2] if backup else [1]
    return Known(
        network,
        _pairs(prompts),
        ("input", "a0.h0", *(f"a1.h{head}" for head in chains), "m1", "logits"),
        (
            "input->a0.h0<v>",
            *(f"a0.h0->a1.h{head}<k>" for head in chains),
            *(f"a1.h{head}->m1" for head in chains),
            "m1->logits",
        ),
    )


def _embed(tokens: Tensor, positions: Tensor) -> Tensor:
    resid = torch.zeros(*tokens.shape, D_MODEL)
    resid[..., TOKEN] = functional.one_hot(tokens, LETTERS).float()
    resid[..., PLACE] = functional.one_hot(positions, LETTERS).float()
    return resid


def _no_norm() -> Norm:
    """Every network has a last normalisation; this one's scale is the same to 8 digits whatever it reads."""
    return Norm(torch.full((D_MODEL,), 1e4), None, 1e8, centres=False)


def _maps(source: slice, target: slice, d_in: int = D_MODEL, d_out: int = D_HEAD) -> Tensor:
    """The identity from a part of what is read to a part of what is written."""
    weight = torch.zeros(d_in, d_out)
    weight[source, target] = torch.eye(8)
    return weight


Head = tuple[Tensor, Tensor, Tensor, Tensor]
"""Query, key, value, and what is written."""


def _previous_token() -> Head:
    """Each place looks at the one before."""
    key = torch.zeros(D_MODEL, D_HEAD)
    key[PLACE, 1:] = torch.eye(8)[:, :7]
    return (
        _maps(PLACE, ALL) * SHARP,
        key,
        _maps(TOKEN, ALL),
        _maps(ALL, BEFORE, D_HEAD, D_MODEL),
    )


def _induction() -> Head:
    """Each token looks where the token before is the same."""
    return (
        _maps(TOKEN, ALL) * SHARP,
        _maps(BEFORE, ALL),
        _maps(TOKEN, ALL),
        _maps(ALL, FOUND, D_HEAD, D_MODEL),
    )


def _idle(random: torch.Generator) -> Head:
    """Reads everything, and writes where the circuit does not read."""
    query, key, value = (0.5 * torch.randn(D_MODEL, D_HEAD, generator=random) for _ in range(3))
    written = torch.zeros(D_HEAD, D_MODEL)
    written[:, JUNK] = 0.2 * torch.randn(D_HEAD, 8, generator=random)
    return query, key, value, written


def _layer(random: torch.Generator, head: Head, number: int, second: int | None = None) -> Block:
    """A layer with the circuit's head at the index of the layer, and where there is a backup at another one."""
    heads = [head if index in (number, second) else _idle(random) for index in range(N_HEADS)]
    query, key, value = (torch.cat([one[part] for one in heads], dim=1) for part in range(3))
    return Block(
        n_heads=N_HEADS,
        n_kv_heads=N_HEADS,
        attention_norm=None,
        query=Linear(query, None),
        key=Linear(key, None),
        value=Linear(value, None),
        query_norm=None,
        key_norm=None,
        scale=1.0,
        combine=Linear(torch.cat([one[3] for one in heads]), None),
        mlp_norm=None,
        mlp=_translating() if number else _idle_mlp(random),
    )


def _translating() -> Mlp:
    """min(1, x), from the letters that were found to those of the answer."""
    up = torch.cat([_maps(FOUND, ALL)] * 2, dim=1)
    down = torch.zeros(16, D_MODEL)
    down[:8, ANSWER], down[8:, ANSWER] = torch.eye(8), -torch.eye(8)
    return Mlp(Linear(up, torch.tensor([0.0] * 8 + [-1.0] * 8)), None, Linear(down, None), _relu())


def _idle_mlp(random: torch.Generator) -> Mlp:
    down = torch.zeros(16, D_MODEL)
    down[:, JUNK] = 0.2 * torch.randn(16, 8, generator=random)
    return Mlp(Linear(torch.randn(D_MODEL, 16, generator=random), None), None, Linear(down, None), _relu())


def _relu() -> Activation:
    return Activation(torch.relu, ("relu", ""))


def _pairs(count: int) -> Pairs:
    random = torch.Generator().manual_seed(1)
    clean, corrupted = torch.zeros(2, count, WIDTH, dtype=torch.long)
    for row in range(count):
        first, second, third, fourth, fifth = (torch.randperm(LETTERS - 1, generator=random)[:5] + 1).tolist()
        clean[row] = torch.tensor([0, first, second, third, fourth, fifth, first])
        corrupted[row] = torch.tensor([0, third, second, first, fourth, fifth, first])
    roles = (("start", "letter 1", "letter 2", "letter 3", "letter 4", "letter 5", "end"),) * count
    end = torch.full((count,), WIDTH - 1)
    texts = (Prompt("", "", (), 0),) * count
    # The answer follows the first letter: in the clean prompt the second letter, in the corrupted one the fourth.
    sides = [Batch(texts, tokens, end, clean[:, 2], clean[:, 4:5], roles) for tokens in (clean, corrupted)]
    return Pairs(sides[0], sides[1], torch.ones(1))
