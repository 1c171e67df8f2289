"""Hostile configurations, command-line overrides and grid files."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from campaign.hostile_values import NASTY, spoilt, text, value
from campaign.scenarios import Fault


@cache
def _default() -> dict[str, Any]:
    from mi_sweeps.sweeps.grid import expand

    (point,) = expand(["output=outputs"])
    return dict(point.values)


def values(chance: random.Random, place: Path) -> Callable[[], Any]:
    """Makes a configuration with some values changed."""
    from mi_sweeps.config import parse

    found = _default()
    for _ in range(chance.choice([1, 1, 2, 4])):
        other = spoilt(found, chance)
        found = other if isinstance(other, dict) else found
    (place / "values.json").write_text(json.dumps(found), errors="surrogatepass")

    def work() -> None:
        config = parse(found)
        if parse(config.dump()) != config:
            raise Fault("a configuration that does not come back")
        config.checkpoint_steps  # noqa: B018

    return work


def overrides(chance: random.Random, place: Path) -> Callable[[], Any]:
    """Makes the words of a command line."""
    from mi_sweeps.sweeps.grid import expand

    keys = [
        *("seed", "optim.lr", "schedule", "corruption", "task", "model", "patching", "launcher", "tracking", "sweep"),
        *("train.steps", "checkpoint.every", "checkpoint.steps", "checkpoint.storage", "patching.sites", "output"),
        *("launcher.time", "launcher.workers", "sweep.name", "task.path", "model.path", "tracking.project", "x", "a.b"),
    ]
    good = ["0", "0,1", "range(0,3)", "1e-4,3e-4", "first,second", "[0,4]", "cosine", "heads", "null", "local", "full"]
    words = []
    for _ in range(chance.choice([1, 1, 2, 3])):
        key = chance.choice(keys) if chance.random() < 0.95 else text(chance)
        right = chance.choice(good) if chance.random() < 0.5 else text(chance)
        words.append(f"{chance.choice(['', '', '', '', '+', '++', '~'])}{key}={right}")
    (place / "words.json").write_text(json.dumps(words))

    def work() -> None:
        points = expand([f"output={place}", *words])
        if not points or len({point.patch_id for point in points}) != len(points):
            raise Fault(f"{words}: not one point each")

    return work


def grids(chance: random.Random, place: Path) -> Callable[[], Any]:
    """Makes a user's own grid file, or another configuration file."""
    from mi_sweeps.sweeps.grid import expand

    right = "name: mine\ngrid:\n  seed: 0,1\n  optim.lr: 1e-4,3e-4\n  corruption: first,second\n"
    written = right
    for _ in range(chance.choice([1, 1, 2, 3])):
        at = chance.randrange(len(written) + 1)
        how = chance.random()
        if how < 0.4:
            written = (
                written[:at]
                + chance.choice([*NASTY, ": ", "- ", "&a", "*a", "!!python/object:os.system x", "#"])
                + written[at:]
            )
        elif how < 0.7:
            written = written[:at] + written[at + chance.randrange(1, 8) :]
        else:
            lines = written.split("\n")
            chance.shuffle(lines)
            written = "\n".join(lines)
    if chance.random() < 0.1:
        written = json.dumps({"name": "mine", "grid": value(chance)})
    encoding = chance.choice(["utf-8"] * 5 + ["utf-16", "latin-1"])
    (place / "sweep").mkdir()
    errors = "surrogatepass" if encoding != "latin-1" else "replace"
    (place / "sweep" / "mine.yaml").write_bytes(written.encode(encoding, errors))
    return lambda: expand(["sweep=mine", f"output={place / 'outputs'}"], place)
