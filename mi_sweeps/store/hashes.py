"""What large files, and models on the hub, were found to be: remembered beside the results in
`OUTPUT/data/contents.json`, so that not every command has to read or ask it all anew.

Nothing depends on it: what is not in it, or no longer as it says, is looked at again. `run` and its jobs write it, and
`plan` only reads it.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from mi_sweeps.errors import UserError
from mi_sweeps.store.files import read_json, write_json

LARGE = 1_000_000
"""Bytes of a file that is worth it."""

SETTLED = 2.0
"""Seconds after which another write gives a file another time, on whatever file system."""

Version = tuple[str, int, int, int]
"""A file: its path, size, and when its content and anything of it changed (ns). Who puts another file in its place with
the old one's time changes the second of these."""

HEX = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")

_files: dict[str, tuple[Version, str]] = {}
"""SHA-256 of files by path."""

_commits: dict[str, dict[str, tuple[int, str]]] = {}
"""Sizes and hashes of a model's files on the hub, by `MODEL@COMMIT`."""

_refs: dict[str, dict[str, str]] = {}
"""All branches and tags of a model on the hub with their commits, as the hub said last."""

_recalled: set[Path] = set()
"""Folders of results that were looked into."""


def version(path: Path) -> Version:
    """A file as it is now.

    Raises:
        OSError: it is not there.
    """
    stat = path.stat()
    return str(path.absolute()), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def sha256(file: Version) -> str:
    """Hex SHA-256 of a file's content.

    Raises:
        OSError: it cannot be read.
    """
    path, size, _, changed = file
    known = _files.get(path)
    if known and known[0] == file:
        return known[1]
    total = hashlib.sha256()
    with open(path, "rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            total.update(block)
    if size >= LARGE and time.time() - changed / 1e9 > SETTLED:
        _files[path] = file, total.hexdigest()
    return total.hexdigest()


def digest(value: Any) -> str:
    """Hex SHA-256 of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@cache
def _hash_files(files: tuple[Version, ...], names: bool) -> str:
    """SHA-256 over names and contents."""
    total = hashlib.sha256()
    for file in files:
        total.update(f"{Path(file[0]).name if names else ''}\0{sha256(file)}\0".encode())
    return total.hexdigest()


def hash_files(paths: Iterable[Path], *, names: bool = True) -> str:
    """SHA-256 over the names and contents of files; each version of a file is read once in a process.

    Raises:
        UserError: a file is missing or cannot be read.
    """
    try:
        return _hash_files(tuple(version(path) for path in sorted(paths)), names)
    except OSError as error:
        raise UserError(f"{error.filename}: {error.strerror}; give the path of an existing, readable file") from None


def at(repo: str, commit: str) -> Mapping[str, tuple[int, str]] | None:
    """Sizes and hashes of a model's files at a commit, by name, if they were told before."""
    return _commits.get(f"{repo}@{commit}")


def tell(repo: str, commit: str, files: Mapping[str, tuple[int, str]]) -> None:
    """Has these remembered: the content at a commit never changes."""
    _commits[f"{repo}@{commit}"] = dict(files)


def refs_of(repo: str) -> Mapping[str, str] | None:
    """All branches and tags of a model with their commits, if they were told before."""
    return _refs.get(repo)


def tell_refs(repo: str, refs: Mapping[str, str]) -> None:
    """Has these remembered, for where the hub cannot be reached."""
    _refs[repo] = dict(refs)


def recall(output: Path) -> None:
    """Takes over what is remembered in a folder of results; once in a process."""
    if output in _recalled:
        return
    _recalled.add(output)
    files, commits, refs = _load(output)
    _files.update({path: known for path, known in files.items() if path not in _files})
    _commits.update(commits)
    _refs.update({repo: known for repo, known in refs.items() if repo not in _refs})


def keep(output: Path) -> None:
    """Writes down what this process knows, beside what others wrote.

    Raises:
        OSError: it cannot be written.
    """
    known = _load(output)
    files, commits, refs = every = known[0] | _files, known[1] | _commits, known[2] | _refs
    if every != known:
        told = {path: [*file[1:], hash] for path, (file, hash) in sorted(files.items())}
        write_json(_path(output), {"files": told, "commits": dict(sorted(commits.items())), "refs": refs})


def _path(output: Path) -> Path:
    return output / "data" / "contents.json"


def _load(
    output: Path,
) -> tuple[dict[str, tuple[Version, str]], dict[str, dict[str, tuple[int, str]]], dict[str, dict[str, str]]]:
    """What is damaged is left out."""
    try:
        values = read_json(_path(output))
    except UserError:
        return {}, {}, {}
    files: dict[str, tuple[Version, str]] = {}
    commits: dict[str, dict[str, tuple[int, str]]] = {}
    for path, told in _part(values, "files").items():
        with suppress(TypeError, ValueError):
            size, modified, changed, hash = told
            if all(type(number) is int for number in (size, modified, changed)) and HEX.fullmatch(hash):
                files[path] = (path, size, modified, changed), hash
    for key, told in _part(values, "commits").items():
        with suppress(AttributeError, TypeError, ValueError):
            found = {name: (size, hash) for name, (size, hash) in told.items()}
            if found and all(type(size) is int and HEX.fullmatch(hash) for size, hash in found.values()):
                commits[key] = found
    refs = {}
    for repo, told in _part(values, "refs").items():
        with suppress(AttributeError, TypeError):
            if told and all(HEX.fullmatch(commit) for commit in told.values()):
                refs[repo] = told
    return files, commits, refs


def _part(values: Any, name: str) -> dict[str, Any]:
    part = values.get(name) if isinstance(values, dict) else None
    return part if isinstance(part, dict) else {}
