"""Exports all tables of an output folder, one file each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ..circuits.tables import TABLES as FURTHER
from ..errors import UserError
from ..store.files import replacing
from . import derived, folder, measured
from .columns import COLUMNS, OF_PROMPTS, TABLES, typed
from .frames import examined_in, rows_of_prompts, sound_runs, tables_of, tabulate

MEASURED = tuple(name for name in FURTHER if name != "patterns")
"""Measured tables that are exported; whole attention patterns are too large."""
EXPORTED = COLUMNS | derived.TABLES | {name: measured.columns(name) for name in MEASURED}
"""The columns of every exported table."""
FORMATS = ("parquet", "csv")
Writer = Callable[[pd.DataFrame], None]
AT_ONCE = 200
"""Tables of patch jobs in memory at once."""


def export(
    output: Path,
    directory: Path,
    sweeps: str | Iterable[str] | None = None,
    *,
    format: Literal["parquet", "csv"] = "parquet",
    by_prompt: bool = False,
    damaged: list[str] | None = None,
) -> list[Path]:
    """Write each table of the folder `output` to its own file in `directory`, all of them or none; returns the files.

    Only a few tables of patch jobs, or those of one setting, are in memory at a time, so a sweep of any size can be
    exported. CSV keeps values, Parquet types as well. `by_prompt` also writes the tables of OF_PROMPTS, which are many
    times larger. Tables of an earlier export that are not made now are removed, so that they do not pass for results of
    this one. `sweeps` and `damaged`: as for `frames.load`.
    """
    if format not in FORMATS:
        raise UserError(f"no table format {format!r}: choose parquet or csv")
    found = folder.read(output, sweeps, damaged)
    frames = tabulate(found, most=0, damaged=damaged)
    examined = examined_in(found)
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    there = [name for name in MEASURED if any(patch.table(step, name).exists() for patch, step in examined)]
    follow = [name for name in derived.TABLES if derived.NEEDS.get(name) in (None, *there)]
    names = [*TABLES, *follow, *there, *(OF_PROMPTS if by_prompt else ())]
    files = {name: directory / f"{name}.{format}" for name in names}
    with ExitStack() as stack:
        write = {name: stack.enter_context(_written(file, EXPORTED[name])) for name, file in files.items()}
        for name in ("runs", "patches", "metrics"):
            write[name](getattr(frames, name))
        for start in range(0, len(examined), AT_ONCE):
            for name, frame in tables_of(examined[start : start + AT_ONCE], damaged).items():
                write[name](frame)
        for name, frame in derived.with_findings(found, frames, damaged):
            write[name](frame)
        for name in there:
            for frame in measured.each(examined, name, damaged=damaged):
                write[name](frame)
        for name in OF_PROMPTS if by_prompt else ():
            for frame in rows_of_prompts(examined, name, damaged):
                write[name](frame)
    for file in set(exported(directory)) - set(files.values()):
        if _header(file) == list(EXPORTED[file.stem]):  # not another file of that name
            file.unlink()
    return list(files.values())


@contextmanager
def _written(file: Path, columns: dict[str, str]) -> Iterator[Writer]:
    """Append frames to one file, which is moved into place at the end."""
    empty = typed([], columns)
    with replacing(file) as temporary:
        if file.suffix == ".csv":
            empty.to_csv(temporary, index=False)
            yield lambda frame: frame.to_csv(temporary, index=False, mode="a", header=False)
            return
        schema = pa.Schema.from_pandas(empty, preserve_index=False)
        with pq.ParquetWriter(temporary, schema) as writer:
            yield lambda frame: writer.write_table(pa.Table.from_pandas(frame, schema, preserve_index=False))


def left_out(files: Sequence[Path]) -> list[str]:
    """The ids of exported runs that tables of settings leave out: they diverged while others of their setting did not.

    Args:
        files: of an export.
    """
    file = next(file for file in files if file.stem == "runs")
    runs = pd.read_parquet(file) if file.suffix == ".parquet" else pd.read_csv(file, dtype={"run_id": str})
    kept = sound_runs(runs)
    return [run_id for run_id in runs["run_id"] if run_id not in kept]


def exported(directory: Path) -> list[Path]:
    """Files in a folder that are named like an exported table."""
    named = (Path(directory) / f"{name}.{format}" for name in EXPORTED for format in FORMATS)
    return [file for file in named if file.is_file()]


def _header(file: Path) -> list[str]:
    """Columns of the table in a file; none if it is not a table."""
    try:
        if file.suffix == ".parquet":
            return list(pq.read_schema(file).names)
        with file.open(encoding="utf-8") as lines:
            return next(lines, "").strip().split(",")
    except (pa.ArrowException, OSError, ValueError):
        return []
