"""What is wrong with a series of checkpoints, before it is believed: copies under the names of other steps, weights
that are not of their place, a step 0 that the others do not come from, damaged files.

Headers and about a megabyte of weights are read of each checkpoint, and the hashes that are stated; no whole file.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import xxhash
from numpy.typing import NDArray

from mi_sweeps.series import contents, sample, sources
from mi_sweeps.series.contents import Geometry
from mi_sweeps.series.sample import Tensor
from mi_sweeps.series.sources import Source

if TYPE_CHECKING:
    from mi_sweeps.series.checkpoints import Series

THREADS = 8
"""So many checkpoints are read at once."""
RETURNED = 0.1
"""Weights that are the same at two steps are copies, whatever else differs between the files, where at least so many
differ at a step between. Fewer may come back by themselves, at the edge of their type's rounding."""
CHANCE = 6.0
"""Standard errors within which the correlation of unrelated matrices stays."""
IGNORED = ("transformers_version", "_name_or_path", "torch_dtype", "dtype", "use_cache", "architectures")
"""Keys of a config.json that do not change what is computed, or that are seen in the weights."""

Kind = Literal[
    "damaged", "values", "layout", "copy", "mixed", "order", "descent", "label", "config", "tokenizer", "missing"
]


@dataclass(frozen=True)
class Finding:
    """Something that is wrong with a checkpoint."""

    step: int
    kind: Kind
    reason: str
    gap: bool
    """Whether it must not be drawn as a point."""


@dataclass(frozen=True)
class Line:
    """A checkpoint in the table of an audit."""

    step: int
    name: str
    bytes: int
    """Of its weights."""
    hash: str
    """That of its first file of weights; empty where none is stated."""
    change: float | None
    """Distance of the weights that were read to those of the checkpoint before, relative to their norm; None where one
    of both was not read."""


@dataclass(frozen=True)
class Audit:
    """What is known of a series."""

    lines: tuple[Line, ...]
    findings: tuple[Finding, ...]

    @property
    def gaps(self) -> dict[int, str]:
        """The steps that are no points, and why."""
        found: dict[int, list[str]] = {}
        for one in self.findings:
            if one.gap:
                found.setdefault(one.step, []).append(one.reason)
        return {step: "; ".join(reasons) for step, reasons in found.items()}


@dataclass(frozen=True)
class _Look:
    """A checkpoint, and what was read of it."""

    source: Source
    tensors: Mapping[str, Tensor]
    values: Mapping[str, NDArray[np.float32]]
    findings: tuple[Finding, ...] = ()

    @property
    def step(self) -> int:
        return self.source.step

    def found(self, kind: Kind, reason: str, gap: bool = True) -> _Look:
        return replace(self, findings=(*self.findings, Finding(self.step, kind, reason, gap)))


def of(series: Series) -> Audit:
    """Looks at a series; steps that have no checkpoint are findings too.

    Raises:
        UserError: the hub cannot tell what its checkpoints are.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        made = audit(pool.map(sources.of, series.checkpoints))
    missing = [Finding(step, "missing", why, gap=True) for step, why in series.gaps.items()]
    lines = [*made.lines, *(Line(step, "", 0, "", None) for step in series.gaps)]
    return Audit(
        tuple(sorted(lines, key=lambda line: line.step)),
        tuple(sorted([*made.findings, *missing], key=lambda one: (one.step, not one.gap))),
    )


def audit(checkpoints: Iterable[Source], threads: int = THREADS) -> Audit:
    """Looks at the checkpoints of a series, one for a step.

    Raises:
        OSError, UserError: what `Source.read` raises.
    """
    with ThreadPoolExecutor(threads) as pool:
        ordered = sorted(checkpoints, key=lambda source: source.step)
        looks = _layout(list(pool.map(_header, ordered)))
        reference = next((look.tensors for look in looks if _whole(look) and look.tensors), {})
        names = sample.choose(reference)
        looks = _zeros(list(pool.map(lambda look: _values(look, names) if _whole(look) else look, looks)))
        texts = list(pool.map(_texts, ordered))
    good = [look for look in looks if _whole(look)]
    found = [one for look in looks for one in look.findings]
    misplaced = _weights(good, names, reference)
    wrong = {one.step for one in misplaced}
    descent = _descent([look for look in good if look.step not in wrong], names, reference)
    found += misplaced + descent + _differing(ordered, texts)
    changes = _changes(good, names, reference)
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
    return Audit(tuple(lines), tuple(sorted(found, key=lambda one: (one.step, not one.gap))))


def _whole(look: _Look) -> bool:
    return not any(one.gap for one in look.findings)


def _header(source: Source) -> _Look:
    """Where the tensors of a checkpoint are; none where its files cannot be read by ranges."""
    look = _Look(source, {}, {})
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


def _layout(looks: list[_Look]) -> list[_Look]:
    """Names those whose tensors are not those of most."""

    def shapes(look: _Look) -> dict[str, tuple[int, ...]]:
        return {name: tensor.shape for name, tensor in look.tensors.items() if sample.is_matrix(name, tensor)}

    def dtypes(look: _Look) -> str:
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
            look = look.found("layout", f"{name} is {here}, in most of the others {there}")
        elif look.tensors and dtypes(look) != dtype:
            reason = f"its weights are stored as {dtypes(look)}, those of most others as {dtype}"
            look = look.found("layout", reason, gap=False)
        named.append(look)
    return named


def _values(look: _Look, names: Sequence[str]) -> _Look:
    """Reads the same slices in each."""
    if not look.tensors:
        return look
    try:
        values = {name: sample.values(look.tensors[name], look.source.read) for name in names}
    except ValueError as error:
        return look.found("damaged", str(error))
    for name, some in values.items():
        if not np.isfinite(some).all():
            return look.found("values", f"{name} has values that are NaN or infinite")
    return replace(look, values=values)


def _zeros(looks: list[_Look]) -> list[_Look]:
    """Names those with zeros where an earlier one has weights; from nothing some matrices may start."""
    learned: set[str] = set()
    named = []
    for look in looks:
        zero = {name for name, some in look.values.items() if not some.any()}
        if look.values and len(zero) == len(look.values):
            look = look.found("values", "all of its weights that were read are zeros")
        elif lost := sorted(zero & learned):
            look = look.found("values", f"{lost[0]} has nothing but zeros, and not so at an earlier step")
        else:
            learned |= look.values.keys() - zero
        named.append(look)
    return named


def _weights(looks: list[_Look], names: Sequence[str], reference: Mapping[str, Tensor]) -> list[Finding]:
    """Copies, mixtures of several checkpoints and wrong places."""
    if len(looks) < 2:
        return []
    places = {tuple(look.tensors[name].file for name in names) for look in looks if look.values}
    files = {tuple(look.source.weights) for look in looks}
    # Where all are split alike, each file may be of another checkpoint.
    parts = list(looks[0].source.weights) if len(files) == 1 and len(places) <= 1 else [None]
    steps = [look.step for look in looks]
    out: list[dict[int, contents.Out]] = []
    for part in parts:
        within = [name for name in names if part is None or reference[name].file == part]
        keys = _keys(looks, part, within)
        if len(parts) > 1 and len(set(keys)) == 1:
            out.append({})  # A part that does not learn.
            continue
        readable = within and all(look.values for look in looks)
        out.append(contents.examine(steps, keys, _geometry(looks, within, reference) if readable else None))
    found = []
    for place, look in enumerate(looks):
        wrong = {part: one[place] for part, one in zip(parts, out, strict=True) if place in one}
        if not wrong:
            continue
        reasons = sorted({one.reason for one in wrong.values()})
        if len(wrong) == len(parts) and len(reasons) == 1:
            found.append(Finding(look.step, next(iter(wrong.values())).kind, f"its weights {reasons[0]}", gap=True))
            continue
        part, one = next(iter(wrong.items()))
        more = f"; so is it with {len(wrong) - 1} more of its {len(parts)} files" if len(wrong) > 1 else ""
        found.append(Finding(look.step, "mixed", f"the weights in {part} {one.reason}{more}", gap=True))
    return found


def _keys(looks: Sequence[_Look], part: str | None, names: Sequence[str]) -> list[str]:
    """Of each checkpoint what its weights are, the same for the same."""

    def whole(place: int) -> str:
        look = looks[place]
        return " ".join(look.source.hash(file) for file in ([part] if part else look.source.weights))

    if not names or not all(look.values for look in looks):
        return [whole(place) for place in range(len(looks))]
    # 0.0 and -0.0 are the same.
    read = [xxhash.xxh3_128_hexdigest(b"".join((look.values[name] + 0).tobytes() for name in names)) for look in looks]
    keys = list(read)
    for key, many in Counter(read).items():
        places = [place for place, one in enumerate(read) if one == key]
        if many > 1 and not _returns(looks, names, places):
            for place in places:
                keys[place] = whole(place)
    return keys


def _returns(looks: Sequence[_Look], names: Sequence[str], places: Sequence[int]) -> bool:
    """Whether the weights were others between."""
    here = looks[places[0]].values
    total = sum(here[name].size for name in names)
    between = [looks[place].values for place in range(places[0], places[-1]) if place not in places]
    return any(
        sum(np.count_nonzero(there[name] != here[name]) for name in names) > RETURNED * total for there in between
    )


def _geometry(looks: Sequence[_Look], names: Sequence[str], reference: Mapping[str, Tensor]) -> Geometry:
    """Of the matrices of some names.

    A distance is the root mean square over the matrices of ‖a − b‖ / ‖w‖, where ‖w‖ is the matrix's root mean square
    norm over the series.
    """
    count = len(looks)
    squares, related, varied = np.zeros((count, count)), np.zeros((count, count)), np.zeros((count, count))
    for name in names:
        rows = np.stack([look.values[name] for look in looks]).astype(np.float64)
        norm = np.square(rows).sum(1).mean() or 1
        around = rows - rows.mean(1, keepdims=True)
        sizes = np.sqrt(np.square(around).sum(1))
        around /= np.where(sizes > 0, sizes, 1)[:, None]
        both = np.outer(sizes > 0, sizes > 0) * rows.shape[1]
        related += both * (around @ around.T)
        varied += both
        rows -= rows.mean(0)  # Small differences of large numbers would drown in rounding.
        product = rows @ rows.T
        own = np.diagonal(product)
        squares += np.maximum(own[:, None] + own - 2 * product, 0) / norm
    np.fill_diagonal(squares, 0)
    return Geometry(
        distances=np.sqrt(squares / len(names)),
        floor=max(2.0 ** -sample.MANTISSA[reference[name].dtype] for name in names),
        correlations=np.where(varied > 0, related / np.maximum(varied, 1), np.nan),
        chance=float(CHANCE / np.sqrt(max(varied.max(), 1))),
    )


def _changes(looks: Sequence[_Look], names: Sequence[str], reference: Mapping[str, Tensor]) -> dict[int, float]:
    """By step the distance to the checkpoint before."""
    pairs = [pair for pair in zip(looks, looks[1:], strict=False) if names and pair[0].values and pair[1].values]
    return {after.step: float(_geometry((before, after), names, reference).distances[0, 1]) for before, after in pairs}


def _descent(looks: Sequence[_Look], names: Sequence[str], reference: Mapping[str, Tensor]) -> list[Finding]:
    """Names the checkpoints that the rest of the series does not come from, or that do not come from the rest."""
    if len(looks) < 2 or not names or not all(look.values for look in looks):
        return []
    geometry = _geometry(looks, names, reference)
    related = np.diagonal(geometry.correlations, 1)
    lengths = np.diff([look.step for look in looks])
    found = []
    for place in np.nonzero(np.abs(related) <= geometry.chance)[0]:
        before, after = looks[: place + 1], looks[place + 1 :]
        pair = f"those of steps {before[-1].step} and {after[0].step} are unrelated (correlation {related[place]:.4f})"
        # Training itself may have left nothing, unless it has over as many steps elsewhere.
        if not (related[lengths >= lengths[place]] >= contents.KEPT).any():
            reason = f"its weights: {pair}, so of two runs, or training left nothing of them; that cannot be told"
            found.append(Finding(after[0].step, "descent", reason, gap=False))
            continue
        fewer = [before, after] if len(before) == len(after) else [min(before, after, key=len)]
        reason = f"its weights are of another run than the others': {pair}"
        found += [Finding(look.step, "descent", reason, gap=True) for side in fewer for look in side]
    return found


def _texts(source: Source) -> dict[str, Any]:
    """The small files of a checkpoint that tell what it is, as JSON; those that are there and can be read."""
    found = {}
    for name in ("config.json", "tokenizer.json", "trainer_state.json"):
        if name in source.files:
            try:
                found[name] = json.loads(source.read(name, 0, source.files[name].size))
            except ValueError:
                found[name] = None
    return found


def _differing(ordered: Sequence[Source], texts: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """Names those that say they are of another step, another model or with another vocabulary than most."""
    found = []

    def usual(name: str, of: Callable[[Any], Any]) -> list[str | None]:
        told = [json.dumps(of(text[name]), sort_keys=True) if text.get(name) else None for text in texts]
        most = Counter(one for one in told if one).most_common(1)
        return [most[0][0] if most and one and one != most[0][0] else None for one in told]

    def settings(config: Mapping[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in config.items() if key not in IGNORED}

    for source, text, other in zip(ordered, texts, usual("config.json", settings), strict=True):
        if other:
            here, there = settings(text["config.json"]), json.loads(other)
            key = min(key for key in here.keys() | there.keys() if here.get(key) != there.get(key))
            reason = f"its config.json has {key}={here.get(key)}, that of most others {there.get(key)}"
            found.append(Finding(source.step, "config", reason, gap=True))
    vocabulary = usual("tokenizer.json", lambda tokenizer: [tokenizer.get("model"), tokenizer.get("added_tokens")])
    for source, text, other in zip(ordered, texts, vocabulary, strict=True):
        if other:
            found.append(Finding(source.step, "tokenizer", "its tokenizer.json is not that of most others", gap=True))
        step = (text.get("trainer_state.json") or {}).get("global_step")
        if isinstance(step, int) and step != source.step:
            reason = f"its trainer_state.json counts {step} steps, and it is named for {source.step}"
            found.append(Finding(source.step, "label", reason, gap=True))
    return found
