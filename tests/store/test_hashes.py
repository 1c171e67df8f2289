"""Remembered hashes of files and models save time and are never wrong."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from mi_sweeps.store import hashes


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"_files": {}, "_commits": {}, "_refs": {}, "_recalled": set()}
    for name, value in {**known, "LARGE": 4, "SETTLED": -1.0}.items():
        monkeypatch.setattr(hashes, name, value)


def a_new_process() -> None:
    for known in (hashes._files, hashes._commits, hashes._refs, hashes._recalled):
        known.clear()


@pytest.fixture
def large(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"weights")
    return path


def read(path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, bool]:
    """The hash of a file, and whether it was read for that."""
    made: list[object] = []
    real = hashlib.sha256
    with monkeypatch.context() as patch:
        patch.setattr(hashlib, "sha256", lambda: made.append(1) or real())
        return hashes.sha256(hashes.version(path)), bool(made)


def test_a_large_file_is_read_once_and_again_when_it_changed(
    large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, stat = tmp_path / "outputs", large.stat()
    assert read(large, monkeypatch) == (hashlib.sha256(b"weights").hexdigest(), True)
    hashes.keep(output)
    a_new_process()
    assert read(large, monkeypatch)[1]
    a_new_process()
    hashes.recall(output)
    assert read(large, monkeypatch) == (hashlib.sha256(b"weights").hexdigest(), False)
    # Another content of the same length, with the old one's time.
    large.with_name("other").write_bytes(b"changed")
    os.utime(large.with_name("other"), ns=(stat.st_atime_ns, stat.st_mtime_ns))
    large.with_name("other").replace(large)
    assert large.stat().st_mtime_ns == stat.st_mtime_ns
    assert read(large, monkeypatch) == (hashlib.sha256(b"changed").hexdigest(), True)
    hashes.keep(output)
    a_new_process()
    hashes.recall(output)
    assert read(large, monkeypatch) == (hashlib.sha256(b"changed").hexdigest(), False)


def test_a_file_that_may_change_within_its_time_is_not_remembered(
    large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hashes, "SETTLED", 3600.0)
    hashes.sha256(hashes.version(large))
    hashes.keep(tmp_path / "outputs")
    assert not (tmp_path / "outputs").exists()


def test_processes_do_not_write_over_each_other(tmp_path: Path) -> None:
    for commit in ("1" * 40, "2" * 40):
        hashes.remember("some/model", commit, {"config.json": (2, "a" * 40)})
        hashes.keep(tmp_path)
        a_new_process()
    hashes.recall(tmp_path)
    for commit in ("1" * 40, "2" * 40):
        assert hashes.at("some/model", commit) == {"config.json": (2, "a" * 40)}
    before = (tmp_path / "data" / "contents.json").stat().st_mtime_ns
    hashes.keep(tmp_path)  # Nothing new.
    assert (tmp_path / "data" / "contents.json").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1]",
        '{"files": 3, "commits": []}',
        '{"files": {"PATH": [1, 2]}, "commits": {"some/model@1": {}}}',
        '{"files": {"PATH": [7, "2", 3, "00"]}, "commits": {"some/model@1": {"config.json": [1, "no hash"]}}}',
        '{"files": {"PATH": null}, "commits": {"some/model@1": {"config.json": 1}}}',
        '{"commits": {"some/model@1": {"config.json": ["2", "' + "a" * 40 + '"]}}, "checksum": "0000000000000000"}',
        '{"refs": {"some/model": {"main": "no commit"}, "another/model": {}, "a/third": 3}}',
    ],
)
def test_what_is_damaged_is_looked_at_again(
    large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    path = tmp_path / "data" / "contents.json"
    path.parent.mkdir()
    path.write_text(text.replace("PATH", str(large)))
    hashes.recall(tmp_path)
    assert hashes.at("some/model", "1") is None
    assert not hashes._refs
    assert read(large, monkeypatch) == (hashlib.sha256(b"weights").hexdigest(), True)
    hashes.keep(tmp_path)
    assert str(large) in json.loads(path.read_text())["files"]
