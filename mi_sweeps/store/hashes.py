"""Hashes of files and of models on the hub. Those that are slow to get are cached in `OUTPUT/data/contents.json`.

The cache may be deleted: a hash that is missing or out of date is computed again. `run` and its jobs write it; `plan`
only reads it.
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
"""Smallest size in bytes of a file whose hash is cached."""

SETTLED = 2.0
"""Seconds after which a further write changes a file's time stamp on any file system."""

ID_LENGTH = 12
"""Hex digits of an id. With 48 bits, the probability that two of 10,000 runs share an id is 2e-7."""

Version = tuple[str, int, int, int]
"""A file's path, size, mtime and ctime (ns). Replacing a file and restoring its mtime changes the ctime."""

HEX = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")

_files: dict[str, tuple[Version, str]] = {}
"""SHA-256 of files by path."""

_commits: dict[str, dict[str, tuple[int, str]]] = {}
"""Sizes and hashes of a model's files on the hub, by `MODEL@COMMIT`."""

_refs: dict[str, dict[str, str]] = {}
"""Branches and tags of a model on the hub with their commits, from the hub's last answer."""

_recalled: set[Path] = set()
"""Output folders whose cache was loaded."""


def version(path: Path) -> Version:
    """Returns the current version of a file.

    Raises:
        OSError: it does not exist.
    """
    stat = path.stat()
    return str(path.absolute()), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def sha256(file: Version) -> str:
    """Returns the hex SHA-256 of a file's content.

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
    """Returns the hex SHA-256 of a JSON value; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@cache
def _hash_files(files: tuple[Version, ...], names: bool) -> str:
    """SHA-256 over names and contents."""
    total = hashlib.sha256()
    for file in files:
        total.update(f"{Path(file[0]).name if names else ''}\0{sha256(file)}\0".encode())
    return total.hexdigest()


def hash_files(paths: Iterable[Path], *, names: bool = True) -> str:
    """Returns the hex SHA-256 over the names and contents of files; a process reads each version of a file once.

    Raises:
        UserError: a file is missing or cannot be read.
    """
    try:
        return _hash_files(tuple(version(path) for path in sorted(paths)), names)
    except OSError as error:
        raise UserError(f"{error.filename}: {error.strerror}; give the path of an existing, readable file") from None


def at(repo: str, commit: str) -> Mapping[str, tuple[int, str]] | None:
    """Returns the cached sizes and hashes of a model's files at a commit, by name."""
    return _commits.get(f"{repo}@{commit}")


def remember(repo: str, commit: str, files: Mapping[str, tuple[int, str]]) -> None:
    """Caches sizes and hashes of a model's files: the content at a commit never changes."""
    _commits[f"{repo}@{commit}"] = dict(files)


def refs_of(repo: str) -> Mapping[str, str] | None:
    """Returns the cached branches and tags of a model with their commits."""
    return _refs.get(repo)


def remember_refs(repo: str, refs: Mapping[str, str]) -> None:
    """Caches branches and tags, for when the hub cannot be reached."""
    _refs[repo] = dict(refs)


def recall(output: Path) -> None:
    """Loads the cache of an output folder, once in a process."""
    if output in _recalled:
        return
    _recalled.add(output)
    files, commits, refs = _load(output)
    _files.update({path: known for path, known in files.items() if path not in _files})
    _commits.update(commits)
    _refs.update({repo: known for repo, known in refs.items() if repo not in _refs})


def keep(output: Path) -> None:
    """Merges what this process knows into an output folder's cache.

    Raises:
        OSError: it cannot be written.
    """
    known = _load(output)
    files, commits, refs = every = known[0] | _files, known[1] | _commits, known[2] | _refs
    if every != known:
        stored = {path: [*file[1:], hash] for path, (file, hash) in sorted(files.items())}
        write_json(_path(output), {"files": stored, "commits": dict(sorted(commits.items())), "refs": refs})


def _path(output: Path) -> Path:
    return output / "data" / "contents.json"


def _load(
    output: Path,
) -> tuple[dict[str, tuple[Version, str]], dict[str, dict[str, tuple[int, str]]], dict[str, dict[str, str]]]:
    """Reads a cache; damaged entries are left out."""
    try:
        values = read_json(_path(output))
    except UserError:
        return {}, {}, {}
    files: dict[str, tuple[Version, str]] = {}
    commits: dict[str, dict[str, tuple[int, str]]] = {}
    for path, stored in _part(values, "files").items():
        with suppress(TypeError, ValueError):
            size, modified, changed, hash = stored
            if all(type(number) is int for number in (size, modified, changed)) and HEX.fullmatch(hash):
                files[path] = (path, size, modified, changed), hash
    for key, stored in _part(values, "commits").items():
        with suppress(AttributeError, TypeError, ValueError):
            found = {name: (size, hash) for name, (size, hash) in stored.items()}
            if found and all(type(size) is int and HEX.fullmatch(hash) for size, hash in found.values()):
                commits[key] = found
    refs = {}
    for repo, stored in _part(values, "refs").items():
        with suppress(AttributeError, TypeError):
            if stored and all(HEX.fullmatch(commit) for commit in stored.values()):
                refs[repo] = stored
    return files, commits, refs


def _part(values: Any, name: str) -> dict[str, Any]:
    part = values.get(name) if isinstance(values, dict) else None
    return part if isinstance(part, dict) else {}
