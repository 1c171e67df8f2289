"""Checkpoints as files: their sizes, the hashes that are stated of them, and ranged reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import xxhash

from mi_sweeps.models import ADAPTER, ADAPTER_WEIGHTS, hub

if TYPE_CHECKING:
    from mi_sweeps.config import ModelConfig
    from mi_sweeps.series.checkpoints import Checkpoint

CHUNK = 2**24


class File(NamedTuple):
    """A file of a checkpoint."""

    size: int
    hash: str | None = None
    """Of its content, where that is stated."""


@dataclass(frozen=True)
class Source:
    """A checkpoint as files."""

    step: int
    name: str
    """For messages."""
    files: Mapping[str, File]
    read: Callable[[str, int, int], bytes]
    """Reads a file from one byte up to another."""

    @cached_property
    def weights(self) -> dict[str, File]:
        """The files that its weights are loaded from."""
        adapter = [name for name in ADAPTER_WEIGHTS if name in self.files][:1]
        names = adapter if ADAPTER in self.files else hub.weights_of(self.files.keys())
        return {name: self.files[name] for name in names if not name.endswith(".json")}

    def hash(self, name: str) -> str:
        """That of a file's content; reads all of it where none is stated."""
        file = self.files[name]
        if file.hash:
            return file.hash
        digest = xxhash.xxh3_128()
        for start in range(0, file.size, CHUNK):
            digest.update(self.read(name, start, min(start + CHUNK, file.size)))
        return digest.hexdigest()


def of(checkpoint: Checkpoint) -> Source:
    """A checkpoint of a series.

    Raises:
        UserError: neither hub nor cache can tell what it is.
    """
    model = checkpoint.model
    if model.hub is None:
        assert model.path is not None
        found = folder(checkpoint.step, Path(model.path), checkpoint.name)
        return replace(found, files=_own(model, found.files))
    repo, commit = model.hub, str(model.revision)
    files = {name: File(file.size, file.hash) for name, file in hub.files(repo, commit).items()}
    return Source(checkpoint.step, checkpoint.name, _own(model, files), partial(hub.read, repo, commit))


def _own(model: ModelConfig, files: Mapping[str, File]) -> Mapping[str, File]:
    """Without a tokenizer in whose place another one is used."""
    return {name: file for name, file in files.items() if not (model.tokenizer and name == "tokenizer.json")}


def folder(step: int, path: Path, name: str | None = None) -> Source:
    """A checkpoint in a folder."""

    def read(file: str, start: int, stop: int) -> bytes:
        with open(path / file, "rb") as stream:
            stream.seek(start)
            return stream.read(stop - start)

    files = {file.name: File(file.stat().st_size) for file in path.iterdir() if file.is_file()}
    return Source(step, name or str(path), files, read)
