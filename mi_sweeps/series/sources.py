"""Checkpoints as files: their sizes, published hashes, and reads of byte ranges."""

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
    """The published hash of its content, if any."""


@dataclass(frozen=True)
class Source:
    """A checkpoint as files."""

    step: int
    name: str
    """For messages."""
    files: Mapping[str, File]
    read: Callable[[str, int, int], bytes]
    """Reads a file from one byte up to, but not including, another."""

    @cached_property
    def weights(self) -> dict[str, File]:
        """The files that the weights are loaded from."""
        adapter = [name for name in ADAPTER_WEIGHTS if name in self.files][:1]
        names = adapter if ADAPTER in self.files else hub.weights_of(self.files.keys())
        return {name: self.files[name] for name in names if not name.endswith(".json")}

    def hash(self, name: str) -> str:
        """The hash of a file's content; reads the whole file if none is published."""
        file = self.files[name]
        if file.hash:
            return file.hash
        digest = xxhash.xxh3_128()
        for start in range(0, file.size, CHUNK):
            digest.update(self.read(name, start, min(start + CHUNK, file.size)))
        return digest.hexdigest()


def of(checkpoint: Checkpoint) -> Source:
    """The files of a checkpoint of a series.

    Raises:
        UserError: neither hub nor cache knows it.
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
    """Leaves out the tokenizer if another one is used."""
    return {name: file for name, file in files.items() if not (model.tokenizer and name == "tokenizer.json")}


def folder(step: int, path: Path, name: str | None = None) -> Source:
    """The files of a checkpoint in a folder."""

    def read(file: str, start: int, stop: int) -> bytes:
        with open(path / file, "rb") as stream:
            stream.seek(start)
            return stream.read(stop - start)

    files = {file.name: File(file.stat().st_size) for file in path.iterdir() if file.is_file()}
    return Source(step, name or str(path), files, read)
