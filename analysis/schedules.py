"""Draws the learning-rate schedules for the documentation: `python -m mi_sweeps.analysis.schedules FILE`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

from ..training import schedules

WARMUP_RATIO = 0.1
"""More than the default 0.03, so that the warm-up is visible."""

WARMUP_STEPS = 100
"""The default."""


def draw(total: int = 184) -> Figure:
    """Draw the multiplier of `optim.lr` at each of `total` steps, one line per schedule."""
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axis = figure.subplots()
    by_ratio = ("linear_warmup", "cosine", "warmup_decay")
    lines: dict[str, Callable[[int, int], float]] = {
        "constant": schedules.constant,
        **{name: partial(getattr(schedules, name), warmup_ratio=WARMUP_RATIO) for name in by_ratio},
        "fixed_warmup": partial(schedules.fixed_warmup, warmup_steps=WARMUP_STEPS),
        "buggy_warmup": partial(schedules.buggy_warmup, warmup_steps=WARMUP_STEPS),
    }
    # Different dashes, because several schedules are 1 for a while and overlap.
    styles = ("-", "--", "-.", ":", (0, (6, 2)), (0, (1, 3)))
    for style, (name, schedule) in zip(styles, lines.items(), strict=True):
        axis.plot([schedule(step, total) for step in range(total)], linestyle=style, label=name)
    arguments = f"warmup_ratio {WARMUP_RATIO}, warmup_steps {WARMUP_STEPS}"
    axis.set(xlabel="step", ylabel="multiplier of optim.lr", title=f"{total} steps, {arguments}")
    axis.legend(frameon=False, loc="upper left", ncols=2)
    return figure


if __name__ == "__main__":
    draw().savefig(Path(sys.argv[1]), dpi=120)
