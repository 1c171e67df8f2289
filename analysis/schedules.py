"""A picture of the learning-rate schedules, for the documentation: `python -m mi_sweeps.analysis.schedules FILE`."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

from ..training import schedules

WARMUP_RATIO = 0.1
"""More than the default 0.03, so that the warm-up can be seen."""


def draw(total: int = 184) -> Figure:
    """The multiplier of `optim.lr` at each of `total` steps, one line a schedule."""
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axis = figure.subplots()
    lines = {"constant": schedules.constant} | {
        name: partial(getattr(schedules, name), warmup_ratio=WARMUP_RATIO)
        for name in ("linear_warmup", "cosine", "warmup_decay")
    }
    for style, (name, schedule) in zip(("-", "--", "-.", ":"), lines.items(), strict=True):
        axis.plot([schedule(step, total) for step in range(total)], style, label=name)
    axis.set(xlabel="step", ylabel="multiplier of optim.lr", title=f"{total} steps, warmup_ratio {WARMUP_RATIO}")
    axis.legend(frameon=False)
    return figure


if __name__ == "__main__":
    draw().savefig(Path(sys.argv[1]), dpi=120)
