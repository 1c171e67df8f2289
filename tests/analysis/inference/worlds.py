"""Planted truths: gains and gaps of runs and prompts whose recovered fraction is known."""

from __future__ import annotations

import numpy as np


def world(
    random: np.random.Generator, runs: int, places: int, prompts: int, recovered: float | np.ndarray, *,
    gap: float = 1.0, gap_spread: float = 0.5, shared: float = 0.05, own: float = 0.02, seeds: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Gain and gap of shape [run, place, prompt]: g = recovered · r + noise.

    The noise of a prompt is `shared` by the runs and, a part, each run's `own`; `seeds` is how much recovered itself
    varies between runs. Gaps of prompts vary by `gap_spread`, alike in all runs.
    """
    r = gap + gap_spread * random.standard_normal((1, 1, prompts)) + 0.05 * random.standard_normal((runs, 1, prompts))
    of_run = recovered + seeds * random.standard_normal((runs, places, 1))
    noise = shared * random.standard_normal((1, places, prompts)) + own * random.standard_normal(
        (runs, places, prompts)
    )
    return of_run * r + noise, np.broadcast_to(r, (runs, places, prompts)).copy()
