"""A run trained once more with more of its checkpoints kept: proof that it is the same run.

`checkpoint.zoom_of` names the run that it must be. Wherever both keep a checkpoint the stored tensors are compared bit
for bit, so the checkpoints between two that are equal are those that the first run had, and did not keep.
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
    """Compares the checkpoint of a step that was just kept with that of the run that this one must be, and adds it to
    the proof in run.json. Where that run kept none at this step there is nothing to compare.

    Raises:
        UserError: it is another run, or that run's last checkpoint that was to be compared is gone. The checkpoint is
            removed.
    """
    original = _original(config, folder)
    if original is None:
        return
    theirs = original.checkpoint(step)
    if not theirs.exists():
        if step < config.last_step:
            return
        folder.checkpoint(step).unlink()
        raise UserError(f"{theirs}: gone, and it alone shows that this is the same run; zoom to an earlier one")
    apart = checkpoints.distance(folder.checkpoint(step), theirs)
    if apart is not None:
        folder.checkpoint(step).unlink()
        raise not_the_same(config, folder, step, f"weights differ by up to {apart:.1e}")
    about = read_json(folder.about)
    about["zoom"]["same"][str(step)] = checkpoints.checksum(folder.checkpoint(step))
    write_json(folder.about, about)


def proof(config: Config, known: Mapping[str, Any], step: int) -> dict[str, Any]:
    """What run.json says of a zoomed run that goes on from a step: `zoom`, with the run that it is (`of`), and of every
    step that was compared the hash of the stored tensors (`same`; XXH3, as in the files).

    Args:
        known: what run.json says so far.
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
    """The error of a run that is not the one that it must be, with what may be the reason."""
    original = _original(config, folder)
    assert original is not None
    began = (read_json(original.about) or {}).get("versions", {}).get("torch")
    host = original.status_on_disk().host
    return UserError(
        f"zoom: step {step}: {why}: this is not run {original.run_id}, which was trained with torch {began} on {host}; "
        f"here it is torch {version('torch')} on {socket.gethostname()}; zoom on the same machine with the same "
        "launcher.threads"
    )


def _original(config: Config, folder: RunFolder) -> RunFolder | None:
    """The run that this one must be, if any."""
    name = config.checkpoint.zoom_of
    return None if name is None else RunFolder(folder.path.parent / name)
