"""How many prompts and seeds are needed, against simulations and known numbers."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.power import tt_solve_power

from mi_sweeps.analysis import power
from mi_sweeps.analysis.inference.estimates import estimate, interval
from mi_sweeps.analysis.pilots import Gap, influences
from mi_sweeps.analysis.power import needed_for_change, noncentrality, precision
from mi_sweeps.analysis.prompts import Site


def test_the_spread_over_prompts_is_the_planted_one():
    """Of heads that recover a share of each prompt's gap, and noise: prompts with larger gaps count more."""
    random = np.random.default_rng(0)
    gap = random.normal(2, 0.7, (1, 40_000))
    noise = np.array([0.02, 0.06])[:, None] * gap.mean() * random.normal(size=(2, gap.size))
    gain = np.array([0.9, 0.0])[:, None] * gap + noise
    site = Site(
        (8,), ((0, 0, None), (0, 1, None)), gap, 0 * gap, gain[None], *(np.zeros((1, 2)) for _ in range(3))
    )  # fmt: skip
    recovered, e = influences(site, 8)
    assert recovered == pytest.approx([0.9, 0.0], abs=1e-3)
    assert e.std(axis=1) == pytest.approx([0.02, 0.06], rel=0.03)


@pytest.mark.parametrize(("prompts", "seeds", "runs"), [(0.05, 0.03, 3), (0.05, 0.0005, 5), (0.04, 0.02, 2)])
def test_intervals_are_as_wide_as_they_turn_out(prompts, seeds, runs):
    """Over many heads at once, each drawn anew."""
    random, n, heads = np.random.default_rng(1), 48, 3000
    gap = np.broadcast_to(random.normal(2, 0.02, (1, 1, n)), (runs, heads, n))
    effect = 0.3 + seeds * random.normal(size=(runs, heads, 1)) + prompts * random.normal(size=(1, heads, n))
    found = estimate(effect * gap, gap)
    of_prompts, of_both = (np.subtract(*interval(found, seeds=scope)[::-1]) / 2 for scope in (False, True))
    expected = precision(prompts, seeds, n, runs, 2.0)
    assert np.sqrt(np.mean(of_prompts**2)) == pytest.approx(expected.of_prompts, rel=0.03)
    assert np.sqrt(np.mean(of_both**2)) == pytest.approx(expected.of_both, rel=0.1)


def test_a_detectable_effect_is_detected_four_times_in_five():
    assert noncentrality(stats.t.ppf(0.975, 23), 23) == pytest.approx(
        tt_solve_power(nobs=24, alpha=0.05, power=0.8) * np.sqrt(24), rel=1e-3
    )
    random, n, sd = np.random.default_rng(2), 24, 0.05
    critical = power.of_places(100, n)
    one = precision(sd, float("nan"), n, 1, critical)
    drawn = one.detectable + sd * random.normal(size=(20_000, n))
    error = drawn.std(axis=1, ddof=1) / np.sqrt(n)
    printed = drawn.mean(axis=1) - critical * error > power.DELTA
    assert printed.mean() == pytest.approx(0.8, abs=0.015)
    assert one.of_both != one.of_both, "of one seed nothing is said of others"


def test_more_prompts_places_and_seeds():
    widths = [precision(0.05, 0.02, n, 3, power.of_places(100, n)) for n in power.PROMPTS]
    assert [one.of_prompts for one in widths] == sorted((one.of_prompts for one in widths), reverse=True)
    for one in widths:
        assert one.of_prompts < one.of_both < one.of_all < one.detectable
    assert precision(0.05, 0.02, 48, 3, power.of_places(1000, 48)).of_all > widths[2].of_all
    assert precision(0.05, 0.02, 48, 8, 4.0).of_both < widths[2].of_both
    assert precision(0.0, 0.0, 48, 3, 4.0).detectable == power.DELTA
    assert precision(0.05, 0.02, 12, 3, float("inf")).detectable == float("inf"), "nothing can be decided"


def test_places_that_vary_alike_count_as_one():
    """And a pilot whose effects have heavier tails has larger critical values."""
    random = np.random.default_rng(4)
    one, many = (random.standard_normal((places, 96)) for places in (1, 128))
    alone = power.of_pilot(one, 0, 48)
    assert power.of_pilot(np.repeat(one, 128, axis=0), 7, 48) == pytest.approx(alone)
    assert alone < 2.5 < power.of_pilot(many, 7, 48) < power.of_pilot(random.exponential(size=(128, 96)), 7, 48)
    assert power.of_pilot(many, 7, 48) == pytest.approx(power.of_places(128, 48), rel=0.1)


def test_prompts_for_a_change_of_a_win_rate():
    """Four points need about 490 prompts where a tenth of them change (McNemar)."""
    assert needed_for_change(0.04, 0.1) == 489
    random = np.random.default_rng(3)
    for change, share in ((0.04, 0.1), (0.02, 0.05), (0.08, 0.3)):
        n = needed_for_change(change, share)
        won, lost = random.multinomial(n, [(share + change) / 2, (share - change) / 2, 1 - share], 20_000).T[:2]
        printed = (won - lost) ** 2 > stats.chi2.ppf(0.95, 1) * (won + lost)
        assert printed.mean() == pytest.approx(0.8, abs=0.025)
    assert needed_for_change(0.08, 0.01) == needed_for_change(0.08, 0.08), "as many as the rate changes"


def test_prompts_for_a_gap():
    needed, low, high = Gap(0, 0.5, 0.45, 96).needed
    assert (needed, low < needed < high) == (81, True)
    assert needed == np.ceil((0.45 / 0.05) ** 2)
    assert Gap(0, -0.5, 0.45, 96).needed == (needed, low, high)
    assert Gap(0, 0.05, 0.5, 96).needed is None


def test_a_pilot_is_reported_in_plain_text(make_output, capsys):
    output = make_output(seeds=(0, 1), steps=(0, 24), layers=2, heads=2, by_prompt=True)
    assert power.main([str(output), "demo", "--head", "1.1"]) == 0
    printed = capsys.readouterr().out
    assert "\x1b" not in printed and max(map(len, printed.splitlines())) <= 120
    assert "all, second corruption, patching full: 2 seeds, 12 prompts, 8 places (heads x checkpoints)" in printed
    for corruption in printed.split("all, ")[1:]:
        assert "Standard deviation of recovered, checkpoint 24" in corruption
        assert "Half of the 95% interval of recovered: head 1.1\n" in corruption
        rows = [line.split() for line in corruption.splitlines() if line.lstrip().startswith("48 ")]
        assert [row[1] for row in rows] == ["1", "2", "3", "5", "8"]
        assert all(float(value) > 0 for row in rows for value in row[2:] if value != "-")
    assert "no measurable gap" in printed, "clean and corrupted are alike at the start"
    assert power.main([str(output), "--step", "0"]) == 0
    assert "do not differ measurably at checkpoint 0; nothing to recover" in capsys.readouterr().out


def test_one_seed_says_nothing_of_others(make_output, capsys):
    assert power.main([str(make_output(corruptions=("first",), steps=(24,), layers=2, heads=2, by_prompt=True))]) == 0
    printed = capsys.readouterr().out
    rows = [line.split() for line in printed.splitlines() if line.lstrip().startswith("48 ")]
    assert [(row[1], row[3]) for row in rows] == [("1", "-")]


def test_standard_deviations_that_are_given(capsys):
    given = ["--prompt-sd", "0.05", "--seed-sd", "0.02", "--places", "432", "--gap", "0.5", "--gap-sd", "0.45"]
    assert power.main([*given, "--discordant", "0.1"]) == 0
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["48", "1", "0.015", "-", "0.031", "0.087"] in printed
    assert ["0.500", "0.450", "81", "81-82"] in printed
    assert ["given", "10.0%", "1960", "489", "121"] in printed


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ("--step=7", "--step=7: no such checkpoint was patched; there are 24"),
        ("--head=9.9", "--head=9.9: no such head"),
    ],
)
def test_what_the_pilot_lacks_is_refused(make_output, capsys, asked, says):
    output = make_output(corruptions=("first",), steps=(24,), layers=2, heads=2, by_prompt=True)
    assert power.main([str(output), asked]) == 2
    assert capsys.readouterr().err.startswith(f"error: {says}")
