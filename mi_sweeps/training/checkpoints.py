"""Checkpoints on disk, and the rolling state that an unfinished run resumes from.

Everything is safetensors; nothing is unpickled. The resume state holds fp32 weights and the optimiser's
moments, so a resumed run ends with the same bits as one that was never interrupted.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
import xxhash
from jaxtyping import Float, Shaped
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mi_sweeps.errors import UserError
from mi_sweeps.store.files import replacing

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Storage = Literal["full", "delta", "adapter"]
"""`full`: fp32 weights. `delta`: their bf16 difference from the base model. `adapter`: two fp32 factors for each
adapted weight, NAME.left and NAME.right, whose product is added to the base model's weight."""

Tensors = dict[str, Shaped[Tensor, "..."]]

METADATA = re.compile(r"(storage=(?:full|delta|adapter)|step=\d+)(?: ([0-9a-f]{16}))?")
"""The single metadata entry of a file: its value and a checksum, which files of earlier versions lack."""

log = logging.getLogger(__name__)


def parameters(model: PreTrainedModel) -> Tensors:
    """The model's own parameters by name, tied ones once. Writing to them changes the model."""
    return dict(model.named_parameters())


def copy_to_cpu(weights: Mapping[str, Tensor]) -> Tensors:
    """A copy on the CPU."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in weights.items()}


def save_weights(path: Path, weights: Mapping[str, Tensor], base: Mapping[str, Tensor], storage: Storage) -> None:
    """Writes a checkpoint atomically.

    Args:
        weights: all weights of the model, or an adapter's factors.
        base: the model's weights before training; used for `delta` only.
    """
    tensors = copy_to_cpu(weights)
    if storage == "delta":
        tensors = {name: (tensor - base[name]).to(torch.bfloat16) for name, tensor in tensors.items()}
    _save(path, tensors, "storage", storage)


@torch.no_grad()
def load_weights(path: Path, weights: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> None:
    """Copies a checkpoint into a model's parameters in place. An adapter is merged in fp32.

    Args:
        weights: the parameters of the plain model, however it was trained.
        base: their values before training; unused if the file holds all weights.

    Raises:
        UserError: the file is missing, damaged or from another model.
    """
    tensors, metadata = _load(path)
    storage = metadata["storage"]
    factors = {f"{name}.{side}" for name in weights for side in ("left", "right")} & tensors.keys()
    if tensors.keys() != (factors if storage == "adapter" else weights.keys()):
        raise UserError(f"{path}: is from another model; delete its run folder and run the sweep again")
    for name, parameter in weights.items():
        if storage == "full":
            parameter.copy_(tensors[name])
        elif storage == "delta":
            parameter.copy_(base[name] + tensors[name].float())
        else:
            parameter.copy_(base[name])
            if f"{name}.left" in factors:
                left, right = (tensors[f"{name}.{side}"].to(parameter.device) for side in ("left", "right"))
                parameter.copy_(merged(parameter, left, right))


def merged(
    weight: Float[Tensor, "d_first d_second"],
    left: Float[Tensor, "d_first rank"],
    right: Float[Tensor, "rank d_second"],
) -> Float[Tensor, "d_first d_second"]:
    """A weight with its adapter merged in."""
    return weight + left @ right


def distance(path: Path, other: Path) -> float | None:
    """The largest absolute difference between two checkpoints; None if they are equal bit for bit.

    Raises:
        UserError: one is missing or damaged, or they differ in model or storage.
    """
    (ours, storage), (theirs, other_storage) = _load(path), _load(other)
    shapes, other_shapes = ({name: (one.shape, one.dtype) for name, one in some.items()} for some in (ours, theirs))
    if (storage, shapes) != (other_storage, other_shapes):
        raise UserError(f"{path}: does not hold the same tensors as {other}")
    if all(torch.equal(_bytes(ours[name]), _bytes(theirs[name])) for name in ours):
        return None
    return max((ours[name].double() - theirs[name].double()).abs().max().item() for name in ours)


def checksum(path: Path) -> str:
    """The stored hash of a checkpoint's tensors, their names, types and shapes."""
    with safe_open(path, framework="pt") as stream:
        (text,) = stream.metadata().values()
    return str(text).partition(" ")[2]


def save_resume(
    path: Path, step: int, learned: Mapping[str, Tensor], optimizer: torch.optim.AdamW, device: torch.device
) -> None:
    """Writes everything that the next step depends on. Data order needs no state, being a function of the step.

    Args:
        learned: the optimiser's parameters, in fp32; all others have not changed since the first step.
    """
    tensors = {f"weight.{name}": tensor for name, tensor in copy_to_cpu(learned).items()}
    for name, parameter in learned.items():
        tensors |= {f"{key}.{name}": value.detach().cpu() for key, value in optimizer.state.get(parameter, {}).items()}
    tensors["random.cpu"] = torch.get_rng_state()
    if device.type == "cuda":
        tensors["random.cuda"] = torch.cuda.get_rng_state(device)
    _save(path, tensors, "step", str(step))


@torch.no_grad()
def load_resume(
    path: Path, learned: Mapping[str, Tensor], optimizer: torch.optim.AdamW, device: torch.device
) -> int | None:
    """Restores weights, optimiser and random states. Returns the step, or None if there is nothing to resume from."""
    if not path.exists():
        return None
    try:
        tensors, metadata = _load(path)
    except UserError as error:
        log.warning("%s; starting from step 0", error)
        return None
    for name, parameter in learned.items():
        parameter.copy_(tensors[f"weight.{name}"])
        optimizer.state[parameter] = {
            key: tensors[f"{key}.{name}"].to("cpu" if key == "step" else device)
            for key in ("step", "exp_avg", "exp_avg_sq")
            if f"{key}.{name}" in tensors
        }
    torch.set_rng_state(tensors["random.cpu"])
    if device.type == "cuda" and "random.cuda" in tensors:
        torch.cuda.set_rng_state(tensors["random.cuda"], device)
    return int(metadata["step"])


def _save(path: Path, tensors: Tensors, key: str, value: str) -> None:
    with replacing(path) as temporary:
        try:
            tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
            # A single key: safetensors writes several in arbitrary order, and equal checkpoints must be equal files.
            save_file(tensors, temporary, {key: f"{value} {_checksum(tensors, f'{key}={value}')}"})
        except SafetensorError as error:
            # The library wraps operating-system errors in its own type; a full disk must be recognised as one.
            raise _os_error(error, path) from error
        # safetensors makes files that only the owner can read, but labs share results.
        temporary.chmod(path.parent.stat().st_mode & 0o666)


def _checksum(tensors: Tensors, metadata: str) -> str:
    """The hash of metadata, names, types, shapes and contents; safetensors itself checks only the header."""
    total = xxhash.xxh3_64(f"{metadata}\0".encode())
    for name, tensor in sorted(tensors.items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        total.update(_bytes(tensor).numpy())
    return total.hexdigest()


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1).view(torch.uint8)


def _os_error(error: SafetensorError, path: Path) -> Exception:
    found = re.search(r"\(os error (\d+)\)", str(error))
    return OSError(int(found.group(1)), os.strerror(int(found.group(1))), str(path)) if found else error


def _load(path: Path) -> tuple[Tensors, dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as stream:
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
            ((key, text),) = stream.metadata().items()
        found = METADATA.fullmatch(f"{key}={text}")
        if not found or found[2] not in (None, _checksum(tensors, found[1])):
            raise SafetensorError("its checksum is wrong")
        return tensors, {key: text.partition(" ")[0]}
    except FileNotFoundError:
        raise UserError(f"{path}: missing; run the sweep again with --retry to compute this run again") from None
    except (SafetensorError, OSError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path}: damaged ({error}); delete it and run the sweep again with --retry to compute this run again"
        ) from None
