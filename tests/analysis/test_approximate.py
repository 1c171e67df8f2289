"""Correlations of approximate with exact effects, and their figure."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from mi_sweeps.analysis import approximate
from mi_sweeps.analysis.approximate import correlations
from mi_sweeps.analysis.frames import load


def test_correlations_as_numpy_has_them(make_output):
    patching = load(make_output(steps=(8, 24), seeds=(0, 1), approximate=True)).patching
    found = correlations(patching)
    assert list(found.columns) == ["patch_id", "step", "site", "r", "n"]
    assert len(found) == 2 * 2 * 2 * 8  # seeds, corruptions, steps, sites
    for row in found.itertuples():
        own = patching[
            (patching["patch_id"] == row.patch_id) & (patching["step"] == row.step) & (patching["site"] == row.site)
        ]
        expected = np.corrcoef(own["patched"] - own["corrupted"], own["approximate"] - own["corrupted"])[0, 1]
        assert row.r == pytest.approx(expected)
        assert row.n == len(own)


def test_effects_are_correlated_and_not_what_prompts_differ_in():
    # Sites that fewer prompts have come with other corrupted differences, which would look like agreement.
    patching = pd.DataFrame(
        {
            **{"patch_id": "p", "step": 0, "site": "z", "corrupted": [0.0, 0.0, 10.0, 10.0]},
            **{"patched": [1.0, -1.0, 11.0, 9.0], "approximate": [-1.0, 1.0, 9.0, 11.0]},
        }
    )
    assert correlations(patching)["r"].tolist() == [pytest.approx(-1)]


def test_no_correlation_of_few_or_equal_effects_or_without_estimates(make_output):
    few = {"patch_id": "p", "step": 0, "corrupted": 0.0}
    rows = [
        *({**few, "site": "two", "patched": value, "approximate": value} for value in (0.0, 1.0)),
        *({**few, "site": "equal", "patched": 1.0, "approximate": value} for value in (0.0, 1.0, 2.0)),
        *({**few, "site": "half", "patched": value, "approximate": math.nan} for value in (0.0, 1.0, 2.0)),
    ]
    found = correlations(pd.DataFrame(rows)).set_index("site")
    assert found["n"].to_dict() == {"two": 2, "equal": 3}
    assert found["r"].isna().all()
    assert correlations(load(make_output()).patching).empty


def test_each_plot_gives_its_r_and_n(make_output):
    frames = load(make_output(steps=(8, 24), corruptions=("first",), approximate=True))
    figure = approximate.exact(frames, "first")
    plots = {axis.get_title(): axis for axis in figure.axes}
    assert len(plots) == 8 * 2
    for row in correlations(frames.patching).itertuples():
        axis = plots[f"{row.site}, checkpoint {row.step}"]
        assert axis.texts[0].get_text() == f"r {row.r:.3f}, n {row.n}"
        assert len(axis.collections[0].get_offsets()) == row.n
    assert "approximate" in plots["z, checkpoint 8"].get_figure().get_suptitle()
    assert any(axis.get_xlabel().startswith("approximate") for axis in figure.axes)


def test_for_several_runs_the_plot_gives_the_smallest_and_largest_r(make_output):
    frames = load(make_output(steps=(24,), seeds=(0, 1, 2), corruptions=("first",), approximate=True))
    r = correlations(frames.patching).query("site == 'z'")["r"]
    plot = next(axis for axis in approximate.exact(frames, "first").axes if axis.get_title() == "z, checkpoint 24")
    assert plot.texts[0].get_text() == f"r {r.min():.3f} to {r.max():.3f},\nn 16 in each of 3 runs"
