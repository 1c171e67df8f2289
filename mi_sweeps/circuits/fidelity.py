"""Whether what an engine computes is what the Hugging Face model itself computes: nothing else is measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from mi_sweeps.circuits.families import describe
from mi_sweeps.circuits.fast import budget
from mi_sweeps.circuits.network import Network
from mi_sweeps.circuits.paired_runs import in_groups, run_both
from mi_sweeps.errors import UserError
from mi_sweeps.tasks.pairs import Pairs
from mi_sweeps.training.evaluate import CHUNK, end_logits, tolerance

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TF32 = 0.02
"""Largest difference allowed between logit differences with TF32 and the model's own, as a share of its largest logit:
TF32 rounds each factor to 11 bits (by 5e-4 at most), and a model multiplies many times."""


def known(model: PreTrainedModel, pairs: Pairs) -> Network | None:
    """The model as the fast engine computes it, if it knows it for prompts of this length."""
    network = describe(model)
    if network and network.longest and pairs.clean.tokens.shape[1] > network.longest:
        return None
    return network


@dataclass(frozen=True)
class OwnLogits:
    """What the Hugging Face model itself gives at each prompt's end: what every engine is held against."""

    clean: Float[Tensor, "prompt d_vocab"]
    corrupted: Float[Tensor, "prompt d_vocab"]


@torch.no_grad()
def own_logits(model: PreTrainedModel, pairs: Pairs) -> OwnLogits:
    """Of a model that nobody has wrapped."""
    parts = [
        pairs.select(range(start, min(start + CHUNK, len(pairs.clean)))) for start in range(0, len(pairs.clean), CHUNK)
    ]
    return OwnLogits(
        torch.cat([end_logits(model, part.clean) for part in parts]),
        torch.cat([end_logits(model, part.corrupted) for part in parts]),
    )


@torch.no_grad()
def compare(model: PreTrainedModel, network: Network, pairs: Pairs, limit: int, name: str) -> None:
    """Holds that a network computes what the model that it describes computes.

    Args:
        limit: bytes that activations may take, about.

    Raises:
        UserError: logit differences are others.
    """
    prompts, _ = budget(network, pairs, limit)
    found = []
    for part in in_groups(pairs, prompts):
        runs = run_both(network, part)
        found.append((runs.clean_logit_diff, runs.corrupted_logit_diff))
    clean, corrupted = (torch.cat(side) for side in zip(*found, strict=True))
    check_logits(pairs, own_logits(model, pairs), clean, corrupted, name)


def check_logits(
    pairs: Pairs,
    own: OwnLogits,
    clean: Float[Tensor, " prompt"],
    corrupted: Float[Tensor, " prompt"],
    name: str,
    *,
    rounded: bool = False,
) -> None:
    """Holds that the runs that patches are made in are the model's own.

    Args:
        rounded: they were computed with TF32 where there is a GPU, and the model's own logits were not.

    Raises:
        UserError: their logit differences are others.
    """
    for found, logits in ((clean, own.clean), (corrupted, own.corrupted)):
        error = (found - pairs.logit_diff(logits).to(found.device)).abs().max().item()
        limit = tolerance(logits) * pairs.contrast.weights.abs().sum(dim=1).max().item()
        if rounded:
            limit = max(limit, TF32 * logits.abs().max().item())
        if not error <= limit:
            raise UserError(
                f"patching: {name}: logit differences differ by {error:.1e} from the model's own (more than "
                f"{limit:.0e}); this architecture is not understood here, so nothing is measured"
            )
