"""What patch jobs measured beside patching, as pandas frames: tables that are read only when they are asked for."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

import pandas as pd
import pyarrow as pa

from ..circuits.tables import TABLES
from .folder import Output
from .frames import EXAMINED, Examined, examined_in, left, typed

KINDS = {pa.string(): "string", pa.int64(): "Int64", pa.float64(): "float64", pa.bool_(): "boolean"}
"""The pandas type of each column that is no list."""


def columns(name: str) -> dict[str, str]:
    """The columns of a table and their pandas types, without those that list what each prompt has."""
    return EXAMINED | {field.name: KINDS[field.type] for field in TABLES[name] if field.type in KINDS}


def read(
    output: Output,
    name: str,
    lists: Collection[str] = (),
    damaged: list[str] | None = None,
    patch_ids: Collection[str] | None = None,
) -> pd.DataFrame:
    """A table of TABLES, of all patch jobs that measured it.

    Args:
        lists: columns that list what each prompt has, to be read as well; each value is a NumPy array.
        damaged: as for `frames.load`.
        patch_ids: of which patch jobs; None: all.
    """
    there = [one for one in examined_in(output) if patch_ids is None or one[0].patch_id in patch_ids]
    frames = list(each(there, name, lists, damaged))
    empty = typed([], columns(name)).assign(**{column: pd.Series(dtype=object) for column in lists})
    return pd.concat([empty, *frames], ignore_index=True) if frames else empty


def each(
    examined: Iterable[Examined], name: str, lists: Collection[str] = (), damaged: list[str] | None = None
) -> Iterator[pd.DataFrame]:
    """The same, one frame for each checkpoint that has rows."""
    own = [column for column in columns(name) if column not in EXAMINED]
    for patch, step in examined:
        if not patch.table(step, name).exists():
            continue
        table = left(patch.table(step, name), own[0] if own else "", [*own, *lists], damaged)
        if table is None or not len(table):
            continue
        keys = dict(zip(EXAMINED, (patch.run_id, patch.patch_id, patch.corruption, step), strict=True))
        rows = table.select([column for column in own if column in table.column_names]).to_pandas().assign(**keys)
        lists_there = {column: table[column].to_numpy() for column in lists if column in table.column_names}
        yield typed(rows, columns(name)).assign(**lists_there)
