"""Films: values move over the checkpoints; colours and axes do not."""

from __future__ import annotations

import numpy as np
import pytest

from mi_sweeps.analysis import animated
from mi_sweeps.analysis.frames import load
from mi_sweeps.analysis.summaries import recovered

STEPS = (0, 8, 16, 24)

FILMS = {
    "z": lambda frames: animated.heatmap(frames, "z"),
    "attn_out": lambda frames: animated.heatmap(frames, "attn_out"),
    "attribution": animated.attribution,
    "lens": animated.lens,
    "layers": animated.layers,
    "scatter-v": lambda frames: animated.scatter(frames, "v"),
    "scatter-pattern": lambda frames: animated.scatter(frames, "pattern"),
}


@pytest.fixture
def frames(make_output):
    return load(make_output())


def still(film):
    """The ends of all axes and colour scales."""
    axes = film.picture.axes
    return [(*axis.get_xlim(), *axis.get_ylim(), *(image.get_clim() for image in axis.images)) for axis in axes]


def values(film):
    """What the film shows now."""
    axes = film.picture.axes
    images = [np.ma.filled(image.get_array(), np.nan).ravel() for axis in axes for image in axis.images]
    lines = [np.asarray(line.get_ydata(), "float64") for axis in axes for line in axis.lines]
    dots = [np.ma.filled(dots.get_offsets(), np.nan).ravel() for axis in axes for dots in axis.collections]
    return np.concatenate([*images, *lines, *dots])


@pytest.mark.parametrize("name", FILMS)
def test_values_change_from_checkpoint_to_checkpoint_and_nothing_else(frames, name):
    film = FILMS[name](frames)
    assert film.steps in (STEPS, STEPS[1:])  # at step 0 nothing can be said of a recovered fraction
    seen = []
    before = still(film)
    for step in film.steps:
        film.show(step)
        assert still(film) == before
        assert f"checkpoint {step:2}".replace("  ", " \u2007") in film.picture.moment.get_text()
        seen.append(values(film))
    assert all(not np.array_equal(one, other, equal_nan=True) for one, other in zip(seen, seen[1:], strict=False))
    film.show(film.steps[0])
    assert np.array_equal(values(film), seen[0], equal_nan=True)  # no memory of where it was


def test_a_line_below_the_title_gives_the_win_rate_of_these_runs(frames):
    film = animated.lens(frames)
    film.show(0)
    assert film.picture.moment.get_text().endswith("held-out win rate \u200730%")


def test_the_difference_is_the_second_less_the_first(frames):
    film = animated.heatmap(frames, "z")
    film.show(16)
    first, second, difference = (axis.images[0].get_array() for axis in film.picture.axes[:3])
    assert [axis.get_title() for axis in film.picture.axes[:3]] == [
        "first corruption", "second corruption", "second − first",
    ]  # fmt: skip
    rows = frames.patching.query("site == 'z' and step == 16 and corruption == 'second'")
    assert np.allclose(second.ravel(), recovered(rows.sort_values(["layer", "head"])).astype("float64"))
    assert np.allclose(difference, second - first)


def test_one_corruption_has_no_difference(make_output):
    film = animated.heatmap(load(make_output(corruptions=("order",))), "z")
    assert [axis.get_title() for axis in film.picture.axes if axis.images] == ["order corruption"]


def test_positions_stay_in_the_order_of_the_prompt(frames):
    axis = animated.heatmap(frames, "resid_pre").picture.axes[2]
    names = [tick.get_text() for tick in axis.get_xticklabels()]
    assert names[0] == "intro 1" and names[-1] == "end" and len(names) == 10
    assert names.index("subject 1") < names.index("and 2") < names.index("subject 2")


def test_a_checkpoint_that_only_one_corruption_has(make_output, folders):
    output = make_output(corruptions=("first",))
    folders.write_patch(output, "run-0.0001-constant-0", "late", "second", steps=(16, 24))
    film = animated.heatmap(load(output), "z")
    assert film.steps == STEPS
    film.show(8)
    first, second, difference = (np.ma.getmaskarray(axis.images[0].get_array()) for axis in film.picture.axes[:3])
    assert second.all() and difference.all() and not first.all()


@pytest.mark.parametrize("name", ["z", "lens", "layers"])
def test_where_a_series_has_no_checkpoint_a_film_shows_nothing_and_says_so(make_series, name):
    film = FILMS[name](load(make_series(by_prompt=True)))
    assert film.steps == STEPS
    film.show(16)
    assert "checkpoint 16: there is none" in film.picture.moment.get_text().replace("\u2007", " ")
    film.show(24)
    assert "held-out win rate" in film.picture.moment.get_text()
    shown = values(film)
    film.show(16)
    assert np.isnan(values(film)).sum() > np.isnan(shown).sum()
    assert "series at 16: /their/run/checkpoint-16: not there" in str(film.picture.source)


def test_a_scatter_plot_is_empty_where_only_the_other_corruption_was_examined(make_output):
    output = make_output()
    (output / "runs/run-0.0001-constant-0/patches/run-0.0001-constant-0-second/tables/000016.parquet").unlink()
    film = animated.scatter(load(output), "v")
    film.show(16)
    first, second = (np.ma.filled(axis.collections[0].get_offsets(), np.nan) for axis in film.picture.axes[:2])
    assert np.isfinite(first).all() and np.isnan(second).all()
