"""The loss curve that a series' own trainer logged, added to the metrics table.

Its rows have a split of their own, `trainer`: the trainer's loss on its own data is not comparable with a loss on
prompts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from mi_sweeps.models.trainer import history
from mi_sweeps.series.checkpoints import Checkpoint

SPLIT = "trainer"
KEPT = re.compile(r"loss|learning_rate|eval_(\w+_)?loss")
"""The trainer's metrics that are kept, by the trainer's names."""
UNKNOWN = 0
"""Stands in for the unknown number of prompts."""

Row = dict[str, Any]


def read(checkpoints: Sequence[Checkpoint]) -> list[Row]:
    """The rows for the metrics table, from the last checkpoint with a trainer's log, which covers all earlier steps.

    Empty if no checkpoint is a trainer's folder.
    """
    for checkpoint in reversed(checkpoints):
        if checkpoint.model.path and (found := history(checkpoint.model.path)):
            return [
                {"step": one.step, "split": SPLIT, "metric": one.metric, "value": one.value, "n": UNKNOWN}
                for one in found
                if KEPT.fullmatch(one.metric)
            ]
    return []


def at(rows: Iterable[Row], step: int, before: int | None) -> list[Row]:
    """The latest value of each metric logged between the previous checkpoint and this one, as rows of this step."""
    last = {row["metric"]: row for row in rows if row["step"] <= step and (before is None or row["step"] > before)}
    return [{**row, "step": step} for row in last.values()]
