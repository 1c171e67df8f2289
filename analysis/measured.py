"""Further tables of patch jobs (`mi_sweeps.circuits.tables`) as pandas frames, read on demand."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa

from ..circuits.tables import TABLES
from ..counting import plural
from ..errors import UserError
from .columns import EXAMINED, typed
from .folder import OutputFolder, leave_out
from .frames import Examined, examined_in
from .parquet import read_table

KINDS = {pa.string(): "string", pa.int64(): "Int64", pa.float64(): "float64", pa.bool_(): "boolean"}
"""Pandas types of scalar columns."""


def columns(name: str) -> dict[str, str]:
    """Scalar columns of a table and their pandas types; lists by prompt are left out."""
    return EXAMINED | {field.name: KINDS[field.type] for field in TABLES[name] if field.type in KINDS}


def read(
    output: OutputFolder,
    name: str,
    lists: Collection[str] = (),
    damaged: list[str] | None = None,
    patch_ids: Collection[str] | None = None,
) -> pd.DataFrame:
    """Read a table of TABLES from all patch jobs that measured it.

    Args:
        lists: columns with lists by prompt to read as well; each value is a NumPy array.
        damaged: as for `frames.load`.
        patch_ids: patch jobs to read; None: all.
    """
    there = [one for one in examined_in(output) if patch_ids is None or one[0].patch_id in patch_ids]
    frames = list(each(there, name, lists, damaged))
    empty = typed([], columns(name)).assign(**{column: pd.Series(dtype=object) for column in lists})
    return pd.concat([empty, *frames], ignore_index=True) if frames else empty


def stored(file: Path, columns: Sequence[str], damaged: list[str] | None = None) -> pa.Table | None:
    """Read some columns of a file; None if it cannot be read and `damaged` takes the reason.

    A file of an older version that lacks a column counts as unreadable: its values would look undefined.
    """
    table = read_table(file, "", columns, damaged)
    missing = [] if table is None else [column for column in columns if column not in table.column_names]
    if missing:
        outdated(file, f"{plural('column', len(missing))} {', '.join(missing)}", damaged)
        return None
    return table


def outdated(file: Path, lacks: str, damaged: list[str] | None) -> None:
    """Leave out a file of an older version that lacks something; raise UserError if `damaged` is None."""
    todo = "delete it and run the sweep again: only that table is computed again"
    leave_out(UserError(f"{file} is of an older version, without {lacks}: {todo}"), damaged)


def each(
    examined: Iterable[Examined], name: str, lists: Collection[str] = (), damaged: list[str] | None = None
) -> Iterator[pd.DataFrame]:
    """As `read`, one frame per checkpoint that has rows.

    With `lists`, patch jobs that had only just begun are left out, as their prompts are unknown.
    """
    own = [column for column in columns(name) if column not in EXAMINED]
    for patch, step in examined:
        file = patch.table(step, name)
        if (lists and not patch.about.get("prompts")) or not file.exists():
            continue
        table = stored(file, [*own, *lists], damaged)
        if table is None or not len(table):
            continue
        keys = dict(zip(EXAMINED, (patch.run_id, patch.patch_id, patch.corruption, step), strict=True))
        rows = table.select(own).to_pandas().assign(**keys)
        yield typed(rows, columns(name)).assign(**{column: table[column].to_numpy() for column in lists})
