"""The data of the report's page: the tables as one compact JSON object of columns and small integers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from ..series import missing_steps
from ..series.logged import SPLIT as TRAINER
from ..tasks import COMPARED_SUBJECTS, in_order, label
from ..training.outcome import THRESHOLDS, learned_by
from . import page_conclusions, provenance
from .approximate import correlations
from .arrays import Rows
from .conclusions import MOST_RUNS_CONCLUDED, MOST_SINGLE_RUNS, Conclusions
from .folder import Json, OutputFolder, RunRecord
from .frames import Frames
from .inference.verdicts import DELTA
from .intervals import LEAST as LEAST_RUNS
from .intervals import RESAMPLES, SEED
from .packing import UNIT, Pool, in_units, rounded
from .spikes import HALF_WINDOW, LEAST, NOISE, THRESHOLD, expected, spikes
from .summaries import with_approximate

SHOWN_PROMPTS = 4
"""Prompts of a patch job that the page quotes."""

MOST_BATCHES = 200
"""Losses of training batches, or logged by a series' trainer, that are drawn at even distances. Spikes are always
drawn."""

MEASURED = ("seconds", "win_rate")
"""Columns of runs and patch jobs that are rounded. Settings stay exact, because two values may be close."""

ENDS = ("win_rate_low", "win_rate_high")
"""Left out: the page computes intervals of shares from value and n."""


def outline(output: OutputFolder, frames: Frames, made: str, beside: Path) -> Json:
    """Return the page's data without patching and attribution.

    Args:
        made: the date to show.
        beside: the folder from which links start.
    """
    steps = Pool()
    place = {run_id: number for number, run_id in enumerate(frames.runs["run_id"])}
    return {
        "made": made,
        "note": "",
        "sweeps": [{"name": s.name, "command": s.command, "points": len(s.points)} for s in output.sweeps],
        "spike": f"robust z above {THRESHOLD:g} and {LEAST:g} times the median of {2 * HALF_WINDOW + 1} steps",
        "noise": NOISE,
        "thresholds": THRESHOLDS,
        "learned": _learned(frames.metrics),
        "corruptions": {name: label(name) for name in in_order(frames.patches["corruption"].dropna())},
        "compared": COMPARED_SUBJECTS,
        "unit": UNIT,
        "t95": stats.t.ppf(0.975, np.arange(1, 201)).tolist(),
        "z95": float(stats.norm.ppf(0.975)),
        "delta": DELTA,
        "most_single_runs": MOST_SINGLE_RUNS,
        "most_runs_concluded": MOST_RUNS_CONCLUDED,
        "bootstrap": {"seed": SEED, "resamples": RESAMPLES, "least": LEAST_RUNS},
        "runs": _columns(_summary(frames)),
        "planned": [run.overrides for run in output.runs],
        "missing": [_missing(run) for run in output.runs],
        "links": provenance.links(output, beside),
        "config": provenance.configurations(output.runs),
        "audits": provenance.audits(output.runs),
        "patches": _columns(frames.patches),
        "series": list(_series(frames.metrics, place, steps)),
        "blocks": [],
        "steps": steps.values,
        "layouts": [],
        "prompts": [],
    }


def _learned(metrics: pd.DataFrame) -> str:
    """The metric by which all runs on the page count as having learned their task."""
    heldout = metrics[metrics["split"] == "heldout"]
    of_runs = [set(names) for _, names in heldout.groupby("run_id")["metric"]]
    return (learned_by(set.intersection(*of_runs)) if of_runs else None) or "win_rate"


def _missing(run: RunRecord) -> Json | None:
    """The missing steps of a series and why; None if there are none."""
    missing = run.missing_steps
    return {"steps": sorted(missing), "lines": missing_steps.lines(missing)} if missing else None


def with_circuits(
    outlined: Json, output: OutputFolder, frames: Frames, conclusions: Conclusions, note: str = ""
) -> Json:
    """Add the patching and attribution in `frames`, which may be thinned, and the conclusions."""
    steps, layouts, prompts = Pool(), Pool(), Pool()
    for known in outlined["steps"]:  # known lists keep their index
        steps.steps(known)
    place = {run_id: number for number, run_id in enumerate(frames.runs["run_id"])}
    blocks = list(_blocks(output, frames, place, steps, layouts, prompts))
    for block in blocks:
        if block["patch_id"] in conclusions.gapless:
            block["gapless"] = True
    shown = set(pd.unique(frames.patching["step"])), {place[run_id] for run_id in pd.unique(frames.patching["run_id"])}
    shared = Pool()
    packed = page_conclusions.payload(conclusions, *shown, steps, layouts, shared)
    pools = {"steps": steps.values, "layouts": layouts.values, "prompts": prompts.values, "gaps": shared.values}
    return {**outlined, "note": note, "blocks": blocks, **packed, **pools}


def _summary(frames: Frames) -> pd.DataFrame:
    """Add the held-out win rate of each run's last checkpoint, and its n."""
    metrics = frames.metrics
    rates = metrics[(metrics["metric"] == "win_rate") & (metrics["split"] == "heldout")]
    last = rates.sort_values("step").groupby("run_id").tail(1).set_index("run_id")
    ids = frames.runs["run_id"]
    return frames.runs.assign(win_rate=ids.map(last["value"]), win_n=ids.map(last["n"]))


def _series(metrics: pd.DataFrame, place: dict[str, int], steps: Pool) -> Iterable[Json]:
    kept = metrics[~metrics["metric"].isin(ENDS)].sort_values("step", kind="stable")
    step, value, n = (kept[name].to_numpy() for name in ("step", "value", "n"))
    found = kept.groupby(["run_id", "split", "metric"]).indices
    for (run_id, split, metric), rows in sorted(found.items(), key=lambda series: series[1][0]):
        more: Json = {}
        if split == "batch":  # every training step
            high = spikes(value[rows])
            more = {
                "spikes": [[int(step[rows[at]]), rounded(value[rows[at : at + 1]])[0]] for at in high],
                "expected_spikes": round(expected(value[rows]), 3),
            }
        if split in ("batch", TRAINER):
            rows = rows[:: -(-len(rows) // MOST_BATCHES)]
        yield {
            "run": place[run_id],
            "split": split,
            "metric": metric,
            "steps": steps.steps(step[rows]),
            "value": rounded(value[rows]),
            "n": _once(n[rows]),
            **more,
        }


def _blocks(
    output: OutputFolder, frames: Frames, place: dict[str, int], steps: Pool, layouts: Pool, prompts: Pool
) -> Iterable[Json]:
    """Yield one block per patch job: patching by site and attribution by kind."""
    patching, attribution = Rows.of(with_approximate(frames.patching)), Rows.of(frames.attribution)
    measures = Rows.of(frames.measures)
    places, attributed_places = patching.places("patch_id"), attribution.places("patch_id")
    measured_places = measures.places("patch_id")
    nowhere = np.array([], dtype=int)
    agreement = _agreement(frames.patching)
    names = dict(zip(frames.patches["patch_id"], frames.patches["patching"], strict=True))
    for patch in output.patches:
        patched = patching.at(places.get(patch.patch_id, nowhere))
        attributed = attribution.at(attributed_places.get(patch.patch_id, nowhere))
        if not len(patched) and not len(attributed):
            continue
        quoted = [_texts(prompt) for prompt in patch.about.get("prompts", [])[:SHOWN_PROMPTS]]
        block: Json = {
            "run": place[patch.run_id],
            "patch_id": patch.patch_id,
            "corruption": patch.corruption,
            "patching": _plain(names[patch.patch_id]),
            "prompts": prompts.number(repr(quoted), quoted),
            "n": int(max((patched if len(patched) else attributed)["n"])),
            "sites": {
                site: _site(patched.where("site", site), steps, layouts, agreement.get((patch.patch_id, site), {}))
                for site in patched.words("site")
            },
        }
        for kind in attributed.words("kind"):
            rows = attributed.where("kind", kind)
            block[kind] = _heads(rows, steps, layouts) if kind == "head" else _parts(rows, steps)
        measured = measures.at(measured_places.get(patch.patch_id, nowhere))
        for measure in measured.words("measure"):
            rows = measured.where("measure", measure)
            block[f"measure:{measure}"] = _parts(rows, steps, "value") | {"n": int(rows["n"].max())}
        yield block


def _texts(prompt: Json) -> Json:
    return {key: prompt.get(key, "") for key in ("clean", "corrupted", "answer")}


def _agreement(patching: pd.DataFrame) -> dict[tuple[str, str], dict[int, float]]:
    """Correlation of approximate and exact values by patch job and site, then by step."""
    found: dict[tuple[str, str], dict[int, float]] = {}
    for row in correlations(patching).itertuples():
        found.setdefault((row.patch_id, row.site), {})[row.step] = round(row.r, 3)
    return found


def _site(rows: Rows, steps: Pool, layouts: Pool, agreement: dict[int, float]) -> Json:
    """One site: gains by step, with clean and corrupted of each step."""
    by_n = np.lexsort((-rows["n"], rows["step"]))  # clean and corrupted over as many prompts as possible
    order, first = np.unique(rows["step"][by_n], return_index=True)
    first = by_n[first]
    layout, grid = _grid(rows, rows["patched"] - rows["corrupted"], layouts)
    more: Json = {"r": [_plain(agreement.get(int(step))) for step in order]} if agreement else {}
    if len(np.unique(rows["n"])) > 1:
        # Positions that only some prompts have get clean and corrupted of their own, equal in all layers.
        of_all = _grid(rows, rows["clean"] - rows["corrupted"], layouts)[1]
        few = rows["n"][rows["step"] == order[-1]] < rows["n"].max() / 2
        columns = layouts.values[layout]["columns"]
        names = rows.text("position", np.flatnonzero(rows["step"] == order[-1]))
        more["few"] = [any(f for f, name in zip(few, names, strict=True) if name == column) for column in columns]
        more["room"] = [of_step[: len(layouts.values[layout]["columns"])] for of_step in of_all]
    return more | {
        "steps": steps.steps(order),
        "layout": layout,
        "clean": in_units(rows["clean"][first]),
        "corrupted": in_units(rows["corrupted"][first]),
        "change": grid,
    }


def _heads(rows: Rows, steps: Pool, layouts: Pool) -> Json:
    """Direct logit difference of each head by step."""
    layout, grid = _grid(rows, rows["logit_diff"], layouts)
    return {"steps": steps.steps(np.unique(rows["step"])), "layout": layout, "value": grid}


def _parts(rows: Rows, steps: Pool, value: str = "logit_diff") -> Json:
    """Values of components or heads in the order of the table, named with their layer if they have one."""
    order, row = np.unique(rows["step"], return_inverse=True)
    place = np.nan_to_num(np.column_stack([rows["layer"], rows["head"]]), nan=-1)
    first, column = _by_appearance(np.column_stack([rows["component"], place]))
    names = [
        name if layer < 0 else f"{name} {layer:.0f}" if head < 0 else f"{name} {layer:.0f}.{head:.0f}"
        for name, (layer, head) in zip(rows.text("component", first), place[first], strict=True)
    ]
    grid = np.full((len(order), len(first)), np.nan)
    grid[row, column] = rows[value]
    return {"steps": steps.steps(order), "components": names, "value": [in_units(values) for values in grid]}


def _grid(rows: Rows, values: np.ndarray, layouts: Pool) -> tuple[int, list[list[int | None]]]:
    """Return the index of the layout, and the values as one list per step, layer by layer."""
    steps, step = np.unique(rows["step"], return_inverse=True)
    layers, layer = np.unique(rows["layer"], return_inverse=True)
    layout: Json = {"layers": [int(at) for at in layers]}
    if np.isnan(rows["head"]).all():
        first, column = _by_appearance(rows["position"][:, None])
        layout |= {"axis": "position", "columns": rows.text("position", first)}
    else:
        heads, column = np.unique(rows["head"], return_inverse=True)
        layout |= {"axis": "head", "columns": [int(head) for head in heads]}
    grid = np.full((len(steps), len(layers), len(layout["columns"])), np.nan)
    grid[step, layer, column] = values
    return layouts.number(repr(layout), layout), [in_units(of_step.ravel()) for of_step in grid]


def _by_appearance(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the first index of each distinct row of `keys` in order of appearance, and for each row which one it
    is."""
    _, first, which = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)
    return first[order], np.argsort(order)[which.ravel()]


def _once(values: np.ndarray) -> int | list[int]:
    """A single number if all values are equal, as n usually is."""
    listed = [int(value) for value in values]
    return listed[0] if len(set(listed)) == 1 else listed


def _columns(frame: pd.DataFrame) -> Json:
    columns = {str(name): [_plain(value) for value in frame[name].tolist()] for name in frame.columns}
    measured = {name: frame[name].to_numpy("float64", na_value=np.nan) for name in MEASURED if name in columns}
    return columns | {name: rounded(values) for name, values in measured.items()}


def _plain(value: Any) -> Any:
    """Replace missing values by None for JSON."""
    missing = value is None or value is pd.NA or (isinstance(value, float) and not math.isfinite(value))
    return None if missing else value
