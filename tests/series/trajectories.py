"""Series of checkpoints from a simulated training, with planted faults.

`python -m tests.series.trajectories 300` prints how often an audit finds each kind: the table in docs/audit.md.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mi_sweeps.series.audit import audit
from mi_sweeps.series.sources import File, Source

Weights = dict[str, NDArray[Any]]

SHAPES = {
    "embed.weight": (64, 32),
    **{
        f"h.{layer}.{kind}.weight": shape
        for layer in range(3)
        for kind, shape in (("attn", (32, 96)), ("out", (32, 32)), ("up", (32, 64)), ("down", (64, 32)))
    },
}
CONSTANT: Weights = {"h.0.norm.weight": np.ones(32), "h.0.attn.bias": np.tril(np.ones((32, 32)))}
DTYPES = ("F32", "F16", "BF16")
SCHEDULES = ("constant", "cosine", "linear", "restarts")


def grid(random: np.random.Generator) -> list[int]:
    """Steps as series have them: powers of 2 and then thousands; equally spaced; geometric; or some of those."""
    kind = random.integers(3)
    if kind == 0:
        steps = [0, *(2**power for power in range(10)), *range(1000, 1000 * int(random.integers(5, 20)), 1000)]
    elif kind == 1:
        steps = list(range(0, 100 * int(random.integers(6, 25)), 100))
    else:
        steps = [0, *sorted({round(step) for step in np.geomspace(1, 20000, int(random.integers(8, 25)))})]
    if random.random() < 0.3:
        steps = sorted(random.choice(steps, int(random.integers(5, len(steps) + 1)), replace=False).tolist())
    return steps


def trajectory(random: np.random.Generator, steps: Sequence[int], schedule: str | None = None) -> list[Weights]:
    """Weights that noisy gradients pull to a minimum, each at its own speed (an Ornstein-Uhlenbeck process), with a
    learning rate that warms up and follows a schedule; all its sizes are drawn at random over orders of magnitude."""
    schedule = schedule or str(random.choice(SCHEDULES))
    last = max(*steps, 1)
    highest = 10 ** random.uniform(-2, 2.5) / last
    warmup = last * random.choice([0, 0.01, 0.1])
    noise = 10 ** random.uniform(-4, -0.5)

    def rate(step: float) -> float:
        done = step / last
        shape = {
            "constant": 1.0,
            "cosine": (1 + np.cos(np.pi * done)) / 2,
            "linear": 1 - done,
            "restarts": (1 + np.cos(np.pi * (4 * done % 1))) / 2,
        }[schedule]
        return float(highest * shape * (min(1, step / warmup) if warmup else 1))

    now = {name: random.normal(0, 0.02, shape) for name, shape in SHAPES.items()}
    minimum = {name: random.normal(0, 0.02 * 10 ** random.uniform(-0.5, 0.7), shape) for name, shape in SHAPES.items()}
    curvature = {name: 10 ** random.uniform(-2, 1.5, shape) for name, shape in SHAPES.items()}
    made, at = [], 0
    for step in steps:
        for begin, end in zip(points := np.linspace(at, step, 7 if step > at else 1), points[1:], strict=False):
            speed = rate((begin + end) / 2)
            for name in now:
                left = np.exp(-speed * curvature[name] * (end - begin))
                spread = noise * np.sqrt((1 - left**2) * speed / (2 * curvature[name]))
                now[name] = minimum[name] + (now[name] - minimum[name]) * left + random.normal(size=left.shape) * spread
        at = step
        made.append(dict(now))
    return made


def stored(weights: Mapping[str, NDArray[Any]], dtype: str = "F32", **metadata: str) -> bytes:
    """A safetensors file."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **metadata}}
    body = b""
    for name, values in weights.items():
        if dtype == "BF16":
            bits = values.astype("<f4").view("<u4").astype(np.uint64)
            data = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype("<u2").tobytes()
        else:
            data = values.astype({"F32": "<f4", "F16": "<f2"}[dtype]).tobytes()
        header[name] = {"dtype": dtype, "shape": values.shape, "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def source(step: int, files: Mapping[str, bytes], hashed: bool = True) -> Source:
    """A checkpoint in memory; of several files, with an index."""
    if any("-of-" in name for name in files):
        files = {**files, "model.safetensors.index.json": b"{}"}
    stated = {
        name: File(len(content), hashlib.sha256(content).hexdigest() if hashed else None)
        for name, content in files.items()
    }
    return Source(step, f"step{step}", stated, lambda name, start, stop: files[name][start:stop])


def series(steps: Sequence[int], made: Sequence[Weights], dtype: str = "F32", shards: int = 1) -> list[Source]:
    """Checkpoints in memory, each in so many files."""
    names = [*SHAPES, *CONSTANT]
    parts = [names[len(names) * part // shards : len(names) * (part + 1) // shards] for part in range(shards)]
    return [
        source(
            step,
            {
                "model.safetensors" if shards == 1 else f"model-{number}-of-{shards}.safetensors": stored(
                    {name: {**weights, **CONSTANT}[name] for name in part}, dtype
                )
                for number, part in enumerate(parts)
            },
        )
        for step, weights in zip(steps, made, strict=True)
    ]


def planted(random: np.random.Generator, steps: Sequence[int], made: list[Weights]) -> dict[str, dict[int, Weights]]:
    """Of each kind of fault, what the weights at some places are instead."""
    count = len(steps)
    place = int(random.integers(count))
    far = int(random.choice([other for other in range(count) if abs(other - place) > count / 3]))
    beside = far + 1 if far + 1 < count else far - 1
    near = {name: 0.7 * made[far][name] + 0.3 * made[beside][name] for name in SHAPES}
    other = trajectory(random, steps)
    middle = [one for one in range(1, count - 1) if one != far]
    return {
        "clean": {},
        "copy of a step far away": {place: made[far]},
        "nearly that of a step far away": {place: near},
        "first third is the last": dict.fromkeys(range(count // 3), made[-1]),
        "step 0 of another run": {0: other[0]},
        "one within of another run": {(at := int(random.choice(middle))): other[at]},
    }


def main(seeds: int) -> None:
    """Counts what is found."""
    counts: dict[str, Counter[str]] = {}
    for seed in range(seeds):
        random = np.random.default_rng(seed)
        steps = grid(random)
        made = trajectory(random, steps)
        dtype = str(random.choice(DTYPES))
        same = {steps[one] for one in range(1, len(steps)) if stored(made[one], dtype) == stored(made[one - 1], dtype)}
        for kind, instead in planted(random, steps, made).items():
            found = audit(series(steps, [instead.get(place, one) for place, one in enumerate(made)], dtype), threads=1)
            wrong, missing = {steps[place] for place in instead}, set(found.missing_steps)
            counted = counts.setdefault(kind, Counter())
            counted["series"] += 1
            counted["all missing"] += wrong <= missing
            counted["named"] += bool(found.findings)
            counted["others missing too"] += bool(missing - wrong - same)
    for kind, counted in counts.items():
        columns = ("series", "named", "all missing", "others missing too")
        print(f"| {kind} | " + " | ".join(str(counted[column]) for column in columns) + " |")  # noqa: T201


if __name__ == "__main__":
    main(int(sys.argv[1]))
