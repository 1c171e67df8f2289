"""Families in which the course of each head is planted."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mi_sweeps.analysis.folder import Patch
from mi_sweeps.analysis.inference.families import Family, PatchJob, family
from mi_sweeps.analysis.prompts import Site

STEPS = (0, 8, 16, 24, 32, 40)


def planted(
    recovered: np.ndarray, *, gap: np.ndarray | float = 4.0, runs: int = 1, prompts: int = 48, noise: float = 0.1,
    corruption: str = "first", configs: list[dict[str, str]] | None = None, seed: int = 0,
) -> Family:  # fmt: skip
    """A family of heads 0.0, 0.1, …, whose recovered is `recovered` [checkpoint, head].

    Args:
        gap: clean - corrupted (logits), at each checkpoint or at all.
        noise: standard deviation of each prompt's gain (logits), half of it shared by all runs.
        configs: of each run; by default they differ in their seed.
    """
    random = np.random.default_rng(seed)
    steps, heads = recovered.shape
    r = np.broadcast_to(np.asarray(gap, float).reshape(-1, 1), (steps, prompts)) + 0.5 * random.standard_normal(prompts)
    shared = random.standard_normal((steps, heads, prompts))
    jobs = []
    for run in range(runs):
        own = random.standard_normal((steps, heads, prompts))
        patched = recovered[..., None] * r[:, None] + noise * (shared + own) / np.sqrt(2)
        about = {"prompts": [{"clean": f"prompt {number}"} for number in range(prompts)]}
        patch = Patch(f"p{run}", f"r{run}", corruption, Path("."), about, {})
        places = tuple((0, head, None) for head in range(heads))
        gain, n = patched.mean(axis=2), np.full((steps, heads), prompts)
        room = np.broadcast_to(r.mean(axis=1)[:, None], (steps, heads))
        site = Site(STEPS[:steps], places, r, np.zeros((steps, prompts)), patched, gain, room, n)
        config = {"seed": str(run)} if configs is None else configs[run]
        setting = str({key: value for key, value in config.items() if key != "seed"})
        jobs.append(PatchJob(patch, setting, config, {"z": site}))
    return family("z", jobs)
