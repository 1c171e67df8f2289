"""Files that appear whole or not at all: written beside their place, synced, then renamed."""

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
"""How the names of what is being written end."""

OLD = 3600.0
"""Seconds after which nobody is still writing a file, where no lock says so."""


def clear_partial(folder: Path, before: float | None = None) -> None:
    """Removes what writers that were killed have left in a folder.

    Args:
        before: only what is from before this time, by the clock of the file system; None where nobody can be writing.
    """
    for partial in folder.glob(f".*{PARTIAL}"):
        with suppress(OSError):  # Whoever writes it has finished, or another one clears too.
            if before is None or partial.stat().st_mtime < before:
                _remove(partial)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a temporary path to write a file or folder to; it takes `path`'s place if the block succeeds.

    Raises:
        OSError: the disk is full, the folder is read-only, a folder is already at `path`, ...; nothing is left
            behind then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}{PARTIAL}")
    try:
        yield temporary
        for file in (temporary, *temporary.rglob("*")):
            _sync(file)
        # From here on nothing is left to tidy away, should the process be killed.
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            _remove(temporary)
        raise
    _sync(path.parent)


def _sync(path: Path) -> None:
    """Makes a file's content, or a folder's list of names, durable."""
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
    """Writes a JSON file, whole or not at all; an object with its checksum, which `read_json` takes out again."""
    text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
    write_bytes(path, checksums.seal_object(text) if value and isinstance(value, dict) else text.encode())


def read_json(path: Path | str) -> Any:
    """Reads a JSON file, or gives None where there is none.

    Raises:
        UserError: the file is not JSON, not what was written, or cannot be read.
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
    """What is in a folder, in one look; nothing where there is no folder."""
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
        # The partitioning is off: a folder named like key=value must not become a column.
        return parquet.read_table(path, partitioning=None, columns=columns and list(columns))
    except FileNotFoundError:
        raise UserError(f"{path}: missing; run the sweep again: only this is made anew") from None
    except (ArrowException, OSError, ValueError):
        raise UserError(f"{path}: damaged; delete it and run the sweep again: only this is made anew") from None


def read_columns(path: Path, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """The rows of some columns of a Parquet file, without what `read_table` imports for it, which takes half a second.

    Raises:
        UserError: the file is missing or damaged, or has no such columns.
    """
    from pyarrow import ArrowException, parquet

    try:
        checksums.check_table(path, columns)
        with parquet.ParquetFile(path) as file:
            values = file.read(columns=list(columns), use_threads=False).to_pydict()
        return zip(*(values[column] for column in columns), strict=True)
    except (ArrowException, OSError, KeyError, ValueError):
        raise UserError(f"{path}: missing or damaged; run the sweep again: only this is made anew") from None
