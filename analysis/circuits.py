"""Tables of how faithful, complete and minimal circuits are; `inference.circuits` gives the verdicts.

`faithfulness` is per group of runs that differ only in their seed, each run with its own circuit; `completeness` is per
run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from jaxtyping import Float

from . import measured
from .columns import EXAMINED, typed
from .folder import OutputFolder, Patch
from .frames import Frames
from .inference import circuits
from .inference.estimates import Estimate, interval
from .inference.families import PatchJob, groups
from .inference.tables import GROUP

FAITHFULNESS = {
    **GROUP,
    "step": "int64",
    **{"kind": "string", "order": "string", "size": "float64", "source_step": "Int64", "nodes": "float64"},
    **{"value": "float64", "low": "float64", "high": "float64"},
    **{"low_these_runs": "float64", "high_these_runs": "float64", "verdict": "string"},
    **{"percentile": "float64", "closer": "float64", "null_median": "float64", "null_high": "float64"},
    **{"null_sets": "Int64", "n": "int64", "runs": "int64"},
}
"""One row per circuit and checkpoint of a group; kinds `cpr` and `cmd` are areas over all sizes."""
COMPLETENESS = EXAMINED | {
    **{"kind": "string", "component": "string", "layer": "Int64", "head": "Int64", "removed": "string"},
    **{"value": "float64", "low": "float64", "high": "float64", "verdict": "string", "n": "int64"},
}
"""For each checkpoint of a run one row of kind `completeness`, one of kind `minimality` and one of kind `member` per
member; `removed` is the K with the largest `value`."""

CIRCUITS = ("circuit", "exchange", "given")
"""Kinds of rows that are whole circuits."""
COMPARED = ("percentile", "closer", "null_median", "null_high")
KEY = ("kind", "order", "size", "source_step")
SAME = "all"
"""Stands in a key for a missing value."""


def faithfulness(frames: Frames, damaged: list[str] | None = None) -> pd.DataFrame:
    """F of every circuit with its intervals, verdict and percentile among random sets.

    Args:
        damaged: as for `frames.load`.
    """
    if frames.output is None:
        return typed([], FAITHFULNESS)
    parts = list(faithfulness_of(frames.output, frames.runs, frames.patches, damaged))
    return pd.concat(parts, ignore_index=True) if parts else typed([], FAITHFULNESS)


def faithfulness_of(
    output: OutputFolder, runs: pd.DataFrame, patches: pd.DataFrame, damaged: list[str] | None = None
) -> Iterator[pd.DataFrame]:
    """As `faithfulness`, group by group."""
    for key, patch_ids in groups(patches, runs):
        frame = measured.read(output, "circuits", ["by_prompt"], damaged, patch_ids)
        if len(frame):
            group = Group.of(frame, [patch for patch in output.patches if patch.patch_id in set(frame["patch_id"])])
            rows = [*_circuits(group), *_areas(group)]
            yield typed(pd.DataFrame(rows).assign(**dict(zip(GROUP, key, strict=True))), FAITHFULNESS)


@dataclass(frozen=True)
class Group:
    """Rows of several patch jobs at their shared checkpoints."""

    frame: pd.DataFrame
    """With a column `key` of KEY."""
    patch_ids: tuple[str, ...]
    steps: tuple[int, ...]
    prompts: dict[str, list[int]]
    """Index of each job's prompts among all prompts."""
    count: int
    """Number of distinct prompts."""

    @classmethod
    def of(cls, frame: pd.DataFrame, patches: Sequence[Patch]) -> Group:
        """Collect rows; prompts are the same if their clean texts are."""
        texts = {patch.patch_id: PatchJob(patch, "", {}, {}).prompts for patch in patches}
        every = {text: at for at, text in enumerate(dict.fromkeys(text for own in texts.values() for text in own))}
        steps = set.intersection(*(set(frame.loc[frame["patch_id"] == one, "step"]) for one in texts))
        frame = frame.assign(key=_keys(frame, KEY))
        where = {patch_id: [every[text] for text in own] for patch_id, own in texts.items()}
        return cls(frame, tuple(texts), tuple(sorted(steps)), where, len(every))

    def values(self, rows: pd.DataFrame, column: str, places: Sequence[object]) -> circuits.Values:
        """m of some rows by step and place; places are values of a column."""
        lists = dict(
            zip(zip(rows["patch_id"], rows["step"], rows[column], strict=True), rows["by_prompt"], strict=True)
        )
        found = np.full((len(self.patch_ids), len(self.steps) * len(places), self.count), np.nan)
        for run, patch_id in enumerate(self.patch_ids):
            for number, (step, place) in enumerate((step, place) for step in self.steps for place in places):
                by_prompt = lists.get((patch_id, step, place))
                if by_prompt is not None:
                    found[run, number, self.prompts[patch_id]] = np.asarray(by_prompt, dtype=float)
        return found

    def ends(self) -> tuple[circuits.Values, circuits.Values]:
        """m with everything ablated and with nothing ablated, one place per step."""
        found = self.values(self.frame[self.frame["kind"] == "whole"], "set", ["none", "all"])
        return found[:, ::2], found[:, 1::2]


def _circuits(group: Group) -> Iterator[dict[str, object]]:
    rows = group.frame[group.frame["kind"].isin(CIRCUITS)]
    places = list(dict.fromkeys(rows["key"]))
    nothing, whole = (np.repeat(one, len(places), axis=1) for one in group.ends())
    found = circuits.faithfulness(group.values(rows, "key", places), nothing, whole)
    checkpoint = np.repeat(np.arange(len(group.steps)), len(places))
    words = circuits.faithful(found, *circuits.simultaneous(found, checkpoint))
    low, high = interval(found, seeds=found.has_seeds)
    low_here, high_here = interval(found, seeds=False)
    beside: dict[tuple[object, object], list[int]] = {}
    for at, of in enumerate(zip(rows["step"], rows["key"], strict=True)):
        beside.setdefault(of, []).append(at)
    for number, (step, key) in enumerate((step, key) for step in group.steps for key in places):
        if not found.runs[number]:
            continue
        of_runs = rows.iloc[beside[step, key]]
        own = of_runs[[*COMPARED, "nodes"]].mean()
        yield {
            "step": step, **_key_columns(key), "nodes": own["nodes"], "value": found.recovered[number],
            "low": low[number], "high": high[number], "low_these_runs": low_here[number],
            "high_these_runs": high_here[number], "verdict": words[number].value,
            # Without a gap, ranks among random sets are meaningless.
            **({name: own[name] for name in COMPARED} if found.has_gap[number] else {}),
            "null_sets": of_runs["null_sets"].min(), "n": found.n[number], "runs": found.runs[number],
        }  # fmt: skip


def _areas(group: Group) -> Iterator[dict[str, object]]:
    """CPR and CMD of each order that has several sizes."""
    rows = group.frame[group.frame["kind"] == "circuit"]
    every = group.ends()
    for order in dict.fromkeys(rows["order"]):
        keys = sorted({key for key in rows["key"] if key[1] == order}, key=lambda key: key[2])
        sizes = np.array([key[2] for key in keys], dtype=float) / 100
        values = group.values(rows, "key", keys)
        for number, step in enumerate(group.steps if len(keys) > 1 else ()):
            here = values[:, number * len(keys) : (number + 1) * len(keys)]
            ends = [one[:, number : number + 1] for one in every]
            for kind, area in (("cpr", circuits.cpr), ("cmd", circuits.cmd)):
                yield {"step": step, "kind": kind, "order": order, **_one(area(sizes, here, *ends))}


def _one(found: Estimate) -> dict[str, object]:
    """An estimate's only place as columns."""
    low, high = interval(found, seeds=found.has_seeds)
    low_here, high_here = interval(found, seeds=False)
    return {
        "value": found.recovered[0], "low": low[0], "high": high[0],
        "low_these_runs": low_here[0], "high_these_runs": high_here[0], "n": found.n[0], "runs": found.runs[0],
    }  # fmt: skip


def _keys(rows: pd.DataFrame, columns: Sequence[str]) -> list[tuple[object, ...]]:
    """Values of some columns row by row; missing values compare equal."""
    values = rows[list(columns)].astype(object)
    return list(values.where(values.notna(), SAME).itertuples(index=False, name=None))


def _key_columns(key: tuple[object, ...]) -> dict[str, object]:
    return {name: None if value == SAME else value for name, value in zip(KEY, key, strict=True)}


def completeness(frames: Frames, damaged: list[str] | None = None) -> pd.DataFrame:
    """Whether each run's circuit is complete and minimal at each checkpoint, and which members it needs.

    Verdicts are for other prompts in this run.

    Args:
        damaged: as for `frames.load`.
    """
    if frames.output is None:
        return typed([], COMPLETENESS)
    parts = list(completeness_of(frames.output, damaged))
    return pd.concat(parts, ignore_index=True) if parts else typed([], COMPLETENESS)


def completeness_of(output: OutputFolder, damaged: list[str] | None = None) -> Iterator[pd.DataFrame]:
    """As `completeness`, patch job by patch job."""
    for patch in output.patches:
        frame = measured.read(output, "circuits", ["by_prompt"], damaged, [patch.patch_id])
        for step, rows in frame.groupby("step", sort=True):
            keys = dict(zip(EXAMINED, (patch.run_id, patch.patch_id, patch.corruption, step), strict=True))
            yield typed(pd.DataFrame(list(_judged(rows))).assign(**keys), COMPLETENESS)


def _judged(rows: pd.DataFrame) -> Iterator[dict[str, object]]:
    """Rows of one checkpoint of a run."""
    whole = rows[rows["kind"] == "whole"].set_index("set")["by_prompt"]
    gap = np.asarray(whole["all"], dtype=float) - np.asarray(whole["none"], dtype=float)
    k = rows[rows["kind"] == "completeness"]
    if len(k):
        removed, found, low, high = _differences(k, ["removed"], ("circuit", "all"), gap)
        yield {
            "kind": "completeness",
            **_largest(found, low, high, [name for (name,) in removed]),
            "verdict": circuits.complete(found, low, high).value,
        }
    members = rows[rows["kind"] == "minimality"]
    if not len(members):
        return
    columns = ["component", "layer", "head", "removed"]
    names, found, low, high = _differences(members, columns, ("with", "without"), gap)
    words = []
    for member in dict.fromkeys(name[:3] for name in names):
        at = np.array([number for number, name in enumerate(names) if name[:3] == member])
        own = _some(found, at), low[at], high[at]
        words.append(circuits.needed(*own))
        place = dict(zip(columns, (None if value == SAME else value for value in member), strict=False))
        yield {"kind": "member", **place, **_largest(*own, [str(names[one][3]) for one in at])} | {
            "verdict": words[-1].value
        }
    yield {"kind": "minimality", "verdict": circuits.minimal(words).value, "n": int(found.n.max())}


def _differences(
    rows: pd.DataFrame, columns: Sequence[str], sets: tuple[str, str], gap: Float[np.ndarray, " prompt"]
) -> tuple[list[tuple[object, ...]], Estimate, np.ndarray, np.ndarray]:
    """Names of places, and at each the first set's F minus the second's with its simultaneous interval."""
    keyed = rows.assign(key=_keys(rows, columns))
    of_sets = (keyed[keyed["set"] == name] for name in sets)
    first, second = (dict(zip(one["key"], one["by_prompt"], strict=True)) for one in of_sets)
    names = list(first)
    gain = np.stack([np.asarray(first[name], float) - np.asarray(second[name], float) for name in names])
    # Only prompts on which circuits are judged have values.
    found = circuits.faithfulness(gain[None], np.zeros((1, 1, 1)), np.broadcast_to(gap, gain.shape)[None])
    return names, found, *circuits.simultaneous(found, np.zeros(len(names), dtype=int))


def _some(found: Estimate, at: np.ndarray) -> Estimate:
    """An estimate restricted to some places, as far as verdicts need it."""
    return replace(found, recovered=found.recovered[at], has_gap=found.has_gap[at], n=found.n[at])


def _largest(found: Estimate, low: np.ndarray, high: np.ndarray, names: Sequence[object]) -> dict[str, object]:
    """The difference farthest from zero."""
    at = int(np.abs(np.nan_to_num(found.recovered)).argmax())
    return {
        "removed": names[at], "value": found.recovered[at], "low": low[at], "high": high[at], "n": int(found.n[at])
    }  # fmt: skip
