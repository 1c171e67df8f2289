"""Activation patching: what an engine takes and gives, whichever engine computes it.

Corrupted <- clean: the model runs on the corrupted prompts, one activation is replaced by its value in the clean
run, and the logit difference tells how much of the clean behaviour comes back (Meng et al. 2022,
arXiv:2202.05262; Wang et al. 2022). With LD for the mean logit difference over prompts,

    recovered = (LD_patched - LD_corrupted) / (LD_clean - LD_corrupted)

is derived where it is drawn; tables keep the three terms, because the denominator moves with the checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from jaxtyping import Float
from torch import Tensor

from mi_sweeps.circuits.pairs import Pairs
from mi_sweeps.config import PatchingConfig, Site

POSITION_SITES: tuple[Site, ...] = ("resid_pre", "attn_out", "mlp_out")
"""Sites of one layer and one position; all others are of one layer and one head."""


@dataclass(frozen=True)
class Patched:
    """Logit differences of every patched prompt; `table_rows` averages them."""

    clean: Float[Tensor, " prompt"]
    corrupted: Float[Tensor, " prompt"]
    sites: dict[Site, Float[Tensor, "layer place prompt"]]
    """For each site family; `place` is a role for POSITION_SITES and a head for the others (a key/value head for
    k and v). NaN where a prompt has no token in that role."""
    roles: list[str]
    """The roles that `place` counts, in reading order."""


class Engine(Protocol):
    """Computes patches on a model whose weights may have changed since the last call."""

    def patch(self, pairs: Pairs, patching: PatchingConfig) -> Patched:
        """Patches every site of the families in `patching.sites`."""
        ...


def table_rows(patched: Patched) -> list[dict[str, Any]]:
    """Rows of the patching table: means over the prompts that have the site."""
    rows = []
    for site, values in patched.sites.items():
        present = ~values.isnan()
        counts = present.sum(dim=-1)
        means = [
            (term.expand_as(values).where(present, values.new_zeros(())).sum(dim=-1) / counts).tolist()
            for term in (values.nan_to_num(), patched.clean, patched.corrupted)
        ]
        n_layers, n_places = counts.shape
        for layer in range(n_layers):
            for place in range(n_places):
                rows.append(
                    {
                        "kind": "patch",
                        "site": site,
                        "layer": layer,
                        "head": None if site in POSITION_SITES else place,
                        "position": patched.roles[place] if site in POSITION_SITES else None,
                        "patched": means[0][layer][place],
                        "clean": means[1][layer][place],
                        "corrupted": means[2][layer][place],
                        "n": int(counts[layer, place]),
                    }
                )
    return rows
