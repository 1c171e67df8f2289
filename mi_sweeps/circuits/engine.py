"""Activation patching: the interface of an engine, and its results as table rows.

Corrupted <- clean: the model runs on the corrupted prompts, one activation is replaced by its value in the clean
run, and the logit difference shows how much of the clean behaviour is recovered (Meng et al. 2022,
arXiv:2202.05262; Wang et al. 2022). With LD the mean logit difference over prompts,

    recovered = (LD_patched - LD_corrupted) / (LD_clean - LD_corrupted)

is derived where it is drawn. Tables keep the three terms, because the denominator changes with the checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from mi_sweeps.circuits.attribution import EndActivations
from mi_sweeps.config import PatchingConfig, Site
from mi_sweeps.errors import UserError
from mi_sweeps.tasks.pairs import Pairs
from mi_sweeps.tasks.roles import role_positions

POSITION_SITES: tuple[Site, ...] = ("resid_pre", "attn_out", "mlp_out")
"""Sites with one activation per layer and position; all others have one per layer and head."""


@dataclass(frozen=True)
class Patched:
    """Logit differences of every patched prompt; `table_rows` averages them."""

    clean: Float[Tensor, " prompt"]
    corrupted: Float[Tensor, " prompt"]
    sites: dict[Site, Float[Tensor, "layer place prompt"]]
    """By site; `place` is a role for POSITION_SITES, and a head for the others (a key/value head for k and v). NaN if a
    prompt has no token in that role."""
    roles: list[str]
    """The roles that `place` indexes, in reading order."""

    @classmethod
    def join(cls, parts: Sequence[Patched]) -> Patched:
        """Concatenates the prompts of all parts."""
        return cls(
            torch.cat([part.clean for part in parts]),
            torch.cat([part.corrupted for part in parts]),
            {site: torch.cat([part.sites[site] for part in parts], dim=-1) for site in parts[0].sites},
            parts[0].roles,
        )


class Engine(Protocol):
    """Patches a model at one checkpoint. When the weights change, a new engine is made."""

    def at_end(self, pairs: Pairs) -> EndActivations | None:
        """The clean run's activations at each prompt's last token; None if the logits are not one norm and one
        unembedding of the residual stream."""
        ...

    def patch(self, pairs: Pairs, patching: PatchingConfig) -> Patched:
        """Patches every activation at the sites in `patching.sites`."""
        ...


def by_role(
    values: Float[Tensor, "layer col prompt"], pairs: Pairs, roles: Sequence[str]
) -> Float[Tensor, "layer role prompt"]:
    """Rearranges columns, aligned at the end, by role; NaN where a prompt has no token in a role."""
    positions = role_positions(pairs.clean, roles)
    columns = positions + (values.shape[1] - 1 - pairs.clean.end)[:, None]
    absent = (positions < 0).T
    index = columns.T.masked_fill(absent, 0).expand(len(values), -1, -1)
    return values.gather(1, index).masked_fill(absent, torch.nan)


def check_effects(pairs: Pairs, patched: Patched) -> None:
    """Checks that patches have effects: if none does, patching most likely failed, which must not look like a finding.

    Raises:
        UserError: clean and corrupted prompts are the same, or no patch at some site has any effect.
    """
    if torch.equal(pairs.clean.tokens, pairs.corrupted.tokens):
        raise UserError("patching: clean and corrupted prompts are the same, so there is nothing to patch")
    for site, values in patched.sites.items():
        if bool(((values == patched.corrupted) | values.isnan()).all()):
            raise UserError(
                f"patching.sites: no patch of {site} changes anything, so the model has no such activation "
                f"or it is the same in both runs; leave {site} out of patching.sites"
            )


def prompt_rows(clean: Float[Tensor, " prompt"], corrupted: Float[Tensor, " prompt"]) -> list[dict[str, Any]]:
    """The rows with each prompt's clean and corrupted logit difference."""
    return [
        {"kind": "prompt", "prompt": prompt, "clean": high, "corrupted": low, "n": 1}
        for prompt, (high, low) in enumerate(zip(clean.tolist(), corrupted.tolist(), strict=True))
    ]


def table_rows(exact: Patched | None, approximate: Patched | None = None) -> list[dict[str, Any]]:
    """The rows of the patching table: means over the prompts that have the site, and each prompt's value."""
    one = exact or approximate
    if one is None:
        return []
    rows = []
    for site, values in one.sites.items():
        n_layers, n_places, _ = values.shape
        measured = summaries(values.flatten(0, 1), one.clean, one.corrupted)
        estimated = None
        if approximate:
            estimated = summaries(approximate.sites[site].flatten(0, 1), approximate.clean, approximate.corrupted)
        for index, (layer, place) in enumerate(product(range(n_layers), range(n_places))):
            row = {
                "kind": "patch",
                "site": site,
                "layer": layer,
                "head": None if site in POSITION_SITES else place,
                "position": one.roles[place] if site in POSITION_SITES else None,
                **measured[index],
            }
            if estimated:
                row["approximate"] = estimated[index]["patched"]
            if not exact:
                row["patched"] = row["by_prompt"] = None
            rows.append(row)
    return rows


def summaries(
    values: Float[Tensor, "site prompt"], clean: Float[Tensor, " prompt"], corrupted: Float[Tensor, " prompt"]
) -> list[dict[str, Any]]:
    """For each site, the mean over the prompts that have it, their number, and each prompt's value."""
    there = ~values.isnan()
    count = there.sum(dim=-1)
    means = {
        name: (torch.where(there, term.double(), 0.0).sum(dim=-1) / count).tolist()
        for name, term in (("patched", values), ("clean", clean), ("corrupted", corrupted))
    }
    by_prompt = [[None if value != value else value for value in prompts] for prompts in values.tolist()]
    names = [*means, "n", "by_prompt"]
    return [dict(zip(names, row, strict=True)) for row in zip(*means.values(), count.tolist(), by_prompt, strict=True)]


def correlations(exact: Patched, approximate: Patched) -> dict[Site, float]:
    """The Pearson correlation of exact and approximate effects at each site, over means over prompts."""
    found = {}
    for site, values in exact.sites.items():
        pair = torch.stack(
            [(part - exact.corrupted).nanmean(dim=-1).flatten() for part in (values, approximate.sites[site])]
        )
        found[site] = torch.corrcoef(pair)[0, 1].item()
    return found
