"""How heads come to matter, or cease to."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mi_sweeps.analysis.inference.courses import Course, courses

from .planted import STEPS, planted


def course(*recovered: float, **how: object):
    (result,) = courses(planted(np.array(recovered)[:, None], **how))  # type: ignore[arg-type]
    return result


@pytest.mark.parametrize(
    ("recovered", "expected"),
    [
        ((0, 0, 0, 0.9, 0.9, 0.9), Course.FORMED),
        ((0.9, 0.9, 0.9, 0.9, 0.9, 0.9), Course.FROM_THE_START),
        ((0.3, 0.3, 0.3, 0.9, 0.9, 0.9), Course.GREW),
        ((0, 0, 0, 0, 0, 0.9), Course.MATTERS),  # not held for two checkpoints: since when is unknown
        ((0.9, 0.9, 0.9, 0, 0, 0), Course.LOST),
        ((-0.9, -0.9, 0, 0, 0.9, 0.9), Course.CHANGED_SIGN),
        ((0.9, 0.9, 0.9, 0.9, 0.05, 0.05), Course.FADED),
        ((0, 0, 0, 0, 0, 0), Course.NEVER),
        ((0.05, 0, 0, 0, 0, 0), Course.UNDECIDED),
        ((0.05, 0.05, 0.3, 0.9, 0.9, 0.9), Course.GREW),  # at the first it is not small
        ((0.9, 0.9, 0.05, 0.05, 0.9, 0.9), Course.MATTERS),  # it comes and goes
    ],
)
def test_planted_courses(recovered, expected):
    assert course(*recovered).course is expected


@pytest.mark.parametrize("runs", [1, 3])
@pytest.mark.parametrize("at", [1, 2, 3, 4])
def test_a_planted_step_is_found_within_a_checkpoint(at, runs):
    result = course(*np.where(np.arange(6) >= at, 0.8, 0.0), runs=runs, noise=1.0)
    assert abs(STEPS.index(result.onset) - at) <= 1
    assert result.onset_low <= result.onset and (result.onset_high is None or result.onset <= result.onset_high)


def test_an_onset_is_of_the_gain_in_logits_and_not_of_the_share():
    """The head has the same share from the start while the difference itself grows."""
    result = course(*[0.9] * 6, gap=np.array([0.5, 0.5, 0.5, 5, 5, 5]), noise=0.05)
    assert (result.course, result.onset) == (Course.GREW, 24)


def test_the_interval_of_an_onset_holds_it():
    """A rise past half between checkpoints 16 and 24, of 150 families with noise and one or three runs."""
    rise = np.array([0.05, 0.15, 0.45, 0.55, 0.85, 1.0])
    result = [course(*rise, noise=3.0, runs=runs, seed=seed) for runs in (1, 3) for seed in range(75)]
    found = [one for one in result if one.onset is not None]
    assert len(found) > 30
    assert np.mean([one.onset_low <= 24 <= one.onset_high for one in found]) >= 0.95


def test_a_head_whose_share_fell_because_the_gap_grew_is_not_lost():
    """As the first checkpoints of a fine-tune have it: the same gain in logits, of a gap that is ten times as large."""
    result = course(0.6, 0.6, 0.6, 0.03, 0.03, 0.03, gap=np.array([0.5, 0.5, 0.5, 10, 10, 10]), noise=0.02)
    assert (result.course, result.last) == (Course.OUTGROWN, 16)


def test_a_gap_that_changed_sign_is_no_change_of_the_head():
    result = course(-0.3, -0.3, -0.3, 0.3, 0.3, 0.3, gap=np.array([-10, -10, -10, 10, 10, 10]))
    assert result.course is not Course.CHANGED_SIGN


def test_of_a_slow_rise_the_onset_is_uncertain():
    result = course(*np.linspace(0.1, 1.0, 6), noise=2.0)
    assert result.onset_low < (result.onset_high or 99)


def test_a_head_that_is_lost_is_named_with_when_and_how_much():
    result = course(0.9, 1.2, 0.9, 0, 0, 0)
    assert result.last == 16 and result.peak == pytest.approx(1.2, abs=0.05) and result.onset is None


def test_where_the_gap_goes_a_head_is_neither_lost_nor_there():
    result = course(*[0.9] * 6, gap=np.array([4, 4, 4, 4, 0, 0.0]))
    assert (result.course, result.last) == (Course.UNDEFINED, 24)


@pytest.mark.parametrize("gap", [(0, 0, 4, 4, 4, 4), (4, 4, 4, 4, 0, 0), (0, 0, 0, 4, 0, 0)])
def test_a_head_without_a_gap_at_an_end_is_not_said_to_have_never_mattered(gap):
    assert course(*[0.0] * 6, gap=np.array(gap, float)).course is Course.UNDECIDED
    assert course(*[0.0] * 6, gap=np.array([4, 4, 0, 0, 4, 4.0])).course is Course.NEVER


def test_what_does_not_change_has_not_formed():
    """As a sweep with a learning rate of nothing: heads of all sizes, with the same noise at each checkpoint."""
    (job,) = planted(np.linspace(0, 1, 40)[None], noise=1.0).jobs
    site = job.sites["z"]
    same = {
        name: np.repeat(getattr(site, name), 6, axis=0)
        for name in ("clean", "corrupted", "patched", "gain", "gap", "n")
    }

    from mi_sweeps.analysis.inference.families import family as made_of

    result = courses(made_of("z", [replace(job, sites={"z": replace(site, steps=STEPS, **same)})]))
    found = {one.course for one in result}
    assert Course.FROM_THE_START in found
    assert not found & {Course.FORMED, Course.GREW, Course.LOST, Course.CHANGED_SIGN}


def test_no_head_of_noise_has_formed():
    found = [one.course for seed in range(20) for one in courses(planted(np.zeros((6, 16)), noise=1.5, seed=seed))]
    assert found.count(Course.FORMED) + found.count(Course.LOST) <= 1
