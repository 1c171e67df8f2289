"""Builds the tables `transitions`, `onsets` and `sign_changes` from curves over checkpoints."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from ...errors import UserError
from ..columns import typed
from ..folder import OutputFolder, RunRecord
from ..frames import Frames, sound_runs
from ..measured import each
from ..prompts import at_steps
from .clocks import STEP, clocks, epoch_ends
from .courses import courses
from .families import Family, Place, family
from .onset_rows import HEAD_SITE, ONSETS, Key, RunOnset, compared, onset_row, spans
from .onsets import Span, onset
from .reversals import at_epoch_ends, reversals
from .tables import GROUP, of_output
from .transitions import Transition, over_runs, transition

CURVE = {"curve": "string", "site": "string", "layer": "Int64", "head": "Int64", "position": "string", "key": "string"}
TRANSITIONS = {
    **GROUP,
    **{"run_id": "string", "clock": "string"},
    **CURVE,
    **{"answer": "string", "reason": "string", "shape": "string", "p": "float64", "steepness": "float64"},
    **{"t50": "float64", "t50_low": "float64", "t50_high": "float64"},
    **{"width": "float64", "width_low": "float64", "width_high": "float64", "length": "float64"},
    **{"before": "float64", "within": "Int64", "bend": "float64", "change": "float64", "wobble": "float64"},
    **{"checkpoints": "int64", "n": "int64", "runs": "int64", "agreeing": "int64"},
}
"""One row per curve of a run, and one for the curves of all runs of the setting, without run_id."""
SIGN_CHANGES = {
    **GROUP,
    "site": "string",
    **{"observed": "int64", "expected": "float64", "p": "float64", "n": "int64"},
    **{"epoch_ends": "int64", "heads": "int64", "runs": "int64"},
}
"""One row per setting and site, and one for the direct contributions of heads (site `logit_diff`)."""

TABLES = {"transitions": TRANSITIONS, "onsets": ONSETS, "sign_changes": SIGN_CHANGES}

LOG_P = "log p"
LOGIT_DIFF = "logit difference"
GAIN = "gain"
ATTENTION = "attention"
QUERY, SIDE = "end", "clean"
"""Name of the curves of attention from the last token of clean prompts."""
ANYWHERE = ("self", "first", "previous", "other")
"""Keys that every prompt has, whatever the task; they get no curves."""
THRESHOLDED = ("win_rate", "accuracy", "preferred")


@dataclass(frozen=True)
class Curve:
    """One curve of one run."""

    run_id: str
    name: str
    steps: tuple[int, ...]
    values: Float[np.ndarray, "checkpoint prompt"]
    """In logits or nats; a single column if only the mean is known."""
    n: int
    """Prompts."""
    site: str | None = None
    place: Place | None = None
    key: str | None = None
    """The attended key."""


def of_frames(frames: Frames, damaged: list[str] | None = None) -> dict[str, pd.DataFrame]:
    """The TABLES.

    The curves are log p(answer) and the logit difference on held-out prompts, the logit difference on the patching
    prompts, and the gain of each head that matters at any checkpoint.

    Args:
        damaged: as for `frames.load`.
    """
    found = Trajectories.of(frames)
    if frames.output is not None:
        for key, one in of_output(frames.output, frames.runs, frames.patches, damaged, attribution=True):
            found.add(key, one)
    return found.tables()


def measured(metrics: pd.DataFrame, metric: str) -> list[Curve]:
    """A metric of each run on held-out prompts; `loss` becomes the log-probability of the answer.

    Raises:
        UserError: the metric counts prompts that pass a threshold, so it is sudden by construction.
    """
    if metric.startswith(THRESHOLDED):
        raise UserError(
            f"{metric} counts prompts that pass a threshold, and is sudden even where nothing else is: "
            "ask for loss or a logit difference"
        )
    rows = metrics[(metrics["split"] == "heldout") & (metrics["metric"] == metric)].dropna(subset=["value"])
    found = []
    for run_id, own in rows.drop_duplicates(["run_id", "step"]).sort_values("step").groupby("run_id", sort=False):
        values = own["value"].to_numpy(float)[:, None] * (-1 if metric == "loss" else 1)
        name = LOG_P if metric == "loss" else metric
        found.append(Curve(str(run_id), name, tuple(own["step"].tolist()), values, int(own["n"].max())))
    return found


def curves(one: Family) -> Iterator[Curve]:
    """Yields each run's gains of the heads that matter at any checkpoint."""
    if one.gain is None:
        return
    matters = one.grid(one.judged.matter()).any(axis=0)
    gain = one.gain.reshape(len(one.jobs), len(one.steps), len(one.places), -1)
    for number in np.flatnonzero(matters):
        if one.places[number][1] is None:
            continue
        for job, values in zip(one.jobs, gain[:, :, number], strict=True):
            n = int(np.isfinite(values).all(axis=0).sum())
            yield Curve(job.patch.run_id, GAIN, one.steps, values, n, one.site, one.places[number])


def attention(one: Family) -> Iterator[Curve]:
    """Yields the attention from the end of heads that matter at any checkpoint, for runs with the table `looks`."""
    matters = one.grid(one.judged.matter()).any(axis=0)
    heads = {one.places[number][:2]: one.places[number] for number in np.flatnonzero(matters)}
    for job in one.jobs:
        found: dict[tuple[Place, str], dict[int, np.ndarray]] = defaultdict(dict)
        examined = [(job.patch, step) for step in one.steps] if heads else []
        for frame in each(examined, "looks", ("by_prompt",)):
            rows = frame[(frame["side"] == SIDE) & (frame["query"] == QUERY) & ~frame["key"].isin(ANYWHERE)]
            for row in rows.to_dict("records"):
                if (row["layer"], row["head"]) in heads:
                    found[heads[row["layer"], row["head"]], row["key"]][int(row["step"])] = row["by_prompt"]
        for (place, key), of_steps in found.items():
            values = np.stack([np.asarray(of_steps[step], float) for step in sorted(of_steps)])
            n = int(np.isfinite(values).all(axis=0).sum())
            steps = tuple(sorted(of_steps))
            yield Curve(job.patch.run_id, ATTENTION, steps, values, n, one.site, place, key)


@dataclass
class Trajectories:
    """Takes one family at a time, so that few tables are in memory at once."""

    runs: Mapping[str, RunRecord]
    settings: Mapping[str, str]
    metrics: pd.DataFrame
    wanted: Callable[[str, str | None, str], bool] = lambda curve, site, clock: True
    """Curves to classify, by name, site and clock; fits are slow."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    found: dict[Key, dict[Place, dict[str, RunOnset]]] = field(default_factory=dict)
    """Onsets of the heads of each run."""
    middles: dict[Key, dict[Place, dict[str, tuple[Span, Span]]]] = field(default_factory=dict)
    """When half of the change of each gain is done, as indices of checkpoints: for other prompts, and on these
    prompts."""
    signs: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def of(cls, frames: Frames, wanted: Callable[[str, str | None, str], bool] | None = None) -> Trajectories:
        """Made for the runs in some tables."""
        output: OutputFolder | None = frames.output
        runs = {run.run_id: run for run in output.runs} if output else {}
        settings = dict(zip(frames.runs["run_id"], frames.runs["setting"].astype(object), strict=True))
        metrics = frames.metrics[frames.metrics["run_id"].isin(sound_runs(frames.runs))]
        made = cls(runs, {run_id: str(setting) for run_id, setting in settings.items()}, metrics)
        return made if wanted is None else replace(made, wanted=wanted)

    def add(self, key: Key, one: Family) -> None:
        """Adds one family of a setting."""
        if one.site == HEAD_SITE and not one.is_estimate:
            self._add_onsets(key, one)
            self._add_signs(key, one)
            self._judge(key, list(attention(one)))
            self._judge(key, [
                Curve(job.patch.run_id, LOGIT_DIFF, site.steps, site.clean, site.clean.shape[1])
                for job in one.jobs
                for site in [job.sites[one.site]]
            ])  # fmt: skip
        if not one.is_estimate:
            self._judge(key, list(curves(one)))

    def tables(self) -> dict[str, pd.DataFrame]:
        """The three tables."""
        return {"transitions": self.transitions(), "onsets": self.onsets(), "sign_changes": self.sign_changes()}

    def transitions(self) -> pd.DataFrame:
        """The table `transitions`, including the metrics on held-out prompts."""
        before = list(self.rows)
        names = self.metrics.loc[self.metrics["split"] == "heldout", "metric"].unique()
        for metric in names:
            if metric == "loss" or str(metric).startswith("logit_diff"):
                of_settings: dict[str, list[Curve]] = defaultdict(list)
                for curve in measured(self.metrics, str(metric)):
                    of_settings[self.settings.get(curve.run_id, "")].append(curve)
                for setting, own in of_settings.items():
                    self._judge((setting, None, None), own)
        made, self.rows = self.rows, before
        return typed(made, TRANSITIONS)

    def onsets(self) -> pd.DataFrame:
        """The table."""
        rows = [
            onset_row(key, place, list(own.values())) for key, of in self.found.items() for place, own in of.items()
        ]
        keys = list(self.found)
        for number, key in enumerate(keys):
            for other in (one for one in keys[number + 1 :] if one[:2] == key[:2]):
                both = (key, other)
                steps = [
                    {run_id: began.steps for own in self.found[one].values() for run_id, began in own.items()}
                    for one in both
                ]
                alike = {run_id for run_id, own in steps[0].items() if steps[1].get(run_id) == own}
                rows += compared("onset", key, other, spans(self.found[key]), spans(self.found[other]), alike)
                rows += compared("t50", key, other, self.middles.get(key, {}), self.middles.get(other, {}), alike)
        return typed(rows, ONSETS)

    def sign_changes(self) -> pd.DataFrame:
        """The table."""
        return typed(self.signs, SIGN_CHANGES)

    def _judge(self, key: tuple[str, str | None, str | None], found: Sequence[Curve]) -> None:
        """Adds the answer for each curve, and the answer over all runs for each kind of curve."""
        kinds: dict[tuple[Any, ...], list[tuple[Curve, np.ndarray, Transition]]] = defaultdict(list)
        for curve in found:
            config = self.runs[curve.run_id].config if curve.run_id in self.runs else {}
            for clock, time in clocks(config, curve.steps).items():
                if not self.wanted(curve.name, curve.site, clock):
                    continue
                change = transition(time, curve.values)
                kinds[curve.name, curve.site, curve.place, curve.key, clock].append((curve, time, change))
        for (*_, clock), own in kinds.items():
            whole = over_runs([change for _, _, change in own])
            for curve, time, change in own:
                if curve.name == GAIN and curve.site == HEAD_SITE and clock == STEP:
                    self._add_middle((key[0], key[1] or "", key[2] or ""), curve, change)
                self.rows.append(
                    _row(key, curve, clock, time, change) | {"run_id": curve.run_id, "runs": 1, "agreeing": 1}
                )
            curve, time, _ = min(own, key=lambda one: len(one[1]))
            agreeing = sum(change.answer is whole.answer for _, _, change in own)
            self.rows.append(_row(key, curve, clock, time, whole) | {"runs": len(own), "agreeing": agreeing})

    def _add_middle(self, key: Key, curve: Curve, change: Transition) -> None:
        if curve.place is not None and np.isfinite(change.t50):
            times = change.t50_low, change.t50, change.t50_high
            low, middle, high = np.interp(times, curve.steps, range(len(curve.steps)))
            both = ((float(low), float(high)), (float(middle), float(middle)))
            self.middles.setdefault(key, defaultdict(dict))[curve.place][curve.run_id] = both

    def _add_onsets(self, key: Key, one: Family) -> None:
        places = self.found.setdefault(key, defaultdict(dict))
        for job in one.jobs:
            # Onsets are indices of checkpoints, and comparable only among the checkpoints that all runs share.
            site = at_steps(job.sites[one.site], one.steps)
            alone = family(one.site, [replace(job, sites={one.site: site})])
            for course in courses(alone):
                if course.place[1] is not None:
                    anywhere, here = (onset(course, alone.steps, other) for other in (True, False))
                    places[course.place][job.patch.run_id] = RunOnset(anywhere, here, alone.steps)

    def _add_signs(self, key: Key, one: Family) -> None:
        """Uses each run's own checkpoints. Runs of a setting have the same prompts and batch size, and so the same
        epochs."""
        if one.gain is None:
            return
        gain = one.gain.reshape(len(one.jobs), len(one.steps), len(one.places), -1)
        attribution = [job.attribution["head"] for job in one.jobs if "head" in job.attribution]
        effects = {one.site: [(one.steps, values) for values in gain]}
        if len(attribution) == len(one.jobs):
            effects["logit_diff"] = [(own.steps, own.values) for own in attribution]
        for site, of_runs in effects.items():
            changes = [reversals(steps, values) for steps, values in of_runs]
            first, last = min(steps[0] for steps, _ in of_runs), max(steps[-1] for steps, _ in of_runs)
            run = self.runs.get(one.jobs[0].patch.run_id)
            ends = epoch_ends(run, last) if run else []
            near_ends = at_epoch_ends(changes, ends, first, last)
            self.signs.append(
                dict(zip(GROUP, key, strict=True))
                | {"site": site, "epoch_ends": len(ends), "heads": of_runs[0][1].shape[1], "runs": len(of_runs)}
                | vars(near_ends)
            )


def _row(key: tuple[str | None, ...], curve: Curve, clock: str, time: np.ndarray, change: Transition) -> dict[str, Any]:
    layer, head, position = curve.place or (None, None, None)
    values = {one.name: getattr(change, one.name) for one in fields(change) if one.name != "fitted"}
    return (
        dict(zip(GROUP, key, strict=True))
        | {"clock": clock, "curve": curve.name, "site": curve.site, "layer": layer, "head": head, "position": position}
        | {"key": curve.key}
        | values
        | {
            "answer": change.answer.value,
            "shape": change.shape or None,
            "length": time[-1] - time[0],
            "checkpoints": len(time),
            "n": curve.n,
        }
    )
