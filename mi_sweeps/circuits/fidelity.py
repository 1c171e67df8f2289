"""Checks that an engine computes what the Hugging Face model itself computes; otherwise nothing is measured."""

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
"""The largest difference allowed between logit differences with TF32 and the model's own, relative to its largest
logit: TF32 rounds each factor to 11 bits (by at most 5e-4), and errors add up over many products."""


def known(model: PreTrainedModel, pairs: Pairs) -> Network | None:
    """The fast engine's description of a model, if it supports the model at this prompt length."""
    network = describe(model)
    if network and network.longest and pairs.clean.tokens.shape[1] > network.longest:
        return None
    return network


@dataclass(frozen=True)
class OwnLogits:
    """The Hugging Face model's own logits at each prompt's end, which every engine must reproduce."""

    clean: Float[Tensor, "prompt d_vocab"]
    corrupted: Float[Tensor, "prompt d_vocab"]


@torch.no_grad()
def own_logits(model: PreTrainedModel, pairs: Pairs) -> OwnLogits:
    """The own logits of an unwrapped model."""
    parts = [
        pairs.select(range(start, min(start + CHUNK, len(pairs.clean)))) for start in range(0, len(pairs.clean), CHUNK)
    ]
    return OwnLogits(
        torch.cat([end_logits(model, part.clean) for part in parts]),
        torch.cat([end_logits(model, part.corrupted) for part in parts]),
    )


@torch.no_grad()
def compare(model: PreTrainedModel, network: Network, pairs: Pairs, limit: int, name: str) -> None:
    """Checks that a network computes what the model that it describes computes.

    Args:
        limit: approximate memory for activations, in bytes.

    Raises:
        UserError: logit differences do not agree.
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
    """Checks that the clean and corrupted runs used for patching agree with the model's own.

    Args:
        rounded: whether they may have used TF32 on a GPU; the model's own logits never do.

    Raises:
        UserError: their logit differences do not agree.
    """
    for found, logits in ((clean, own.clean), (corrupted, own.corrupted)):
        error = (found - pairs.logit_diff(logits).to(found.device)).abs().max().item()
        limit = tolerance(logits) * pairs.contrast.weights.abs().sum(dim=1).max().item()
        if rounded:
            limit = max(limit, TF32 * logits.abs().max().item())
        if not error <= limit:
            raise UserError(
                f"patching: {name}: logit differences differ by {error:.1e} from the model's own (more than "
                f"{limit:.0e}); this architecture is not supported, so nothing is measured"
            )
