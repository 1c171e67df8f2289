"""Static figures are written, and leave nothing of matplotlib changed."""

from __future__ import annotations

import matplotlib
import numpy as np

from mi_sweeps.analysis import curves, heatmaps
from mi_sweeps.analysis.figures import figures
from mi_sweeps.analysis.frames import load


def test_figures_are_written_and_nothing_global_is_changed(make_output, tmp_path):
    frames = load(make_output(steps=(16,), layers=2, heads=2, corruptions=("second",)))
    before = dict(matplotlib.rcParams)
    files = figures(frames, tmp_path / "figures")
    assert dict(matplotlib.rcParams) == before
    assert {file.name for file in files} == {
        *("win-rate.png", "lens.png", "layers.png", "dynamics.png", "scatter.png"),
        *("heads-second.png", "positions-second.png"),
    }
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in files)


def test_no_tables_no_figures(tmp_path):
    assert figures(load(tmp_path), tmp_path / "figures") == []


def test_a_single_run_has_its_wilson_interval(make_output):
    frames = load(make_output())
    metrics = frames.metrics[frames.metrics["split"] == "heldout"].set_index(["step", "metric"])["value"]
    band = curves.win_rate(frames).axes[0].collections[0].get_paths()[0].vertices
    drawn = {round(y, 9) for x, y in band if x == 24}
    assert round(metrics[24, "win_rate_low"], 9) in drawn
    assert round(metrics[24, "win_rate_high"], 9) in drawn


def test_heatmaps_share_a_scale_centred_at_zero_and_hide_small_denominators(make_output):
    frames = load(make_output(steps=(0, 16, 24)))
    images = [image for axis in heatmaps.heads(frames, "first", sites=("z",)).axes for image in axis.images]
    assert len(images) == 3
    assert len({image.get_clim() for image in images}) == 1
    low, high = images[0].get_clim()
    assert low == -high
    assert np.ma.getmaskarray(images[0].get_array()).all()  # step 0: clean - corrupted is 0.04 logits
    assert not np.ma.getmaskarray(images[2].get_array()).any()


def test_checkpoints_are_spread_evenly_with_both_ends():
    assert heatmaps.spread(range(0, 100, 8), 4) == [0, 32, 64, 96]
    assert heatmaps.spread([0, 8], 4) == [0, 8]
