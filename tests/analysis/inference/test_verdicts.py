"""Verdicts that hold for all places at once."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from mi_sweeps.analysis.inference import false_verdicts
from mi_sweeps.analysis.inference.estimates import estimate, of_means
from mi_sweeps.analysis.inference.verdicts import (
    DELTA,
    MATTERS,
    SMALL,
    Judged,
    critical_values,
    critical_values_of,
    judge,
    judge_means,
)
from mi_sweeps.analysis.inference.verdicts import _samples as samples

from .worlds import world

HEADS, CHECKPOINTS = 144, 24


def judged(gain: np.ndarray, gap: np.ndarray, heads: int | None = None, *, seeds: bool | None = None) -> Judged:
    found = estimate(gain, gap)
    checkpoint = np.arange(len(found.n)) // (heads or len(found.n))
    return judge(found, critical_values_of(found), checkpoint, seeds=len(gain) > 1 if seeds is None else seeds)


@pytest.mark.slow
def test_of_144_null_heads_at_24_checkpoints_any_matters_in_5_of_100_sweeps():
    """At the worst, where each of them recovers just DELTA, and independent of all others."""
    random = np.random.default_rng(0)
    gap = 1.0 + 0.5 * random.standard_normal((1, 1, 48))
    wrong = 0
    for _ in range(100):
        noise = random.standard_normal((1, HEADS * CHECKPOINTS, 48), dtype=np.float32)
        wrong += judged(DELTA * gap + 0.3 * noise, np.broadcast_to(gap, noise.shape)).matter().any()
    assert wrong / 100 <= 0.05


@pytest.mark.parametrize("prompts", [12, 48])
@pytest.mark.parametrize("shape", ["skewed", "some skewed", "heavy tails"])
def test_nor_by_effects_that_a_few_prompts_make_up(shape, prompts):
    """100 heads at DELTA. Skewness -2 of all heads, or of a tenth of them either way; or Student's t with 5 degrees."""
    random = np.random.default_rng(prompts)
    wrong = 0
    for _ in range(100):
        skewed = 1.0 - random.exponential(size=(1, 100, prompts))
        ways = np.where(np.arange(100) < 10, random.choice([-1.0, 1.0], 100), 0.0)[None, :, None]
        noise = {
            "skewed": skewed,
            "some skewed": np.where(ways, ways * skewed, random.standard_normal(skewed.shape)),
            "heavy tails": random.standard_t(5, skewed.shape),
        }[shape]
        verdict = judged(DELTA + 0.05 * noise, np.ones(noise.shape)).verdict
        wrong += np.isin(verdict, (MATTERS, SMALL)).any()
    assert wrong / 100 <= 0.1  # 5% and its error over 100


@pytest.mark.parametrize("runs", [2, 3, 5])
def test_nor_by_seeds_that_differ_and_agree_by_chance(runs):
    """Heads that matter in each run, this way or that, and not on the whole; the same at all checkpoints."""
    random = np.random.default_rng(runs)
    wrong = 0
    for _ in range(60):
        gain, gap = world(random, runs, 16, 24, 0.0, seeds=0.1)
        noise = 0.05 * random.standard_normal((runs, 16 * 6, 24))
        wrong += judged(np.tile(gain, (1, 6, 1)) + noise, np.tile(gap, (1, 6, 1)), 16).matter().any()
    assert wrong / 60 <= 0.1  # 5% and its error over 60


@pytest.mark.parametrize("runs", [2, 3, 5])
def test_nor_by_a_few_heads_that_differ_between_seeds_while_most_do_not(runs):
    """A quarter of the heads: just DELTA on the whole, and not quite the same from checkpoint to checkpoint."""
    random = np.random.default_rng(runs)
    heads, checkpoints = 16, 6
    varying = np.arange(heads) < 4
    wrong, small = 0, []
    for _ in range(40):
        always, now = (random.standard_normal((runs, count, heads)) for count in (1, checkpoints))
        of_run = np.where(varying, DELTA, 0.0) + np.where(varying, 0.03, 0.002) * (0.9 * always + 0.4 * now)
        gain, gap = world(random, runs, heads * checkpoints, 24, of_run.reshape(runs, -1, 1), shared=0.02, own=0.01)
        verdict = judged(gain, gap, heads).verdict.reshape(checkpoints, heads)
        wrong += np.isin(verdict[:, varying], (MATTERS, SMALL)).any()
        small.append((verdict[:, ~varying] == SMALL).mean())
    assert wrong / 40 <= 0.1
    assert runs == 2 or np.mean(small) > 0.9  # The others do not suffer.


def test_each_at_its_own_is_wrong_on_almost_every_page():
    """What verdicts without a correction would come to."""
    gap = np.full((1, HEADS * CHECKPOINTS, 48), 1.0)
    found = estimate(0.3 * np.random.default_rng(1).standard_normal(gap.shape) + DELTA * gap, gap)
    assert judge(found, 1.96, np.zeros(len(found.n), int), seeds=False).matter().any()


def test_without_a_gap_at_27_checkpoints_a_head_that_pushes_does_not_matter():
    """A gap that differs from zero at one of them by chance does not make its gain a share of something."""
    random = np.random.default_rng(9)
    wrong = 0
    for _ in range(60):
        gap = 0.5 * random.standard_normal((1, 27, 48))
        gain = np.stack(
            [0.5 + 0.05 * random.standard_normal(gap.shape)[0], 0.05 * random.standard_normal(gap.shape)[0]]
        )
        gain, gap = gain.swapaxes(0, 1).reshape(1, 54, 48), np.repeat(gap, 2, axis=1)
        wrong += judged(gain, gap, 2).matter().any()
    assert wrong / 60 <= 0.1  # 5% and its error over 60


def test_what_is_planted_is_found():
    """A head that brings all back, one that takes away, one that is nothing, one that is on the line; no gap."""
    random = np.random.default_rng(2)
    recovered = np.array([1.0, -0.3, 0.0, DELTA])[None, :, None]
    gain, gap = world(random, 3, 4, 48, recovered, seeds=0.002)
    nothing = world(random, 3, 1, 48, 0.5, gap=0.0)
    words = judged(np.concatenate([gain, nothing[0]], axis=1), np.concatenate([gap, nothing[1]], axis=1)).words
    assert list(words) == ["matters", "matters", "small", "undecided", "undefined"]


def test_a_gap_that_is_the_other_way_round_changes_nothing():
    gain, gap = world(np.random.default_rng(3), 1, 3, 48, np.array([1.0, -0.3, 0.0])[None, :, None])
    assert list(judged(-gain, -gap).words) == list(judged(gain, gap).words) == ["matters", "matters", "small"]


def test_the_simultaneous_interval_and_the_verdict_agree():
    gain, gap = world(np.random.default_rng(4), 2, 60, 24, np.linspace(-0.3, 0.3, 60)[None, :, None], seeds=0.02)
    found = judged(gain, gap)
    matters = (found.low > DELTA) | (found.high < -DELTA)
    small = (found.low > -DELTA) & (found.high < DELTA)
    assert matters.any() and (found.words == "undecided").any()
    np.testing.assert_array_equal(found.words == "matters", matters)
    np.testing.assert_array_equal(found.words == "small", small)


def centred(rows: np.ndarray) -> np.ndarray:
    return rows - rows.mean(axis=1, keepdims=True)


def test_the_critical_value_of_one_place_is_students_and_grows_with_places():
    random = np.random.default_rng(6)
    one = centred(random.standard_normal((1, 48)))
    n = np.full(500, 48)
    assert critical_values(one, n[:1]) == pytest.approx(2.01, abs=0.15)
    many = critical_values(centred(random.standard_normal((500, 48))), n)
    assert 3.6 < many.min() < many.max() < 5.2
    # What all places share is not counted for each.
    assert critical_values(np.repeat(one, 500, axis=0), n) == pytest.approx(critical_values(one, n[:1])[0])


def test_critical_values_are_those_of_a_plain_bootstrap():
    """Each sample by itself, with means and variances that skip the prompts that a row lacks."""
    random = np.random.default_rng(11)
    rows, n = centred(random.gamma(0.5, size=(70, 24))), np.full(70, 24)
    rows[3], rows[4, :4], n[4] = 0.0, 0.0, 20
    rows[4, 4:] -= rows[4, 4:].mean()
    t = np.array(
        [
            [abs(sample.sum()) / np.sqrt(((sample**2).sum() - sample.sum() ** 2 / count) * count / (count - 1))
             for sample in (row[np.repeat(np.arange(24), times)] for times in samples(24).T.astype(int))]
            for row, count in zip(np.delete(rows, 3, axis=0), np.delete(n, 3), strict=True)
        ]
    )  # fmt: skip
    own = np.maximum(np.sort(t, axis=1)[:, 1900] / stats.t.ppf(0.975, np.delete(n, 3) - 1), 1.0)
    common = np.sort((t / own[:, None]).max(axis=0))[1900]
    found = critical_values(rows, n)
    np.testing.assert_allclose(np.delete(found, 3), own * common, rtol=2e-3)
    assert found[3] == pytest.approx(common, rel=2e-3)


def test_a_place_whose_effect_is_that_of_one_prompt_is_undecided_and_does_not_hide_the_others():
    random = np.random.default_rng(12)
    gap = np.ones((1, 3, 48)) + 0.05 * random.normal(size=(1, 1, 48))
    gain = np.array([0.8, 0.0, 0.0])[None, :, None] * gap + 0.02 * random.normal(size=gap.shape)
    gain[0, 2] = np.where(np.arange(48) == 7, 48 * 0.3, 0.0)
    assert judged(gain, gap).words.tolist() == ["matters", "small", "undecided"]


def test_places_whose_effects_are_in_a_few_prompts_each_do_not_hide_the_others():
    """Each of the two does not vary in 4% of samples; one or the other in 8%."""
    random = np.random.default_rng(13)
    gap = np.ones((1, 4, 48))
    gain = np.array([0.8, 0.0, 0.0, 0.0])[None, :, None] + 0.02 * random.normal(size=gap.shape)
    gain[0, 2:] = 0.0
    gain[0, 2, :3], gain[0, 3, 3:6] = 5.0, -5.0
    assert judged(gain, gap).words.tolist() == ["matters", "small", "undecided", "undecided"]


@pytest.mark.parametrize("prompts", [2, 3, 4])
def test_with_fewer_than_five_prompts_nothing_is_decided(prompts):
    gain, gap = world(np.random.default_rng(5), 1, 4, prompts, 1.0, gap_spread=0.001, shared=1e-4)
    assert set(judged(gain, gap).words) == {"undecided"}


def test_false_verdicts_can_be_counted_for_the_effects_of_an_output(make_output):
    output = make_output(corruptions=("first", "second"), steps=(24,), layers=2, heads=2, by_prompt=True)
    lines = [line.rpartition(": ") for line in false_verdicts.simulations(4, str(output))]
    assert [what for what, _, _ in lines] == [
        f"all, {corruption}, full, 4 places, prompts of 12: {prompts}"
        for corruption in ("first", "second")
        for prompts in false_verdicts.PROMPTS
    ]
    assert all(shares.startswith("wrong 0.") for _, _, shares in lines)


def test_verdicts_are_the_same_on_each_call():
    gain, gap = world(np.random.default_rng(7), 2, 20, 12, 0.1)
    np.testing.assert_array_equal(judged(gain, gap).low, judged(gain, gap).low)


def test_means_alone_are_corrected_by_holm_and_one_run_decides_nothing():
    random = np.random.default_rng(8)
    gain = np.concatenate(
        [1.0 + 0.001 * random.standard_normal((5, 1)), 0.001 * random.standard_normal((5, 3))], axis=1
    )
    found = of_means(gain, np.ones((5, 4)), np.full(4, 12))
    assert list(judge_means(found)) == [0, 1, 1, 1]
    assert set(judge_means(of_means(gain[:1], np.ones((1, 4)), np.full(4, 12)))) == {2}


def test_a_place_that_few_prompts_have_is_not_tested_and_does_not_hide_the_others():
    """Of 48 prompts four have the last place, as with a role that only long prompts have."""
    random = np.random.default_rng(0)
    gap = np.ones((1, 3, 48)) + 0.05 * random.normal(size=(1, 1, 48))
    gain = np.array([0.8, 0.0, 0.9])[None, :, None] * gap + 0.02 * random.normal(size=gap.shape)
    gain[:, 2, 4:] = np.nan
    found = judged(gain, gap)
    assert found.words.tolist() == ["matters", "small", "undecided"]
    np.testing.assert_array_equal(found.low, [*judged(gain[:, :2], gap[:, :2]).low, np.nan])
