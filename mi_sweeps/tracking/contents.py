"""What a sweep's mirror has in wandb, told by the run folders: the keys that are logged, and what differs between runs.

The names of the keys are those of `mirror`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mi_sweeps.analysis import folder
from mi_sweeps.errors import UserError
from mi_sweeps.store.files import read_table

NAMED = {"optim.lr": "lr", "schedule": "schedule", "model": "model", "task": "task.name"}
"""What a sweep varies, and the key of wandb's config that says it."""

NESTED = ("optim.", "train.", "task.", "checkpoint.")
"""Parts of the configuration that wandb's config has as they are."""


@dataclass(frozen=True)
class Examined:
    """What the patch jobs under one corruption log."""

    corruption: str
    components: tuple[str, ...]
    """Of which the logit difference is logged: `attn_0`, `mlp_0`, `embed`, in the order of the layers."""
    sites: tuple[str, ...]
    """Of heads, with a heatmap each."""

    def logit_diff(self, component: str) -> str:
        """The key of a component's logit difference."""
        return f"{self.corruption}/logit_diff/{component}"

    def heads(self, site: str) -> str:
        """The key of a site's heatmaps."""
        return f"{self.corruption}/heads/{site}"

    def layers(self, kind: str) -> list[str]:
        """The keys of the logit differences of `attn` or `mlp`, layer by layer."""
        return [self.logit_diff(component) for component in self.components if component.startswith(f"{kind}_")]


@dataclass(frozen=True)
class Contents:
    """A sweep, as far as a dashboard must know it."""

    sweep: str
    command: str
    """What was typed to run it."""
    run_ids: tuple[str, ...]
    """Runs with a checkpoint that was evaluated."""
    seeds: tuple[int, ...]
    varied: tuple[str, ...]
    """Keys of wandb's config that have several values; not the seed."""
    metrics: tuple[tuple[str, str], ...]
    """Split and metric."""
    examined: tuple[Examined, ...]
    """By corruption; of what was patched so far."""

    @property
    def splits(self) -> tuple[str, ...]:
        """Those with a win rate; the prompts of training come last."""
        rated = [split for split, metric in self.metrics if metric == "win_rate"]
        return tuple(sorted(rated, key=lambda split: split == "train"))


def metric_key(split: str, metric: str) -> str:
    """The key of a metric."""
    return f"{split}/{metric}"


def read(output: Path, sweep: str) -> Contents:
    """What the runs of a sweep have logged so far.

    Raises:
        UserError: there is no such sweep, or no checkpoint of it was evaluated yet; a table cannot be read.
    """
    found = folder.read(output, [sweep])
    runs = [run for run in found.runs if run.config and (run.path / "metrics.parquet").exists()]
    if not runs:
        raise UserError(f"sweep {sweep!r}: no run has an evaluated checkpoint yet; `mi-sweeps status {sweep}` looks")
    return Contents(
        sweep,
        found.sweeps[0].command,
        tuple(run.run_id for run in runs),
        tuple(sorted({run.config["seed"] for run in runs})),
        tuple(_varied(runs)),
        _metrics(runs),
        tuple(_examined(runs)),
    )


def _varied(runs: Sequence[folder.Run]) -> Iterable[str]:
    asked = dict.fromkeys(key for run in runs for key in run.overrides)
    for key in sorted(asked, key=lambda key: (list(NAMED).index(key) if key in NAMED else len(NAMED), key)):
        place = key if "." in key else f"{key}.name"
        if (key in NAMED or key.startswith(NESTED)) and len({_value(run.config, place) for run in runs}) > 1:
            yield NAMED.get(key, key)


def _value(config: Mapping[str, Any], place: str) -> str:
    value: Any = config
    for part in place.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return json.dumps(value)


def _metrics(runs: Sequence[folder.Run]) -> tuple[tuple[str, str], ...]:
    # Runs of a model and a task have the same, so that one of each is read.
    some = {_value(run.config, "model.name") + _value(run.config, "task"): run for run in runs}
    found: dict[tuple[str, str], None] = {}
    for run in some.values():
        table = read_table(run.path / "metrics.parquet")
        found |= dict.fromkeys(zip(table["split"].to_pylist(), table["metric"].to_pylist(), strict=True))
    return tuple(found)


def _examined(runs: Sequence[folder.Run]) -> Iterable[Examined]:
    some: dict[tuple[str, ...], Path] = {}
    for run in runs:
        for patch in run.patches:
            kind = (patch.corruption, _value(run.config, "model"), _value(patch.about, "config.patching"))
            if kind not in some and (steps := patch.steps()):
                some[kind] = patch.table(steps[0])
    for corruption in dict.fromkeys(kind[0] for kind in some):
        components: set[tuple[int, str]] = set()
        sites: dict[str, None] = {}
        for file in (file for kind, file in some.items() if kind[0] == corruption):
            for row in read_table(file).to_pylist():
                if row["kind"] == "layer":
                    layer = row["layer"]
                    name = row["component"] if layer is None else f"{row['component']}_{layer}"
                    components.add((-1 if layer is None else layer, name))
                elif row["kind"] == "patch" and row["head"] is not None and row["patched"] is not None:
                    sites[row["site"]] = None
        yield Examined(corruption, tuple(name for _, name in sorted(components)), tuple(sites))
