"""Tables of patched edges: their effects, the circuits of the largest, and what a partial patching may have missed.

`effects_of`: what each edge alone recovers, in a group of runs that differ only in their seed. Verdicts hold for all
edges of a checkpoint at once (`mi_sweeps.analysis.inference.verdicts`).

`circuits_of`: the first 0.1% to 100% of the edges run as circuits. With m(C) the logit difference of a circuit's run
(`mi_sweeps.circuits.sets`; the corrupted run's for the empty graph, the clean run's for all edges),

    F(C) = (m(C) - m(empty)) / (m(all) - m(empty))

CPR is the area of F, CMD that of |1 - F| over the share of edges (trapezoids), as in the MIB track (Mueller et al.
2025, arXiv:2504.13151), which ranks edges by effect for CPR and by absolute effect for CMD. Verdicts on F are as for
circuits of nodes, and hold for all circuits of a checkpoint at once.

`bounds_of`: when the top edges and a sample of the others were patched. Of R others m were drawn without replacement.
More than K of the R exceed the largest effect in the sample only if none of the K + 1 largest was drawn, which has the
probability

    C(R - K - 1, m) / C(R, m)

so with LEVEL confidence at most the smallest K for which it is 1 - LEVEL or less (an order statistic; ties make it
smaller). If there is a sample, estimates are compared with exact effects on it alone, because the top edges were chosen
by their estimates.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd
from scipy import stats

from . import measured
from .agreement.effects import EDGE, Effects, of_edges
from .columns import EXAMINED, typed
from .folder import OutputFolder
from .frames import Examined
from .inference.circuits import cmd, cpr, faithful, simultaneous
from .inference.estimates import LEVEL, Estimate, estimate, interval
from .inference.families import groups
from .inference.tables import GROUP
from .inference.verdicts import critical_values_of, judge

EFFECTS = {
    **GROUP,
    "step": "int64",
    **{"source": "string", "source_layer": "Int64", "source_head": "Int64"},
    **{"input": "string", "layer": "Int64", "head": "Int64"},
    **{"recovered": "float64", "low": "float64", "high": "float64", "verdict": "string"},
    **{"edges": "int64", "other_seeds": "boolean", "n": "int64", "runs": "int64"},
}
"""One row per shared checkpoint and edge that was patched in all runs of a group; `edges` counts those judged together.
`low` and `high` are the 95% interval at that edge alone; `other_seeds` says whether it and the verdict are for other
seeds too, or only for other prompts in these runs."""
CIRCUITS = EXAMINED | {
    **{"kind": "string", "order": "string", "size": "float64", "edges": "Int64"},
    **{"value": "float64", "low": "float64", "high": "float64", "verdict": "string", "n": "int64"},
}
"""One row of kind `circuit` per circuit of edges, and per order one each of kinds `cpr` and `cmd`. Intervals are for
other prompts in this run, given the ranking of the edges."""
BOUNDS = EXAMINED | {
    **{"edges": "Int64", "edges_patched": "Int64", "sample": "Int64", "rest": "Int64"},
    **{"largest": "float64", "at_most": "Int64", "level": "float64"},
    **{"r": "float64", "rank_r": "float64", "error": "float64", "compared": "Int64", "n": "Int64"},
}
"""One row per checkpoint. `largest` is the largest effect in the sample (logits, without sign); `at_most` of the `rest`
edges, the sampled ones among them, have a larger one. `r` and `rank_r` are Pearson's and Spearman's correlation of
exact and approximate effects over the `compared` edges, `error` their mean absolute difference (logits); `n` counts
prompts."""


def effects_of(
    output: OutputFolder, runs: pd.DataFrame, patches: pd.DataFrame, damaged: list[str] | None = None
) -> Iterator[pd.DataFrame]:
    """Yield one frame per group of runs and checkpoint.

    Args:
        runs, patches: of `Frames`.
        damaged: as for `frames.load`.
    """
    for key, patch_ids in groups(patches, runs):
        found = [patch for patch in output.patches if patch.patch_id in patch_ids]
        there = [(patch, {step for step in patch.steps() if patch.has(step, "edges")}) for patch in found]
        own = [patch for patch, steps in there if steps]
        for step in sorted(set.intersection(*(steps for _, steps in there if steps))) if own else ():
            effects = of_edges(own, step, damaged)
            if effects is not None:
                at = dict(zip(GROUP, key, strict=True)) | {"step": step}
                yield typed(_effects(effects).assign(**at), EFFECTS)


def _effects(effects: Effects) -> pd.DataFrame:
    found = estimate(effects.gain, effects.gap)
    low, high = interval(found, seeds=found.has_seeds)
    judged = judge(found, critical_values_of(found), np.zeros(len(found.n), int), seeds=found.has_seeds)
    return pd.DataFrame(
        {
            **{name: [item[at] for item in effects.items] for at, name in enumerate(EDGE)},
            "recovered": found.recovered, "low": low, "high": high, "verdict": judged.words,
            "edges": len(effects.items), "other_seeds": found.has_seeds, "n": found.n, "runs": found.runs,
        }
    )  # fmt: skip


def circuits_of(examined: Iterable[Examined], damaged: list[str] | None = None) -> Iterator[pd.DataFrame]:
    """Yield one frame per checkpoint that has sets of edges."""
    for rows in measured.each(examined, "edges", ["by_prompt"], damaged):
        sets = rows[rows["kind"] == "set"]
        if len(sets):
            yield _typed(rows, list(_circuits(sets)), CIRCUITS)


def _circuits(sets: pd.DataFrame) -> Iterator[dict[str, object]]:
    m = np.stack([np.asarray(one, dtype=float) for one in sets["by_prompt"]])
    m = m[:, ~np.isnan(m).any(axis=0)]
    empty, whole = (m[(sets["size"] == size).to_numpy()][:1] for size in (0, 100))
    gap = whole - empty
    of_each = estimate((m - empty)[None], np.broadcast_to(gap, m.shape)[None])
    low, high = interval(of_each, seeds=False)
    words = faithful(of_each, *simultaneous(of_each, np.zeros(len(m), int)))
    for number, row in enumerate(sets.itertuples()):
        own = {"order": row.order, "size": row.size, "edges": row.edges}
        value = of_each.recovered[number]
        yield {
            "kind": "circuit", **own, "value": value, "low": low[number], "high": high[number],
            "verdict": words[number].value, "n": m.shape[1],
        }  # fmt: skip
    for order in sets["order"].dropna().unique():
        chosen = (sets["order"] == order).to_numpy(dtype=bool, na_value=False)
        shares = sets["size"].to_numpy()[chosen] / 100
        for kind, area in (("cpr", cpr), ("cmd", cmd)):
            yield {"kind": kind, "order": order, **_one(area(shares, m[None, chosen], empty[None], whole[None]))}


def _one(found: Estimate) -> dict[str, object]:
    low, high = interval(found, seeds=False)
    return {"value": found.recovered[0], "low": low[0], "high": high[0], "n": found.n[0]}


def bounds_of(examined: Iterable[Examined], damaged: list[str] | None = None) -> Iterator[pd.DataFrame]:
    """Yield one frame per checkpoint with patched edges."""
    for rows in measured.each(examined, "edges", (), damaged):
        edges = rows[rows["kind"] == "edge"]
        if len(edges):
            yield _typed(rows, [_bounds(edges)], BOUNDS)


def _bounds(edges: pd.DataFrame) -> dict[str, object]:
    exact, approximate = ((edges[name] - edges["corrupted"]).to_numpy() for name in ("patched", "approximate"))
    chosen = edges["chosen"].to_numpy()
    sample, rest = chosen == "sample", np.isin(chosen, ("sample", "rest"))
    found: dict[str, object] = {"edges": len(edges), "edges_patched": int((~np.isnan(exact)).sum())}
    found |= {"sample": int(sample.sum()), "rest": int(rest.sum()), "level": LEVEL}
    if sample.any():
        found["largest"] = np.abs(exact[sample]).max()
        found["at_most"] = missed(int(rest.sum()), int(sample.sum()))
    elif not rest.any():
        found["at_most"] = 0
    compared = sample if sample.any() else chosen == "all"
    one, other = exact[compared], approximate[compared]
    if len(one) > 2 and np.ptp(one) > 0 and np.ptp(other) > 0:
        found |= {"r": stats.pearsonr(one, other).statistic, "rank_r": stats.spearmanr(one, other).statistic}
    if len(one):
        found |= {"error": np.abs(one - other).mean()}
    return found | {"compared": len(one), "n": edges["n"].max()}


def missed(rest: int, sample: int, level: float = LEVEL) -> int:
    """Upper bound on how many of `rest` edges exceed the largest effect in a random sample of them."""
    if not sample:
        return rest
    none_drawn = stats.hypergeom.pmf(0, rest, np.arange(rest - sample + 1) + 1, sample)
    return int(np.argmax(none_drawn <= 1 - level))


def _typed(rows: pd.DataFrame, found: list[dict[str, object]], columns: dict[str, str]) -> pd.DataFrame:
    """Add the keys of the checkpoint."""
    return typed(pd.DataFrame(found).assign(**{key: rows[key].iloc[0] for key in EXAMINED}), columns)
