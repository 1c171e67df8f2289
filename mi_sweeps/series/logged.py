"""What a series' own trainer logged: its loss curve, in the table of metrics beside what is measured here.

Its rows have a split of their own. It is the trainer's loss on the trainer's data, and not to be compared number by
number with a loss on prompts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from mi_sweeps.models.trainer import history
from mi_sweeps.series.checkpoints import Checkpoint

SPLIT = "trainer"
KEPT = re.compile(r"loss|learning_rate|eval_(\w+_)?loss")
"""Of what a trainer logs; as it calls them."""
UNKNOWN = 0
"""In the place of the number of prompts."""

Row = dict[str, Any]


def read(checkpoints: Sequence[Checkpoint]) -> list[Row]:
    """Rows of the metrics table from the last of these checkpoints that has a trainer's record; it tells of all before.

    Nothing where none is a folder of a trainer's.
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
    """The last that was logged of each metric up to a checkpoint, and after the one before it, as rows of that
    checkpoint."""
    last = {row["metric"]: row for row in rows if row["step"] <= step and (before is None or row["step"] > before)}
    return [{**row, "step": step} for row in last.values()]
