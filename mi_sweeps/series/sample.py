"""Reads slices of a checkpoint's weights by byte ranges: the same in every checkpoint, and never a whole file.

A safetensors file (https://huggingface.co/docs/safetensors) is 8 bytes with the length of the header, the header as
JSON, and the tensors.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

Read = Callable[[str, int, int], bytes]
"""Reads a checkpoint's file from one byte up to, but not including, another."""

FIRST = 2**16
"""Bytes of a file to read first; they contain most headers."""
HEADER_MOST = 100 * 2**20
"""The format's own limit on the header."""

MATRICES = 8
"""How many matrices to sample; two per file if there are many files."""
ELEMENTS = 2**15
"""How many elements to read from the start of each matrix: 1 MB of fp32 weights per checkpoint, half of that in
16 bits."""
TOTAL = 2**26
"""The most elements to read from all checkpoints together, so that they fit into 256 MB."""

TYPES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
"""The types whose values are read, and their sizes in bytes."""
MANTISSA = {"F64": 52, "F32": 23, "F16": 10, "BF16": 7}

NOT_LEARNED = re.compile(r"(bias|norm\w*\.weight|inv_freq|cos_cached|sin_cached|position_ids)$")
"""Tensors that are not weight matrices: biases (in older files also causal masks), norms, position tables."""


@dataclass(frozen=True)
class Tensor:
    """Where a tensor is stored."""

    file: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    """Its first byte in the file."""


def header(file: str, size: int, read: Read) -> dict[str, Tensor]:
    """Reads the header of a safetensors file.

    Raises:
        ValueError: it is not such a file, or is truncated.
    """
    start = read(file, 0, min(FIRST, size))
    length = int.from_bytes(start[:8], "little")
    if len(start) < 8 or length > min(HEADER_MOST, size - 8):
        raise ValueError(f"{file}: is not a complete safetensors file")
    if 8 + length > len(start):
        start += read(file, len(start), 8 + length)
    try:
        content: dict[str, Any] = json.loads(start[8 : 8 + length])
        content.pop("__metadata__", None)
        ends = [0, *(int(entry["data_offsets"][1]) for entry in content.values())]
        tensors = {
            name: Tensor(file, entry["dtype"], tuple(entry["shape"]), 8 + length + entry["data_offsets"][0])
            for name, entry in content.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise ValueError(f"{file}: its safetensors header is damaged") from None
    if 8 + length + max(ends) != size:
        raise ValueError(f"{file}: has {size:,} bytes, but its header says {8 + length + max(ends):,}")
    return tensors


def choose(tensors: Mapping[str, Tensor]) -> list[str]:
    """Chooses some matrices by name, spread evenly over the layers and kinds in each file."""
    files = sorted({tensor.file for tensor in tensors.values()})
    chosen = []
    for file in files:
        names = sorted(
            (name for name in tensors if tensors[name].file == file and is_matrix(name, tensors[name])), key=_natural
        )
        many = min(len(names), max(MATRICES // len(files), 2))
        chosen += [names[round(place)] for place in np.linspace(0, len(names) - 1, many)]
    return chosen


def values(tensor: Tensor, read: Read, most: int = ELEMENTS) -> NDArray[np.float32]:
    """Reads the first elements of a tensor, at most `most`.

    Raises:
        ValueError: the file ends too early.
    """
    size = TYPES[tensor.dtype]
    count = min(most, prod(tensor.shape))
    stored = read(tensor.file, tensor.start, tensor.start + count * size)
    if len(stored) != count * size:
        raise ValueError(f"{tensor.file}: ends within its tensors")
    if tensor.dtype == "BF16":  # The upper half of an fp32 number.
        return (np.frombuffer(stored, "<u2").astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(stored, {8: "<f8", 4: "<f4", 2: "<f2"}[size]).astype(np.float32)


def is_matrix(name: str, tensor: Tensor) -> bool:
    """Whether a tensor is a learned matrix."""
    wide = [size for size in tensor.shape if size > 1]
    return tensor.dtype in TYPES and len(wide) >= 2 and not NOT_LEARNED.search(name)


def _natural(name: str) -> list[tuple[int, str]]:
    """A sort key that puts h.2 before h.10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
