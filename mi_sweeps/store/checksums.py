"""Checksums inside stored files. They catch what the formats do not: a flipped bit, a block of zeros.

Files of earlier versions have none and are read without a check. The hash is XXH3: no protection against forgery, but
at several GB/s it costs nothing compared with the disk.

JSON: the last key of an object, `checksum`, covers all text before it. Parquet: a seal between the columns and the
footer, which other readers skip, holds the hash of each column chunk, so that some columns can be checked without
reading the others, and a hash of these hashes and the footer. Safetensors: `mi_sweeps.training.checkpoints`.
Parquet's own page checksums do not cover the footer, and Arrow does not check them by default.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import xxhash

if TYPE_CHECKING:
    from pyarrow import Table
    from pyarrow.parquet import FileMetaData

HASH = 8
"""Bytes of a hash."""

BEFORE, AFTER = b',\n "checksum": "', b'"\n}\n'
"""The text around the hexadecimal digits at the end of an object."""

MAGIC = b"xxh3seal"
"""The end of a Parquet file's seal."""

SEALED = {b"sealed": b"xxh3"}
"""Marks in the footer that a Parquet file has a seal, so that an overwritten seal is noticed."""


class Damaged(ValueError):
    """A file differs from what was written."""


def seal_object(text: str) -> bytes:
    """Adds the checksum to a JSON object, as `json.dumps` writes it with an indent.

    Args:
        text: the object; its last line is `}`.
    """
    body = text.removesuffix("\n}\n").encode()
    return body + BEFORE + xxhash.xxh3_64_hexdigest(body).encode() + AFTER


def parse(content: bytes, **options: Any) -> Any:
    """Parses the content of a JSON file, checks its checksum and removes it.

    Args:
        options: of `json.loads`.

    Raises:
        ValueError: it is not JSON, or (`Damaged`) its checksum is wrong.
    """
    try:
        value = json.loads(content, **options)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    start = len(content) - len(BEFORE) - 2 * HASH - len(AFTER)
    found = value.pop("checksum", None) if isinstance(value, dict) else None
    # A damaged key must not make a file look like one of an earlier version.
    if found is not None or (start > 0 and _resembles(content[start : start + len(BEFORE)], BEFORE)):
        body = content[: max(start, 0)]
        if content != body + BEFORE + xxhash.xxh3_64_hexdigest(body).encode() + AFTER:
            raise Damaged("its checksum is wrong")
    return value


def seal_table(content: bytes) -> bytes:
    """Adds the seal to a Parquet file whose schema has `SEALED`."""
    from pyarrow import BufferReader, parquet

    start = _footer(content)
    metadata = parquet.read_metadata(BufferReader(content))
    hashes = b"".join(xxhash.xxh3_64_digest(content[begin:end]) for _, begin, end in _chunks(metadata))
    footer = content[start:]
    return content[:start] + hashes + xxhash.xxh3_64_digest(hashes + footer) + MAGIC + footer


def check_table(path: Path, columns: Collection[str] | None = None) -> None:
    """Checks a Parquet file, or some of its columns, against its seal.

    Raises:
        Damaged: they differ.
        pyarrow.ArrowException, OSError: it cannot be read at all.
    """
    from pyarrow import parquet

    with open(path, "rb") as stream:
        length = stream.seek(0, 2)
        end = _footer(_at(stream, max(length - HASH, 0), HASH), length)
        tail = _at(stream, max(end - len(MAGIC), 0), length)
        sealed = _resembles(tail[: len(MAGIC)], MAGIC)
        metadata = parquet.read_metadata(stream)
        if not (sealed or SEALED.items() <= (metadata.metadata or {}).items()):
            return
        if _at(stream, 0, 4) != b"PAR1":
            raise Damaged("it does not begin as it should")
        # Checked before any column chunk is read: a damaged footer may crash Arrow.
        size = HASH * (metadata.num_row_groups * metadata.num_columns + 1)
        start = end - len(MAGIC) - size
        seal = _at(stream, start, size) if start >= 0 else b""
        hashes, last = seal[:-HASH], seal[-HASH:]
        if tail[: len(MAGIC)] != MAGIC or xxhash.xxh3_64_digest(hashes + tail[len(MAGIC) :]) != last:
            raise Damaged("the checksum of its footer is wrong")
        chunks = list(_chunks(metadata))
        for number, (name, begin, stop) in enumerate(chunks):
            if columns is not None and name not in columns:
                continue
            found = xxhash.xxh3_64_digest(_at(stream, begin, stop - begin))
            if found != hashes[HASH * number : HASH * (number + 1)]:
                raise Damaged(f"the checksum of its column {name} is wrong")


def sealed_schema(table: Table) -> Table:
    """Marks in a table's schema that its file will have a seal."""
    return table.replace_schema_metadata({**(table.schema.metadata or {}), **SEALED})


def _footer(tail: bytes, length: int | None = None) -> int:
    """Returns where the footer of a Parquet file begins, from its last bytes."""
    return (len(tail) if length is None else length) - 8 - int.from_bytes(tail[-8:-4], "little")


def _chunks(metadata: FileMetaData) -> Iterator[tuple[str, int, int]]:
    """Yields the column, start and end of each column chunk."""
    for group in range(metadata.num_row_groups):
        for index in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(index)
            begin = min(chunk.data_page_offset, chunk.dictionary_page_offset or chunk.data_page_offset)
            yield chunk.path_in_schema.split(".")[0], begin, begin + chunk.total_compressed_size


def _at(stream: BinaryIO, start: int, size: int) -> bytes:
    stream.seek(max(start, 0))
    return stream.read(size)


def _resembles(found: bytes, meant: bytes) -> bool:
    """Whether at least half of the bytes are the same."""
    return 2 * sum(a == b for a, b in zip(found, meant, strict=False)) >= len(meant)
