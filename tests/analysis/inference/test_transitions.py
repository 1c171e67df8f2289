"""Phase transitions: planted ones are found, and smooth curves are not called one."""

from __future__ import annotations

import numpy as np
import pytest

from mi_sweeps.analysis.inference import shapes
from mi_sweeps.analysis.inference.bends import rise, straight
from mi_sweeps.analysis.inference.simulations import CURVES, curve, logistic
from mi_sweeps.analysis.inference.transitions import BACK, NO_SHAPE, Answer, Transition, over_runs, transition

STEPS = np.array([0, 10, 20, *range(28, 72, 2), 80, 100, 120, 140, 160, 184], float)
"""Dense where the planted ones rise."""


def judged(kind, seed, steps=STEPS, **how):
    return transition(steps, curve(np.random.default_rng(seed), CURVES[kind], steps, **how))


def test_a_planted_transition_is_found():
    found = judged("logistic of scale 4", 0)
    assert found.answer is Answer.TRANSITION
    assert found.p < 0.01 and found.before < 0.1 and found.within >= 6
    assert found.width == pytest.approx(4 * 2 * np.log(9), abs=2) and found.width_low < found.width < found.width_high
    assert found.t50_low <= found.t50 <= found.t50_high and abs(found.bend - found.t50) < 4


@pytest.mark.parametrize("kind", ["linear", "square root", "exponential approach", "exponential growth"])
def test_what_is_smooth_is_no_transition(kind):
    assert judged(kind, 1).answer in (Answer.GRADUAL, Answer.CANNOT_TELL)


def test_falling_curves_are_classified_like_rising_ones():
    values = curve(np.random.default_rng(0), CURVES["logistic of scale 4"], STEPS)
    rising, falling = transition(STEPS, values), transition(STEPS, -values)
    assert (falling.answer, falling.t50, falling.width) == (rising.answer, rising.t50, rising.width)
    assert falling.change == -rising.change


def test_a_step_between_two_checkpoints_is_below_resolution():
    found = judged("logistic of scale 0.5", 0)
    assert found.answer is Answer.UNRESOLVED and found.within < 6


def test_a_flat_curve_has_no_change():
    assert judged("nothing", 1).answer is Answer.UNCHANGED
    assert transition(STEPS, np.ones((len(STEPS), 48))).answer is Answer.UNCHANGED


EVERY = np.arange(0.0, 185.0, 8.0)


def gone(kind):
    """Means that rise by 3 logits and fall back, at EVERY."""
    return {
        "hump": 3 * np.exp(-(((EVERY - 60) / 30) ** 2)),
        "collapse": np.where(EVERY < 100, 3 * -np.expm1(-EVERY / 20), 0.0),
    }[kind]


@pytest.mark.parametrize("prompts", [48, 1])
@pytest.mark.parametrize("kind", ["hump", "collapse"])
def test_a_curve_that_rises_and_falls_back_has_changed(kind, prompts):
    values = curve(np.random.default_rng(0), lambda t, _: gone(kind) / 3, EVERY)
    found = transition(EVERY, values if prompts > 1 else values.mean(axis=1, keepdims=True))
    assert found.answer is Answer.CANNOT_TELL and found.reason == BACK
    assert over_runs([found] * 5).reason == f"5 runs: 5 cannot tell; in 5 {BACK}"


def test_a_small_difference_of_the_ends_is_not_lost_in_a_large_rise_between_them():
    values = curve(np.random.default_rng(0), lambda t, _: (gone("hump") + 0.5 * t / 184) / 3, EVERY)
    found = transition(EVERY, values)
    assert found.answer is Answer.CANNOT_TELL and NO_SHAPE in found.reason


@pytest.mark.parametrize("steps", [STEPS, EVERY])
def test_two_sudden_rises_are_not_gradual(steps):
    """Each takes 8 of 184 steps; one slow rise is the shape that fits best."""
    values = curve(np.random.default_rng(0), lambda t, _: (logistic(8)(t, 40) + logistic(8)(t, 84)) / 2, steps)
    found = transition(steps, values)
    assert found.answer is Answer.CANNOT_TELL and NO_SHAPE in found.reason


def test_a_rise_without_a_plateau_is_no_transition():
    """It is over after 10 steps of 184: sudden, but from the first checkpoint on."""
    values = curve(np.random.default_rng(0), CURVES["nothing"], STEPS) + 3 * -np.expm1(-STEPS / 6)[:, None]
    found = transition(STEPS, values)
    assert found.answer is Answer.CANNOT_TELL and "no plateau" in found.reason


def test_a_rise_that_has_not_ended_is_no_transition():
    values = curve(np.random.default_rng(0), CURVES["nothing"], STEPS) + 3 / (1 + np.exp(-(STEPS - 180) / 6))[:, None]
    found = transition(STEPS, values)
    assert found.answer is not Answer.TRANSITION and found.answer is not Answer.UNRESOLVED


def test_few_checkpoints_say_nothing():
    found = judged("logistic of scale 4", 0, np.arange(0.0, 64.0, 8.0))
    assert found.answer is Answer.CANNOT_TELL and found.reason == "8 checkpoints; at least 9 are needed"


def test_a_mean_without_prompts_is_judged_by_its_wobble():
    values = curve(np.random.default_rng(0), CURVES["logistic of scale 4"], STEPS).mean(axis=1, keepdims=True)
    found = transition(STEPS, values)
    assert found.answer is Answer.TRANSITION and 0.01 < found.wobble < 0.15


def test_a_prompt_that_lacks_a_checkpoint_is_left_out():
    values = curve(np.random.default_rng(0), CURVES["linear"], STEPS)
    lacking = values.copy()
    lacking[3, 7] = np.nan
    assert repr(transition(STEPS, lacking)) == repr(transition(STEPS, np.delete(values, 7, axis=1)))


def runs(**counts):
    return [
        Transition(Answer[name], "", t50=40.0 + at, t50_low=38.0 + at, t50_high=42.0 + at, width=9.0, width_low=8.0,
                   width_high=10.0, change=1.0, start=36.0)
        for name, count in counts.items() for at in range(count)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("counts", "answer"),
    [
        ({"TRANSITION": 4}, Answer.CANNOT_TELL),  # too few seeds
        ({"TRANSITION": 4, "CANNOT_TELL": 1}, Answer.TRANSITION),
        ({"TRANSITION": 3, "CANNOT_TELL": 2}, Answer.CANNOT_TELL),
        ({"TRANSITION": 3, "UNRESOLVED": 2}, Answer.UNRESOLVED),
        ({"GRADUAL": 5}, Answer.GRADUAL),
        ({"UNCHANGED": 4, "GRADUAL": 2}, Answer.CANNOT_TELL),
    ],
)
def test_a_cell_needs_four_of_five_seeds(counts, answer):
    assert over_runs(runs(**counts)).answer is answer


def test_the_median_over_seeds_has_an_interval_from_six_on():
    five, eight = over_runs(runs(TRANSITION=5)), over_runs(runs(TRANSITION=8))
    assert np.isnan(five.t50_low) and "5 transition" in five.reason
    assert (eight.t50, eight.t50_low, eight.t50_high) == (43.5, 38.0, 49.0)


def test_the_covariance_of_a_mean_is_that_of_many_means():
    """Whatever the prompts' levels are, which are left out."""
    random, steps = np.random.default_rng(0), np.arange(0.0, 180.0, 20.0)

    def some():
        return curve(random, CURVES["linear"], steps, 48, 0.0)

    means = np.stack([some().mean(axis=1) for _ in range(2000)])
    true = np.cov((means - means.mean(axis=1, keepdims=True)).T)
    estimated = np.mean([shapes.of_prompts(some()) for _ in range(100)], axis=0)
    assert np.allclose(estimated, true, atol=0.25 * np.diag(true).max())


def test_the_fit_is_that_of_generalised_least_squares():
    """Of the best candidate, against the textbook formula."""
    values = curve(np.random.default_rng(0), CURVES["logistic of scale 4"], STEPS[:20])
    fit = shapes.fit(STEPS[:20], values.mean(axis=1), shapes.of_prompts(values))
    best = fit.best()
    design = np.stack([np.ones(20), fit.candidates.values[best]], axis=1)
    inverse = np.linalg.inv(fit.covariance)
    fitted = design @ np.linalg.solve(design.T @ inverse @ design, design.T @ inverse @ fit.curve)
    assert np.allclose(fit.fitted(best), fitted, atol=1e-6)
    left = fit.curve - fitted
    assert np.isclose(fit.squares[best], left @ inverse @ left, rtol=1e-4)


@pytest.mark.parametrize("shape", shapes.SHAPES)
def test_the_times_of_a_shape_are_where_it_is_a_tenth_half_and_nine_tenths_done(shape):
    u = np.linspace(0, 1, 81)
    known = shapes.fit(u, u, np.zeros((81, 81))).candidates
    own = np.flatnonzero((known.shape == shapes.SHAPES.index(shape)) & (known.width > 0.1) & (known.start > u[1]))
    for at in own[:: 1 + len(own) // 50]:
        times = known.start[at], known.middle[at], known.start[at] + known.width[at]
        done = (known.values[at] - known.values[at][0]) / np.ptp(known.values[at])
        assert np.allclose(np.interp(times, u, done), [0.1, 0.5, 0.9], atol=0.03)


def test_change_points_are_looked_for_at_every_checkpoint():
    """ruptures looks at every fifth point, unless told otherwise."""
    time = np.arange(24.0)
    found = rise(time, np.clip((time - 7) / 4, 0, 1))
    assert found is not None and (found.middle, found.width) == pytest.approx((9, 3.2), abs=0.3)
    assert rise(time, time) is None and rise(time, np.sqrt(time)) is None and rise(time, np.expm1(time / 6)) is None
    assert np.allclose(straight(time, 3 * time + 1), 3 * time + 1)
