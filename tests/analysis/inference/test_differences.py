"""One group against another."""

from __future__ import annotations

import numpy as np
import pytest

from mi_sweeps.analysis.inference.differences import difference

from .planted import planted


def runs_of(lr: str, seeds: str = "012") -> list[dict[str, str]]:
    return [{"lr": lr, "seed": seed} for seed in seeds]


def test_the_difference_is_the_second_less_the_first():
    first, second = planted(np.full((1, 2), [[0.9, 0.0]]), runs=3), planted(np.full((1, 2), [[0.5, 0.2]]), runs=3)
    found = difference(first, second)
    assert list(found.words) == ["less", "more"]
    np.testing.assert_allclose(found.difference, [-0.4, 0.2], atol=0.02)
    np.testing.assert_allclose(difference(second, first).difference, -found.difference)


def test_prompts_are_paired():
    """Both corruptions have the same prompts, whose noise is the same: the interval is narrower than of strangers."""
    first = planted(np.array([[0.50]]), noise=2.0, seed=1)
    paired = difference(first, planted(np.array([[0.53]]), noise=2.0, seed=1, corruption="second"))
    stranger = difference(first, planted(np.array([[0.53]]), noise=2.0, seed=2, corruption="second"))
    assert paired.high - paired.low < (stranger.high - stranger.low) / 5
    assert paired.low > 0


def test_runs_are_paired_where_they_differ_in_nothing_else():
    one = planted(np.array([[0.5]]), runs=3, configs=runs_of("1"))
    other = planted(np.array([[0.5]]), runs=3, configs=runs_of("2"))
    strangers = planted(np.array([[0.5]]), runs=3, configs=runs_of("2", "345"))
    assert difference(one, other).paired and not difference(one, strangers).paired
    assert difference(one, other).seeds and difference(one, strangers).seeds


def test_single_runs_get_no_statement_on_other_seeds():
    found = difference(planted(np.array([[0.5]])), planted(np.array([[0.5]]), configs=[{"seed": "7"}]))
    assert not found.seeds and found.paired


def test_alike_is_shown_and_not_only_not_refuted():
    alike = difference(planted(np.array([[0.5]]), noise=0.05), planted(np.array([[0.5]]), noise=0.05, seed=1))
    noisy = difference(planted(np.array([[0.5]]), noise=3.0), planted(np.array([[0.5]]), noise=3.0, seed=1))
    assert list(alike.words) == ["alike"] and list(noisy.words) == ["undecided"]


def test_without_a_gap_on_either_side_nothing_is_defined():
    found = difference(planted(np.array([[0.5]])), planted(np.array([[0.5]]), gap=0.0))
    assert list(found.words) == ["undefined"] and np.isnan(found.difference).all()


@pytest.mark.parametrize("runs", [1, 3])
def test_of_144_heads_that_are_the_same_any_differs_in_5_of_100(runs):
    wrong = 0
    for seed in range(60):
        one, other = (
            planted(np.zeros((1, 144)), noise=1.0, runs=runs, seed=2 * seed + at, prompts=24) for at in (0, 1)
        )
        words = difference(one, other).words
        wrong += ((words == "more") | (words == "less")).any()
    assert wrong / 60 <= 0.1  # 5% and its error over 60


def test_only_what_both_have_is_compared():
    one, other = planted(np.zeros((3, 2))), planted(np.zeros((2, 3)))
    found = difference(one, other)
    assert (found.steps, found.places) == ((0, 8), ((0, 0, None), (0, 1, None)))


def test_where_gaps_are_weak_equal_heads_do_not_differ():
    """Gaps with a standard error of a third; the delta method would be wrong in a fifth of such families."""
    wrong = 0
    for seed in range(60):
        one, other = (planted(np.full((1, 16), 0.9), gap=0.2, noise=0.3, seed=2 * seed + at) for at in (0, 1))
        words = difference(one, other).words
        wrong += ((words == "more") | (words == "less")).any()
    assert wrong / 60 <= 0.1
