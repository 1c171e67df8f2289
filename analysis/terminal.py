"""One run in a terminal: what it is, how it learned, and which layers and heads carry it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from rich.color import Color
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.style import Style
from rich.table import Table
from rich.text import Text

from ..circuits.recovered import FLOOR
from ..errors import UserError
from ..sparkline import sparkline
from ..sweeps.show import COLOURS, plural
from . import folder
from .dynamics import HEAD, name
from .frames import Frames, tabulate
from .summaries import recovered, with_approximate

TOP = 6
"""Heads that are told with their course."""
LAYERS = 12
"""Layers that are told with their course; of a deeper model those whose logit difference changes most."""
BLOCKS = 20
"""Checkpoints in a sparkline at most."""
RED, BLUE = (178, 24, 43), (33, 102, 172)
"""Colours of 1 and -1; 0 is white, as in the figures."""


def show(
    console: Console,
    found: folder.Output,
    site: str = "z",
    step: int | None = None,
    damaged: list[str] | None = None,
) -> None:
    """Prints the one run that was found, with each of its patch jobs as it was at `step`, by default the last.

    Raises UserError where a patch job that has tables has no heads of `site`, or none at `step`; or a table cannot
    be read, and no `damaged` takes its name.
    """
    (run,) = found.runs
    frames = tabulate(found, paths=False, damaged=damaged)
    parts = [*_about(run), *_training(console, frames)]
    for patch in run.patches:
        parts += _patch(console, frames, patch, site, step)
    parts += _places(run)
    for part in parts:
        console.print(part, markup=True, soft_wrap=isinstance(part, str))


def _about(run: folder.Run) -> Iterator[RenderableType]:
    yield _heading(f"run {run.run_id}", run.status, run.path)
    if run.config:
        of = {group: run.config.get(group) or {} for group in ("model", "task", "optim", "schedule", "train")}
        names = [of[group].get("name") for group in ("model", "task")]
        settings = f"lr {of['optim'].get('lr')}, schedule {of['schedule'].get('name')}, seed {run.config.get('seed')}"
        steps = f"{of['train'].get('steps')} steps of {of['train'].get('batch_size')} prompts"
        yield f"  {escape(', '.join(map(str, names)))}, {escape(settings)}, {steps}"
    if run.sweeps:
        # Those of its patch jobs are told with them.
        own = {
            key: value for key, value in run.overrides.items() if key.split(".")[0] not in ("corruption", "patching")
        }
        swept = " ".join(f"{key}={value}" for key, value in own.items())
        told = f"  {plural('sweep', len(run.sweeps))} {escape(', '.join(run.sweeps))}"
        yield f"{told}: [bold]{escape(swept)}[/]" if swept else told


def _heading(what: str, status: folder.Json, path: Path) -> str:
    state = status["state"]
    told = "to do" if state == "todo" else state
    if state != "todo":
        told += f" after {status['seconds']:.0f} s" if status.get("seconds") else ""
        told += f", {status['attempts']} {plural('attempt', status['attempts'])}"
        told += f", on {status['host']}" if status.get("host") else ""
    lines = f"[bold]{escape(what)}[/] [{COLOURS.get(state, 'dim')}]{escape(told)}[/]"
    if status.get("error"):
        lines += f"\n  [red]{escape(status['error'])}[/]\n  traceback: {escape(str(path / 'error.txt'))}"
    return lines


def _training(console: Console, frames: Frames) -> Iterator[RenderableType]:
    metrics = frames.metrics[frames.metrics["metric"].isin(("win_rate", "win_rate_low", "win_rate_high"))]
    if not len(metrics):
        return
    wide = metrics.pivot(index=["split", "step", "n"], columns="metric", values="value").reset_index()
    yield f"\nwin rate at {_steps(metrics['step'])}"
    table = _table("  split", "", "first", "last", "95% interval", "n")
    for split in pd.unique(metrics["split"]):
        own = wide[wide["split"] == split].sort_values("step")
        rates, last = list(own["win_rate"]), own.iloc[-1]
        ends = [last.get(f"win_rate_{end}", np.nan) for end in ("low", "high")]
        table.add_row(
            f"  {split}", _line(console, rates, 0, 1), f"{rates[0]:.1%}", f"{rates[-1]:.1%}",
            f"{ends[0]:.1%} to {ends[1]:.1%}" if np.isfinite(ends).all() else "", str(last["n"]),
        )  # fmt: skip
    yield table


def _patch(
    console: Console, frames: Frames, patch: folder.Patch, site: str, step: int | None
) -> Iterator[RenderableType]:
    yield "\n" + _heading(f"patch job {patch.patch_id}, {patch.corruption} corruption", patch.status, patch.path)
    attribution = frames.attribution[frames.attribution["patch_id"] == patch.patch_id]
    layers = attribution[(attribution["kind"] == "layer") & attribution["layer"].notna()]
    if len(layers):
        yield f"  logit difference from each layer, {_steps(layers['step'])} ({_prompts(layers)})"
        yield _layers(console, layers)
    patching = frames.patching[frames.patching["patch_id"] == patch.patch_id]
    if len(patching):
        yield from _heads(console, with_approximate(patching), site, step)


def _layers(console: Console, rows: pd.DataFrame) -> Table:
    """A row a layer: the course of what its attention and its MLP write, all on one scale."""
    courses = rows.pivot(index=["layer", "component"], columns="step", values="logit_diff")
    change = (courses.max(axis=1) - courses.min(axis=1)).groupby("layer").max()
    shown = sorted(change.nlargest(LAYERS).index)
    low, high = float(courses.min().min()), float(courses.max().max())
    parts = list(pd.unique(rows["component"]))
    table = _table("  layer", *(word for part in parts for word in (part, "first", "last")))
    for layer in shown:
        told = []
        for part in parts:
            course = list(courses.loc[layer, part]) if (layer, part) in courses.index else [np.nan]
            told += [_line(console, course, low, high), _number(course[0]), _number(course[-1])]
        table.add_row(f"  {layer}", *told)
    if len(shown) < len(change):
        table.add_row(f"  … {len(change) - len(shown)} more change less")
    return table


def _heads(console: Console, rows: pd.DataFrame, site: str, step: int | None) -> Iterator[RenderableType]:
    of_heads = rows[rows["head"].notna()]
    there = list(pd.unique(of_heads["site"]))
    if not there:
        return
    named = [name for name in (site, f"{site} (approximate)") if name in there]
    if not named:
        raise UserError(f"--site {site}: not patched at heads; there are: {', '.join(there)}")
    chosen = of_heads[of_heads["site"] == named[0]]
    steps = sorted(chosen["step"].unique())
    at = steps[-1] if step is None else step
    if at not in steps:
        raise UserError(f"--step {step}: not examined; there are: {', '.join(map(str, steps))}")
    chosen = chosen.assign(recovered=recovered(chosen))
    now = chosen[chosen["step"] == at]
    yield f"  recovered by patching {named[0]} at step {at}, layer × head ({_prompts(now)})"
    table = now.pivot(index="layer", columns="head", values="recovered").astype("float64")
    yield _heatmap(console, table)
    if table.isna().to_numpy().any():
        yield f"  –: clean and corrupted differ by less than {FLOOR} logits"
    courses = chosen.pivot(index=HEAD, columns="step", values="recovered").astype("float64")
    top = courses[at].abs().nlargest(TOP).index
    if not len(top):
        return
    yield f"  top heads at step {at}, over {_steps(chosen['step'])}"
    low, high = min(float(courses.loc[top].min().min()), 0.0), float(courses.loc[top].max().max())
    told = _table("  head", "", "first", "last")
    for head in top:
        course = list(courses.loc[head])
        told.add_row(f"  {name(*head)}", _line(console, course, low, high), *map(_number, (course[0], course[-1])))
    yield told


def _heatmap(console: Console, table: pd.DataFrame) -> RenderableType:
    """Layer × head: numbers on coloured ground where there is colour and room; else one of the two."""
    colour = bool(console.color_system) and not console.no_color
    margin, room = 6, console.width - 6
    width = next((width for width in (6, 4) if width * table.shape[1] <= room), 2)
    if width == 2 and not colour:
        return f"  {table.shape[1]} heads need {4 * table.shape[1] + margin} columns; here are {console.width}"
    decimals = width == 6
    text = Text(" " * margin, no_wrap=True)
    for at, head in enumerate(table.columns):
        text.append(f"{head:{width - 1}} " if width > 2 else f"{head:<2}" if at % 5 == 0 else "  ")
    for layer, values in zip(table.index, table.to_numpy(), strict=True):
        text.append(f"\n{layer:{margin - 1}} ")
        for value in values:
            number = _number(value, decimals) if width > 2 else ""
            text.append(f"{number:>{width - 1}} ", _ground(value) if colour else "")
    if not decimals and width > 2:
        text.append("\n  in percent")
    return text


def _ground(value: float) -> Style:
    """The colour of a recovered fraction, and of the number on it."""
    if not np.isfinite(value):
        return Style(color="white", bgcolor="grey50")
    share = min(abs(value), 1.0)
    end = RED if value > 0 else BLUE
    red, green, blue = (round(247 + share * (part - 247)) for part in end)
    return Style(color="white" if share > 0.6 else "black", bgcolor=Color.from_rgb(red, green, blue))


def _number(value: float, decimals: bool = True) -> str:
    if not np.isfinite(value):
        return "–"
    return f"{round(value, 2) + 0.0:.2f}" if decimals else f"{round(100 * value)}"


def _places(run: folder.Run) -> Iterator[RenderableType]:
    if not run.path.is_dir():
        return
    yield ""
    log, metrics = run.path / "log.txt", run.path / "metrics.parquet"
    for what, path in (("log", log), ("metrics", metrics)):
        if path.exists():
            yield f"{what}: {escape(str(path))}"
    for patch in run.patches:
        if patch.steps():
            yield f"tables: {escape(str(patch.path / 'tables'))}"
    # All attempts are one run in wandb: the fine-tune's has the curves.
    offline = sorted(
        {file.parent for file in run.path.glob("**/wandb/offline-run-*")}, key=lambda path: len(path.parts)
    )
    if offline:
        yield f"wandb's own view: `wandb leet {escape(shlex.quote(str(offline[0])))}`"


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in columns:
        # Numbers to the right, names and lines to the left.
        right = column in ("first", "last", "n", "95% interval")
        table.add_column(column, justify="right" if right else "left", no_wrap=True)
    return table


def _line(console: Console, values: Sequence[float], low: float, high: float) -> str:
    """A sparkline, or nothing where the terminal has letters only: numbers stand beside it."""
    return "" if console.options.ascii_only else sparkline(values, low, high, BLOCKS)


def _steps(steps: pd.Series) -> str:
    there = sorted(steps.unique())
    return f"{len(there)} checkpoints, {there[0]} to {there[-1]}" if len(there) > 1 else f"checkpoint {there[0]}"


def _prompts(rows: pd.DataFrame) -> str:
    return f"{'/'.join(str(n) for n in sorted(rows['n'].unique()))} prompts"
