"""Clocks of training: steps, or cumulative learning rate; and the ends of epochs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from pydantic import ValidationError

from ...config import NamedFunction
from ...errors import UserError
from ...training import schedules
from ..folder import RunRecord

STEP = "step"
RATE = "learning rate"
OURS = schedules.__name__ + "."


def clocks(config: Mapping[str, Any], steps: Sequence[int]) -> dict[str, Float[np.ndarray, " checkpoint"]]:
    """Times of the checkpoints by clock: steps, and cumulative learning rate if a built-in schedule is not constant.

    A user's own schedule is not run for a report.
    """
    times = {STEP: np.array(steps, float)}
    total = cumulative_rate(config, max(steps, default=0))
    if total is not None:
        rate = total[list(steps)]
        slopes = np.diff(rate) / np.diff(times[STEP])
        if len(slopes) and (slopes > 0).all() and np.ptp(slopes) > 1e-6 * slopes.max():
            times[RATE] = rate
    return times


def cumulative_rate(config: Mapping[str, Any], last: int) -> Float[np.ndarray, " step"] | None:
    """Cumulative learning rate at each step from 0 to `last`; None if the schedule is unknown."""
    try:
        schedule = NamedFunction.model_validate(config["schedule"])
        if not schedule.target.startswith(OURS):
            return None
        multiplier = schedules.resolve(schedule, int(config["train"]["steps"]))
        rates = [float(config["optim"]["lr"]) * multiplier(step) for step in range(last)]
    except (KeyError, TypeError, ValueError, ValidationError, UserError):  # a series, or a run of an old version
        return None
    return np.concatenate([[0.0], np.cumsum(rates)])


def epoch_ends(run: RunRecord, last: int) -> list[float]:
    """The steps up to `last` at which an epoch ends; empty if unknown.

    The number of prompts is in the configuration of built-in tasks, and in the run's audit for a user's own files.
    Series have no epochs, nor do tasks that draw new sequences at every step.
    """
    try:
        batch = int(run.config["train"]["batch_size"])
        own = run.config["task"].get("prompts") or json.loads((run.path / "audit.json").read_bytes())["splits"]["train"]
        epoch = int(own["train"] if "train" in own else own["prompts"]) / batch
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError, OSError):
        return []
    return [number * epoch for number in range(1, int(last / epoch) + 1)] if epoch > 0 else []
