"""Identity is content: ids that are short hashes of everything that changes a result, and of nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from mi_sweeps.config import FORMAT, Config, is_path
from mi_sweeps.errors import UserError
from mi_sweeps.models import weights_files

ID_LENGTH = 12
"""Hex digits of an id: 48 bits, so that among 10,000 runs two share one with probability 2e-7."""


def digest(value: Any) -> str:
    """Hex SHA-256 of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@cache
def _hash_files(files: tuple[tuple[str, int, int], ...], names: bool) -> str:
    """SHA-256 over names and contents; size and mtime are only there to make the cache honest."""
    total = hashlib.sha256()
    for name, _, _ in files:
        with open(name, "rb") as stream:
            content = hashlib.file_digest(stream, "sha256") if hasattr(hashlib, "file_digest") else _digest(stream)
        total.update(f"{Path(name).name if names else ''}\0{content.hexdigest()}\0".encode())
    return total.hexdigest()


def _digest(stream: Any) -> Any:
    # hashlib.file_digest came with Python 3.11.
    content = hashlib.sha256()
    for block in iter(lambda: stream.read(1 << 20), b""):
        content.update(block)
    return content


def hash_file(path: Path) -> str:
    """SHA-256 of a file's content, whatever its name."""
    return hash_files([path], names=False)


def hash_files(paths: Iterable[Path], *, names: bool = True) -> str:
    """SHA-256 over the names and contents of files; each version of a file is read once in a process.

    Raises:
        UserError: a file is missing or cannot be read.
    """
    try:
        stats = [(path, path.stat()) for path in sorted(paths)]
        return _hash_files(tuple((str(path), stat.st_size, stat.st_mtime_ns) for path, stat in stats), names)
    except OSError as error:
        raise UserError(f"{error.filename}: {error.strerror}; give the path of an existing, readable file") from None


def model_fingerprint(config: Config) -> str:
    """What the model is: the content of its files, or its name and revision on the hub."""
    if config.model.hub:
        return f"hub:{config.model.hub}@{config.model.revision or 'main'}"
    return hash_files(weights_files(config.model))


def data_fingerprint(config: Config) -> str:
    """What the prompts are: the task and its arguments, the content of the user's files, the tokenizer."""
    arguments = dict(config.task.arguments)
    for key in [key for key in arguments if is_path(key)]:
        value = arguments.pop(key)
        # The content counts, not where the file lies.
        arguments[f"{key} content"] = hash_file(Path(value)) if value else None
    return digest(
        {
            "format": FORMAT,
            "target": config.task.target,
            "arguments": arguments,
            "model": model_fingerprint(config),
            "prepend_bos": config.model.prepend_bos,
        }
    )[:ID_LENGTH]


def run_identity(config: Config) -> dict[str, Any]:
    """Everything that changes what a fine-tune computes."""
    return {
        "format": FORMAT,
        "model": model_fingerprint(config),
        "data": data_fingerprint(config),
        "optim": config.optim.model_dump(mode="json"),
        "schedule": {"target": config.schedule.target, **config.schedule.arguments},
        "train": config.train.model_dump(mode="json"),
        "checkpoints": config.checkpoint_steps,
        "storage": config.checkpoint.storage,
        "seed": config.seed,
    }


def run_id(config: Config) -> str:
    """Identity of one fine-tune."""
    return digest(run_identity(config))[:ID_LENGTH]


def patch_id(config: Config) -> str:
    """Identity of one patch job.

    Every engine is exact, so the engine is no part of it; neither are the checkpoints, each of which has a table of
    its own: more of them are added to those that are there.
    """
    patching = config.patching
    return digest(
        {
            "run": run_id(config),
            "corruption": config.corruption.name,
            "sites": sorted(set(patching.sites)),
            "heads": patching.heads,
            "exact": patching.exact,
            "approximate": patching.approximate,
            "paths": patching.paths and patching.paths.model_dump(mode="json"),
            "prompts": patching.prompts,
            "tf32": patching.tf32,
        }
    )[:ID_LENGTH]
