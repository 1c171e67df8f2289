"""Reads the training curves that Hugging Face's Trainer writes next to a checkpoint's weights.

They do not change what the model computes, so a damaged file only loses the curves, with a warning.
"""

from __future__ import annotations

import json
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STATE = "trainer_state.json"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Logged:
    """One number that a trainer logged."""

    step: int
    metric: str
    """The trainer's name for it: `loss` (the mean since the previous entry), `learning_rate`, `grad_norm`, …"""
    value: float
    """In the trainer's own units; not finite if training diverged."""


def global_step(folder: Path) -> int | None:
    """The number of optimiser steps before a checkpoint, as its trainer counted them; None if unknown."""
    step = _read(folder).get("global_step")
    return step if _counts(step) else None


def history(folder: Path) -> list[Logged]:
    """Everything logged up to a checkpoint, by step; empty without a trainer_state.json.

    Leaves out times, speeds and totals, and the final means over all of training, which belong to no step. If a value
    was logged twice at a step, as after a restart, the later one counts.
    """
    entries = _read(folder).get("log_history", [])
    found: dict[tuple[int, str], float] = {}
    damaged = not isinstance(entries, list)
    for entry in () if damaged else entries:
        if not isinstance(entry, dict) or not _counts(entry.get("step")):
            damaged = True
            continue
        for metric, value in entry.items():
            if not _left_out(metric) and isinstance(value, (int, float)) and not isinstance(value, bool):
                found[entry["step"], metric] = float(value)
    if damaged:
        log.warning("%s: part of log_history cannot be read and is left out of the trainer's curves", folder / STATE)
    return [Logged(*key, value) for key, value in sorted(found.items())]


def _left_out(metric: str) -> bool:
    return metric in ("step", "epoch", "total_flos") or bool(re.search(r"^train_|_runtime$|_per_second$", metric))


def _counts(step: Any) -> bool:
    return isinstance(step, int) and not isinstance(step, bool) and step >= 0


def _read(folder: Path) -> dict[str, Any]:
    file = folder / STATE
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        log.warning("%s cannot be read (%s): the trainer's curves are left out", file, type(error).__name__)
        return {}
    if not isinstance(values, dict):
        log.warning("%s is not a trainer's state: the trainer's curves are left out", file)
        return {}
    return values
