"""The hub's cache, as huggingface_hub lays it out: `refs/NAME` has a commit, `snapshots/COMMIT/FILE` is a link to
`blobs/HASH`, and `.no_exist/COMMIT/FILE` and `trees/COMMIT.json` show which files a commit lacks."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mi_sweeps.models import ADAPTER, ADAPTER_WEIGHTS, WEIGHTS
from mi_sweeps.store.files import write_bytes

SETTINGS = (
    *("config.json", ADAPTER),
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
)
"""The configuration of a model and its tokenizer."""

VOCABULARY = (
    *("vocab.json", "merges.txt", "vocab.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model"),
    *("tekken.json", "tiktoken.model", "vocab.tiktoken"),
)
"""The files of a tokenizer without a tokenizer.json."""

COMMIT = re.compile(r"[0-9a-f]{40}")

HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")

_named: dict[tuple[str, str], set[str]] = {}
"""The branches and tags of a commit, by the hub: written into the cache with its files, so that these are found
without the hub."""


@dataclass(frozen=True)
class HubFile:
    """A file at a commit."""

    size: int
    """In bytes."""
    hash: str
    """Hex: the SHA-256 of large files (weights), git's blob id of others. The hub gives it, and the cache names blobs
    by it."""


def folder(repo: str) -> Path:
    """A model's folder in the cache."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE).expanduser() / f"models--{repo.replace('/', '--')}"


def snapshot(repo: str, commit: str) -> Path:
    """The folder with the files of a commit."""
    return folder(repo) / "snapshots" / commit


def refs(repo: str) -> dict[str, str]:
    """The branches and tags that the cache knows, with their commits."""
    place = folder(repo) / "refs"
    names = sorted(str(file.relative_to(place)) for file in place.rglob("*"))
    return {name: commit for name in names if (commit := ref(repo, name))}


def ref(repo: str, name: str) -> str | None:
    """The commit of a branch or tag."""
    try:
        commit = (folder(repo) / "refs" / name).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None
    return commit if COMMIT.fullmatch(commit) else None


def remember(repo: str, commit: str, name: str) -> None:
    """Notes a branch or tag of a commit."""
    _named.setdefault((repo, commit), set()).add(name)


def write_refs(repo: str, commit: str) -> None:
    """Writes a commit's branches and tags, except those under which the cache has files of another commit."""
    for name in _named.get((repo, commit), ()):
        known = ref(repo, name)
        if known is None or not snapshot(repo, known).is_dir():
            with suppress(OSError):
                write_bytes(folder(repo) / "refs" / name, commit.encode())


def clear(repo: str, commit: str) -> None:
    """Removes what is left of a commit without files: its folder, branches and tags."""
    with suppress(OSError):
        snapshot(repo, commit).rmdir()
    for name in _named.get((repo, commit), ()):
        if not snapshot(repo, commit).exists() and ref(repo, name) == commit:
            (folder(repo) / "refs" / name).unlink(missing_ok=True)


def known(repo: str, commit: str, *, weights: bool = True) -> tuple[dict[str, HubFile], bool]:
    """The needed files that the cache has, and whether it knows that these are all."""
    there, absent = snapshot(repo, commit), folder(repo) / ".no_exist" / commit
    try:
        names = [file.name for file in there.iterdir() if file.is_file()]
    except OSError:
        return {}, False
    listed = _listed(folder(repo), commit)
    unsure = []

    def is_there(name: str) -> bool:
        if name in names:
            return True
        if name in listed if listed is not None else not (absent / name).is_file():
            unsure.append(name)
        return False

    found = {}
    for name in needed([*names, *(listed or ())], is_there, weights=weights):
        file = _file(there / name)
        if file is None:
            unsure.append(name)
        else:
            found[name] = file
    return found, not unsure and enough(found, weights=weights)


def enough(files: Collection[str], *, weights: bool = True) -> bool:
    """Whether a model, or without weights its tokenizer, can be loaded from files."""
    if weights:
        return "config.json" in files and bool(weights_of(files))
    return any(name in files for name in ("tokenizer.json", *VOCABULARY))


def needed(names: Collection[str], is_there: Callable[[str], bool], *, weights: bool = True) -> Iterator[str]:
    """The files to load: weights, configuration and tokenizer; without weights, what the tokenizer needs. The hub and
    its cache share this rule.

    Args:
        names: all files that are known to exist, from which shards are picked.
        is_there: whether a file exists.
    """
    if weights:
        first = next((name for name in WEIGHTS if is_there(name)), None)
        if first:
            yield first
            if first.endswith(".index.json"):
                yield from _shards(names, first)
        yield from filter(is_there, ADAPTER_WEIGHTS)
    yield from filter(is_there, SETTINGS)
    yield from ("tokenizer.json",) if is_there("tokenizer.json") else filter(is_there, VOCABULARY)


def weights_of(files: Collection[str]) -> list[str]:
    """The files with a model's weights: one, or an index and its shards. Empty without weights, or for an index without
    shards."""
    first = next((name for name in WEIGHTS if name in files), None)
    if first is None:
        return []
    if not first.endswith(".index.json"):
        return [first]
    shards = _shards(files, first)
    return [first, *shards] if shards else []


def _shards(names: Collection[str], index: str) -> list[str]:
    stem, kind = index.removesuffix(".index.json").split(".")
    shard = re.compile(rf"{re.escape(stem)}-\d+-of-\d+\.{kind}")
    return sorted({name for name in names if shard.fullmatch(name)})


def _listed(folder: Path, commit: str) -> Collection[str] | None:
    """The list of a commit's files that huggingface_hub wrote when it downloaded them."""
    try:
        noted = json.loads((folder / "trees" / f"{commit}.json").read_text(encoding="utf-8"))
        return list(noted["files"]) if noted["format_version"] == 1 else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def blob(path: Path) -> Path | None:
    """The target of a snapshot's link; it may be a link itself, where models share files."""
    return Path(os.path.abspath(path.parent / path.readlink())) if path.is_symlink() else None


def _file(path: Path) -> HubFile | None:
    try:
        size, named = path.stat().st_size, blob(path)
        return HubFile(size, named.name) if named and HASH.fullmatch(named.name) else _copied(path, size)
    except OSError:
        return None


def _copied(path: Path, size: int) -> HubFile:
    """A file of a snapshot without links, as in a copied cache, with the hash that the hub would give: SHA-256 for
    weights, git's blob id for text."""
    large = path.suffix in (".safetensors", ".bin", ".model") or size > 10_000_000
    total = hashlib.sha256() if large else hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            total.update(block)
    return HubFile(size, total.hexdigest())
