"""Attention patterns as figures and as a film: they equal the stored ones and name their run."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest

from mi_sweeps.analysis import attention_pictures, patterns
from mi_sweeps.analysis.figures import animations, pictures
from mi_sweeps.analysis.frames import load


@pytest.fixture
def output(make_output, folders):
    output = make_output(steps=(0, 8, 24), layers=2, heads=2, by_prompt=True)
    folders.write_patterns(output, layers=2)
    return output


def drawn(plot):
    """A pattern's values; NaN where nothing is drawn."""
    (image,) = plot.images
    return np.ma.filled(image.get_array().astype(float), np.nan)


def kept(folders, side, step):
    """What was kept of head 1."""
    square = patterns.squared(folders.pattern(side, step, 1))
    return np.where(np.tri(len(square)), square, np.nan)


def test_a_figure_has_the_first_middle_and_last_checkpoint_of_one_prompt(output, folders):
    frames = load(output)
    picture = dict(pictures(frames))["attention-second"]()
    plots = [plot for plot in picture.axes if plot.images]
    row = next(at for at in range(0, len(plots), 4) if plots[at].get_ylabel() == "head 1.1")
    columns = [("clean", 0), ("clean", 8), ("clean", 24), ("corrupted", 24)]
    assert [plot.get_title() for plot in plots[:4]] == [f"{side}, checkpoint {step}" for side, step in columns]
    for plot, (side, step) in zip(plots[row : row + 4], columns, strict=True):
        assert np.allclose(drawn(plot), kept(folders, side, step), atol=1e-6, equal_nan=True)
        assert plot.images[0].get_clim() == (0, 1)
    labels = {label.get_text(): label.get_fontweight() for label in plots[-1].get_xticklabels()}
    assert (labels["Tom"], labels["left"]) == ("bold", "normal")
    assert picture.source.runs == ("run-0.0001-constant-0",)
    assert "one prompt (number 1) in one run" in str(picture.source)
    assert "where a head looks does not say what it uses" in str(picture.source)


def test_a_film_shows_every_checkpoint_and_each_corrupted_side_below_the_clean_one(output, folders):
    film = dict(animations(load(output)))["attention-film"]()
    assert film.steps == (0, 8, 24)
    plots = [plot for plot in film.picture.axes if plot.images]
    named = [plot.get_ylabel() for plot in plots if plot.get_ylabel()]
    assert named == ["clean", "first corruption", "second corruption"]
    at = [plot.get_title() for plot in plots].index("head 1.1")
    for step in (24, 0):
        film.show(step)
        assert np.allclose(drawn(plots[at]), kept(folders, "clean", step), atol=1e-6, equal_nan=True)
        assert f"checkpoint {step}" in film.picture.moment.get_text().replace("\u2007", "").replace("  ", " ")


def test_an_unreadable_checkpoint_is_left_out_with_a_note(output):
    for file in output.glob("runs/*/patches/*/tables/000008.patterns.parquet"):
        pq.write_table(pq.read_table(file).drop_columns(["pattern"]), file)
    picture = attention_pictures.attention(load(output), "first")
    assert "left out: checkpoint 8" in str(picture.source)


def test_without_patterns_there_are_no_such_pictures(make_output):
    frames = load(make_output(steps=(0, 8), layers=2, heads=2))
    assert not [name for name, _ in pictures(frames) if name.startswith("attention-")]
