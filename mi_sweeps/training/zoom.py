"""Proves that a run trained again, with more checkpoints kept, is the same run.

`checkpoint.zoom_of` names the original. Wherever both keep a checkpoint, the stored tensors are compared bit for bit.
So the checkpoints between two equal ones are those that the original passed through but did not keep; with storage
`delta`, up to the rounding of what is stored: other fp32 weights may have the same bf16 difference.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from mi_sweeps.config import Config
from mi_sweeps.errors import UserError
from mi_sweeps.store.files import read_json, write_json
from mi_sweeps.store.folders import RunFolder
from mi_sweeps.training import checkpoints


def prove(config: Config, folder: RunFolder, step: int) -> None:
    """Compares a checkpoint that was just written with the original's, and adds it to the proof in run.json. Does
    nothing if the original kept none at this step.

    Raises:
        UserError: they differ, or the original's last checkpoint, which must be compared, is gone. The new checkpoint
            is removed.
    """
    original = _original(config, folder)
    if original is None:
        return
    theirs = original.checkpoint(step)
    if not theirs.exists():
        if step < config.last_step:
            return
        folder.checkpoint(step).unlink()
        raise UserError(f"{theirs}: gone, but only it can show that this is the same run; zoom to an earlier one")
    apart = checkpoints.distance(folder.checkpoint(step), theirs)
    if apart is not None:
        folder.checkpoint(step).unlink()
        raise not_the_same(config, folder, step, f"weights differ by up to {apart:.1e}")
    about = read_json(folder.about)
    about["zoom"]["same"][str(step)] = checkpoints.checksum(folder.checkpoint(step))
    write_json(folder.about, about)


def proof(config: Config, known: Mapping[str, Any], step: int) -> dict[str, Any]:
    """The entry `zoom` in run.json of a zoomed run that resumes from a step: the original run (`of`), and the hash of
    the stored tensors at every step compared (`same`; XXH3, as in the files).

    Args:
        known: the contents of run.json so far.
    """
    if config.checkpoint.zoom_of is None:
        return {}
    same = known.get("zoom", {}).get("same", {})
    return {
        "zoom": {
            "of": config.checkpoint.zoom_of,
            "same": {one: checksum for one, checksum in same.items() if int(one) <= step},
        }
    }


def not_the_same(config: Config, folder: RunFolder, step: int, why: str) -> UserError:
    """The error for a zoomed run that differs from its original, with the likely reason."""
    original = _original(config, folder)
    assert original is not None
    began = (read_json(original.about) or {}).get("versions", {}).get("torch")
    host = original.status_on_disk().host
    return UserError(
        f"zoom: step {step}: {why}: this is not run {original.run_id}, which was trained with torch {began} on {host}, "
        f"not with torch {version('torch')} on {socket.gethostname()}; zoom on the same machine with the same "
        "launcher.threads"
    )


def _original(config: Config, folder: RunFolder) -> RunFolder | None:
    """The original of a zoomed run, if it is one."""
    name = config.checkpoint.zoom_of
    return None if name is None else RunFolder(folder.path.parent / name)
