"""Spikes of the training loss, on curves whose spikes are known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mi_sweeps.analysis.spikes import HALF_WINDOW, TAILS, counts, expected, of_runs, robust_z, spikes


def falling(steps: int = 400, noise: float = 0.05, seed: int = 0) -> np.ndarray:
    """A loss that falls over three orders of magnitude, with noise in proportion to it."""
    random = np.random.default_rng(seed)
    return 4 * np.exp(-np.arange(steps) / 60) * np.exp(noise * random.standard_normal(steps)) + 1e-3


@pytest.mark.parametrize("seed", range(10))
def test_a_smooth_fall_has_no_spikes(seed: int) -> None:
    assert spikes(falling(seed=seed)) == []


def test_a_cliff_is_no_spike() -> None:
    """Losses fall at once when a model finds out; that is not a spike, and neither is what was before it."""
    random = np.random.default_rng(1)
    losses = np.where(np.arange(300) < 150, 4.0, 0.5) * np.exp(0.03 * random.standard_normal(300))
    assert spikes(losses) == []


def test_each_spike_is_reported_once_at_its_highest_step() -> None:
    losses = falling()
    losses[100:105] *= [2, 5, 9, 4, 2]
    losses[300:303] *= [3, 8, 3]
    assert spikes(losses) == [102, 301]


def test_where_nothing_varies_any_rise_is_one() -> None:
    losses = np.ones(60)
    assert spikes(losses) == []
    losses[30] = 2
    assert spikes(losses) == [30]
    losses[30] = 1.01  # of no account
    assert spikes(losses) == []


@given(st.integers(30, 360), st.floats(4, 50), st.integers(0, 20))
def test_a_large_spike_is_found_wherever_it_is(step: int, times: float, seed: int) -> None:
    losses = falling(seed=seed)
    losses[step] *= times
    assert spikes(losses) == [step]


@given(st.floats(1e-3, 1e3), st.integers(0, 20))
def test_the_scale_of_the_loss_does_not_matter(scale: float, seed: int) -> None:
    losses = falling(seed=seed)
    losses[50] *= 6
    np.testing.assert_allclose(robust_z(scale * losses), robust_z(losses), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("length", [0, 1, 2, HALF_WINDOW])
def test_short_runs(length: int) -> None:
    assert spikes(falling(steps=length)) == []


def test_of_each_run_its_own() -> None:
    calm, wild = falling(seed=3), falling(seed=4)
    wild[200] *= 10
    rows = [
        {"run_id": run, "step": step, "split": split, "metric": "loss", "value": value, "n": 8}
        for run, losses in (("calm", calm), ("wild", wild))
        for split in ("batch", "heldout")
        for step, value in enumerate(losses)
    ]
    found = of_runs(pd.DataFrame(rows).sample(frac=1, random_state=0))
    assert found.to_dict("records") == [{"run_id": "wild", "step": 200, "value": pytest.approx(wild[200])}]
    assert of_runs(pd.DataFrame(rows).iloc[:0]).empty
    result = counts(pd.DataFrame(rows)).set_index("run_id")
    assert result["found"].to_dict() == {"calm": 0, "wild": 1}
    assert result["expected"].to_dict() == {"calm": expected(calm), "wild": expected(wild)}
    assert counts(pd.DataFrame(rows).iloc[:0]).empty


@pytest.mark.parametrize("spread", [0.05, 0.12, 0.4])
def test_noise_has_as_many_spikes_as_are_expected_of_it(spread: float) -> None:
    """In 60 runs of 1000 steps; where the losses spread little, few rises are twofold."""
    random = np.random.default_rng(0)
    runs = [noisy(random, spread) for _ in range(60)]
    found, result = sum(len(spikes(losses)) for losses in runs), sum(map(expected, runs))
    assert found == pytest.approx(result, abs=3 * result**0.5)
    assert result == pytest.approx({0.05: 15, 0.12: 177, 0.4: 187}[spread], rel=0.2)


def test_planted_spikes_are_more_than_expected() -> None:
    losses = noisy(np.random.default_rng(1), 0.05)
    losses[20::50] *= 10
    assert len(spikes(losses)) >= 20
    assert expected(losses) < 1, "the spikes hardly move what noise is"


@pytest.mark.parametrize("losses", [[], [1.0], [2.0] * 50])
def test_nothing_is_expected_where_nothing_varies(losses: list[float]) -> None:
    assert expected(losses) == 0


def noisy(random: np.random.Generator, spread: float) -> np.ndarray:
    """A falling loss under heavy-tailed noise of that robust standard deviation."""
    noise = random.standard_t(TAILS, 1000) / (1.4826 * stats.t.ppf(0.75, TAILS))
    return 4 * np.exp(-np.arange(1000) / 300 + spread * noise)
