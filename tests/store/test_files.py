"""Files appear whole or not at all, whatever interrupts their writing."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from mi_sweeps.errors import UserError
from mi_sweeps.store.files import (
    OLD,
    clear_partial,
    read_columns,
    read_json,
    read_table,
    replacing,
    write_json,
    write_table,
)

TABLE = pa.table({"step": [0, 8], "value": [0.5, 0.75]})


def disk_full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("error", [ValueError("a bug"), KeyboardInterrupt(), OSError(errno.ENOSPC, "full")])
@pytest.mark.parametrize("old", [None, "old"])
def test_interrupted_write_leaves_what_was_there(tmp_path: Path, error: BaseException, old: str | None) -> None:
    path = tmp_path / "file.txt"
    if old:
        path.write_text(old)
    with pytest.raises(type(error)), replacing(path) as temporary:
        temporary.write_text("half of the n")
        raise error
    assert [file.name for file in tmp_path.iterdir()] == (["file.txt"] if old else [])
    assert not old or path.read_text() == old


def test_interrupted_write_of_a_folder_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    (path / "old").touch()
    with pytest.raises(ValueError, match="a bug"), replacing(path) as temporary:
        temporary.mkdir()
        (temporary / "new").touch()
        raise ValueError("a bug")
    assert [file.name for file in tmp_path.rglob("*")] == ["folder", "old"]


def test_success_leaves_the_new_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "made" / "on the way" / "file.txt"
    for text in ("old", "new"):
        with replacing(path) as temporary:
            temporary.write_text(text)
            assert not path.exists() or path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_that_came_meanwhile_stays_for_whoever_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    with pytest.raises(OSError, match="not empty"), replacing(path) as slow:
        slow.mkdir()
        (slow / "slow").touch()
        with replacing(path) as quick:
            quick.mkdir()
            (quick / "quick").touch()
    assert [file.name for file in tmp_path.rglob("*")] == ["folder", "quick"]


def test_two_writers_at_once_leave_one_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    with replacing(path) as slow:
        slow.write_text("slow")
        with replacing(path) as quick:
            quick.write_text("quick")
        assert path.read_text() == "quick"
    assert path.read_text() == "slow"
    assert list(tmp_path.iterdir()) == [path]


def test_all_contents_are_on_the_disk_before_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: set[int] = set()
    renamed: list[set[int]] = []
    rename = os.replace

    def replace(old: Path, new: Path) -> None:
        renamed.append(set(synced))
        rename(old, new)

    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.add(os.fstat(descriptor).st_ino))
    monkeypatch.setattr(os, "replace", replace)
    with replacing(tmp_path / "folder") as temporary:
        (temporary / "deep" / "deeper").mkdir(parents=True)
        for place in (temporary, temporary / "deep", temporary / "deep" / "deeper"):
            (place / "file").write_text("content")
        inodes = {path.stat().st_ino for path in (temporary, *temporary.rglob("*"))}
    assert inodes <= renamed[0]
    assert tmp_path.stat().st_ino in synced


def test_a_process_that_is_killed_leaves_no_file(tmp_path: Path) -> None:
    killed = """
import os, pathlib, signal, sys
from mi_sweeps.store.files import replacing

with replacing(pathlib.Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    path = tmp_path / "status.json"
    subprocess.run([sys.executable, "-c", killed, str(path)], check=False)
    assert not path.exists()
    write_json(path, "whole")
    assert read_json(path) == "whole"


def test_nothing_is_left_of_a_process_that_is_killed_right_after_a_file_took_its_place(tmp_path: Path) -> None:
    killed = """
import os, pathlib, signal, sys
from mi_sweeps.store import files

replace = os.replace
os.replace = lambda *paths: (replace(*paths), os.kill(os.getpid(), signal.SIGKILL))
files.write_json(pathlib.Path(sys.argv[1]), "whole")
"""
    subprocess.run([sys.executable, "-c", killed, str(tmp_path / "status.json")], check=False)
    assert [file.name for file in tmp_path.iterdir()] == ["status.json"]


def test_what_is_old_is_cleared_where_others_may_write(tmp_path: Path) -> None:
    for name, age in (("old", 7200), ("new", 60)):
        for partial in (tmp_path / f".{name}.json.1.partial", tmp_path / f".{name}.2.partial"):
            if partial.suffixes[0] == ".json":
                partial.touch()
            else:
                partial.mkdir()
                (partial / "file").touch()
            os.utime(partial, (time.time() - age,) * 2)
    clear_partial(tmp_path, time.time() - OLD)
    assert sorted(file.name for file in tmp_path.iterdir()) == [".new.2.partial", ".new.json.1.partial"]
    clear_partial(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("when", ["fsync", "replace"])
def test_disk_that_is_full_only_when_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    write_json(tmp_path / "status.json", {"state": "running"})
    monkeypatch.setattr(os, when, disk_full)
    with pytest.raises(OSError, match="No space left"):
        write_json(tmp_path / "status.json", {"state": "done"})
    assert [file.name for file in tmp_path.iterdir()] == ["status.json"]
    assert read_json(tmp_path / "status.json") == {"state": "running"}


def test_full_disk_leaves_no_half_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write_some(path: Path, content: bytes) -> None:
        with path.open("wb") as stream:
            stream.write(content[:-8])
        disk_full()

    monkeypatch.setattr(Path, "write_bytes", write_some)
    with pytest.raises(OSError, match="No space left"):
        write_table(tmp_path / "metrics.parquet", TABLE)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError):
        write_json(tmp_path / "file" / "status.json", {})
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_json_comes_back(tmp_path: Path) -> None:
    value = {"names": ["Zoë", "名"], "lr": 1e-4, "none": None, "nested": {"steps": [0, 8]}}
    write_json(tmp_path / "value.json", value)
    assert read_json(tmp_path / "value.json") == value
    assert (tmp_path / "value.json").read_bytes().decode("utf-8").endswith("}\n")


def test_no_json_is_none(tmp_path: Path) -> None:
    assert read_json(tmp_path / "nothing.json") is None


@pytest.mark.parametrize("content", [b"", b'{"state": "do', b"\xff\xfe\x00"])
def test_damaged_json_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "status.json").write_bytes(content)
    with pytest.raises(UserError, match=r"\A.*status\.json: not valid JSON; delete it and run the sweep again\Z"):
        read_json(tmp_path / "status.json")


def test_table_comes_back_without_the_columns_of_its_path(tmp_path: Path) -> None:
    path = tmp_path / "lr=3" / "metrics.parquet"
    write_table(path, TABLE)
    assert read_table(path).equals(TABLE)


def test_missing_table_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"\A.*metrics\.parquet: missing; run the sweep again.*\Z"):
        read_table(tmp_path / "metrics.parquet")


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
def test_truncated_table_is_one_line(tmp_path: Path, keep: float) -> None:
    path = tmp_path / "metrics.parquet"
    write_table(path, TABLE)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(UserError, match=r"\A.*metrics\.parquet: damaged; delete it and run the sweep again.*\Z"):
        read_table(path)


def test_columns_are_read_as_rows(tmp_path: Path) -> None:
    write_table(tmp_path / "a.parquet", TABLE)
    assert list(read_columns(tmp_path / "a.parquet", ["value", "step"])) == [(0.5, 0), (0.75, 8)]


@pytest.mark.parametrize("content", [None, b"not a table", "no such column"])
def test_columns_that_cannot_be_read_are_one_line(tmp_path: Path, content: bytes | str | None) -> None:
    path = tmp_path / "a.parquet"
    if isinstance(content, str):
        write_table(path, TABLE.select(["step"]))
    elif content:
        path.write_bytes(content)
    with pytest.raises(UserError, match="a.parquet: missing or damaged; run the sweep again"):
        read_columns(path, ["step", "value"])
