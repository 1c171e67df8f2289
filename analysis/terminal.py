"""One run in a terminal: what it is, how it learned, and which layers and heads are shown to carry it."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from rich.color import Color
from rich.color_triplet import ColorTriplet
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.style import Style
from rich.table import Table
from rich.text import Text

from ..counting import counted, plural
from ..errors import UserError
from ..series import missing_steps
from ..series.logged import SPLIT as TRAINER
from ..sparkline import sparkline
from ..sweeps.points import of_patch_job
from ..sweeps.show import COLOURS, zoomed
from . import folder
from .frames import Frames, outcomes, tabulate
from .inference import words
from .inference.courses import Course, HeadCourse, courses
from .inference.families import Family, family, jobs
from .inference.verdicts import DELTA, Verdict
from .summaries import APPROXIMATE

TOP = 12
"""Heads listed with their course at most; half as many if none matters."""
MARKS = {Verdict.MATTERS.value: "●", Verdict.UNDECIDED.value: "·"}
LETTERS = {Verdict.MATTERS.value: "*", Verdict.UNDECIDED.value: "?"}
"""Marks for terminals without Unicode."""
LAYERS = 12
"""Layers listed at most: those whose logit difference changes most."""
COURSE, WORD = "course", 14
"""The column of words, and its least width."""
BLOCKS, FEW_BLOCKS = 20, 12
"""Longest sparklines: alone, and next to a head's course."""
RED, BLUE = (178, 24, 43), (33, 102, 172)
"""Colours of 1 and -1; 0 is white, as in the figures."""
LADDERS = {
    "256": ((231, 224, 217, 210, 167, 160, 124), (231, 189, 153, 110, 68, 26, 25)),
    "standard": ((15, 9, 1), (15, 12, 4)),
}
"""Colours for terminals with few of them, from 0 to 1 and from 0 to -1; the nearest match of each shade would turn
purple before red."""


def show(
    console: Console,
    found: folder.OutputFolder,
    site: str = "z",
    step: int | None = None,
    damaged: list[str] | None = None,
) -> None:
    """Print a run with each of its patch jobs at `step`, by default the last.

    Raises:
        UserError: a patch job has no heads of `site` or was not examined at `step`, or a table cannot be read and
            `damaged` is None.
    """
    (run,) = found.runs
    frames = tabulate(found, paths=False, damaged=damaged)
    parts = [*_about(run), *_measured(console, frames, run.missing_steps), *_logged(console, frames)]
    for patch in run.patches:
        parts += _patch(console, found, frames, patch, site, step, damaged)
    parts += _places(run)
    for part in parts:
        console.print(part, markup=True, soft_wrap=isinstance(part, str))


def _about(run: folder.RunRecord) -> Iterator[RenderableType]:
    yield _heading(f"run {run.run_id}", run.status, run.path)
    if run.is_series:
        yield from _about_series(run)
    elif run.config:
        of = {group: run.config.get(group) or {} for group in ("model", "task", "optim", "schedule", "train")}
        names = [of[group].get("name") for group in ("model", "task")]
        settings = f"lr {of['optim'].get('lr')}, schedule {of['schedule'].get('name')}, seed {run.config.get('seed')}"
        steps = f"{of['train'].get('steps')} steps of {of['train'].get('batch_size')} prompts"
        yield f"  {escape(', '.join(map(str, names)))}, {escape(settings)}, {steps}"
    if run.status["state"] == "done" and (proof := run.about.get("zoom")):
        yield f"  {escape(zoomed(run.run_id, proof))}"
    if run.sweeps:
        # Sweeps of its patch jobs are printed with these.
        own = {key: value for key, value in run.overrides.items() if not of_patch_job(key)}
        swept = " ".join(f"{key}={value}" for key, value in own.items())
        sweeps = f"  {plural('sweep', len(run.sweeps))} {escape(', '.join(run.sweeps))}"
        yield f"{sweeps}: [bold]{escape(swept)}[/]" if swept else sweeps


def _about_series(run: folder.RunRecord) -> Iterator[RenderableType]:
    """Where its checkpoints are, how many there are, and which are missing."""
    model, task = run.config["model"], run.config.get("task") or {}
    steps = (run.config.get("checkpoint") or {}).get("steps") or []
    names = ", ".join(str(one.get("name")) for one in (model, task))
    seed = f", seed {run.config['seed']}" if "seed" in run.config else ""
    where = model.get("path") or f"{model.get('hub')} at {model.get('revision')}"
    there = counted(len(steps), "checkpoint")
    if run.missing_steps:
        there = f"{len(steps) - len(run.missing_steps)} of {there}"
    yield f"  {escape(names + seed)}: {there}, {escape(str(where))}"
    for line in missing_steps.lines(run.missing_steps):
        yield f"  [yellow]no checkpoint[/] at {escape(line)}"


def _heading(what: str, status: folder.Json, path: Path) -> str:
    state = status["state"]
    text = "to do" if state == "todo" else state
    if state != "todo":
        text += f" after {status['seconds']:.0f} s" if status.get("seconds") else ""
        text += f", {counted(status['attempts'], 'attempt')}"
        text += f", on {status['host']}" if status.get("host") else ""
    lines = f"[bold]{escape(what)}[/] [{COLOURS.get(state, 'dim')}]{escape(text)}[/]"
    if status.get("error"):
        lines += f"\n  [red]{escape(status['error'])}[/]\n  traceback: {escape(str(path / 'error.txt'))}"
    return lines


def _measured(console: Console, frames: Frames, missing: Iterable[int]) -> Iterator[RenderableType]:
    metrics = frames.metrics[frames.metrics["metric"].isin(("win_rate", "win_rate_low", "win_rate_high"))]
    if not len(metrics):
        return
    wide = metrics.pivot(index=["split", "step", "n"], columns="metric", values="value").reset_index()
    yield f"\nwin rate at {_steps(metrics['step'])}"
    rows: list[Row] = []
    for split in pd.unique(metrics["split"]):
        own = wide[wide["split"] == split].sort_values("step")
        last = own.iloc[-1]
        rates = list(_spaced(own.set_index("step")["win_rate"], missing))
        ends = [last.get(f"win_rate_{end}", np.nan) for end in ("low", "high")]
        rows.append((
            f"  {split}", _line(console, rates, 0, 1), f"{own['win_rate'].iloc[0]:.1%}", f"{last['win_rate']:.1%}",
            f"{ends[0]:.1%} to {ends[1]:.1%}" if np.isfinite(ends).all() else "", str(last["n"]),
        ))  # fmt: skip
    yield _table(console, ("  split", "", "first", "last", "95% interval", "n"), rows)
    if outcome := outcomes(frames.metrics).get(frames.runs["run_id"].iloc[0]):
        yield f"  [yellow]{outcome}[/]: the 95% interval of the difference of the held-out win rates is below 0"


def _logged(console: Console, frames: Frames) -> Iterator[RenderableType]:
    """Losses that the trainer of a series logged, on its own data and at its own steps."""
    rows = frames.metrics[frames.metrics["split"] == TRAINER]
    if not len(rows):
        return
    yield f"\nlogged by its own trainer, steps {rows['step'].min()} to {rows['step'].max()}"
    lines: list[Row] = []
    for metric, own in rows.groupby("metric", sort=True):
        values = own.sort_values("step")["value"]
        there = values[np.isfinite(values)]
        low, high = (float(there.min()), float(there.max())) if len(there) else (0.0, 1.0)
        line = _line(console, list(values), low, high)
        lines.append((f"  {metric}", line, f"{values.iloc[0]:.3g}", f"{values.iloc[-1]:.3g}", str(len(values))))
    yield _table(console, ("  metric", "", "first", "last", "n"), lines)


def _patch(
    console: Console,
    found: folder.OutputFolder,
    frames: Frames,
    patch: folder.Patch,
    site: str,
    step: int | None,
    damaged: list[str] | None,
) -> Iterator[RenderableType]:
    yield "\n" + _heading(f"patch job {patch.patch_id}, {patch.corruption} corruption", patch.status, patch.path)
    attribution = frames.attribution[frames.attribution["patch_id"] == patch.patch_id]
    layers = attribution[(attribution["kind"] == "layer") & attribution["layer"].notna()]
    if len(layers):
        yield f"  logit difference from each layer, {_steps(layers['step'])} ({_prompts(layers['n'])})"
        yield from _layers(console, layers, patch.missing_steps)
    for job in jobs(found, frames.runs, [patch.patch_id], damaged):
        there = [name for name, one in job.sites.items() if one.places[0][1] is not None]
        if not there:
            return
        named = [name for name in (site, site + APPROXIMATE) if name in there]
        if not named:
            raise UserError(f"--site {site}: heads were not patched; there are: {', '.join(there)}")
        own = family(named[0], [job])
        if step is not None and step not in own.steps:
            raise UserError(f"--step {step}: not examined; there are: {', '.join(map(str, own.steps))}")
        yield from _heads(console, own, own.steps[-1] if step is None else step)


def _layers(console: Console, rows: pd.DataFrame, missing: Iterable[int]) -> Iterator[RenderableType]:
    """A row per layer: logit difference of its attention and MLP over checkpoints, all on one scale."""
    courses = rows.pivot(index=["layer", "component"], columns="step", values="logit_diff")
    change = (courses.max(axis=1) - courses.min(axis=1)).groupby("layer").max()
    shown = sorted(change.nlargest(LAYERS).index)
    low, high = float(courses.min().min()), float(courses.max().max())
    parts = list(pd.unique(rows["component"]))
    lines: list[Row] = []
    for layer in shown:
        columns: list[str | Line] = []
        for part in parts:
            course = courses.loc[layer, part] if (layer, part) in courses.index else pd.Series([np.nan])
            line = _line(console, list(_spaced(course, missing)), low, high)
            columns += [line, _number(course.iloc[0]), _number(course.iloc[-1])]
        lines.append((f"  {layer}", *columns))
    yield _table(console, ("  layer", *(word for part in parts for word in (part, "first", "last"))), lines)
    if len(shown) < len(change):
        yield f"  … {len(change) - len(shown)} more change less"


def _heads(console: Console, own: Family, step: int) -> Iterator[RenderableType]:
    """Statements on the heads of a site, their heatmap at a checkpoint, and a row for each that matters or did."""
    of_heads = courses(own)
    for sentence in words.sentences(own, of_heads):
        yield Padding(Text(sentence), (0, 0, 0, 2), expand=False)
    at = own.at(step)
    verdict, now = own.judged.words[at], own.estimate.recovered[at]
    yield f"  recovered by patching {own.site} at checkpoint {step}, layer × head ({_prompts(own.estimate.n[at])})"
    marks = _marks(console)
    layers, heads = sorted({place[0] for place in own.places}), sorted({place[1] or 0 for place in own.places})
    table = pd.DataFrame(np.nan, index=layers, columns=heads)
    marked = pd.DataFrame("", index=layers, columns=heads)
    for (layer, head, _), value, word in zip(own.places, now, verdict, strict=True):
        table.loc[layer, head], marked.loc[layer, head] = value, marks.get(word, "")
    yield _heatmap(console, table, marked)
    if (verdict != Verdict.UNDEFINED.value).any():
        yield f"  {_key(console)}"
    if (verdict == Verdict.UNDEFINED.value).any():
        yield "  –: not defined: the corruption makes no measurable difference there, at least in one run"
    yield from _courses(console, own, of_heads, step)


def _courses(console: Console, own: Family, of_heads: Sequence[HeadCourse], step: int) -> Iterator[RenderableType]:
    """The heads that matter at any checkpoint, the largest first; if none does, the largest at `step`."""
    recovered, at, (low, high) = own.grid(own.estimate.recovered), own.at(step), own.interval
    now, ends = own.estimate.recovered[at], list(zip(low[at], high[at], strict=True))
    verdict, ever = own.judged.words[at], np.asarray(own.grid(own.judged.matter()).any(axis=0))
    shown = [place for place in np.argsort([-abs(one.peak) for one in of_heads], kind="stable") if ever[place]]
    title = "heads that matter at any checkpoint"
    if not len(shown):
        shown = [place for place in np.argsort(-np.abs(np.nan_to_num(now)), kind="stable") if np.isfinite(now[place])]
        shown, title = shown[: TOP // 2], "no head is shown to matter; the largest"
    if not len(shown):
        return
    yield f"  {title}, over {_steps(pd.Series(own.steps))}"
    marks, left = _marks(console), len(shown) - TOP
    shown = shown[:TOP]
    bottom, top = min(float(np.nanmin(recovered[:, shown])), 0.0), float(np.nanmax(recovered[:, shown]))
    rows: list[Row] = []
    for place in shown:
        one, mark = of_heads[place], marks.get(verdict[place], " ")
        course = _spaced(pd.Series(recovered[:, place], own.steps), own.jobs[0].patch.missing_steps)
        line = _line(console, list(course), bottom, top)
        rows.append((
            f"  {words.name(one.place)} {mark}", line, _number(now[place]), words.range_of(*ends[place]).strip(),
            _course(one),
        ))  # fmt: skip
    yield _table(console, ("  head", "", f"at {step}", "95% interval", COURSE), rows, FEW_BLOCKS)
    if left > 0:
        yield f"  … {left} more"


def _course(one: HeadCourse) -> str:
    """A head's course in a few words, with its onset if it has one."""
    if one.onset is not None and one.course is not Course.FROM_THE_START:
        high = "later" if one.onset_high is None else one.onset_high
        return f"{one.course.value}, onset {one.onset} [{one.onset_low}, {high}]"
    if one.course is Course.FROM_THE_START and one.onset:
        return f"from {one.onset} on, the first"
    return one.course.value if one.last is None else f"{one.course.value}, last at {one.last}"


def _marks(console: Console) -> dict[str, str]:
    return LETTERS if console.options.ascii_only else MARKS


def _key(console: Console) -> str:
    """Legend of the marks."""
    legend = [f"{mark} {word}" for word, mark in _marks(console).items()]
    return f"{'   '.join(legend)}   no mark: small (less than {DELTA} either way)"


def _heatmap(console: Console, table: pd.DataFrame, marked: pd.DataFrame) -> RenderableType:
    """Layer × head: numbers and marks on a coloured ground, or only one of the two without colour or room."""
    colour = bool(console.color_system) and not console.no_color
    margin, room = 6, console.width - 6
    width = next((width for width in (6, 4) if width * table.shape[1] <= room), 2)
    if width == 2 and not colour:
        return f"  {table.shape[1]} heads need {4 * table.shape[1] + margin} columns; there are {console.width}"
    decimals = width == 6
    text = Text(" " * margin, no_wrap=True)
    for at, head in enumerate(table.columns):
        text.append(f"{head:{width - 1}} " if width > 2 else f"{head:<2}" if at % 5 == 0 else "  ")
    for layer, values, marks in zip(table.index, table.to_numpy(), marked.to_numpy(), strict=True):
        text.append(f"\n{layer:{margin - 1}} ")
        for value, mark in zip(values, marks, strict=True):
            number = _number(value, decimals) if width > 2 else ""
            text.append(f"{number:>{width - 1}}{mark:<1}", _ground(value, console.color_system or "") if colour else "")
    if not decimals and width > 2:
        text.append("\n  in percent")
    return text


def _ground(value: float, colours: str) -> Style:
    """Style of a recovered fraction: the ground, and the number on it.

    Args:
        colours: of the terminal, as rich calls them: truecolor, 256, standard, windows.
    """
    if not np.isfinite(value):
        return Style(color="white", bgcolor="grey50")
    share = min(abs(value), 1.0)
    if colours == "truecolor":
        end = RED if value > 0 else BLUE
        ground = Color.from_triplet(ColorTriplet(*(round(247 + share * (part - 247)) for part in end)))
    else:
        ladder = LADDERS.get(colours, LADDERS["standard"])[int(value < 0)]
        ground = Color.from_ansi(ladder[round(share * (len(ladder) - 1))])
    return Style(color="white" if share > 0.6 else "black", bgcolor=ground)


def _number(value: float, decimals: bool = True) -> str:
    if not np.isfinite(value):
        return "–"
    return f"{round(value, 2) + 0.0:.2f}" if decimals else f"{round(100 * value)}"


def _places(run: folder.RunRecord) -> Iterator[RenderableType]:
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
    # All attempts are one run in wandb; the run's own folder has the curves.
    offline = sorted(
        {file.parent for file in run.path.glob("**/wandb/offline-run-*")}, key=lambda path: len(path.parts)
    )
    if offline:
        yield f"wandb's own view: `wandb leet {escape(shlex.quote(str(offline[0])))}`"


Line = Callable[[int], str]
"""A sparkline of at most `blocks` blocks."""
Row = tuple[str | Line, ...]


def _table(console: Console, columns: Sequence[str], rows: Sequence[Row], blocks: int = BLOCKS) -> Table:
    """Make a table whose numbers are never cut: narrow terminals get shorter sparklines."""
    others = [column for column in zip(columns, *rows, strict=True) if column[0] != COURSE]
    width = sum(max(len(word) for word in column if isinstance(word, str)) for column in others)
    width += WORD if COURSE in columns else 0
    lines = max(1, sum(callable(word) for word in rows[0]))
    room = (console.width - width - 2 * (len(columns) - 1)) // lines
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in columns:
        # numbers are right-aligned
        right = column in ("first", "last", "n", "95% interval") or column.startswith("at ")
        table.add_column(column, justify="right" if right else "left", no_wrap=column != COURSE)
    for row in rows:
        table.add_row(*(word if isinstance(word, str) else word(max(0, min(blocks, room))) for word in row))
    return table


def _line(console: Console, values: Sequence[float], low: float, high: float) -> Line:
    """A sparkline, or nothing on terminals without Unicode, where the numbers next to it suffice."""
    return lambda blocks: "" if console.options.ascii_only or blocks < 2 else sparkline(values, low, high, blocks)


def _spaced(course: pd.Series, missing: Iterable[int]) -> pd.Series:
    """Values by step, with NaN at missing steps."""
    return course.reindex(sorted({*course.index, *missing})) if missing else course


def _steps(steps: pd.Series) -> str:
    there = sorted(steps.unique())
    return f"{len(there)} checkpoints, {there[0]} to {there[-1]}" if len(there) > 1 else f"checkpoint {there[0]}"


def _prompts(counts: pd.Series | np.ndarray) -> str:
    return f"{'/'.join(str(n) for n in sorted(set(counts)))} prompts"
