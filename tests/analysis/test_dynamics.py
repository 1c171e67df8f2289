"""Which band the heads' curves have, and that the caption says so."""

from __future__ import annotations

import numpy as np
import pytest

from mi_sweeps.analysis import dynamics
from mi_sweeps.analysis.frames import by_prompt, load
from mi_sweeps.analysis.intervals import over_prompts


def bands(axis):
    """The ends of each head's band at the last checkpoint that has one."""
    found = {}
    for line, band in zip(axis.lines, axis.collections, strict=False):
        vertices = np.concatenate([path.vertices for path in band.get_paths()] or [np.empty((0, 2))])
        vertices = vertices[~np.isnan(vertices).any(axis=1)]
        at = vertices[vertices[:, 0] == 24, 1]
        found[line.get_label()] = (at.min(), at.max()) if len(at) else None
    return found


def test_a_single_run_has_a_band_over_its_prompts(make_output):
    frames = load(make_output(by_prompt=True))
    figure = dynamics.heads(frames)
    caption = " ".join(figure.get_supxlabel().split())
    assert "12 prompts" in caption and "band: 95% interval over its 12 prompts (bootstrap)" in caption
    assert "Student" not in caption
    drawn = bands(figure.axes[0])
    rows = by_prompt(frames, ["z"]).query("corruption == 'first' and step == 24")
    expected = over_prompts(rows, ["layer", "head"])
    assert len(drawn) == 6
    for row in expected.itertuples():
        if f"{row.layer}.{row.head}" in drawn:
            assert drawn[f"{row.layer}.{row.head}"] == pytest.approx((row.low, row.high))


def test_several_runs_have_a_band_over_runs(make_output):
    settings = {"seeds": (0, 1, 2), "corruptions": ("first",)}
    with_prompts = dynamics.heads(load(make_output(by_prompt=True, **settings)))
    caption = " ".join(with_prompts.get_supxlabel().split())
    assert "95% interval of the mean over runs (Student's t)" in caption and "bootstrap" not in caption
    assert all(bands(with_prompts.axes[0]).values())


def test_a_corruption_with_one_run_among_others_has_its_own_band(make_output, folders):
    output = make_output(seeds=(0, 1), corruptions=("first",), by_prompt=True)
    folders.write_patch(output, "run-0.0001-constant-0", "alone", "second", by_prompt=True)
    figure = dynamics.heads(load(output))
    caption = " ".join(figure.get_supxlabel().split())
    assert "Student's t); of a single run: 95% interval over its 12 prompts (bootstrap)" in caption
    assert all(bands(figure.axes[0]).values()) and all(bands(figure.axes[1]).values())


def test_a_single_run_of_old_has_no_band_and_says_so(make_output):
    figure = dynamics.heads(load(make_output()))
    assert "band: none, its tables do not tell prompts apart" in " ".join(figure.get_supxlabel().split())
    assert not any(bands(figure.axes[0]).values())
