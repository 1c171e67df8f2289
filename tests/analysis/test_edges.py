"""How faithful the largest edges are, and what was missed."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest

from mi_sweeps.analysis import edges, export, folder
from mi_sweeps.analysis.frames import examined_in


def test_areas_of_a_known_circuit_are_those_by_hand(measured_circuit):
    """4 of 75 edges do all: 5% are 3 edges and do nothing, 10% are 7 and do it."""
    output, _ = measured_circuit()
    examined = examined_in(folder.read(output))
    (found,) = edges.circuits_of(examined)
    assert list(found.columns) == list(export.EXPORTED["edge_circuits"])
    circuits = found[(found["kind"] == "circuit") & (found["order"] == "signed")]
    assert circuits["edges"].tolist() == [0, 0, 0, 0, 1, 3, 7, 15, 37, 75]
    assert circuits["value"].tolist() == pytest.approx([0.0] * 6 + [1.0] * 4, abs=1e-5)
    assert set(found["n"]) == {3}, "the prompts that did not rank"
    areas = found[found["kind"] != "circuit"].set_index(["kind", "order"])["value"]
    for order in ("signed", "absolute"):
        assert areas["cpr", order] == pytest.approx(0.05 / 2 + 0.9, abs=1e-5)
        assert areas["cmd", order] == pytest.approx((0.05 - 0.001) + 0.05 / 2, abs=1e-5)
    (frame,) = edges.bounds_of(examined)
    (bound,) = frame.itertuples()
    assert list(frame.columns) == list(export.EXPORTED["edge_bounds"])
    assert (bound.edges_patched, bound.rest, bound.at_most, bound.compared) == (75, 0, 0, 75)


def test_estimates_are_compared_on_the_sample_and_what_was_missed_is_bounded(measured_circuit):
    """Two edges through a saturated pattern have no estimate to speak of, and a sample of half the rest finds them."""
    output, _ = measured_circuit(exact=2, sample=40)
    (frame,) = edges.bounds_of(examined_in(folder.read(output)))
    (bound,) = frame.itertuples()
    assert (bound.edges, bound.edges_patched, bound.sample, bound.rest, bound.compared) == (75, 42, 40, 73, 40)
    assert bound.largest == pytest.approx(20, abs=1e-3) and bound.error > 0.4
    assert bound.at_most == edges.missed(73, 40) == 3


@pytest.mark.parametrize(("rest", "sample"), [(73, 40), (20, 3), (5, 5), (1000, 60), (7, 1)])
def test_the_bound_is_the_first_count_that_a_sample_would_hardly_miss(rest, sample):
    def none_drawn(count):
        return comb(rest - count, sample) / comb(rest, sample)

    bound = edges.missed(rest, sample)
    assert none_drawn(bound + 1) <= 0.05 and (bound == 0 or none_drawn(bound) > 0.05)


def test_nothing_drawn_bounds_nothing():
    assert edges.missed(12, 0) == 12


def test_the_bound_holds_in_as_many_samples_as_it_says():
    """Planted: 200 values with a heavy tail, 2000 samples of 30."""
    random = np.random.default_rng(0)
    values = random.pareto(1.0, 200)
    samples = random.random((2000, 200)).argsort(axis=1)[:, :30]
    larger = (values > values[samples].max(axis=1, keepdims=True)).sum(axis=1)
    holds = (larger <= edges.missed(200, 30)).mean()
    assert 0.95 <= holds <= 0.97, "and is not wider than it must be"
