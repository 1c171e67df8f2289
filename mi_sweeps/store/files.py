"""Files that appear whole or not at all: written to a temporary name, synced, then renamed."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mi_sweeps.errors import UserError
from mi_sweeps.store import checksums

if TYPE_CHECKING:
    import pyarrow


PARTIAL = ".partial"
"""Suffix of temporary names."""

OLD = 3600.0
"""Seconds after which a temporary file is taken to be abandoned, if no lock protects it."""


def clear_partial(folder: Path, before: float | None = None) -> None:
    """Removes temporary files that killed writers left in a folder.

    Args:
        before: remove only files from before this time, by the file system's clock; None if nobody can be writing.
    """
    for partial in folder.glob(f".*{PARTIAL}"):
        with suppress(OSError):  # Its writer has finished, or another process has removed it.
            if before is None or partial.stat().st_mtime < before:
                _remove(partial)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path to write a file or folder to; it replaces `path` if the block succeeds.

    Raises:
        OSError: the disk is full, the folder is read-only, `path` is already a folder, ...; nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}{PARTIAL}")
    try:
        yield temporary
        for file in (temporary, *temporary.rglob("*")):
            _sync(file)
        # From here on, a kill leaves nothing to clean up.
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            _remove(temporary)
        raise
    _sync(path.parent)


def _sync(path: Path) -> None:
    """Flushes a file's content, or a folder's list of names, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file, whole or not at all; an object gets a checksum, which `read_json` removes."""
    text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
    write_bytes(path, checksums.seal_object(text) if value and isinstance(value, dict) else text.encode())


def read_json(path: Path | str) -> Any:
    """Reads a JSON file; returns None if there is none.

    Raises:
        UserError: the file is not JSON, is damaged, or cannot be read.
    """
    try:
        with open(path, "rb") as stream:
            return checksums.parse(stream.read())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except checksums.Damaged as error:
        raise UserError(f"{path}: damaged ({error}); delete it and run the sweep again") from None
    except (ValueError, RecursionError):
        raise UserError(f"{path}: not valid JSON; delete it and run the sweep again") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def names(folder: Path | str) -> frozenset[str]:
    """Lists the names in a folder; empty if there is no folder."""
    try:
        return frozenset(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return frozenset()


def write_table(path: Path, table: pyarrow.Table) -> None:
    """Writes a Parquet file with checksums, whole or not at all."""
    from pyarrow import BufferOutputStream, parquet

    content = BufferOutputStream()
    parquet.write_table(checksums.sealed_schema(table), content)
    write_bytes(path, checksums.seal_table(content.getvalue().to_pybytes()))


def read_table(path: Path, columns: Sequence[str] | None = None) -> pyarrow.Table:
    """Reads a Parquet file, or some of its columns.

    Raises:
        UserError: the file is missing or damaged.
    """
    from pyarrow import ArrowException, parquet

    try:
        checksums.check_table(path, columns)
        # No partitioning: a folder named like key=value must not become a column.
        return parquet.read_table(path, partitioning=None, columns=columns and list(columns))
    except FileNotFoundError:
        raise UserError(f"{path}: missing; run the sweep again: only this is computed again") from None
    except (ArrowException, OSError, ValueError):
        raise UserError(f"{path}: damaged; delete it and run the sweep again: only this is computed again") from None


def read_columns(path: Path, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """Reads the rows of some columns of a Parquet file, without `read_table`'s imports, which take half a second.

    Raises:
        UserError: the file is missing or damaged, or lacks a column.
    """
    from pyarrow import ArrowException, parquet

    try:
        checksums.check_table(path, columns)
        with parquet.ParquetFile(path) as file:
            values = file.read(columns=list(columns), use_threads=False).to_pydict()
        return zip(*(values[column] for column in columns), strict=True)
    except (ArrowException, OSError, KeyError, ValueError):
        raise UserError(f"{path}: missing or damaged; run the sweep again: only this is computed again") from None
