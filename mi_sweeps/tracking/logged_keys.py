"""The keys that a sweep logs to wandb, and the settings that differ between its runs, read from the run folders.

The keys are made by `values`, which the mirror uses too.
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
"""Keys of our configuration with a short name in wandb's config. All others are under `config` there."""

SETTINGS = {"lr": "optim", "schedule": "schedule"}
"""Keys of wandb's config that a series lacks, with the section of our configuration that they come from."""

NESTED = ("model.", "task.", "optim.", "schedule.", "train.", "checkpoint.")


@dataclass(frozen=True)
class CorruptionKeys:
    """The keys that the patch jobs under one corruption log."""

    corruption: str
    keys: tuple[str, ...]
    """CORRUPTION/logit_diff/COMPONENT and CORRUPTION/lens/RESID_LAYER, in the order of the layers."""
    sites: tuple[str, ...]
    """Sites of heads; each has a heatmap."""

    def heads(self, site: str) -> str:
        """Returns the key of a site's heatmaps."""
        return f"{self.corruption}/heads/{site}"

    def layers(self, kind: str) -> list[str]:
        """Returns the keys of a kind, such as `logit_diff/attn`, layer by layer."""
        return [key for key in self.keys if key.startswith(f"{self.corruption}/{kind}_")]


@dataclass(frozen=True)
class SweepKeys:
    """What a dashboard needs to know about a sweep."""

    sweep: str
    command: str
    """The command that ran it."""
    planned: tuple[str, ...]
    """Ids of all its runs, which other sweeps may share."""
    run_ids: tuple[str, ...]
    """Ids of the runs with an evaluated checkpoint."""
    seeds: tuple[int, ...]
    """Empty for a series without seeds."""
    settings: tuple[str, ...]
    """Those of SETTINGS that some run has."""
    varied: tuple[str, ...]
    """Keys of wandb's config with several values, except the seed."""
    metrics: tuple[str, ...]
    """As SPLIT/METRIC."""
    examined: tuple[CorruptionKeys, ...]
    """By corruption, for the patch jobs begun so far."""
    measures: tuple[str, ...] = ()
    """Names of the measures of the clean run."""

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that have `rate`; training prompts come last."""
        rated = [key.partition("/")[0] for key in self.metrics if key.endswith(f"/{self.rate}")]
        return tuple(sorted(rated, key=lambda split: split == "train"))

    @property
    def rate(self) -> str:
        """The metric that shows whether a run has learned its task."""
        return learned_by({key.partition("/")[2] for key in self.metrics}) or "win_rate"


def read(output: Path, sweep: str) -> SweepKeys:
    """Reads what the runs of a sweep have logged so far.

    Raises:
        UserError: there is no such sweep, it has no evaluated checkpoint yet, or a table cannot be read.
    """
    found = folder.read(output, [sweep])
    runs = [run for run in found.runs if run.config and (run.path / "metrics.parquet").exists()]
    if not runs:
        look = hint("status", sweep, output)
        raise UserError(f"sweep {sweep!r}: no run has an evaluated checkpoint yet; see `{look}`")
    return SweepKeys(
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


def _varied(runs: Sequence[folder.RunRecord]) -> Iterable[str]:
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


def _metrics(runs: Sequence[folder.RunRecord]) -> tuple[str, ...]:
    # Runs of the same model and task have the same metrics, so one of them is read.
    some = {_value(run.config, "model.name") + _value(run.config, "task"): run for run in runs}
    rows = (row for run in some.values() for row in read_table(run.path / "metrics.parquet").to_pylist())
    return tuple(values.of_metrics([row for row in rows if row["split"] != "batch"]))


def _examined(runs: Sequence[folder.RunRecord]) -> tuple[tuple[CorruptionKeys, ...], tuple[str, ...]]:
    """Reads the keys of each corruption, and the names of the measures."""
    some: dict[tuple[str, ...], tuple[PatchFolder, int]] = {}
    for run in runs:
        for patch in run.patches:
            kind = (patch.corruption, _value(run.config, "model"), _value(patch.about, "config.patching"))
            if kind not in some and (steps := patch.steps()):
                some[kind] = PatchFolder(patch.path), steps[0]
    examined: list[CorruptionKeys] = []
    measures: dict[str, None] = {}
    for corruption in dict.fromkeys(kind[0] for kind in some):
        tables = [values.read(*table) for kind, table in some.items() if kind[0] == corruption]
        # Without heads: which of them are logged may change between checkpoints.
        keys = dict.fromkeys(key for rows in tables for key in values.of_table(corruption, rows, frozenset()))
        own = (key for key in keys if key.startswith(f"{corruption}/"))
        sites = dict.fromkeys(row["site"] for rows in tables for row in values.of_heads(rows))
        examined.append(CorruptionKeys(corruption, tuple(sorted(own, key=_by_layer)), tuple(sites)))
        measures |= dict.fromkeys(row["measure"] for rows in tables for row in rows if row["kind"] == "measure")
    return tuple(examined), tuple(measures)


def _by_layer(key: str) -> tuple[str, int]:
    """Sorts keys by kind, then by layer; keys without a layer come first."""
    kind, _, component = key.rpartition("/")
    layer = component.rpartition("_")[2]
    return kind, int(layer) if layer.isdigit() else -1
