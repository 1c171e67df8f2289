"""Transformed or added: puts pieces of one checkpoint into another, on the same clean prompts.

If fine-tuning changed a model from checkpoint A to B, pieces of B are put into A, and pieces of A into B:

- `activation`: the run of `into` with one component's activation, at all positions, from the run of `source`;
- `weights`: the run of `into` with one component's weights from `source` (`mi_sweeps.circuits.mixed`);
- `shapley`: the share of the whole difference due to the weights of each layer's attention and MLP, the embedding and
  the unembedding (`mi_sweeps.circuits.shapley`).

All are exact, except that Shapley values are means over random orders, with an uncertainty. Layers before the changed
one are not computed again. Analysis derives from mean logit differences

    share = (mixed - into) / (from - into)

Related: cross-model activation patching by Prakash et al. 2024 (arXiv:2402.14811).
"""

from __future__ import annotations

import logging
from typing import Any

import pyarrow as pa
from jaxtyping import Float
from torch import Tensor

from mi_sweeps.circuits.tables import TABLES
from mi_sweeps.circuits.transplants import Component, CrossedRuns, cross
from mi_sweeps.circuits.view import View
from mi_sweeps.config.cross import others

log = logging.getLogger(__name__)


def table(view: View) -> pa.Table:
    """Puts pieces of one checkpoint into others and vice versa, as `patching.cross` requests.

    Shapley values are given for this checkpoint in the other; in the other direction they are the same, because each
    order is also walked backwards.

    Raises:
        UserError: as for `cross`, or another checkpoint cannot be read.
    """
    asked = view.patching.cross
    assert asked is not None
    own: dict[int, Float[Tensor, " prompt"]] = {}
    rows: list[dict[str, Any]] = []
    for step in others(asked, view.step, view.steps):
        if step not in view.steps:
            log.warning(
                "patching.cross.with: there is no checkpoint %d, so step %d is not crossed with it", step, view.step
            )
            continue
        with view.another(step) as network:
            there = cross(network, view.network, view.pairs, asked.kinds, asked.permutations, view.memory)
            back = [kind for kind in asked.kinds if kind != "shapley"]
            rows += _rows(there, step, view.step)
            own |= {step: there.into, view.step: there.source}
            if back:
                here = cross(view.network, network, view.pairs, back, asked.permutations, view.memory)
                rows += _rows(here, view.step, step)
    rows += [
        _row(step, step, ("own", "none", None, None), values, values, values, None) for step, values in own.items()
    ]
    return pa.Table.from_pylist(rows, TABLES["cross"])


def _rows(crossed: CrossedRuns, into: int, source: int) -> list[dict[str, Any]]:
    return [
        _row(into, source, component, crossed.into, crossed.source, mixed, error)
        for component, mixed, error in zip(crossed.components, crossed.mixed, crossed.error, strict=True)
    ]


def _row(
    into: int,
    source: int,
    component: Component,
    ld_into: Float[Tensor, " prompt"],
    ld_from: Float[Tensor, " prompt"],
    ld_mixed: Float[Tensor, " prompt"],
    error: float | None,
) -> dict[str, Any]:
    means = {"ld_into": ld_into, "ld_from": ld_from, "ld_mixed": ld_mixed}
    return {
        **{"into_step": into, "source_step": source},
        **dict(zip(("kind", "component", "layer", "head"), component, strict=True)),
        **{name: values.double().mean().item() for name, values in means.items()},
        **{"standard_error": error, "n": len(ld_mixed), "by_prompt": ld_mixed.tolist()},
    }
