"""Attribution patching: every site estimated from one forward and one backward pass.

With a_clean and a_corrupted the two values of an activation, and the gradient taken in the corrupted run,

    LD_patched ~ LD_corrupted + (a_clean - a_corrupted) . dLD/da

the first-order approximation of the patch (Nanda 2023, "Attribution Patching: Activation Patching At Industrial
Scale"; Syed et al. 2023, arXiv:2310.10348). It is poor where the model is far from linear between the two runs, for
example through a saturated attention pattern or the first norm. So tables call it `approximate`, and if the exact
value is measured too, their correlation shows how far to trust it. The gradients for q and k are those of the vectors
in the dot product, after their own norms and rotation.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from mi_sweeps.circuits.activations import align, embed, forward
from mi_sweeps.circuits.engine import POSITION_SITES, Patched, by_role
from mi_sweeps.circuits.network import Network
from mi_sweeps.circuits.paired_runs import in_groups
from mi_sweeps.circuits.readout import read_out
from mi_sweeps.config import PatchingConfig, Site
from mi_sweeps.tasks.pairs import Pairs
from mi_sweeps.tasks.roles import role_order


def estimate(network: Network, pairs: Pairs, patching: PatchingConfig, prompts: int = 64) -> Patched:
    """Estimates what `mi_sweeps.circuits.engine.Engine` computes exactly.

    Args:
        prompts: number of prompts at once. Does not change results.
    """
    roles = role_order(pairs.clean)
    return Patched.join([_estimate(network, part, patching, roles) for part in in_groups(pairs, prompts)])


def _estimate(network: Network, pairs: Pairs, patching: PatchingConfig, roles: list[str]) -> Patched:
    layout = align(network, pairs.clean.end)
    with torch.no_grad():
        clean, clean_resid = forward(network, embed(network, pairs.clean, layout), layout)
        before = embed(network, pairs.corrupted, layout)
    with torch.enable_grad():
        corrupted, resid = forward(network, before.requires_grad_(), layout)
        read = read_out(network, pairs)
        logit_diff = read(resid[:, -1], slice(None))
        wanted = [getattr(layer, site) for site in patching.sites for layer in corrupted]
        # A prompt's logit difference depends only on its own activations, so one sum gives every prompt's gradient.
        gradients = iter(torch.autograd.grad(logit_diff.sum(), wanted, materialize_grads=True))
    base = logit_diff.detach()
    sites: dict[Site, Tensor] = {}
    for site in patching.sites:
        effects = [
            _effect(site, getattr(mine, site) - getattr(theirs, site).detach(), next(gradients), patching.heads)
            for mine, theirs in zip(clean, corrupted, strict=True)
        ]
        values = base + torch.stack(effects)
        sites[site] = (by_role(values, pairs, roles) if site in POSITION_SITES else values).cpu()
    return Patched(read(clean_resid[:, -1], slice(None)).detach().cpu(), base.cpu(), sites, roles)


def _effect(
    site: Site, change: Float[Tensor, "prompt ..."], gradient: Float[Tensor, "prompt ..."], heads: str
) -> Float[Tensor, "place prompt"]:
    """The dot product of gradient and change, for each column or head."""
    effect = change * gradient
    if site in POSITION_SITES:
        return effect.sum(dim=-1).T
    if site == "pattern":
        return (effect[:, :, -1:] if heads == "end" else effect).sum(dim=(2, 3)).T
    return (effect[:, -1:] if heads == "end" else effect).sum(dim=(1, 3)).T
