"""Intervals over prompts: against a plain loop, and by what must hold of any bootstrap."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mi_sweeps.analysis.frames import by_prompt, load
from mi_sweeps.analysis.intervals import RESAMPLES, SEED, bootstrap, over_prompts, over_runs
from mi_sweeps.analysis.summaries import recovered


def made_up(sites: int, prompts: int, seed: int = 0, spread: float = 0.5) -> pd.DataFrame:
    """Sites that recover about 0.4 of a difference of 3 logits."""
    random = np.random.default_rng(seed)
    clean, corrupted = random.normal(2, spread, (sites, prompts)), random.normal(-1, spread, (sites, prompts))
    patched = corrupted + 0.4 * 3 + random.normal(0, spread, (sites, prompts))
    site, prompt = np.indices((sites, prompts))
    columns = {"head": site, "prompt": prompt, "patched": patched, "clean": clean, "corrupted": corrupted}
    return pd.DataFrame({name: values.ravel() for name, values in columns.items()})


def resamples(n: int) -> Iterator[list[int]]:
    """Which of n are drawn, by mulberry32 number after number."""
    state, whole = SEED, 0xFFFFFFFF
    for _ in range(RESAMPLES):
        drawn = []
        for _ in range(n):
            state = (state + 0x6D2B79F5) & whole
            mixed = ((state ^ state >> 15) * (state | 1)) & whole
            mixed ^= (mixed + ((mixed ^ mixed >> 7) * (mixed | 61))) & whole
            drawn.append(int((mixed ^ mixed >> 14) / 2**32 * n))
        yield drawn


def by_loop(rows: pd.DataFrame) -> tuple[float, float]:
    """The interval of one site, draw by draw."""
    terms = rows.sort_values("prompt")[["patched", "clean", "corrupted"]].to_numpy()
    ratios = []
    for drawn in resamples(len(terms)):
        patched, clean, corrupted = terms[drawn].mean(axis=0)
        ratios.append((patched - corrupted) / (clean - corrupted))
    return float(np.percentile(ratios, 2.5)), float(np.percentile(ratios, 97.5))


def test_as_a_plain_loop_also_where_prompts_are_missing():
    rows = made_up(sites=3, prompts=8)
    rows = rows[~((rows["head"] == 1) & rows["prompt"].isin((2, 5)))]
    rows.loc[(rows["head"] == 2) & (rows["prompt"] == 0), "patched"] = math.nan
    found = over_prompts(rows, ["head"]).set_index("head")
    assert found["n"].tolist() == [8, 6, 7]
    for head in range(3):
        own = rows[(rows["head"] == head) & rows["patched"].notna()]
        low, high = by_loop(own)
        assert found.loc[head, "low"] == pytest.approx(low, abs=1e-12)
        assert found.loc[head, "high"] == pytest.approx(high, abs=1e-12)
        means = own[["patched", "clean", "corrupted"]].mean().to_frame().T
        assert found.loc[head, "recovered"] == pytest.approx(recovered(means)[0])


def test_the_same_numbers_on_each_call_and_in_any_order_of_rows():
    rows = made_up(sites=5, prompts=12)
    first = over_prompts(rows, ["head"])
    pd.testing.assert_frame_equal(over_prompts(rows, ["head"]), first)
    again = over_prompts(rows.sample(frac=1, random_state=1), ["head"]).sort_values("head", ignore_index=True)
    pd.testing.assert_frame_equal(again, first)


def test_holds_the_estimate_and_widens_with_fewer_prompts():
    widths = {}
    for prompts in (6, 24, 96):
        found = over_prompts(made_up(sites=60, prompts=prompts), ["head"])
        assert found["recovered"].between(found["low"], found["high"]).all()
        widths[prompts] = (found["high"] - found["low"]).mean()
    assert widths[6] > widths[24] > widths[96]
    assert widths[24] / widths[96] == pytest.approx(2, abs=0.2)  # as one over the root of n


def test_holds_the_truth_about_as_often_as_it_says():
    found = over_prompts(made_up(sites=500, prompts=40), ["head"])
    assert 0.91 <= ((found["low"] <= 0.4) & (found["high"] >= 0.4)).mean() <= 0.98
    few = over_prompts(made_up(sites=500, prompts=10), ["head"])
    assert 0.8 <= ((few["low"] <= 0.4) & (few["high"] >= 0.4)).mean() < 0.93  # too narrow, as its docstring says


def test_no_interval_without_a_denominator_or_for_one_prompt():
    rows = made_up(sites=4, prompts=12)
    near = rows["head"] == 1
    rows.loc[near, "clean"] = rows.loc[near, "corrupted"] + 0.05  # logits: no recovered at all
    sometimes = rows["head"] == 2
    rows.loc[sometimes, "clean"] = rows.loc[sometimes, "corrupted"] + np.where(np.arange(12) % 2, 1.5, -0.9)
    rows = rows[(rows["head"] != 3) | (rows["prompt"] == 0)]
    found = over_prompts(rows, ["head"]).set_index("head")
    assert found["low"].isna().tolist() == [False, True, True, True]
    assert found["high"].isna().tolist() == [False, True, True, True]
    assert found["recovered"].isna().tolist() == [False, True, False, False]


def test_a_few_draws_without_a_denominator_are_left_out():
    rows = made_up(sites=1, prompts=12)
    rows["clean"] = rows["corrupted"] + np.where(np.arange(12) % 2, 0.5, 0.01)
    n_low = sum(
        counts[1::2].sum() * 0.5 + counts[::2].sum() * 0.01 < 12 * 0.1
        for counts in np.random.default_rng(SEED).multinomial(12, [1 / 12] * 12, size=RESAMPLES)
    )
    assert 0 < n_low < 0.05 * RESAMPLES
    assert over_prompts(rows, ["head"])[["low", "high"]].notna().all(axis=None)


def test_a_prompt_twice_in_a_group_is_refused():
    rows = made_up(sites=2, prompts=4)
    with pytest.raises(ValueError, match="several rows"):
        over_prompts(rows.assign(site="z"), ["site"])


def test_of_nothing_nothing(make_output):
    rows = by_prompt(load(make_output(steps=(0,))))
    assert over_prompts(rows, ["site", "head"]).empty


def test_the_recovered_of_the_tables(make_output):
    frames = load(make_output(steps=(16,), corruptions=("second",), by_prompt=True))
    keys = ["patch_id", "step", "site", "layer", "head", "position"]
    found = over_prompts(by_prompt(frames), keys)
    expected = frames.patching.assign(expected=recovered(frames.patching))
    both = expected.merge(found, on=keys, how="outer", suffixes=("", "_found"))
    assert len(both) == len(expected)
    assert both["n"].tolist() == both["n_found"].tolist()
    np.testing.assert_allclose(both["recovered"], both["expected"], atol=1e-6)


def test_over_runs_as_a_plain_loop():
    values = pd.DataFrame({"step": [0, 0, 0, 0, 8, 8, 16], "value": [0.2, 0.5, 0.4, math.nan, 0.9, 0.7, 0.3]})
    found = over_runs(values, ["step"]).set_index("step")
    assert found["n"].tolist() == [3, 2, 1]
    own = np.array([0.2, 0.5, 0.4])
    means = [own[drawn].mean() for drawn in resamples(3)]
    assert found.loc[0, ["low", "high"]].tolist() == pytest.approx(np.percentile(means, (2.5, 97.5)))
    assert found.loc[8, ["mean", "low", "high"]].tolist() == pytest.approx([0.8, 0.7, 0.9])  # from one to the other
    assert found.loc[16, ["low", "high"]].isna().all()


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=30), st.floats(-5, 5))
def test_a_bootstrap_stays_within_its_values_and_moves_with_them(values, shift):
    low, high = bootstrap(np.array(values))
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9
    assert bootstrap(np.array(values) + shift) == pytest.approx((low + shift, high + shift), abs=1e-9)
