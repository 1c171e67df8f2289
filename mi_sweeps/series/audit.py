"""Audits a series of checkpoints before it is trusted: finds copies under the names of other steps, weights out of
order, a step 0 that the others do not descend from, and damaged files.

Reads the headers, about a megabyte of weights and the published hashes of each checkpoint, but no whole file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import xxhash

from mi_sweeps import models
from mi_sweeps.series import duplicates, geometry, labels, sources
from mi_sweeps.series.finding import Finding
from mi_sweeps.series.geometry import Geometry
from mi_sweeps.series.inspection import InspectedCheckpoint, look_at
from mi_sweeps.series.sample import Tensor
from mi_sweeps.series.sources import Source

if TYPE_CHECKING:
    from mi_sweeps.series.checkpoints import Series

THREADS = 8
"""How many checkpoints are read at once."""
RETURNED = 0.1
"""Equal weights at two steps are copies, whatever else differs between the files, if at least this fraction of them is
different at a step in between. A smaller fraction can return by chance, at the resolution of the weights' type."""


@dataclass(frozen=True)
class Line:
    """A checkpoint in the table of an audit."""

    step: int
    name: str
    bytes: int
    """Size of its weights."""
    hash: str
    """Published hash of its first weights file; empty if there is none."""
    change: float | None
    """Distance of the sampled weights from those of the previous checkpoint, relative to their norm; None if either was
    not read."""


@dataclass(frozen=True)
class Audit:
    """The result of auditing a series."""

    lines: tuple[Line, ...]
    findings: tuple[Finding, ...]
    unseen: tuple[str, ...] = ()
    """Notes on what could not be checked."""

    @property
    def missing_steps(self) -> dict[int, str]:
        """The missing steps, and why each is missing."""
        found: dict[int, list[str]] = {}
        for one in self.findings:
            if one.missing:
                found.setdefault(one.step, []).append(one.reason)
        return {step: "; ".join(reasons) for step, reasons in found.items()}


def of(series: Series) -> Audit:
    """Audits a series. A step without a checkpoint is a finding too.

    Raises:
        UserError: the hub cannot be asked about the checkpoints.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(sources.of, series.checkpoints))
    # An adapter's tensors differ from its base's, and the base may be in the series as the checkpoint before training.
    adapters = [source for source in found if models.ADAPTER in source.files]
    wholes = [source for source in found if models.ADAPTER not in source.files]
    parts = [audit(some) for some in (adapters, wholes) if some]
    unseen = [line for part in parts for line in part.unseen]
    if adapters and wholes:
        steps = duplicates.spans([source.step for source in wholes])
        unseen.append(f"{steps}: whole weights, not compared with the adapters of the other steps")
    missing = [Finding(step, "missing", why, missing=True) for step, why in series.missing_steps.items()]
    lines = [line for part in parts for line in part.lines]
    lines += [Line(step, "", 0, "", None) for step in series.missing_steps]
    return Audit(
        tuple(sorted(lines, key=lambda line: line.step)),
        tuple(sorted([*missing, *(one for part in parts for one in part.findings)], key=_order)),
        tuple(unseen),
    )


def audit(checkpoints: Iterable[Source], threads: int = THREADS) -> Audit:
    """Audits checkpoints, one per step.

    Raises:
        OSError, UserError: as raised by `Source.read`.
    """
    with ThreadPoolExecutor(threads) as pool:
        ordered = sorted(checkpoints, key=lambda source: source.step)
        seen, matrices = look_at(ordered, pool)
        texts = labels.texts(ordered, pool)
    found = [one for look in seen for one in look.findings]
    read = [look for look in seen if look.whole and look.values]
    unread = [look for look in seen if look.whole and not look.values]
    misplaced = _weights(read, matrices) + _weights(unread, {})
    wrong = {one.step for one in misplaced}
    descent = _descent([look for look in read if look.step not in wrong], matrices)
    found += misplaced + descent + labels.differing(ordered, texts)
    changes = _changes(read, matrices)
    lines = [
        Line(
            source.step,
            source.name,
            sum(file.size for file in source.weights.values()),
            next((file.hash or "" for file in source.weights.values()), ""),
            changes.get(source.step),
        )
        for source in ordered
    ]
    return Audit(tuple(lines), tuple(sorted(found, key=_order)), tuple(_unseen(read, unread)))


def _order(one: Finding) -> tuple[int, bool]:
    return one.step, not one.missing


def _unseen(read: Sequence[InspectedCheckpoint], unread: Sequence[InspectedCheckpoint]) -> Iterator[str]:
    """Notes on what could not be checked."""
    if unread:
        steps = duplicates.spans([look.step for look in unread])
        yield f"{steps}: only whole files were compared, because parts of them (such as .bin files) cannot be read"
    if len(read) > 1 and all(
        np.array_equal(one.values[name], read[0].values[name]) for one in read for name in one.values
    ):
        yield "the order of the checkpoints could not be checked: the sampled matrices are the same in all"


def _weights(looks: list[InspectedCheckpoint], matrices: Mapping[str, Tensor]) -> list[Finding]:
    """Finds copies, mixtures of several checkpoints, and checkpoints out of order."""
    if len(looks) < 2:
        return []
    places = {tuple(look.tensors[name].file for name in matrices) for look in looks}
    files = {tuple(look.source.weights) for look in looks}
    # If all are split into the same files, each file could come from a different checkpoint.
    alike = len(files) == 1 and len(places) <= 1
    steps = [look.step for look in looks]
    out: dict[str | None, dict[int, duplicates.Unusable]] = {}
    for part in looks[0].source.weights if alike else (None,):
        within = {name: tensor for name, tensor in matrices.items() if part is None or tensor.file == part}
        keys = _keys(looks, part, within)
        if not alike or len(looks[0].source.weights) == 1 or len(set(keys)) > 1:  # Else this file never changes.
            out[part] = duplicates.examine(steps, keys, _geometry(looks, within) if within else None)
    if not out:  # No file ever changes.
        out[None] = duplicates.examine(steps, _keys(looks, None, matrices), None)
    found = []
    for place, look in enumerate(looks):
        wrong = {part: one[place] for part, one in out.items() if place in one}
        if not wrong:
            continue
        part, one = next(iter(wrong.items()))
        same = {(other.kind, other.reason.split(";")[0]) for other in wrong.values()}
        if len(wrong) == len(out) and len(same) == 1:
            found.append(Finding(look.step, one.kind, f"its weights {one.reason}", missing=True))
            continue
        more = f"; likewise in {len(wrong) - 1} more of its {len(out)} files" if len(wrong) > 1 else ""
        found.append(Finding(look.step, "mixed", f"the weights in {part} {one.reason}{more}", missing=True))
    return found


def _keys(looks: Sequence[InspectedCheckpoint], part: str | None, names: Collection[str]) -> list[str]:
    """A key for the weights of each checkpoint: equal weights have equal keys."""

    def whole(place: int) -> str:
        look = looks[place]
        return " ".join(look.source.hash(file) for file in ([part] if part else look.source.weights))

    if not names:
        return [whole(place) for place in range(len(looks))]
    # Adding 0 turns -0.0 into 0.0.
    read = [xxhash.xxh3_128_hexdigest(b"".join((look.values[name] + 0).tobytes() for name in names)) for look in looks]
    keys = list(read)
    for key, many in Counter(read).items():
        places = [place for place, one in enumerate(read) if one == key]
        if many > 1 and not _returns(looks, names, places):
            for place in places:
                keys[place] = whole(place)
    return keys


def _returns(looks: Sequence[InspectedCheckpoint], names: Collection[str], places: Sequence[int]) -> bool:
    """Whether the weights were different in between."""
    here = looks[places[0]].values
    total = sum(here[name].size for name in names)
    between = [looks[place].values for place in range(places[0], places[-1]) if place not in places]
    return any(
        sum(np.count_nonzero(there[name] != here[name]) for name in names) > RETURNED * total for there in between
    )


def _geometry(looks: Sequence[InspectedCheckpoint], matrices: Mapping[str, Tensor]) -> Geometry:
    return geometry.measure([look.values for look in looks], matrices)


def _changes(looks: Sequence[InspectedCheckpoint], matrices: Mapping[str, Tensor]) -> dict[int, float]:
    """The distance from the previous checkpoint, by step."""
    return {
        after.step: float(_geometry((before, after), matrices).distances[0, 1]) for before, after in pairwise(looks)
    }


def _descent(looks: Sequence[InspectedCheckpoint], matrices: Mapping[str, Tensor]) -> list[Finding]:
    """Finds the checkpoints that are unrelated to the rest of the series."""
    if len(looks) < 2:
        return []
    whole = _geometry(looks, matrices)
    related = np.diagonal(whole.correlations, 1)
    lengths = np.diff([look.step for look in looks])
    found = []
    for place in np.nonzero(np.abs(related) <= whole.chance)[0]:
        before, after = looks[: place + 1], looks[place + 1 :]
        pair = f"those of steps {before[-1].step} and {after[0].step} are unrelated (correlation {related[place]:.4f})"
        # Training itself may have erased the correlation, unless as many steps elsewhere did not.
        if not (related[lengths >= lengths[place]] >= duplicates.KEPT).any():
            reason = f"its weights: {pair}: either two runs, or training left nothing of the earlier weights"
            found.append(Finding(after[0].step, "descent", reason, missing=False))
            continue
        fewer = [before, after] if len(before) == len(after) else [min(before, after, key=len)]
        reason = f"its weights are from another run than the others: {pair}"
        found += [Finding(look.step, "descent", reason, missing=True) for side in fewer for look in side]
    return found
