"""The panels of a sweep's dashboard, in parts: sections of the workspace, chapters of the report.

wandb can group the lines of a panel by one key only. The key `setting` combines everything except the seed, so that
bands are over seeds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import wandb_workspaces.reports.v2 as wr

from mi_sweeps.tracking.logged_keys import CorruptionKeys, SweepKeys

Band = Literal["minmax", "stddev", "stderr"]

BANDS: dict[Band, str] = {
    "minmax": "from the lowest to the highest of those runs",
    "stddev": "one standard deviation over those runs to either side",
    "stderr": "one standard error over those runs to either side",
}
"""wandb's bands, in words."""

CHECKPOINT = "checkpoint"
RATES = {
    "win_rate": "Share of prompts whose most likely next token is the answer",
    "accuracy": "Share of scored tokens that the model finds most likely",
}
FIRST_STEPS = {"win_rate": ("first_step_90", "90%"), "accuracy": ("first_step_50", "50%")}
RECOVERED_SITE = "z"
"""The site whose heads are logged one by one, as CORRUPTION/recovered/z/LAYER.HEAD."""

LAYERS = {
    "lens/resid_pre": "before each layer (logit lens)",
    "logit_diff/attn": "from attention",
    "logit_diff/mlp": "from MLPs",
}

SETTING = wr.Config("setting")
WHOLE_SWEEP = wr.Metric("Group")
"""How runs are grouped: those that differ only in the seed, and all runs of the sweep."""


@dataclass(frozen=True)
class Part:
    """Panels that belong together."""

    name: str
    text: str
    panels: list[Any]
    columns: int = 3
    detail: bool = False
    """Whether it is collapsed in the workspace and left out of the report."""


def parts(contents: SweepKeys, band: Band) -> list[Part]:
    """Returns all parts of a sweep's dashboard. Every logged key is in some panel."""
    several = len(contents.examined)
    found = [
        Part(
            contents.rate.replace("_", " ").capitalize(),
            f"{RATES[contents.rate]}, by checkpoint. {bands(contents, band)}",
            list(_rates(contents, band)),
        ),
        Part(
            "Corruptions side by side",
            "Each row is a quantity, each column a corruption. Training does not depend on the corruption, so the "
            "win rate is the same under all of them; the corruptions of a run are different keys of one wandb run. "
            "Lines of layers and heads are means over all runs of the sweep.",
            list(_side_by_side(contents, band)),
            columns=max(several, 1),
        ),
        Part(
            "Heads",
            "Recovered by each head: layer down, head across; red is 1, white 0, blue -1; grey if clean and corrupted "
            "prompts do not differ measurably. The slider moves through the checkpoints; its numbers are wandb's own "
            "steps.",
            [
                wr.MediaBrowser(
                    title=f"{site} under {examined.corruption}",
                    media_keys=[examined.heads(site)],
                    mode="gallery",
                    gallery_axis="run",
                    num_columns=4,
                )
                for site in dict.fromkeys(site for one in contents.examined for site in one.sites)
                for examined in contents.examined
                if site in examined.sites
            ],
            columns=max(several, 1),
        ),
        Part(
            "Runs compared",
            "Final values. Each line of the parallel coordinates is a run; the run comparer lists only differences.",
            list(_compared(contents, band)),
            columns=2,
        ),
        *(
            Part(
                f"Logit difference by layer: {examined.corruption}",
                "Direct contribution of each component, and the residual stream through the logit lens (logits).",
                [_line(key, [key], SETTING, band) for key in examined.keys],
                detail=True,
            )
            for examined in contents.examined
        ),
        Part(
            "Measures",
            "Measured on the clean run, by component and head, so the same under every corruption. Lines are means "
            "over all runs of the sweep; group by setting to separate them.",
            [_found(measure.replace("_", " "), f"measures/{measure}/", band) for measure in contents.measures],
            columns=2,
        ),
        Part(
            "All metrics",
            "Every metric of every split.",
            [_line(key, [key], SETTING, band) for key in contents.metrics],
            detail=True,
        ),
    ]
    return [part for part in found if part.panels]


def bands(contents: SweepKeys, band: Band) -> str:
    """Explains the bands of this sweep in a sentence or two."""
    count = len(contents.seeds)
    one = "one seed" if count else "no seed"
    example = ", such as the learning rate," if "lr" in contents.settings else ""
    seeds = f"{one}, so there is no band" if count < 2 else f"{count} seeds; the band is {BANDS[band]}"
    return (
        "Lines are means. Runs of a setting differ only in their seed, so a line by setting is a mean over seeds "
        f"({seeds}). A line by one key{example} is a mean over all runs with that value, whatever else differs. "
        "A run that diverged counts until it stopped; the report leaves it out."
    )


def _rates(contents: SweepKeys, band: Band) -> Iterator[Any]:
    rate = contents.rate.replace("_", " ")
    for split in contents.splits:
        title = f"{split} {rate} by setting (band over seeds)"
        yield _line(title, [f"{split}/{contents.rate}"], SETTING, band, range_y=(0, 1))
    for key in contents.varied:
        for split in contents.splits[:1]:
            title = f"{split} {rate} by {key} (band over all runs with it)"
            yield _line(title, [f"{split}/{contents.rate}"], wr.Config(key), band, range_y=(0, 1))


def _side_by_side(contents: SweepKeys, band: Band) -> Iterator[Any]:
    """Yields panels row by row; skips rows that some corruption lacks, which would shift the panels below."""

    def row(quantity: str, keys: Sequence[Sequence[str]], by: wr.Config | wr.Metric) -> Iterator[Any]:
        if all(keys):
            for examined, chosen in zip(contents.examined, keys, strict=True):
                yield _line(f"{quantity}: {examined.corruption}", chosen, by, band)

    for split in contents.splits:
        keys = []
        for examined in contents.examined:
            key = f"{split}/logit_diff_{examined.corruption}"
            # Prompts of another task are not a split of the run; the lens after the last layer gives the same value.
            keys.append([key] if key in contents.metrics else examined.layers("lens")[-1:])
        yield from row(f"{split} logit difference (answer − replaced subject)", keys, SETTING)
    for kind, what in LAYERS.items():
        keys = [examined.layers(kind) for examined in contents.examined]
        yield from row(f"logit difference {what}, layer by layer", keys, WHOLE_SWEEP)
    if all(RECOVERED_SITE in examined.sites for examined in contents.examined):
        yield from (_recovered(examined, band) for examined in contents.examined)


def _recovered(examined: CorruptionKeys, band: Band) -> Any:
    title = f"recovered fraction by head ({RECOVERED_SITE}): {examined.corruption}"
    return _found(title, f"{examined.corruption}/recovered/{RECOVERED_SITE}/", band)


def _found(title: str, beginning: str, band: Band) -> Any:
    """Plots a line for each key with this prefix, because the logged heads differ from run to run."""
    return wr.LinePlot(
        title=title,
        x=CHECKPOINT,
        metric_regex=f"^{re.escape(beginning)}",
        groupby=WHOLE_SWEEP,
        groupby_aggfunc="mean",
        groupby_rangefunc=band,
        title_x=CHECKPOINT,
    )


def _compared(contents: SweepKeys, band: Band) -> Iterator[Any]:
    rates = [f"{split}/{contents.rate}" for split in contents.splits]
    first_step, least = FIRST_STEPS[contents.rate]
    keys = dict.fromkeys([*contents.settings, *contents.varied, *(["seed"] if contents.seeds else [])])
    columns = [wr.ParallelCoordinatesPlotColumn(metric=wr.Config(key), log=key == "lr" or None) for key in keys]
    columns += [wr.ParallelCoordinatesPlotColumn(metric=wr.SummaryMetric(key)) for key in (*rates, first_step)]
    yield wr.ParallelCoordinatesPlot(title="from settings to results, one line per run", columns=columns)
    yield wr.RunComparer(diff_only=True)
    for key, title in [*((rate, f"final {rate}") for rate in rates), (first_step, f"first checkpoint with {least}")]:
        yield wr.BarPlot(
            title=f"{title}, by setting",
            metrics=[key],
            groupby=SETTING,
            groupby_aggfunc="mean",
            groupby_rangefunc=band,
            max_bars_to_show=100,
        )
    for rate in rates[:1]:
        yield wr.ScalarChart(
            title=f"final {rate}, mean of all runs", metric=rate, groupby_aggfunc="mean", groupby_rangefunc=band
        )


def _line(
    title: str,
    keys: Iterable[str],
    by: wr.Config | wr.Metric,
    band: Band,
    range_y: tuple[float | None, float | None] = (None, None),
) -> Any:
    return wr.LinePlot(
        title=title,
        x=CHECKPOINT,
        y=list(keys),
        groupby=by,
        groupby_aggfunc="mean",
        groupby_rangefunc=band,
        range_y=range_y,
        title_x=CHECKPOINT,
    )
