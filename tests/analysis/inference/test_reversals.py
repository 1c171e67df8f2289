"""Changes of sign where epochs end: planted ones are found, and random ones are not."""

from __future__ import annotations

import numpy as np
import pytest

from mi_sweeps.analysis.inference.reversals import at_epoch_ends, reversals

STEPS = tuple(range(0, 185, 8))
ENDS = (62.5, 125.0)


def effects(at, prompts=24, noise=0.1):
    """Of heads that have one sign before a step and the other from it on."""
    random = np.random.default_rng(0)
    mean = np.where(np.array(STEPS)[:, None] < np.array(at), -1.0, 1.0)
    return mean[..., None] + noise * random.standard_normal((*mean.shape, prompts))


def test_a_change_of_sign_lies_between_the_checkpoints_that_show_it():
    assert reversals(STEPS, effects([64, 128, 999])) == [60, 124]
    assert not reversals(STEPS, effects([999], noise=0.1) * 0)


def test_a_sign_that_noise_may_have_is_none():
    values = np.random.default_rng(1).standard_normal((len(STEPS), 40, 24))
    assert len(reversals(STEPS, values)) < 40 * 23 * 0.05  # of signs as they are, half would change


def test_a_change_may_take_several_checkpoints():
    values = effects([64])
    values[7:10] = np.random.default_rng(0).standard_normal((3, 1, 24)) * 0.1
    assert reversals(STEPS, values) == [64]


def test_planted_changes_at_epoch_ends_are_found():
    found = at_epoch_ends([reversals(STEPS, effects([64, 64, 128]))] * 4, ENDS, 0, 184)
    assert (found.observed, found.n) == (12, 12)
    assert found.expected < 4 and found.p < 0.05


def test_random_changes_are_not():
    """Each p is below 0.05 in few of many sweeps."""
    random = np.random.default_rng(0)
    p = [at_epoch_ends(random.uniform(0, 184, (4, 3)), ENDS, 0, 184).p for _ in range(40)]
    assert np.mean(np.array(p) < 0.05) <= 0.1


def test_runs_that_change_at_about_the_same_times_are_no_more_events():
    """Runs share the base model and the prompts, and so when a head turns, wherever epochs end."""
    random = np.random.default_rng(0)
    times = random.uniform(8, 176, (60, 1, 1)) + 3 * random.standard_normal((60, 8, 1))
    p = [at_epoch_ends(of_runs.clip(0, 184), (37.5, 75.0, 112.5, 150.0), 0, 184).p for of_runs in times]
    assert np.mean(np.array(p) < 0.05) <= 0.05


def test_heads_that_change_together_count_as_one_event():
    """Twenty heads of one run that change at one epoch's end are as likely as one."""
    one, twenty = (at_epoch_ends([[62.0] * many], ENDS, 0, 184) for many in (1, 20))
    assert twenty.p == pytest.approx(one.p) and one.p > 0.05


def test_without_epochs_or_changes_there_is_no_answer():
    assert np.isnan(at_epoch_ends([[50.0]], (), 0, 184).p)
    assert np.isnan(at_epoch_ends([[]], ENDS, 0, 184).p)
