"""Reads each checkpoint of a series and reports what is wrong with it on its own."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mi_sweeps.series import sample
from mi_sweeps.series.finding import Finding, Kind
from mi_sweeps.series.sample import Tensor
from mi_sweeps.series.sources import Source


@dataclass(frozen=True)
class InspectedCheckpoint:
    """A checkpoint and what was read from it."""

    source: Source
    tensors: Mapping[str, Tensor]
    values: Mapping[str, NDArray[np.float32]]
    findings: tuple[Finding, ...] = ()

    @property
    def step(self) -> int:
        """The checkpoint's step."""
        return self.source.step

    @property
    def whole(self) -> bool:
        """Whether the checkpoint is usable so far."""
        return not any(one.missing for one in self.findings)

    def found(self, kind: Kind, reason: str, missing: bool = True) -> InspectedCheckpoint:
        """A copy with one more finding."""
        return replace(self, findings=(*self.findings, Finding(self.step, kind, reason, missing)))


def look_at(ordered: Sequence[Source], pool: Executor) -> tuple[list[InspectedCheckpoint], dict[str, Tensor]]:
    """Reads the same slices of the same matrices from each checkpoint. Also returns those matrices' headers, from a
    checkpoint with the usual layout."""
    looks = _layout(list(pool.map(_header, ordered)))
    first: Mapping[str, Tensor] = next((look.tensors for look in looks if look.whole and look.tensors), {})
    chosen = {name: first[name] for name in sample.choose(first)}
    most = min(sample.ELEMENTS, sample.TOTAL // max(len(chosen) * len(looks), 1))
    return _zeros(list(pool.map(lambda look: _values(look, list(chosen), most), looks))), chosen


def _header(source: Source) -> InspectedCheckpoint:
    """Reads where the tensors of a checkpoint are; none if its files cannot be read in parts."""
    look = InspectedCheckpoint(source, {}, {})
    if not source.weights:
        return look.found("damaged", f"{source.name} has no weights")
    tensors: dict[str, Tensor] = {}
    for name, file in source.weights.items():
        try:
            tensors |= sample.header(name, file.size, source.read) if name.endswith(".safetensors") else {}
            if not file.size:
                raise ValueError(f"{name}: is empty")
        except ValueError as error:
            return look.found("damaged", str(error))
    return replace(look, tensors=tensors)


def _layout(looks: list[InspectedCheckpoint]) -> list[InspectedCheckpoint]:
    """Reports checkpoints whose tensors differ from most others' in name, shape or type."""

    def shapes(look: InspectedCheckpoint) -> dict[str, tuple[int, ...]]:
        return {name: tensor.shape for name, tensor in look.tensors.items() if sample.is_matrix(name, tensor)}

    def dtypes(look: InspectedCheckpoint) -> str:
        return "/".join(
            sorted({tensor.dtype for name, tensor in look.tensors.items() if sample.is_matrix(name, tensor)})
        )

    readable = [look for look in looks if look.tensors]
    if not readable:
        return looks
    usual = json.loads(Counter(json.dumps(shapes(look), sort_keys=True) for look in readable).most_common(1)[0][0])
    usual = {name: tuple(shape) for name, shape in usual.items()}
    dtype = Counter(dtypes(look) for look in readable).most_common(1)[0][0]
    named = []
    for look in looks:
        if look.tensors and (found := shapes(look)) != usual:
            name = min(name for name in found.keys() | usual.keys() if found.get(name) != usual.get(name))
            here, there = found.get(name, "not there"), usual.get(name, "not there")
            look = look.found("layout", f"{name} is {here}, but {there} in most of the others")
        elif look.tensors and dtypes(look) != dtype:
            reason = f"its weights are stored as {dtypes(look)}, those of most others as {dtype}"
            look = look.found("layout", reason, missing=False)
        named.append(look)
    return named


def _values(look: InspectedCheckpoint, names: Sequence[str], most: int) -> InspectedCheckpoint:
    """Reads a checkpoint's slices."""
    if not (look.tensors and look.whole):
        return look
    try:
        values = {name: sample.values(look.tensors[name], look.source.read, most) for name in names}
    except ValueError as error:
        return look.found("damaged", str(error))
    for name, some in values.items():
        if not np.isfinite(some).all():
            return look.found("values", f"{name} has values that are NaN or infinite")
    return replace(look, values=values)


def _zeros(looks: list[InspectedCheckpoint]) -> list[InspectedCheckpoint]:
    """Reports checkpoints with zeros where an earlier one has weights. Zeros at the start are fine: some matrices begin
    so."""
    learned: set[str] = set()
    named = []
    for look in looks:
        zero = {name for name, some in look.values.items() if not some.any()}
        if look.values and len(zero) == len(look.values):
            look = look.found("values", "all of its weights that were read are zeros")
        elif lost := sorted(zero & learned):
            look = look.found("values", f"{lost[0]} is all zeros, unlike at an earlier step")
        else:
            learned |= look.values.keys() - zero
        named.append(look)
    return named
