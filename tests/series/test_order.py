"""Checkpoints out of order, found by distances."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from mi_sweeps.series.order import Distances, Misplaced, misplaced


def between(points: NDArray[np.float64]) -> Distances:
    return np.linalg.norm(points[:, None] - points[None], axis=2)


def line(*places: float) -> Distances:
    return between(np.array(places)[:, None])


@pytest.mark.parametrize(
    "places", [(0, 1, 2, 3, 4), (0, 0.1, 0.3, 5, 100), (0, 100, 101, 101.1), (5, 4, 3), (0, 1), (0,)]
)
def test_a_way_in_one_direction_is_in_order(places: tuple[float, ...]) -> None:
    assert misplaced(line(*places)) == []


def test_one_out_of_place() -> None:
    assert misplaced(line(0, 1, 9.5, 2, 3, 4, 5, 6, 7, 8, 9, 10)) == [Misplaced((2,))]


def test_the_first_and_the_last() -> None:
    assert misplaced(line(9.4, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10)) == [Misplaced((0,))]
    assert misplaced(line(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 2.4)) == [Misplaced((10,))]


def test_neighbours_that_are_out_of_place_together_and_one_between_them_that_is_not() -> None:
    found = misplaced(line(0, 1, 2, 30, 31, 32, 3, 4, 5, 6, *range(7, 29)))
    assert found == [Misplaced((3, 4, 5))]
    found = misplaced(line(0, 1, 2, 30, 3, 31, 4, 5, 6, *range(7, 29)))
    assert {place for one in found for place in one.members} == {3, 5}


def test_if_either_of_two_may_be_wrong_both_are_reported() -> None:
    """The second may be of another place, or the first and the third of one."""
    (found,) = misplaced(line(0, 9, 0.1))
    assert {*found.members, *found.instead} == {0, 1, 2}


def test_steps_shorter_than_rounding_are_not_judged() -> None:
    shaken = line(0, 1, 0, 1, 0)
    assert misplaced(shaken)
    assert misplaced(shaken, floor=2) == []


@pytest.mark.parametrize("seed", range(5))
def test_noise_alone_is_in_order(seed: int) -> None:
    """Weights shaken around one place, by less and less: every distance between them is alike."""
    random = np.random.default_rng(seed)
    points = random.normal(size=(40, 4000)) * np.linspace(1, 0, 40)[:, None]
    assert misplaced(between(points)) == []
