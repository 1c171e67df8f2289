"""What the report's page knows: the tables as one compact JSON object of columns and small integers."""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from ..series import gaps as series_gaps
from ..series.logged import SPLIT as TRAINER
from . import provenance
from .answers import answers
from .approximate import correlations
from .conclusions import MOST_CONCLUDED, MOST_RUNS, Attributed, Compared, Conclusions, Found, gaps, thousandths
from .findings.questions import QUESTIONS
from .folder import Json, Output, Run
from .frames import Frames
from .inference import words
from .inference.courses import Course
from .inference.families import Place
from .inference.verdicts import DELTA
from .intervals import RESAMPLES, SEED
from .spikes import HALF_WINDOW, LEAST, NOISE, THRESHOLD, expected, spikes
from .summaries import THRESHOLDS, with_approximate

UNIT = 1e-4
"""Logits. Logit differences are told in whole multiples of it: a thousandth of the least denominator."""

SHOWN_FINDINGS = 60
"""To one question; the exported table has all."""

SHOWN_PROMPTS = 4
"""How many prompts of a patch job the page quotes."""

MOST_BATCHES = 200
"""Of the losses of training batches, and of what a series' trainer logged, so many are drawn, evenly apart; and all
spikes of the former."""

MEASURED = ("seconds", "win_rate")
"""Columns of runs and patch jobs whose numbers are rounded; settings are exact, for two of them may be close."""

ENDS = ("win_rate_low", "win_rate_high")
"""The page works out intervals from value and n, for every share alike."""


class Pool:
    """Values that many entries share, kept once and named by their number."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._numbers: dict[Hashable, int] = {}

    def number(self, key: Hashable, value: Any) -> int:
        """The number of `value`, which `key` tells from others."""
        if key not in self._numbers:
            self._numbers[key] = len(self.values)
            self.values.append(value)
        return self._numbers[key]

    def steps(self, steps: Iterable[int]) -> int:
        """The number of a list of steps."""
        values = [int(step) for step in steps]
        return self.number(tuple(values), values)


class Rows:
    """Rows of a table as arrays of numbers: cutting pandas frames into thousands of pieces takes a minute.

    A word is its number in the list of its column's words; what is missing is NaN.
    """

    def __init__(self, columns: dict[str, np.ndarray], lists: dict[str, list[str]]) -> None:
        self._columns = columns
        self._lists = lists

    @classmethod
    def of(cls, table: pd.DataFrame) -> Rows:
        """The rows of a frame."""
        columns, lists = {}, {}
        for name in table.columns:
            if pd.api.types.is_string_dtype(table[name]):
                numbers, words = pd.factorize(table[name])
                columns[name] = np.where(numbers < 0, np.nan, numbers)
                lists[name] = [str(word) for word in words]
            else:
                columns[name] = table[name].to_numpy("float64", na_value=np.nan)
        return cls(columns, lists)

    def __len__(self) -> int:
        return len(next(iter(self._columns.values())))

    def __getitem__(self, name: str) -> np.ndarray:
        return self._columns[name]

    def where(self, name: str, word: str) -> Rows:
        """The rows whose column `name` is `word`."""
        words = self._lists[name]
        number = words.index(word) if word in words else -1
        return self.at(np.flatnonzero(self._columns[name] == number))

    def at(self, rows: np.ndarray) -> Rows:
        """Some rows, by number."""
        return Rows({key: column[rows] for key, column in self._columns.items()}, self._lists)

    def places(self, name: str) -> dict[str, np.ndarray]:
        """The numbers of the rows of each word of a column: for thousands of words, `where` takes too long."""
        column = self._columns[name]
        order = np.argsort(column, kind="stable")  # what is missing comes last
        ends = np.searchsorted(column[order], np.arange(len(self._lists[name])), side="right")
        return dict(zip(self._lists[name], np.split(order, ends)[:-1], strict=True))

    def words(self, name: str) -> list[str]:
        """The different words of a column, in the order of the table's first rows."""
        there = np.unique(self._columns[name])
        return [self._lists[name][int(number)] for number in there[~np.isnan(there)]]

    def text(self, name: str, rows: np.ndarray) -> list[str]:
        """The words of a column in these rows."""
        return [self._lists[name][int(number)] for number in self._columns[name][rows]]


def outline(output: Output, frames: Frames, made: str, beside: Path) -> Json:
    """All of the page's data but what patching and attribution found.

    `made` is the date it shows, `beside` the folder that its links start from.
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
        "unit": UNIT,
        "t95": stats.t.ppf(0.975, np.arange(1, 201)).tolist(),
        "z95": float(stats.norm.ppf(0.975)),
        "delta": DELTA,
        "most_runs": MOST_RUNS,
        "most_concluded": MOST_CONCLUDED,
        "bootstrap": {"seed": SEED, "resamples": RESAMPLES},
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


def _missing(run: Run) -> Json | None:
    """Of a series, the steps that have no checkpoint, and why in words; null where all have one."""
    return {"steps": sorted(run.gaps), "told": series_gaps.told(run.gaps)} if run.gaps else None


def with_circuits(outlined: Json, output: Output, frames: Frames, conclusions: Conclusions, note: str = "") -> Json:
    """The page's data with the patching and attribution of `frames`, which may be fewer than there are, and with what
    is concluded of them."""
    steps, layouts, prompts = Pool(), Pool(), Pool()
    for known in outlined["steps"]:  # they keep their numbers
        steps.steps(known)
    place = {run_id: number for number, run_id in enumerate(frames.runs["run_id"])}
    blocks = list(_blocks(output, frames, place, steps, layouts, prompts))
    for block in blocks:
        if block["patch_id"] in conclusions.gapless:
            block["gapless"] = True
    kept = set(pd.unique(frames.patching["step"])), {place[run_id] for run_id in pd.unique(frames.patching["run_id"])}
    shared = Pool()
    concluded = {
        "found": [told for one in conclusions.found if (told := _found(one, *kept, steps, layouts, shared))],
        "differences": [told for one in conclusions.compared if (told := _compared(one, *kept, steps, layouts))],
        "written": [told for one in conclusions.written if (told := _written(one, *kept, steps))],
        "findings": _findings(conclusions.findings),
        "answers": answers(conclusions.findings),
    }
    pools = {"steps": steps.values, "layouts": layouts.values, "prompts": prompts.values, "gaps": shared.values}
    return {**outlined, "note": note, "blocks": blocks, **concluded, **pools}


def _findings(found: pd.DataFrame) -> list[Json]:
    """What was found, question by question; each with its sentences."""
    return [
        {
            "key": question,
            "question": told,
            "more": max(0, len(own) - SHOWN_FINDINGS),
            "told": [
                {"setting": row["setting"], "said": row["statement"], "weak": bool(row["is_weak"]),
                 **{key: "" if pd.isna(row[key]) else row[key] for key in ("corruption", "patching")},
                 "scope": "" if pd.isna(row["scope"]) else row["scope"], "table": row["table"],
                 "n": None if pd.isna(row["n"]) else int(row["n"]), "runs": row["run_ids"].split()}
                for row in own.head(SHOWN_FINDINGS).to_dict("records")
            ],
        }
        for question, told in QUESTIONS.items()
        if len(own := found[found["question"] == question])
    ]  # fmt: skip


LETTERS = np.array([*"msux."])
"""Of verdicts, in the order of `inference.verdicts.VERDICTS`; the last is of places that are not there."""
SIGNS = np.array([*"+-=?x."])
"""Likewise of `inference.differences.COMPARISONS`."""


def _packed(letters: Iterable[str]) -> str:
    """Letters as a word in which four and more of one are told by their number: "sssssm" is "s5m"."""
    return re.sub(r"(.)\1{3,}", lambda run: f"{run[1]}{len(run[0])}", "".join(letters))


def _found(one: Found, kept: set[int], runs: set[int], steps: Pool, layouts: Pool, shared: Pool) -> Json | None:
    """What is said of one site in a group of runs, at the checkpoints that are shown."""
    family = one.family
    if not set(one.runs) <= runs:
        return None
    layout, order = _laid_out(family.places, layouts)
    at = [number for number, step in enumerate(family.steps) if step in kept]
    there = family.estimate.runs > 0
    heads = bool(one.courses)

    def letters(verdict: np.ndarray) -> list[str]:
        each = LETTERS[np.where(there, verdict, len(LETTERS) - 1)]
        return [_packed(of_step) for of_step in _ordered(family.grid(each)[at], order, ".")]

    def ends(values: np.ndarray) -> list[list[int | None]] | None:
        return [thousandths(of_step) for of_step in _ordered(family.grid(values)[at], order, np.nan)] if heads else None

    verdict, here = letters(family.judged.verdict), letters(family.judged_here.verdict)
    gap = [_units(of_step) for of_step in gaps(family)[at]]  # the same for most sites
    low, high = family.interval
    last = dict(zip(family.places, family.estimate.recovered[family.at(family.steps[-1])], strict=True))
    return {
        "runs": list(one.runs), "corruption": family.corruption, "patching": one.patching, "site": family.site,
        "steps": steps.steps(family.steps[number] for number in at), "layout": layout,
        "verdict": verdict, "here": here if here != verdict else None,
        "low": ends(low), "width": ends(high - low), "gap": shared.number(repr(gap), gap),
        "scope": words.scope(family), "many": words.verdicts_of(family),
        "said": words.sentences(family, one.courses) if heads else [],
        "courses": {
            words.name(head.place): {
                "course": head.course.value, "onset": head.onset, "low": head.onset_low, "high": head.onset_high,
                "last": head.last, "peak": round(head.peak, 3), "recovered": _rounded(np.array([last[head.place]]))[0],
            }
            for head in one.courses if head.course not in (Course.NEVER, Course.UNDECIDED)
        },
    }  # fmt: skip


def _compared(one: Compared, kept: set[int], runs: set[int], steps: Pool, layouts: Pool) -> Json | None:
    """What is said of two groups of runs, or of two corruptions."""
    found = one.difference
    if not {*one.first.runs, *one.second.runs} <= runs:
        return None
    layout, order = _laid_out(found.places, layouts)
    at = [number for number, step in enumerate(found.steps) if step in kept]
    size = len(found.steps), len(found.places)
    low, width = (_ordered(ends.reshape(size)[at], order, np.nan) for ends in (found.low, found.high - found.low))
    signs = _ordered(SIGNS[found.comparison].reshape(size)[at], order, ".")
    return {
        "a": {"runs": list(one.first.runs), "corruption": one.first.family.corruption},
        "b": {"runs": list(one.second.runs), "corruption": one.second.family.corruption},
        "patching": one.first.patching, "site": found.site,
        "steps": steps.steps(found.steps[number] for number in at), "layout": layout,
        "low": [thousandths(of_step) for of_step in low], "width": [thousandths(of_step) for of_step in width],
        "comparison": [_packed(of_step) for of_step in signs],
        "scope": words.scope_of_difference(found), "said": words.differences(found),
    }  # fmt: skip


def _written(one: Attributed, kept: set[int], runs: set[int], steps: Pool) -> Json | None:
    """The intervals of what a group of runs writes."""
    if not set(one.runs) <= runs:
        return None
    found = one.means
    at = [number for number, step in enumerate(found.steps) if step in kept]
    low, high = (ends.reshape(len(found.steps), -1) for ends in (found.low, found.high))
    return {
        "runs": list(one.runs), "corruption": one.corruption, "patching": one.patching, "kind": found.kind,
        "steps": steps.steps(found.steps[number] for number in at),
        "low": [_units(low[number]) for number in at], "width": [_units((high - low)[number]) for number in at],
    }  # fmt: skip


def _laid_out(places: Sequence[Place], layouts: Pool) -> tuple[int, np.ndarray]:
    """The number of the layout of a family's places, and which of them each setting of it is; -1: none."""
    layers = sorted({layer for layer, _, _ in places})
    heads = places[0][1] is not None
    keys = [head if heads else position for _, head, position in places]
    columns = sorted({head for _, head, _ in places if head is not None}) if heads else list(dict.fromkeys(keys))
    layout = {"layers": layers, "axis": "head" if heads else "position", "columns": columns}
    number = {(place[0], key): at for at, (place, key) in enumerate(zip(places, keys, strict=True))}
    order = [number.get((layer, key), -1) for layer in layers for key in columns]
    return layouts.number(repr(layout), layout), np.array(order)


def _ordered(grid: np.ndarray, order: np.ndarray, missing: Any) -> np.ndarray:
    """Values [checkpoint, place] in the order of a layout's places."""
    return np.where(order < 0, missing, grid[:, order])


def _summary(frames: Frames) -> pd.DataFrame:
    """The runs with the held-out win rate of their last checkpoint, and its n."""
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
        if split == "batch":  # Of every training step.
            high = spikes(value[rows])
            more = {
                "spikes": [[int(step[rows[at]]), _rounded(value[rows[at : at + 1]])[0]] for at in high],
                "expected_spikes": round(expected(value[rows]), 3),
            }
        if split in ("batch", TRAINER):
            rows = rows[:: -(-len(rows) // MOST_BATCHES)]
        yield {
            "run": place[run_id],
            "split": split,
            "metric": metric,
            "steps": steps.steps(step[rows]),
            "value": _rounded(value[rows]),
            "n": _once(n[rows]),
            **more,
        }


def _blocks(
    output: Output, frames: Frames, place: dict[str, int], steps: Pool, layouts: Pool, prompts: Pool
) -> Iterable[Json]:
    """One block a patch job: its patching by site, and its attribution by kind."""
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
        told = [_told(prompt) for prompt in patch.about.get("prompts", [])[:SHOWN_PROMPTS]]
        block: Json = {
            "run": place[patch.run_id],
            "patch_id": patch.patch_id,
            "corruption": patch.corruption,
            "patching": _plain(names[patch.patch_id]),
            "prompts": prompts.number(repr(told), told),
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


def _told(prompt: Json) -> Json:
    return {key: prompt.get(key, "") for key in ("clean", "corrupted", "answer")}


def _agreement(patching: pd.DataFrame) -> dict[tuple[str, str], dict[int, float]]:
    """How approximate values correlate with exact ones: of each patch job and site, step by step."""
    found: dict[tuple[str, str], dict[int, float]] = {}
    for row in correlations(patching).itertuples():
        found.setdefault((row.patch_id, row.site), {})[row.step] = round(row.r, 3)
    return found


def _site(rows: Rows, steps: Pool, layouts: Pool, agreement: dict[int, float]) -> Json:
    """One site: what patching changes, step by step, with clean and corrupted of each step."""
    by_n = np.lexsort((-rows["n"], rows["step"]))  # clean and corrupted are those of as many prompts as there are
    order, first = np.unique(rows["step"][by_n], return_index=True)
    first = by_n[first]
    layout, grid = _grid(rows, rows["patched"] - rows["corrupted"], layouts)
    more: Json = {"r": [_plain(agreement.get(int(step))) for step in order]} if agreement else {}
    if len(np.unique(rows["n"])) > 1:
        # Positions that only some prompts have: each has its own clean and corrupted, in all layers alike.
        of_all = _grid(rows, rows["clean"] - rows["corrupted"], layouts)[1]
        few = rows["n"][rows["step"] == order[-1]] < rows["n"].max() / 2
        columns = layouts.values[layout]["columns"]
        names = rows.text("position", np.flatnonzero(rows["step"] == order[-1]))
        more["few"] = [any(f for f, name in zip(few, names, strict=True) if name == column) for column in columns]
        more["room"] = [of_step[: len(layouts.values[layout]["columns"])] for of_step in of_all]
    return more | {
        "steps": steps.steps(order),
        "layout": layout,
        "clean": _units(rows["clean"][first]),
        "corrupted": _units(rows["corrupted"][first]),
        "change": grid,
    }


def _heads(rows: Rows, steps: Pool, layouts: Pool) -> Json:
    """The direct logit difference of each head, step by step."""
    layout, grid = _grid(rows, rows["logit_diff"], layouts)
    return {"steps": steps.steps(np.unique(rows["step"])), "layout": layout, "value": grid}


def _parts(rows: Rows, steps: Pool, value: str = "logit_diff") -> Json:
    """Values of components or of heads, in the order of the table. A component of no layer is known by its name."""
    order, row = np.unique(rows["step"], return_inverse=True)
    place = np.nan_to_num(np.column_stack([rows["layer"], rows["head"]]), nan=-1)
    first, column = _by_appearance(np.column_stack([rows["component"], place]))
    names = [
        name if layer < 0 else f"{name} {layer:.0f}" if head < 0 else f"{name} {layer:.0f}.{head:.0f}"
        for name, (layer, head) in zip(rows.text("component", first), place[first], strict=True)
    ]
    grid = np.full((len(order), len(first)), np.nan)
    grid[row, column] = rows[value]
    return {"steps": steps.steps(order), "components": names, "value": [_units(values) for values in grid]}


def _grid(rows: Rows, values: np.ndarray, layouts: Pool) -> tuple[int, list[list[int | None]]]:
    """Values as one list a step, layer by layer; the layout says which layers and columns these are."""
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
    return layouts.number(repr(layout), layout), [_units(of_step.ravel()) for of_step in grid]


def _by_appearance(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each different row of `keys` stands first, in that order, and which of them each row is."""
    _, first, which = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)
    return first[order], np.argsort(order)[which.ravel()]


def _units(values: np.ndarray) -> list[int | None]:
    whole = np.round(values / UNIT)
    return [int(value) if math.isfinite(value) else None for value in whole.tolist()]


def _rounded(values: np.ndarray) -> list[float | None]:
    """To five significant digits; what is not finite is missing, for JSON has no such number."""
    return [float(f"{value:.5g}") if math.isfinite(value) else None for value in values.tolist()]


def _once(values: np.ndarray) -> int | list[int]:
    """One number where all are equal, as prompts usually are."""
    listed = [int(value) for value in values]
    return listed[0] if len(set(listed)) == 1 else listed


def _columns(frame: pd.DataFrame) -> Json:
    columns = {str(name): [_plain(value) for value in frame[name].tolist()] for name in frame.columns}
    measured = {name: frame[name].to_numpy("float64", na_value=np.nan) for name in MEASURED if name in columns}
    return columns | {name: _rounded(values) for name, values in measured.items()}


def _plain(value: Any) -> Any:
    """A value as JSON knows it."""
    missing = value is None or value is pd.NA or (isinstance(value, float) and not math.isfinite(value))
    return None if missing else value
