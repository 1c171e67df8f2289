"""One self-contained page to compare runs: all data, all code, no network."""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timezone
from importlib import resources
from pathlib import Path

import pandas as pd
from plotly.offline import get_plotlyjs

from ..counting import counted
from ..errors import UserError
from ..store.files import write_bytes
from . import attention, examples, payload, prompt_values
from .conclusions import conclude
from .contents import unrecorded
from .folder import Json, OutputFolder, read, several
from .frames import Frames, tabulate

LIMIT = 15_000_000
"""Bytes. A page of this size opens in a second or two and can be sent by mail."""

SCRIPTS = (
    *("base", "intervals", "values", "missing", "filter", "pictures", "save", "header", "settings", "findings"),
    *("verdicts", "circuits", "top_heads", "runs", "table", "curves", "lines", "glance"),
    *("bar", "player", "effects", "panels", "scales", "grids", "sketch", "heatmaps", "scatter", "layers", "heads"),
    *("attention", "looks", "prompt_values", "place", "prompts"),
    *("differences", "parallel", "variance", "trust", "address", "main"),
)
"""The page's scripts in order, one per section."""

LONGEST = 200
"""Longest file name of a page, in bytes."""

MOST = 6000
"""Tables of patch jobs to read at most: more would not fit on the page, and 6000 take ten seconds."""


def write_report(
    output: Path,
    sweeps: str | Iterable[str] | None = None,
    to: Path | None = None,
    damaged: list[str] | None = None,
    worse: list[str] | None = None,
) -> Path:
    """Write the page for the folder `output`, or for the named `sweeps` of it; returns the file.

    The file is `to`, or that of `place`; it appears whole or not at all. If all checkpoints would make a page larger
    than LIMIT, its heatmaps show fewer and say so. A list `damaged` takes the names of unreadable files, which are left
    out; a list `worse` takes the ids of runs that ended worse than they began.

    Raises:
        UserError: the folder or a sweep does not exist, a file cannot be read and `damaged` is None, or `to` is a
        folder
            or another kind of file.
    """
    named = () if sweeps is None else several(sweeps)
    found = read(output, None if sweeps is None else named, damaged)
    file = Path(to) if to is not None else place(found.path, named)
    if file.is_dir():
        raise UserError(f"{file}: is a folder; give a file in it, such as {file / 'report.html'}")
    titled(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    frames = tabulate(found, paths=False, most=MOST, damaged=damaged)
    write_bytes(file, page(found, frames, beside=file.parent, damaged=damaged).encode())
    if worse is not None:
        worse.extend(frames.runs["run_id"][frames.runs["outcome"].notna()])
    return file


def place(output: Path, sweeps: str | Iterable[str]) -> Path:
    """The default file of the page for these sweeps, or for all in `output` if none is named. Each has its own file.

    Raises:
        UserError: the names together are too long for a file name.
    """
    named = sorted(set(several(sweeps)))
    # names of sweeps contain no +
    name = f"report-{'+'.join(named)}.html" if named else "report.html"
    if len(name.encode()) > LONGEST:
        raise UserError(f"{len(named)} sweeps have too long a file name together; give a file with --to")
    return output / name


def titled(file: Path) -> str | None:
    """The title of an existing page; None if there is no file.

    Raises:
        UserError: the file is not a page of mi-sweeps.
    """
    if not file.is_file() or not file.stat().st_size:
        return None
    with file.open(encoding="utf-8", errors="replace") as there:
        found = re.search(r"<title>mi-sweeps: (.*?)</title>", there.read(4096))
    if not found:
        raise UserError(f"{file}: exists and is not a page of mi-sweeps; give another file, or delete it")
    return html.unescape(found[1])


def page(
    output: OutputFolder,
    frames: Frames,
    limit: int = LIMIT,
    beside: Path | None = None,
    damaged: list[str] | None = None,
) -> str:
    """Return the page as text, of at most `limit` bytes if thinning patching and attribution can achieve it.

    Args:
        beside: the folder that the page is for, from which links start; `output` by default.
        damaged: as for `write_report`.
    """
    parts = {"css": _template("page.css"), "js": "\n".join(_template(f"{name}.js") for name in SCRIPTS)}
    parts["plotly"] = get_plotlyjs()
    parts["title"] = html.escape(f"mi-sweeps: {', '.join(sweep.name for sweep in output.sweeps) or output.path.name}")
    frame = _template("page.html")
    room = limit - sum(len(part.encode()) for part in (frame, *parts.values()))
    parts["data"] = _data(output, frames, room, beside or output.path, damaged)
    # In one pass, so that the content of a part is never taken for another marker.
    return re.sub(r"\{\{(\w+)\}\}", lambda marker: parts[marker[1]], frame)


def _template(name: str) -> str:
    return (resources.files(__package__) / "templates" / "report" / name).read_text(encoding="utf-8")


def _data(output: OutputFolder, frames: Frames, room: int, beside: Path, damaged: list[str] | None) -> str:
    """Return the page's data as JSON of at most `room` bytes, with fewer checkpoints or runs if needed."""
    made = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    outline = payload.outline(output, frames, made, beside)
    outline["examples"] = examples.payload(frames, [])  # making the frames has named damaged files
    checkpoints = frames.patching["step"].nunique()
    every, runs = 1, frames.patching["run_id"].nunique()
    left_out: list[str] | None = None if damaged is None else []
    conclusions = conclude(output, frames, left_out)
    outline["attention"] = attention.payload(output, frames, conclusions, room - len(_json(outline)), left_out)
    outline["by_prompt"] = prompt_values.payload(frames, conclusions, room - len(_json(outline)))
    room_for_circuits = room - len(_json(outline))
    if damaged is not None:
        damaged += [line for line in left_out or () if line not in damaged]
    told = unrecorded(output.runs, dict(zip(frames.runs["run_id"], frames.runs["setting"], strict=True)))
    note = " ".join(filter(None, (told, _note(frames.every, runs) if frames.unread else "")))
    text = _json(payload.with_circuits(outline, output, frames, conclusions, note))
    while len(text) > room and (runs > 1 or every < checkpoints):
        # Thin in proportion to the excess, first checkpoints, then runs.
        circuits = len(text) - room + room_for_circuits
        excess = circuits / room_for_circuits if room_for_circuits > 0 else math.inf
        if every < checkpoints:
            every = max(every + 1, round(min(checkpoints, every * excess)))
        else:
            runs = max(1, min(runs - 1, int(runs / excess)))
        thinned = _thinned(frames, every, runs)
        note = " ".join(filter(None, (told, _note(every * frames.every, runs))))
        text = _json(payload.with_circuits(outline, output, thinned, conclusions, note))
    return text


def _thinned(frames: Frames, every: int, runs: int) -> Frames:
    """Keep every `every`-th checkpoint and the last, of the first `runs` runs."""
    steps = sorted(frames.patching["step"].unique())
    kept_steps = {*steps[::every], *steps[-1:]}
    kept_runs = set(pd.unique(frames.patching["run_id"])[:runs])

    def thin(table: pd.DataFrame) -> pd.DataFrame:
        return table[table["step"].isin(kept_steps) & table["run_id"].isin(kept_runs)]

    return replace(frames, **{name: thin(getattr(frames, name)) for name in ("patching", "attribution", "measures")})


def _note(every: int, runs: int) -> str:
    return (
        f"To keep this page small, circuits are shown for {counted(runs, 'run')}, "
        f"at one checkpoint in {every} and the last. The exported tables have all of them."
    )


def _json(data: Json) -> str:
    """JSON that is safe in a script element: no text in it can close the element."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
