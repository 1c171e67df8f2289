"""Linear probes, against numpy and known answers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mi_sweeps.circuits.probes import RIDGE, fit, moments, r2


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def by_numpy(x, y, test_x, test_y):
    """Least squares on centred data, with a row for each penalised weight."""
    x, y, test_x, test_y = (part.double().numpy() for part in (x, y, test_x, test_y))
    centre = x.mean(axis=0)
    penalty = math.sqrt(RIDGE * x.var(axis=0).mean() * len(x)) * np.eye(x.shape[1])
    rows = np.concatenate([x - centre, penalty])
    weights, *_ = np.linalg.lstsq(rows, np.concatenate([y - y.mean(), np.zeros(x.shape[1])]), rcond=None)
    result = (test_x - centre) @ weights + y.mean()
    return 1 - ((test_y - result) ** 2).sum() / ((test_y - test_y.mean()) ** 2).sum()


@pytest.mark.parametrize(("n", "width"), [(200, 7), (5, 40)], ids=["many tokens", "fewer tokens than numbers"])
def test_r2_is_that_of_numpy(n, width):
    x = 5 * torch.randn(2 * n, width) @ torch.randn(width, width) + 100
    y = (x @ torch.randn(width) + 3 * torch.randn(2 * n)).round()
    found = r2(fit(moments(x[:n], y[:n])), moments(x[n:], y[n:]))
    assert found == pytest.approx(by_numpy(x[:n], y[:n], x[n:], y[n:]), abs=1e-6)


@given(slope=st.floats(0.01, 100), shift=st.floats(-1000, 1000), split=st.integers(20, 380))
def test_what_is_linear_is_read_in_full_and_in_any_batches(slope, shift, split):
    position = torch.arange(400) % 20
    x = torch.randn(400, 6)
    x[:, 2] = slope * position + shift
    x[:, 3] = slope * x[:, 3] + shift
    whole = moments(x, position)
    parts = moments(x[:split], position[:split]) + moments(x[split:], position[split:])
    torch.testing.assert_close(whole, parts)
    result = fit(parts)
    other = torch.randn(400, 6)
    other[:, 2] = slope * position + shift
    other[:, 3] = slope * other[:, 3] + shift
    assert r2(result, moments(other, position)) == pytest.approx(1, abs=1e-3)


def test_what_is_not_there_is_not_read():
    x, y = torch.randn(4000, 8), torch.randint(20, (4000,))
    assert abs(r2(fit(moments(x[:2000], y[:2000])), moments(x[2000:], y[2000:]))) < 0.02
    few = r2(fit(moments(x[:12], y[:12])), moments(x[2000:], y[2000:]))
    assert few < -0.2, "held out: what was learned of 12 tokens by heart is wrong elsewhere"


def test_a_constant_predicts_nothing_and_is_no_error():
    x, y = torch.full((100, 4), 7.0), torch.arange(100) % 10
    assert r2(fit(moments(x, y)), moments(x, y)) == pytest.approx(0, abs=1e-9)


def test_without_anything_to_tell_there_is_no_value():
    x = torch.randn(10, 3)
    assert math.isnan(r2(fit(moments(x, torch.arange(10))), moments(x, torch.ones(10))))
