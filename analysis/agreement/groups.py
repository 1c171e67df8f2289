"""Groups the runs to compare: the seeds of a setting, and settings that differ in one thing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pandas as pd

from .. import configs
from ..folder import OutputFolder, RunRecord

AXES: dict[str, Callable[[str], bool]] = {
    "prompts": lambda key: key == "task.seed",
    "base": lambda key: key.startswith(("model.", "contents.model_")),
}
"""The configuration keys that differ on each axis other than `seed`: other training prompts, another base model."""
WORDS = {"prompts": "sets of training prompts", "base": "base models"}


@dataclass(frozen=True)
class ComparedRuns:
    """Runs that differ only in an axis and their seed."""

    axis: str
    setting: str
    """The names of its settings."""
    level: dict[str, str]
    """Each run's values on the axis, by run id."""


def across(output: OutputFolder, runs: pd.DataFrame) -> Iterator[ComparedRuns]:
    """Returns all groups of settings that differ in exactly one axis."""
    started = [run for run in output.runs if run.config and not run.is_damaged]
    texts = configs.texts([configs.of_run(run.config, run.contents) for run in started])
    setting = dict(zip(runs["run_id"], runs["setting"], strict=True))
    for axis, is_of in AXES.items():
        alike: dict[frozenset[tuple[str, str]], list[tuple[RunRecord, str]]] = {}
        for run, text in zip(started, texts, strict=True):
            rest = frozenset((key, value) for key, value in text.items() if not is_of(key))
            level = ", ".join(f"{key} {value}" for key, value in sorted(text.items()) if is_of(key))
            alike.setdefault(rest, []).append((run, level))
        for members in alike.values():
            if len({level for _, level in members}) > 1:
                names = " | ".join(dict.fromkeys(str(setting[run.run_id]) for run, _ in members))
                yield ComparedRuns(axis, names, {run.run_id: level for run, level in members})
