"""Learning-rate schedules, against values worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mi_sweeps.config import NamedFunction
from mi_sweeps.errors import UserError
from mi_sweeps.training import schedules
from mi_sweeps.training.schedules import constant, cosine, linear_warmup, resolve, warmup_decay

WARMING = [linear_warmup, cosine, warmup_decay]
MODULE = "mi_sweeps.training.schedules"
ratios = st.floats(0, 1)
totals = st.integers(1, 2000)


def named(target: str, **arguments: Any) -> NamedFunction:
    return NamedFunction.model_validate({"name": "mine", "_target_": target, **arguments})


def test_constant_is_one() -> None:
    assert [constant(step, 5) for step in range(5)] == [1.0] * 5


@pytest.mark.parametrize(
    ("schedule", "ratio", "expected"),
    [
        (linear_warmup, 0.5, [0.25, 0.5, 0.75, 1, 1, 1, 1, 1]),
        (linear_warmup, 0.0, [1, 1, 1, 1, 1, 1, 1, 1]),
        (linear_warmup, 1.0, [0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1]),
        # 0.3 of 8 steps is 2.4: three steps of warm-up.
        (linear_warmup, 0.3, [1 / 3, 2 / 3, 1, 1, 1, 1, 1, 1]),
        (warmup_decay, 0.5, [0.25, 0.5, 0.75, 1, 1, 0.75, 0.5, 0.25]),
        (warmup_decay, 0.0, [1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]),
        (cosine, 0.5, [0.25, 0.5, 0.75, 1, 1, 0.5 + math.sqrt(0.125), 0.5, 0.5 - math.sqrt(0.125)]),
    ],
)
def test_by_hand(schedule: Callable[..., float], ratio: float, expected: list[float]) -> None:
    assert [schedule(step, 8, warmup_ratio=ratio) for step in range(8)] == pytest.approx(expected)


def test_the_original_warm_up() -> None:
    """0.03 of 184 steps are 6 (5.52, rounded up)."""
    values = [linear_warmup(step, 184, warmup_ratio=0.03) for step in range(8)]
    assert values == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1, 1, 1])


@pytest.mark.parametrize("schedule", WARMING)
@given(total=totals, ratio=ratios, data=st.data())
def test_multiplier_is_between_zero_and_one(
    schedule: Callable[..., float], total: int, ratio: float, data: st.DataObject
) -> None:
    step = data.draw(st.integers(0, total - 1))
    assert 0 <= schedule(step, total, warmup_ratio=ratio) <= 1


@pytest.mark.parametrize("schedule", WARMING)
@given(total=st.integers(1, 200), ratio=ratios)
@settings(max_examples=50)
def test_it_rises_to_one_and_never_again(schedule: Callable[..., float], total: int, ratio: float) -> None:
    values = [schedule(step, total, warmup_ratio=ratio) for step in range(total)]
    peak = values.index(max(values))
    assert values[peak] == 1
    assert all(before < after for before, after in zip(values[:peak], values[1 : peak + 1], strict=True))
    assert all(before >= after for before, after in zip(values[peak:], values[peak + 1 :], strict=False))
    assert values[0] > 0
    assert peak <= max(0, math.ceil(ratio * total) - 1)


@pytest.mark.parametrize("schedule", [cosine, warmup_decay])
@given(total=st.integers(100, 2000), ratio=st.floats(0, 0.5))
def test_decay_ends_near_zero(schedule: Callable[..., float], total: int, ratio: float) -> None:
    assert 0 < schedule(total - 1, total, warmup_ratio=ratio) <= 0.02


@pytest.mark.parametrize("schedule", WARMING)
@pytest.mark.parametrize("ratio", [-0.1, 1.5, 3, float("nan")])
def test_wrong_ratio_is_one_line(schedule: Callable[..., float], ratio: float) -> None:
    with pytest.raises(UserError, match=rf"\Aschedule\.warmup_ratio={ratio}: give a share between 0 and 1\Z"):
        schedule(0, 100, warmup_ratio=ratio)


def test_a_configured_schedule_is_a_function_of_the_step() -> None:
    schedule = resolve(named(f"{MODULE}.warmup_decay", warmup_ratio=0.5), 8)
    assert [schedule(step) for step in range(8)] == pytest.approx([0.25, 0.5, 0.75, 1, 1, 0.75, 0.5, 0.25])


@pytest.mark.parametrize(
    ("schedule", "says"),
    [
        (named(f"{MODULE}.cosine", warmup_ratio=0.1, cycles=2), "cycles"),
        (named(f"{MODULE}.cosine"), "warmup_ratio"),
        (named(f"{MODULE}.constant", warmup_ratio=0.1), "warmup_ratio"),
        (named(f"{MODULE}.nothing"), r"nothing'[^;]*[^:;]"),
        (named("nowhere.at_all"), r"nowhere\.at_all'[^;]*[^:;]"),
        (named(f"{MODULE}.math"), "callable"),
        (named(f"{MODULE}.cosine", warmup_ratio="some"), ".*"),
    ],
)
def test_a_schedule_that_cannot_be_called_is_one_line(schedule: NamedFunction, says: str) -> None:
    with pytest.raises(UserError, match=rf"\Aschedule=mine: .*{says}.*; compare its keys with conf/schedule\Z"):
        resolve(schedule, 100)


def test_fixed_warmup_is_what_was_meant_and_the_bug_is_not() -> None:
    assert [schedules.fixed_warmup(step, 1000, warmup_steps=4) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert [schedules.buggy_warmup(step, 1000, warmup_steps=4) for step in (0, 4, 6, 8, 400)] == [1, 1, 1.5, 2, 100]


@given(st.integers(1, 500), st.integers(1, 5000))
def test_only_the_bug_is_without_bound(warmup_steps: int, total: int) -> None:
    def unbounded(name: str, **arguments: float) -> bool:
        return schedules.unbounded([getattr(schedules, name)(step, total, **arguments) for step in range(total)])

    assert unbounded("buggy_warmup", warmup_steps=warmup_steps) == (total - 1 > warmup_steps)
    assert not unbounded("fixed_warmup", warmup_steps=warmup_steps)
    for name in ("linear_warmup", "cosine", "warmup_decay"):
        assert not unbounded(name, warmup_ratio=0.1)
