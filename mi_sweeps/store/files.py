"""Files that appear whole or not at all: written beside their place, synced, then renamed."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mi_sweeps.errors import UserError

if TYPE_CHECKING:
    import pyarrow


PARTIAL = ".partial"


def clear_partial(folder: Path) -> None:
    """Removes what writers that were killed have left in a folder where nobody writes now."""
    for partial in folder.glob(f".*{PARTIAL}"):
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a temporary path to write a file or folder to; it takes `path`'s place if the block succeeds.

    Raises:
        OSError: the disk is full, the folder is read-only, a folder is already at `path`, ...; nothing is left
            behind then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=PARTIAL, dir=path.parent))
    try:
        target = temporary / path.name
        yield target
        for file in (target, *target.rglob("*")):
            _sync(file)
        os.replace(target, path)
        _sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


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
    """Writes a JSON file, whole or not at all."""
    write_bytes(path, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())


def read_json(path: Path | str) -> Any:
    """Reads a JSON file, or gives None where there is none.

    Raises:
        UserError: the file is not JSON.
    """
    try:
        with open(path, "rb") as stream:
            return json.loads(stream.read())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError:
        raise UserError(f"{path}: not valid JSON; delete it and run the sweep again") from None


def names(folder: Path | str) -> frozenset[str]:
    """What is in a folder, in one look; nothing where there is no folder."""
    try:
        return frozenset(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return frozenset()


def write_table(path: Path, table: pyarrow.Table) -> None:
    """Writes a Parquet file, whole or not at all."""
    from pyarrow import parquet

    with replacing(path) as temporary:
        parquet.write_table(table, temporary)


def read_table(path: Path, columns: Sequence[str] | None = None) -> pyarrow.Table:
    """Reads a Parquet file, or some of its columns.

    Raises:
        UserError: the file is missing or damaged.
    """
    from pyarrow import ArrowInvalid, parquet

    try:
        # The partitioning is off: a folder named like key=value must not become a column.
        return parquet.read_table(path, partitioning=None, columns=columns and list(columns))
    except FileNotFoundError:
        raise UserError(f"{path}: missing; run the sweep again: only this is made anew") from None
    except (ArrowInvalid, OSError):
        raise UserError(f"{path}: damaged; delete it and run the sweep again: only this is made anew") from None


def read_columns(path: Path, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """The rows of some columns of a Parquet file, without what `read_table` imports for it, which takes half a second.

    Raises:
        UserError: the file is missing or damaged, or has no such columns.
    """
    from pyarrow import ArrowException, parquet

    try:
        with parquet.ParquetFile(path) as file:
            values = file.read(columns=list(columns), use_threads=False).to_pydict()
        return zip(*(values[column] for column in columns), strict=True)
    except (ArrowException, OSError, KeyError):
        raise UserError(f"{path}: missing or damaged; run the sweep again: only this is made anew") from None
