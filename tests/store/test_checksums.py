"""Damaged files are never read as data, and files of earlier versions can still be read."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from mi_sweeps.errors import UserError
from mi_sweeps.store import checksums
from mi_sweeps.store.files import read_columns, read_json, read_table, write_json, write_table

VALUE = {"state": "done", "seconds": 12.5, "names": ["Zoë", "名"], "nested": {"steps": [0, 8]}}
TABLE = pa.table(
    {
        "step": list(range(100)),
        "metric": ["loss", "win_rate"] * 50,
        "value": [random.Random(index).random() for index in range(100)],
        "by_prompt": pa.array([[0.5, index, None] for index in range(100)], pa.list_(pa.float32())),
    }
)


def flips(content: bytes, count: int) -> list[bytes]:
    """Copies in which up to three bytes are others."""
    choice = random.Random(0)
    found = []
    for _ in range(count):
        damaged = bytearray(content)
        for _ in range(choice.choice([1, 1, 2, 3])):
            damaged[choice.randrange(len(damaged))] ^= choice.randrange(1, 256)
        if damaged != content:
            found.append(bytes(damaged))
    return found


def test_a_json_file_with_another_byte_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    write_json(path, VALUE)
    for content in flips(path.read_bytes(), 300):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"status\.json: .*; delete it and run the sweep again"):
            read_json(path)


def test_a_json_file_that_is_cut_is_refused_or_whole(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    write_json(path, VALUE)
    content = path.read_bytes()
    for length in range(0, len(content), 3):
        path.write_bytes(content[:length])
        with pytest.raises(UserError, match="status.json"):
            read_json(path)


@pytest.mark.parametrize("value", [VALUE, {}, {"a": 1}, [1], "text", None, {"checksums": 1}])
def test_json_of_earlier_versions_is_read(tmp_path: Path, value: Any) -> None:
    (tmp_path / "a.json").write_text(json.dumps(value, indent=1) + "\n")
    assert read_json(tmp_path / "a.json") == value
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value


def test_others_read_the_json_as_ever(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", VALUE)
    assert json.loads((tmp_path / "a.json").read_text()).items() > VALUE.items()


def test_json_that_is_nested_too_deeply_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match=r"a\.json: not valid JSON"):
        read_json(tmp_path / "a.json")


def test_a_table_with_another_byte_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_table(path, TABLE)
    for content in flips(path.read_bytes(), 300):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"a\.parquet: damaged; delete it"):
            read_table(path)


@pytest.mark.parametrize("start", range(0, 4096, 256))
def test_a_table_with_a_block_of_zeros_is_refused(tmp_path: Path, start: int) -> None:
    path = tmp_path / "a.parquet"
    write_table(path, TABLE)
    content = path.read_bytes()
    path.write_bytes(content[:start] + bytes(len(content[start : start + 256])) + content[start + 256 :])
    if path.read_bytes() != content:
        with pytest.raises(UserError, match=r"a\.parquet: damaged"):
            read_table(path)


def test_some_columns_are_checked_without_the_others(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_table(path, TABLE)
    content = bytearray(path.read_bytes())
    metadata = parquet.read_metadata(path)
    content[metadata.row_group(0).column(3).data_page_offset + 30] ^= 1
    path.write_bytes(content)
    assert read_table(path, ["step", "value"]).equals(TABLE.select(["step", "value"]))
    assert len(list(read_columns(path, ["step"]))) == 100
    for read in (read_table, read_columns):
        with pytest.raises(UserError, match="damaged"):
            read(path, ["by_prompt"])


def test_others_read_the_table_as_ever(tmp_path: Path) -> None:
    write_table(tmp_path / "a.parquet", TABLE)
    assert parquet.read_table(tmp_path / "a.parquet").equals(TABLE)


def test_tables_of_earlier_versions_are_read(tmp_path: Path) -> None:
    parquet.write_table(TABLE, tmp_path / "a.parquet")
    assert read_table(tmp_path / "a.parquet").equals(TABLE)


def test_an_empty_table_has_a_seal(tmp_path: Path) -> None:
    write_table(tmp_path / "a.parquet", TABLE.slice(0, 0))
    checksums.check_table(tmp_path / "a.parquet")
    assert read_table(tmp_path / "a.parquet").num_rows == 0
