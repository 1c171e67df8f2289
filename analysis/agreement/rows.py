"""Builds the rows of the agreement tables from families of heads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from jaxtyping import Float

from ..columns import typed
from ..folder import Patch
from ..inference.families import Family, PatchJob
from ..inference.subjects import answer, subjects
from .designs import Design
from .effects import EDGE, NODE, Effects
from .measures import agreements
from .roles import Signatures, match
from .signatures import signatures
from .stability import Stability, stability

GROUP = {"setting": "string", "patching": "string"}
AT = {"corruption": "string", "site": "string", "step": "int64"}
HEAD = {"layer": "Int64", "head": "Int64"}
AGREEMENT = {
    "axis": "string",
    **GROUP,
    **AT,
    **{"measure": "string", "k": "Int64", "value": "float64", "low": "float64", "high": "float64"},
    **{"ceiling": "float64", "of_ceiling": "float64", "of_ceiling_low": "float64", "of_ceiling_high": "float64"},
    **{"expected": "float64", "p": "float64", "answer": "string", "scope": "string"},
    **{"runs": "int64", "prompts": "int64", "heads": "int64"},
}
"""One row per measure, for the runs of a setting (axis `seed`) or settings that differ in one thing (`prompts`,
`base`)."""
ROLES = {
    **{"axis": "string", "patching": "string", "run_a": "string", "run_b": "string"},
    **{"layer_a": "int64", "head_a": "int64", "layer_b": "Int64", "head_b": "Int64"},
    **{"similarity": "float64", "p": "float64", "matched": "boolean", "blocks": "string"},
}
"""One row per head of the first run that has a role, with its partner in the second."""
SUBJECTS = {
    **GROUP,
    **{"first": "string", "second": "string", "site": "string", "step": "int64"},
    **HEAD,
    **{"recovered_first": "float64", "recovered_second": "float64", "difference": "float64"},
    **{"low": "float64", "high": "float64", "comparison": "string"},
    **{"verdict_first": "string", "verdict_second": "string", "answer": "string"},
    **{"runs": "int64", "prompts": "int64"},
}
"""One row per head and checkpoint, under two corruptions; `answer` is for all heads at that checkpoint."""
STABILITY = {
    **GROUP,
    **AT,
    **{"members": "float64", "stable": "Int64", "false_members": "float64", "false_members_unimodal": "float64"},
    **{f"{name}_{of}": "float64" for of in ("prompts", "runs") for name in ("phi", "phi_low", "phi_high", "jaccard")},
    **{"runs": "int64", "prompts": "int64", "heads": "int64"},
}
"""One row per checkpoint, about the set of members by their single effects."""
INCLUSION = {
    **GROUP,
    **AT,
    **{"source": "string", "source_layer": "Int64", "source_head": "Int64", "component": "string", "input": "string"},
    **HEAD,
    **{"recovered": "float64", "inclusion": "float64", "selected": "float64", "stable": "boolean"},
}
"""One row per head and checkpoint; or per node (its `component`), or per edge from its source to an `input`."""
TABLES = {
    **{"agreement": AGREEMENT, "roles": ROLES, "subjects": SUBJECTS, "stability": STABILITY, "inclusion": INCLUSION},
}


Part = tuple[str, pd.DataFrame]
"""The name of a table with some of its rows."""


def of_agreement(axis: str, key: Mapping[str, str], one: Family, design: Design, is_last: bool = False) -> pd.DataFrame:
    """Agreement of a family's runs, at each checkpoint or only at the last."""
    assert one.gain is not None
    rows = []
    for step in one.steps[-1:] if is_last else one.steps:
        for found in agreements(one.gain[:, one.at(step)], design):
            columns = {name: getattr(found, name) for name in AGREEMENT if hasattr(found, name)}
            columns["answer"] = None if found.answer is None else found.answer.value
            at = {"corruption": one.corruption, "site": one.site, "step": step}
            rows.append({"axis": axis, **key, **at, **columns, "scope": design.scope, **_sizes(one)})
    return typed(rows, AGREEMENT)


def of_stability(key: Mapping[str, str], one: Family) -> Iterator[Part]:
    """Stability of a family's members by their single effects at each checkpoint, as rows of two tables."""
    assert one.gain is not None
    items = [{"layer": layer, "head": head} for layer, head, _ in one.places]
    of_steps = []
    for number, step in enumerate(one.steps):
        gain = one.gain[:, one.at(step)]
        gap = np.broadcast_to(_gaps(one, number)[:, None], gain.shape)
        at = {**key, "corruption": one.corruption, "site": one.site, "step": step}
        of_steps.append(_of_members(at, items, gain, gap))
    yield "stability", typed([row for row, _ in of_steps], STABILITY)
    yield "inclusion", typed([row for _, rows in of_steps for row in rows], INCLUSION)


def of_effects(key: Mapping[str, str], corruption: str, site: str, step: int, found: Effects) -> Iterator[Part]:
    """The same for nodes or edges, depending on `site`. Edges that are never included have no row."""
    names = NODE if site == "node" else EDGE
    items = [dict(zip(names, item, strict=True)) for item in found.items]
    at = {**key, "corruption": corruption, "site": site, "step": step}
    row, each = _of_members(at, items, found.gain, found.gap, ever=site == "edge")
    yield "stability", typed([row], STABILITY)
    yield "inclusion", typed(each, INCLUSION)


def _of_members(
    at: Mapping[str, object], items: Sequence[Mapping[str, object]], gain: np.ndarray, gap: np.ndarray,
    ever: bool = False,
) -> tuple[dict[str, object], list[dict[str, object]]]:  # fmt: skip
    """A row of `stability` and its rows of `inclusion`; with `ever`, only those of items that are included at least
    once."""
    found = stability(gain, gap)
    runs, count, prompts = gain.shape
    defined = bool(np.isfinite(found.inclusion).all())
    each = [
        {
            **at, **item, "recovered": found.recovered[number], "inclusion": found.inclusion[number],
            "selected": found.selected[number], "stable": bool(found.stable[number]) if defined else None,
        }
        for number, item in enumerate(items) if not ever or found.inclusion[number] > 0
    ]  # fmt: skip
    return {**at, **_of_set(found), "runs": runs, "prompts": prompts, "heads": count}, each


def of_subjects(key: Mapping[str, str], first: Family, second: Family) -> pd.DataFrame | None:
    """Compares two corruptions head by head; None if they cannot be compared."""
    found = subjects(first, second)
    if found is None:
        return None
    parts = []
    layer, head, _ = zip(*found.difference.places, strict=True)
    for step in found.difference.steps:
        at = found.difference.at(step)
        rows: dict[str, object] = {
            **key, "first": first.corruption, "second": second.corruption, "site": first.site, "step": step,
            "layer": layer, "head": head, "answer": answer(found, step).answer.value,
            "difference": found.difference.difference[at], "low": found.difference.low[at],
            "high": found.difference.high[at], "comparison": found.difference.words[at],
            "runs": min(len(first.jobs), len(second.jobs)), "prompts": found.difference.n[at],
        }  # fmt: skip
        for name, one in (("first", first), ("second", second)):
            own = found.at(one, step)
            rows |= {f"recovered_{name}": one.estimate.recovered[own], f"verdict_{name}": one.judged.words[own]}
        parts.append(pd.DataFrame(rows))
    return typed(pd.concat(parts, ignore_index=True), SUBJECTS)


@dataclass(frozen=True)
class MeasuredRun:
    """A run with its patch jobs, whose heads' roles are compared with those of another run."""

    jobs: Sequence[PatchJob]
    """Some of its patch jobs, with their patching results."""
    patches: Sequence[Patch]
    """All its patch jobs."""
    damaged: list[str] | None = None
    """As for `frames.load`."""
    kept: dict[tuple[int, ...], Signatures | None] = field(default_factory=dict, compare=False, repr=False)
    """Its signatures at the checkpoints compared so far; attention takes longest to read."""

    def signatures(self, steps: Sequence[int]) -> Signatures | None:
        """Its heads' signatures at these checkpoints; None without per-prompt values."""
        at = tuple(steps)
        if at not in self.kept:
            self.kept[at] = signatures(self.jobs, steps, self.patches, self.damaged)
        return self.kept[at]


def of_roles(axis: str, patching: str, first: MeasuredRun, second: MeasuredRun) -> pd.DataFrame | None:
    """Which heads of two runs have the same role, from their patch jobs under some corruptions; None if they share no
    checkpoint or site, or without values by prompt."""
    sites = [one for job in (*first.jobs, *second.jobs) for one in job.sites.values()]
    steps = sorted(set.intersection(*(set(one.steps) for one in sites))) if sites else []
    a, b = (run.signatures(steps) if steps else None for run in (first, second))
    if a is None or b is None:
        return None
    blocks = ", ".join(" ".join(block[:2]) for block in a.blocks if block in b.blocks)
    rows = [
        {
            "axis": axis, "patching": patching,
            "run_a": first.jobs[0].patch.run_id, "run_b": second.jobs[0].patch.run_id,
            "layer_a": one.head[0], "head_a": one.head[1],
            "layer_b": None if one.partner is None else one.partner[0],
            "head_b": None if one.partner is None else one.partner[1],
            "similarity": one.similarity, "p": one.p, "matched": one.is_matched, "blocks": blocks,
        }
        for one in match(a, b)
    ]  # fmt: skip
    return typed(rows, ROLES)


def _of_set(found: Stability) -> dict[str, object]:
    defined = np.isfinite(found.inclusion).all()
    ends = ("phi", "phi_low", "phi_high")
    return {
        "members": found.members,
        "stable": int(found.stable.sum()) if defined else None,
        "false_members": found.false_members,
        "false_members_unimodal": found.false_members_unimodal,
        **{f"{name}_prompts": value for name, value in zip(ends, found.over_prompts, strict=True)},
        **{f"{name}_runs": value for name, value in zip(ends, found.over_runs, strict=True)},
        "jaccard_prompts": found.jaccard_over_prompts,
        "jaccard_runs": found.jaccard_over_runs,
    }


def _gaps(one: Family, number: int) -> Float[np.ndarray, "run prompt"]:
    """Each prompt's gap, clean - corrupted, at a family's checkpoint; NaN where a run lacks a prompt."""
    column = {key: at for at, key in enumerate(one.prompts)}
    gaps = np.full((len(one.jobs), len(one.prompts)), np.nan)
    for row, job in zip(gaps, one.jobs, strict=True):
        site = job.sites[one.site]
        at = site.steps.index(one.steps[number])
        row[[column[key] for key in job.prompts]] = site.clean[at] - site.corrupted[at]
    return gaps


def _sizes(one: Family) -> dict[str, int]:
    return {"runs": len(one.jobs), "prompts": len(one.prompts), "heads": len(one.places)}
