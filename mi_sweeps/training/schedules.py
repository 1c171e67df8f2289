"""Learning-rate schedules: pure functions of the step that return the multiplier of `optim.lr`.

`step` counts from 0; step `total - 1` is the last.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from hydra.utils import get_method

from mi_sweeps.config import NamedFunction
from mi_sweeps.errors import UserError
from mi_sweeps.store import sources


def constant(step: int, total: int) -> float:
    """1 throughout."""
    return 1.0


def linear_warmup(step: int, total: int, *, warmup_ratio: float) -> float:
    """Rises linearly to 1 over the first `warmup_ratio` of the steps, then stays there."""
    warmup = _warmup_steps(total, warmup_ratio)
    return min(1.0, (step + 1) / warmup) if warmup else 1.0


def cosine(step: int, total: int, *, warmup_ratio: float) -> float:
    """Warm-up, then half a cosine down to 0 at `total` (Loshchilov & Hutter 2017, arXiv:1608.03983, one cycle)."""
    warm = linear_warmup(step, total, warmup_ratio=warmup_ratio)
    return warm * 0.5 * (1 + math.cos(math.pi * _progress(step, total, warmup_ratio)))


def warmup_decay(step: int, total: int, *, warmup_ratio: float) -> float:
    """Warm-up, then linearly down to 0 at `total`."""
    warm = linear_warmup(step, total, warmup_ratio=warmup_ratio)
    return warm * (1 - _progress(step, total, warmup_ratio))


def fixed_warmup(step: int, total: int, *, warmup_steps: int) -> float:
    """Rises linearly to 1 over a number of steps: min(step / warmup_steps, 1), beginning at step 1."""
    return min(1.0, (step + 1) / _positive(warmup_steps))


def buggy_warmup(step: int, total: int, *, warmup_steps: int) -> float:
    """max(step / warmup_steps, 1), a bug kept for study: `min` was intended. It starts at 1 and grows without bound.

    The published no-position experiment was trained with it; docs/no_position.md shows the effect.
    """
    return max(step / _positive(warmup_steps), 1.0)


def _positive(warmup_steps: int) -> int:
    if warmup_steps < 1:
        raise UserError(f"schedule.warmup_steps={warmup_steps}: give at least 1")
    return warmup_steps


def unbounded(multipliers: Sequence[float]) -> bool:
    """Whether a schedule's multipliers end above 1 and still rising, which no intended schedule does."""
    earlier = multipliers[-1 - max(1, len(multipliers) // 10) :][0]
    return multipliers[-1] > 1 and multipliers[-1] > earlier


def _warmup_steps(total: int, ratio: float) -> int:
    if not 0 <= ratio <= 1:
        raise UserError(f"schedule.warmup_ratio={ratio}: give a share between 0 and 1")
    return math.ceil(ratio * total)


def _progress(step: int, total: int, ratio: float) -> float:
    """The fraction of the steps after warm-up that is done."""
    warmup = _warmup_steps(total, ratio)
    return max(0, step - warmup) / max(1, total - warmup)


def resolve(schedule: NamedFunction, total: int) -> Callable[[int], float]:
    """The schedule of a configuration as a function of the step alone.

    Raises:
        UserError: the function does not exist or does not take these arguments, or its source has changed since it was
            loaded.
    """
    sources.hold(schedule.target)
    try:
        function = get_method(schedule.target)
        function(0, total, **schedule.arguments)
    except (ImportError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"schedule={schedule.name}: {reason}; compare its keys with conf/schedule") from error
    return lambda step: function(step, total, **schedule.arguments)
