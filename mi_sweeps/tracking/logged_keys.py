"""What a sweep's mirror has in wandb, told by the run folders: the keys that are logged, and what differs between runs.

The keys are made by `values`, as those of the mirror are.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mi_sweeps.analysis import folder
from mi_sweeps.errors import UserError
from mi_sweeps.hints import hint
from mi_sweeps.store.files import read_table
from mi_sweeps.store.folders import PatchFolder
from mi_sweeps.tracking import values
from mi_sweeps.training.outcome import learned_by

NAMED = {"model": "model", "task": "task", "optim.lr": "lr", "schedule": "schedule"}
"""What a sweep varies, and the key of wandb's config that says it. All else of a run is below `config` there."""

SETTINGS = {"lr": "optim", "schedule": "schedule"}
"""Keys of wandb's config that only our own runs have, and the group of ours that they are from."""

NESTED = ("model.", "task.", "optim.", "schedule.", "train.", "checkpoint.")


@dataclass(frozen=True)
class Examined:
    """What the patch jobs under one corruption log."""

    corruption: str
    keys: tuple[str, ...]
    """CORRUPTION/logit_diff/COMPONENT and CORRUPTION/lens/RESID_LAYER, in the order of the layers."""
    sites: tuple[str, ...]
    """Of heads, with a heatmap each."""

    def heads(self, site: str) -> str:
        """The key of a site's heatmaps."""
        return f"{self.corruption}/heads/{site}"

    def layers(self, kind: str) -> list[str]:
        """The keys of a kind, as `logit_diff/attn`, layer by layer."""
        return [key for key in self.keys if key.startswith(f"{self.corruption}/{kind}_")]


@dataclass(frozen=True)
class Contents:
    """A sweep, as far as a dashboard must know it."""

    sweep: str
    command: str
    """What was typed to run it."""
    planned: tuple[str, ...]
    """All its runs, by id; other sweeps may share them."""
    run_ids: tuple[str, ...]
    """Runs with a checkpoint that was evaluated."""
    seeds: tuple[int, ...]
    """None of a series that has none."""
    settings: tuple[str, ...]
    """Keys of wandb's config that say how runs were made, as far as any has them: a series has no `lr`."""
    varied: tuple[str, ...]
    """Keys of wandb's config that have several values; not the seed."""
    metrics: tuple[str, ...]
    """As SPLIT/METRIC."""
    examined: tuple[Examined, ...]
    """By corruption; of what was patched so far."""
    measures: tuple[str, ...] = ()
    """Of what else was measured of the clean run, by name."""

    @property
    def splits(self) -> tuple[str, ...]:
        """Those with that rate; the prompts of training come last."""
        rated = [key.partition("/")[0] for key in self.metrics if key.endswith(f"/{self.rate}")]
        return tuple(sorted(rated, key=lambda split: split == "train"))

    @property
    def rate(self) -> str:
        """The metric by which a run is known to have learned its task."""
        return learned_by({key.partition("/")[2] for key in self.metrics}) or "win_rate"


def read(output: Path, sweep: str) -> Contents:
    """What the runs of a sweep have logged so far.

    Raises:
        UserError: there is no such sweep, or no checkpoint of it was evaluated yet; a table cannot be read.
    """
    found = folder.read(output, [sweep])
    runs = [run for run in found.runs if run.config and (run.path / "metrics.parquet").exists()]
    if not runs:
        look = hint("status", sweep, output)
        raise UserError(f"sweep {sweep!r}: no run has an evaluated checkpoint yet; `{look}` looks")
    return Contents(
        sweep,
        found.sweeps[0].command,
        tuple(run.run_id for run in found.runs),
        tuple(run.run_id for run in runs),
        tuple(sorted({run.config["seed"] for run in runs if "seed" in run.config})),
        tuple(key for key, group in SETTINGS.items() if any(group in run.config for run in runs)),
        tuple(_varied(runs)),
        _metrics(runs),
        *_examined(runs),
    )


def _varied(runs: Sequence[folder.Run]) -> Iterable[str]:
    asked = dict.fromkeys(key for run in runs for key in run.overrides)
    for key in sorted(asked, key=lambda key: (list(NAMED).index(key) if key in NAMED else len(NAMED), key)):
        place = key if "." in key else f"{key}.name"
        if (key in NAMED or key.startswith(NESTED)) and len({_value(run.config, place) for run in runs}) > 1:
            yield NAMED.get(key, f"config.{key}")


def _value(config: Mapping[str, Any], place: str) -> str:
    found: Any = config
    for part in place.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return json.dumps(found)


def _metrics(runs: Sequence[folder.Run]) -> tuple[str, ...]:
    # Runs of a model and a task have the same, so that one of each is read.
    some = {_value(run.config, "model.name") + _value(run.config, "task"): run for run in runs}
    rows = (row for run in some.values() for row in read_table(run.path / "metrics.parquet").to_pylist())
    return tuple(values.of_metrics([row for row in rows if row["split"] != "batch"]))


def _examined(runs: Sequence[folder.Run]) -> tuple[tuple[Examined, ...], tuple[str, ...]]:
    """What was found under each corruption, and the names of what else was measured."""
    some: dict[tuple[str, ...], tuple[PatchFolder, int]] = {}
    for run in runs:
        for patch in run.patches:
            kind = (patch.corruption, _value(run.config, "model"), _value(patch.about, "config.patching"))
            if kind not in some and (steps := patch.steps()):
                some[kind] = PatchFolder(patch.path), steps[0]
    examined: list[Examined] = []
    measures: dict[str, None] = {}
    for corruption in dict.fromkeys(kind[0] for kind in some):
        tables = [values.read(*table) for kind, table in some.items() if kind[0] == corruption]
        # No head: which of them are logged may change from one checkpoint to the next.
        keys = dict.fromkeys(key for rows in tables for key in values.of_table(corruption, rows, frozenset()))
        own = (key for key in keys if key.startswith(f"{corruption}/"))
        sites = dict.fromkeys(row["site"] for rows in tables for row in values.of_heads(rows))
        examined.append(Examined(corruption, tuple(sorted(own, key=_by_layer)), tuple(sites)))
        measures |= dict.fromkeys(row["measure"] for rows in tables for row in rows if row["kind"] == "measure")
    return tuple(examined), tuple(measures)


def _by_layer(key: str) -> tuple[str, int]:
    """What comes before the component, and its layer; what has none comes first."""
    kind, _, component = key.rpartition("/")
    layer = component.rpartition("_")[2]
    return kind, int(layer) if layer.isdigit() else -1
