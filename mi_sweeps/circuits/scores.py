"""The standard scores of heads, each with its value by chance.

Attention scores are means over the tokens of a prompt from its third on, then over prompts. By chance: attention is
uniform.

| measure        | attention from a token to                                                                   |
|----------------|---------------------------------------------------------------------------------------------|
| `previous`     | the token before it: previous-token heads                                                   |
| `duplicate`    | earlier copies of it, if there are any: duplicate-token heads (Wang et al. 2022)            |
| `induction`    | the tokens that follow those copies: prefix matching (Olsson et al. 2022, arXiv:2209.11895) |
| `first`        | the first token, where idle heads rest (Xiao et al. 2023)                                   |
| `self`         | itself                                                                                      |
| `s_inhibition` | the repeated names, from the last token only, as S-inhibition heads do (Wang et al.)        |
| `entropy`      | anywhere: the pattern's entropy over log(query + 1), which is 1 for uniform attention       |

They are measured on the clean prompts (`of` is "prompts"), and all but `s_inhibition` also on repeated sequences of
random tokens ("random"), in which only the copy of a token is informative. These sequences are no longer than the
prompts, so that the model knows their positions. That a head inhibits is a claim about its effect, for which see
`patching.paths` with input q.

Copying scores (`of` is "copying"): each head reads the answer's token, at its position in the prompt, from the residual
stream after the first layer and its MLP (in the first layer, from the embedding). Its output with all attention on that
token, through the norm after attention if there is one, as if the head wrote alone, is normalised and unembedded.
`copying` is the share of prompts in which the token is among the top 5 of the vocabulary, and `negative_copying` among
the bottom 5 (Wang et al. 2022, arXiv:2211.00593, section 3.1; they read through the second layer's norm, here it is the
head's own). By chance: 5 / vocabulary. Ties count against the token.

Scores from weights (`of` is "weights"): `mi_sweeps.circuits.composition`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mi_sweeps.circuits import composition
from mi_sweeps.circuits.activations import Layout
from mi_sweeps.circuits.looks import find_places, layers
from mi_sweeps.circuits.measures import FIRST, prompts_at_once
from mi_sweeps.circuits.network import Block, Network
from mi_sweeps.circuits.tables import TABLES
from mi_sweeps.tasks.prompts import Prompt
from mi_sweeps.tasks.roles import role_positions
from mi_sweeps.tasks.tokens import Batch, token_batch

if TYPE_CHECKING:
    from mi_sweeps.circuits.view import View

SEQUENCES = 32
"""Number of random sequences, always the same ones for a vocabulary and a length."""
LENGTH = 25
"""The most random tokens in the repeated part (as in Olsson et al.)."""
SEED = 0
TOP = 5

Score = tuple[str, int, Float[Tensor, "head prompt"], Float[Tensor, " prompt"]]
"""Measure, layer, and its value and value by chance for each prompt; NaN where a prompt has none."""


@torch.no_grad()
def table(view: View) -> pa.Table:
    """The table `scores` of a checkpoint."""
    network, clean = view.network, view.pairs.clean
    found: dict[str, Iterable[Score]] = {
        "prompts": attention_scores(network, clean, view.memory),
        "copying": copying(network, clean, view.memory),
    }
    if (random := repeated(network, clean)) is not None:
        found["random"] = attention_scores(network, random, view.memory)
    rows = [row for of, scores in found.items() for score in scores for row in _rows(of, score)]
    return pa.concat_tables([pa.Table.from_pylist(rows, TABLES["scores"]), composition.table(network)])


def attention_scores(network: Network, batch: Batch, memory: int) -> list[Score]:
    """The attention scores of heads on some prompts.

    Args:
        memory: approximate limit for activations, in bytes, but at least one prompt's need. Does not change results.
    """
    size = prompts_at_once(network, batch, memory)
    parts = [batch.select(range(start, min(start + size, len(batch)))) for start in range(0, len(batch), size)]
    found: dict[tuple[str, int], list[tuple[Tensor, Tensor]]] = {}
    for part in parts:
        for measure, layer, values, chance in _attention_scores(network, part):
            found.setdefault((measure, layer), []).append((values, chance))
    return [
        (measure, layer, torch.cat([values for values, _ in of], dim=1), torch.cat([chance for _, chance in of]))
        for (measure, layer), of in found.items()
    ]


def _attention_scores(network: Network, batch: Batch) -> Iterator[Score]:
    for number, (layout, layer) in enumerate(layers(network, batch)):
        pattern = layer.pattern
        # Padding attends to nothing, and is not counted.
        seen = layout.positions.clamp(min=1).double() + 1
        for measure, keys in looked_at(batch, layout).items():
            queries = keys.any(dim=-1)
            n = queries.sum(dim=-1)
            paid = torch.einsum("phqk,pqk->hp", pattern, keys.float()).double()
            chance = (keys.sum(dim=-1) / seen).sum(dim=-1)
            yield measure, number, paid / n, chance / n
        queries = layout.positions >= FIRST
        entropy = torch.special.entr(pattern).sum(dim=-1).double() * queries[:, None] / seen.log()[:, None]
        n = queries.sum(dim=-1)
        yield "entropy", number, entropy.sum(dim=-1).T / n, torch.where(n > 0, 1.0, torch.nan)


def looked_at(batch: Batch, layout: Layout) -> dict[str, Bool[Tensor, "prompt query key"]]:
    """For each measure, the keys whose attention counts; a query that has none is left out."""
    tokens, positions = layout.tokens(batch), layout.positions
    width = tokens.shape[1]
    column = torch.arange(width, device=tokens.device)
    query, key = column[:, None], column[None]
    inside = (positions >= FIRST)[:, :, None] & (positions >= 0)[:, None, :]
    copies = (tokens[:, :, None] == tokens[:, None, :]) & (key < query) & inside
    after = torch.zeros_like(copies)
    after[:, :, 1:] = copies[:, :, :-1]
    found = {
        "previous": (key == query - 1) & inside,
        "duplicate": copies,
        "induction": after & (key < query),
        "first": (positions == 0)[:, None, :] & inside,
        "self": (key == query) & inside,
    }
    first = batch.prompts[0]
    if isinstance(first, Prompt):
        places = find_places(batch)
        subjects = role_positions(batch, [query for query in places.queries if query != "end"])
        names = (positions[:, None] == subjects[..., None]).any(dim=1)
        found["s_inhibition"] = (query == width - 1) & names[:, None, :] & inside
    return found


def repeated(network: Network, prompts: Batch) -> Batch | None:
    """A repeated sequence of distinct random tokens, after BOS if the prompts begin with it; None if prompts are too
    short."""
    bos = prompts.tokens[:1, :1] if prompts.roles[0][0] == "bos" else prompts.tokens[:1, :0]
    d_vocab = network.unembed.weight.shape[1]
    length = min(LENGTH, (prompts.tokens.shape[1] - bos.shape[1]) // 2, d_vocab)
    if length < FIRST:
        return None
    # Drawn on the CPU, so that they are the same on every device.
    draws = torch.rand(SEQUENCES, d_vocab, generator=torch.Generator().manual_seed(SEED))
    half = draws.topk(length, dim=1).indices.to(prompts.tokens.device)
    tokens = torch.cat([bos.expand(SEQUENCES, -1), half, half], dim=1)
    return token_batch(tokens, half[:, 0], half[:, :0]).to(tokens.device)


def copying(network: Network, batch: Batch, memory: int) -> Iterator[Score]:
    """Yields the copying scores, on the prompts that contain the answer; nothing if none does."""
    at = answers_at(batch)
    chosen = (at >= 0).nonzero()[:, 0]
    if not len(chosen):
        return
    size = prompts_at_once(network, batch, memory)
    parts = [batch.select(rows) for rows in chosen.split(size)]
    embedded, after = (torch.cat(found) for found in zip(*(_first(network, part) for part in parts), strict=True))
    d_vocab = network.unembed.weight.shape[1]
    chance = torch.full((len(batch),), torch.nan, dtype=torch.float64)
    chance[chosen.cpu()] = TOP / d_vocab
    rows = max(1, memory // (16 * d_vocab))
    for number, block in enumerate(network.blocks):
        moved = moves(block, after if number else embedded)
        values = torch.full((2, block.n_heads, len(batch)), torch.nan, dtype=torch.float64)
        for head in range(block.n_heads):
            ranked = [
                _ranked(network.logits(part), tokens)
                for part, tokens in zip(moved[:, head].split(rows), batch.answers[chosen].split(rows), strict=True)
            ]
            values[:, head, chosen.cpu()] = torch.cat(ranked, dim=1).double().cpu()
        yield "copying", number, values[0], chance
        yield "negative_copying", number, values[1], chance


def answers_at(batch: Batch) -> Int[Tensor, " prompt"]:
    """The position of the answer in each prompt: its slot, or where its token first occurs; -1 if nowhere."""
    if isinstance(batch.prompts[0], Prompt):
        roles = [
            f"name {prompt.listed.index(prompt.answer) + 1}" if prompt.answer in prompt.listed else ""
            for prompt in batch.prompts
            if isinstance(prompt, Prompt)
        ]
        found = [row.index(role) if role in row else -1 for role, row in zip(roles, batch.roles, strict=True)]
        return torch.tensor(found, device=batch.tokens.device)
    inside = torch.arange(batch.tokens.shape[1], device=batch.end.device) <= batch.end[:, None]
    same = (batch.tokens == batch.answers[:, None]) & inside
    return torch.where(same.any(dim=1), same.int().argmax(dim=1), -1)


def _first(network: Network, batch: Batch) -> tuple[Float[Tensor, "prompt d_model"], Float[Tensor, "prompt d_model"]]:
    """The residual stream at the answers, before and after the first layer."""
    layout, layer = next(layers(network, batch))
    rows = torch.arange(len(batch), device=batch.end.device)
    column = answers_at(batch) + layout.positions.shape[1] - 1 - batch.end
    return layer.resid_pre[rows, column], layer.resid_post[rows, column]


def moves(block: Block, resid: Float[Tensor, "row d_model"]) -> Float[Tensor, "row head d_model"]:
    """What each head alone adds to the residual stream with all its attention on one token."""
    v = block.values(block.read(resid)).repeat_interleave(block.n_heads // block.n_kv_heads, dim=1)
    return block.attn_written(torch.einsum("rhd,hdm->rhm", v, block.W_O))


def _ranked(logits: Float[Tensor, "row d_vocab"], tokens: Int[Tensor, " row"]) -> Bool[Tensor, "2 row"]:
    """Whether each token's logit is among the TOP largest, and among the TOP smallest."""
    own = logits.gather(1, tokens[:, None])
    return torch.stack([(logits >= own).sum(dim=1) <= TOP, (logits <= own).sum(dim=1) <= TOP])


def _rows(of: str, score: Score) -> Iterator[Mapping[str, Any]]:
    measure, layer, values, chance = score
    n = int((~chance.isnan()).sum())
    if not n:
        return
    null, means = chance.nanmean().item(), values.nanmean(dim=1).tolist()
    for head, (mean, each) in enumerate(zip(means, values.tolist(), strict=True)):
        yield {
            **{"measure": measure, "of": of, "layer": layer, "head": head},
            **{"value": mean, "null": null, "n": n, "by_prompt": each},
        }
