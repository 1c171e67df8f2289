"""The table files of run folders, read with their checksums."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..errors import UserError
from ..store import checksums
from . import folder


def read_table(file: Path, needed: str, columns: Iterable[str] | None, damaged: list[str] | None) -> pa.Table | None:
    """A file's table, or those of its `columns` that it has. None if it cannot be read and `damaged` takes the reason.

    Args:
        needed: a column without which the file counts as damaged; "" for none.

    Raises:
        UserError: the file cannot be read, and `damaged` is None.
    """
    columns = None if columns is None else list(columns)
    try:
        checksums.check_table(file, columns)
        # Thousands of small files: a thread pool for each would cost more than the reading.
        with pq.ParquetFile(file) as opened:
            table = opened.read(columns=columns, use_threads=False)
        if needed and needed not in table.column_names:
            raise pa.ArrowInvalid(f"no column {needed!r}")
        return table
    except (pa.ArrowException, OSError, ValueError) as error:
        todo = "delete it and run the sweep again: only that table is computed again"
        folder.leave_out(UserError(f"cannot read {file} ({_line(error)}): {todo}"), damaged)
        return None


def of_kinds(table: pa.Table, kinds: Sequence[str]) -> pa.Table:
    """Select the rows of these kinds from a patch job's table."""
    return table.filter(pc.is_in(table["kind"], pa.array(kinds, pa.string())))


def stack(tables: Sequence[pa.Table], keys: Sequence[tuple[Any, ...]], names: Sequence[str]) -> pd.DataFrame:
    """Concatenate tables; the columns `names` hold each table's keys."""
    if not tables:
        return pd.DataFrame()
    try:
        stacked = pa.concat_tables(tables, promote_options="permissive").to_pandas()
    except pa.ArrowException as error:
        which = ", ".join(f"{name} {key}" for name, key in zip(names, keys[0], strict=True))
        raise UserError(f"tables differ in their columns, from {which} on: {_line(error)}") from None
    lengths = [len(table) for table in tables]
    for name, of_tables in zip(names, zip(*keys, strict=True), strict=True):
        stacked[name] = np.repeat(np.array(of_tables, dtype=object), lengths)
    return stacked


def _line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
