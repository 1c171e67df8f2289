"""Static figures are written, and leave nothing of matplotlib changed."""

from __future__ import annotations

import json

import matplotlib
import numpy as np
import pandas as pd
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from cycler import cycler

from mi_sweeps.analysis import animations, canvas, curves, evidence, films, heatmaps
from mi_sweeps.analysis.figures import _save, figures
from mi_sweeps.analysis.frames import load
from mi_sweeps.analysis.inference.differences import difference
from mi_sweeps.analysis.summaries import recovered, spread


def test_figures_are_written_and_nothing_global_is_changed(make_output, tmp_path):
    frames = load(make_output(steps=(16,), layers=2, heads=2, corruptions=("second",)))
    before = dict(matplotlib.rcParams)
    files = figures(frames, tmp_path / "figures", ("png",), animate=True)
    assert dict(matplotlib.rcParams) == before
    assert {file.name for file in files} == {  # one checkpoint: nothing moves
        *("win-rate.png", "win-rate-train.png", "win-rate-two-name.png", "logit-diff.png"),
        *("lens.png", "layers.png", "attribution.png", "dynamics.png", "scatter-v.png", "scatter-pattern.png"),
        *("heads-second.png", "positions-second.png", "figures.json", "figures.md"),
    }
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in files if file.suffix == ".png")


def test_a_film_for_each_site_and_each_attribution(make_output, tmp_path, unrendered, monkeypatch):
    written = []
    monkeypatch.setattr("mi_sweeps.analysis.animations.write", lambda film, stem: written.append(stem.name) or [])
    frames = load(make_output(steps=(8, 16), layers=2, heads=2, corruptions=("second",)))
    figures(frames, tmp_path, ("png",))
    assert not written
    figures(frames, tmp_path, ("png",), animate=True)
    sites = ("resid_pre", "attn_out", "mlp_out", "z", "q", "k", "v", "pattern")
    assert set(written) == {
        f"{name}-film" for name in (*sites, "lens", "layers", "attribution", "scatter-v", "scatter-pattern")
    }


def test_text_stays_text_and_the_same_tables_make_the_same_files(make_output, tmp_path):
    frames = load(make_output(steps=(16,), layers=2, heads=2, corruptions=("second",)))
    picture = heatmaps.heads(frames, "second", sites=("z",))
    pdf, svg = ((_save(picture, tmp_path / f"a.{kind}", kind)).read_bytes() for kind in ("pdf", "svg"))
    assert b"/FontFile2" in pdf and b"/Type3" not in pdf  # TrueType, which is type 42
    assert b"Recovered by patching, second corruption</text>" in svg
    for told in ("12 prompts", "run-0.0001-constant-0"):
        assert told.encode("utf-16-be") in pdf and told.encode() in svg
    again = heatmaps.heads(frames, "second", sites=("z",))
    assert _save(again, tmp_path / "b.pdf", "pdf").read_bytes() == pdf
    assert _save(again, tmp_path / "b.svg", "svg").read_bytes() == svg


HOSTILE = {
    **{"text.usetex": True, "font.size": 30, "font.family": ["monospace"], "axes.grid": False, "lines.linewidth": 9},
    **{"savefig.bbox": "tight", "savefig.facecolor": "red", "savefig.transparent": True, "savefig.dpi": 10},
    **{"svg.fonttype": "path", "figure.dpi": 10, "image.cmap": "jet", "image.interpolation": "bilinear"},
    **{"axes.prop_cycle": cycler(color=["red"]), "axes.xmargin": 0.4, "xtick.labelcolor": "red"},
}


def test_whatever_the_user_has_set_the_files_are_the_same(make_output, tmp_path):
    """`text.usetex` alone would fail where there is no TeX."""
    output = make_output(steps=(8, 16), layers=2, heads=2, corruptions=("second",))

    def drawn():
        frames = load(output)
        picture = curves.training(frames, ["win_rate"])
        film = animations.frames(films.heatmap(frames, "z"))
        return _save(picture, tmp_path / "a.svg", "svg").read_bytes(), film[-1].tobytes()

    plain = drawn()
    strange = pd.option_context("mode.string_storage", "python", "display.precision", 1, "display.max_columns", 1)
    with matplotlib.style.context("dark_background"), matplotlib.rc_context(HOSTILE), strange:
        assert drawn() == plain
        assert matplotlib.rcParams["text.usetex"]


def test_figures_are_as_wide_as_a_column_or_a_page(make_output):
    frames = load(make_output(layers=12, heads=12, steps=(8, 16, 24)))
    assert curves.training(frames, ["win_rate"]).get_figwidth() == canvas.COLUMN
    for picture in (heatmaps.heads(frames, "first"), heatmaps.positions(frames, "first"), curves.lens(frames)):
        assert picture.get_figwidth() == canvas.PAGE
        assert picture.get_figheight() < 11


def test_the_index_tells_where_each_picture_comes_from(make_output, tmp_path, unrendered):
    frames = load(make_output(seeds=(0, 1), steps=(16,), layers=2, heads=2))
    figures(frames, tmp_path, ("png", "pdf"))
    index = {one["name"]: one for one in json.loads((tmp_path / "figures.json").read_text())}
    assert index["heads-second"]["files"] == ["heads-second.png", "heads-second.pdf"]
    assert index["heads-second"]["runs"] == ["run-0.0001-constant-0", "run-0.0001-constant-1"]
    assert index["heads-second"]["prompts"] == [12]
    assert "Student's t" in index["win-rate"]["caption"]
    told = (tmp_path / "figures.md").read_text()
    assert all(f"## {name}\n\n![{one['title']}]({name}.png)" in told for name, one in index.items())


def test_the_difference_is_of_the_second_corruption_to_the_first(make_output):
    frames = load(make_output(steps=(16,)))
    first, second, difference = (
        heatmaps.heads(frames, name, sites=("z",)).axes[0].images[0].get_array()
        for name in ("first", "second", "difference")
    )
    assert np.allclose(difference, second - first) and np.abs(difference).max() > 0.01
    assert heatmaps.corruptions(frames) == ["first", "second", "difference"]
    assert heatmaps.corruptions(load(make_output(corruptions=("both",), sweep="other"), ["other"])) == ["both"]


@pytest.fixture
def unrendered(monkeypatch):
    """Figures are made but not rendered, which takes most of the time."""
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, content, **_: content.write(b"drawn"))


def test_figures_of_estimates_and_paths_where_they_are(make_output, tmp_path, unrendered):
    size = {"steps": (16,), "layers": 2, "heads": 2, "corruptions": ("second",)}
    frames = load(make_output(approximate=True, paths=True, by_prompt=True, **size))
    names = {file.stem for file in figures(frames, tmp_path / "figures")}
    assert {"approximate-second", "paths-second", "heads-second", "dynamics"} <= names


def test_estimates_alone_are_drawn_by_that_name(make_output, tmp_path, unrendered):
    size = {"steps": (16,), "layers": 2, "heads": 2, "corruptions": ("second",)}
    frames = load(make_output(approximate=True, exact=False, **size))
    names = {file.stem for file in figures(frames, tmp_path / "figures")}
    assert {"heads-second", "positions-second"} <= names
    assert not {"approximate-second", "dynamics", "scatter-v"} & names
    axis = heatmaps.heads(frames, "second", sites=("z",)).axes[0]
    assert (axis.get_ylabel(), axis.get_title()) == ("z (approximate)\nlayer", "checkpoint 16")


def test_paths_alone_are_drawn(make_output, folders, tmp_path, unrendered):
    output = make_output(corruptions=("first",), steps=(16,), layers=2, heads=2)
    folders.write_patch(output, "run-0.0001-constant-0", "p", "first", name="paths", steps=(16,), paths=True)
    table = output / "runs/run-0.0001-constant-0/patches/p/tables/000016.parquet"
    rows = pq.read_table(table)
    pq.write_table(rows.filter(pc.not_equal(rows["kind"], "patch")), table)
    names = {file.stem for file in figures(load(output), tmp_path / "figures")}
    assert {"paths-first-paths", "heads-first-full", "lens-full", "lens-paths"} <= names
    assert not {"heads-first-paths", "dynamics-paths"} & names


def test_no_tables_no_figures(tmp_path):
    assert figures(load(tmp_path), tmp_path / "figures") == []


def test_a_single_run_has_its_wilson_interval(make_output):
    frames = load(make_output())
    metrics = frames.metrics[frames.metrics["split"] == "heldout"].set_index(["step", "metric"])["value"]
    band = curves.training(frames, ["win_rate"]).axes[0].collections[0].get_paths()[0].vertices
    drawn = {round(y, 9) for x, y in band if x == 24}
    assert round(metrics[24, "win_rate_low"], 9) in drawn
    assert round(metrics[24, "win_rate_high"], 9) in drawn


def drawn(picture):
    """The heatmaps of a picture, by their title: their axes."""
    return {axis.get_title(): axis for axis in picture.axes if len(axis.images) == 2}


def marked(axis):
    """The cells (row, column) that have each kind of mark."""
    dots, small, more, less, _ = axis.collections
    kinds = {"matters": dots, "undecided": small, "more": more, "less": less}
    return {kind: {(int(y), int(x)) for x, y in mark.get_offsets()} for kind, mark in kinds.items()}


def test_heatmaps_share_a_scale_centred_at_zero_and_are_grey_only_without_a_gap(make_output):
    frames = load(make_output(steps=(0, 16, 24), by_prompt=True))
    picture = heatmaps.heads(frames, "first", sites=("z",))
    images = [axis.images[0] for axis in drawn(picture).values()]
    assert len({image.get_clim() for image in images}) == 1
    low, high = images[0].get_clim()
    assert low == -high
    grey = [np.ma.getmaskarray(axis.images[1].get_array()) for axis in drawn(picture).values()]
    # At step 0 clean - corrupted is 0.04 logits in the mean, and 0.8 either way in prompts.
    assert np.ma.getmaskarray(images[0].get_array()).all() and not grey[0].any()
    assert not np.ma.getmaskarray(images[2].get_array()).any() and grey[2].all()
    assert "grey: the corruption makes no measurable difference there" in str(picture.source)


def test_marks_are_the_verdicts_of_all_heads_and_checkpoints_at_once(make_output):
    frames = load(make_output(steps=(8, 24), by_prompt=True))
    picture = heatmaps.heads(frames, "first", sites=("z", "pattern"))
    own = evidence.of_sites(frames, "first")["z"]
    for step in (8, 24):
        cells = marked(drawn(picture)[f"checkpoint {step}"])
        of_head = dict(zip(own.places, own.judged.words[own.at(step)], strict=True))
        for kind in ("matters", "undecided"):
            assert cells[kind] == {(layer, head) for (layer, head, _), word in of_head.items() if word == kind}
    assert cells["matters"] and cells["undecided"]
    caption = str(picture.source)
    assert "● matters, · undecided, no mark: small (less than 0.05 either way)" in caption
    assert "12 prompts, 1 run; for other prompts in this run, not for other seeds" in caption
    assert "16 heads × 2 checkpoints each, any verdict wrong: 5%" in caption


def test_marks_of_a_difference_are_its_own(make_output):
    frames = load(make_output(steps=(16, 24), by_prompt=True))
    picture = heatmaps.heads(frames, "difference", sites=("z",))
    first, second = (evidence.of_sites(frames, name)["z"] for name in ("first", "second"))
    found = difference(first, second)
    words = dict(zip(found.places, found.words[found.at(24)], strict=True))
    cells = marked(drawn(picture)["checkpoint 24"])
    for kind in ("more", "less", "undecided"):
        assert cells[kind] == {(layer, head) for (layer, head, _), word in words.items() if word == kind}
    assert cells["more"] | cells["less"] and not cells["matters"]
    assert "+ more, − less, · undecided, no mark: alike" in str(picture.source)
    assert "paired by prompt and run" in str(picture.source)
    old = heatmaps.heads(load(make_output(steps=(24,), sweep="old", seeds=(1,)), ["old"]), "difference", sites=("z",))
    assert "no test was made" in str(old.source) and not any(marked(drawn(old)["checkpoint 24"]).values())


def test_positions_that_few_prompts_have_are_hatched(make_output):
    output = make_output(steps=(24,), corruptions=("first",), by_prompt=True)
    frames = load(output)
    (axis,) = drawn(heatmaps.positions(frames, "first", sites=("resid_pre",))).values()
    assert not axis.collections[-1].get_paths()
    own = evidence.of_sites(frames, "first")["resid_pre"]
    own.estimate.n[[place[2] == "intro 1" for place in own.places]] = 5  # Of 12.
    picture = heatmaps.positions(frames, "first", sites=("resid_pre",))
    (axis,) = drawn(picture).values()
    hatched = {tuple(path.vertices[0]) for path in axis.collections[-1].get_paths()}
    assert hatched == {(-0.5, layer - 0.5) for layer in range(4)} and axis.collections[-1].get_hatch()
    assert "hatched: less than half of the prompts have it" in str(picture.source)


def test_what_is_small_is_pale(make_output):
    frames = load(make_output(steps=(24,), by_prompt=True))
    (axis,) = drawn(heatmaps.heads(frames, "second", sites=("k",))).values()
    assert 0 < np.abs(axis.images[0].get_array()).max() < 0.1
    assert axis.images[0].get_clim() == (-0.1, 0.1)


def test_checkpoints_are_spread_evenly_with_both_ends():
    assert spread(range(0, 100, 8), 4) == [0, 32, 64, 96]
    assert spread([0, 8], 4) == [0, 8]


def test_a_cell_for_each_path_and_none_where_there_is_no_path(make_output):
    frames = load(make_output(steps=(8, 24), corruptions=("first",), paths=True))
    figure = heatmaps.paths(frames, "first")
    plots = {axis.get_title(): axis for axis in figure.axes if axis.images}
    assert list(plots) == ["to q", "to k", "to v", "to logits"]
    assert "checkpoint 24" in figure.get_suptitle()
    last = frames.paths[frames.paths["step"] == 24]
    last = last.assign(recovered=recovered(last))
    for title, axis in plots.items():
        image = axis.images[0]
        low, high = image.get_clim()
        assert low == -high
        cells = np.ma.filled(image.get_array(), np.nan)
        rows, columns = (
            [tick.get_text() for tick in ticks] for ticks in (axis.get_yticklabels(), axis.get_xticklabels())
        )
        first = "logits" if title == "to logits" else "1.0"
        assert (rows[0], columns[0], cells.shape) == ("0.0", first, (len(rows), len(columns)))
        own = last[last["site"] == title.removeprefix("to ")]
        for path in own.itertuples():
            receiver = "logits" if path.site == "logits" else f"{path.layer}.{path.head}"
            at = rows.index(f"{path.source_layer}.{path.source_head}"), columns.index(receiver)
            assert cells[at] == pytest.approx(path.recovered)
        assert np.isfinite(cells).sum() == len(own)


def test_paths_of_many_heads_name_their_layers_only(make_output):
    frames = load(make_output(steps=(24,), corruptions=("first",), layers=5, heads=6, paths=True))
    axis = heatmaps.paths(frames, "first").axes[0]
    assert [tick.get_text() for tick in axis.get_yticklabels()] == ["L0", "L1", "L2", "L3"]
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["L1", "L2", "L3", "L4"]


def test_paths_are_grey_without_a_gap_and_white_where_there_is_none(make_output):
    frames = load(make_output(steps=(0,), corruptions=("first",), layers=2, heads=2, paths=True, by_prompt=True))
    image, grey = heatmaps.paths(frames, "first").axes[0].images
    assert np.ma.getmaskarray(image.get_array()).all()
    assert not np.ma.getmaskarray(grey.get_array()).any()
    frames = load(make_output(steps=(24,), corruptions=("second",), paths=True))
    image, grey = heatmaps.paths(frames, "second").axes[0].images
    assert np.ma.getmaskarray(grey.get_array()).all()
    assert np.ma.getmaskarray(image.get_array()).any()


def test_paths_have_verdicts_where_tables_tell_prompts_apart(make_output):
    frames = load(make_output(steps=(24,), corruptions=("first",), layers=3, heads=2, paths=True, by_prompt=True))
    picture = heatmaps.paths(frames, "first")
    axis = drawn(picture)["to q"]
    values, cells = axis.images[0].get_array(), marked(axis)
    assert cells["matters"] and all(abs(values[cell]) > 0.05 for cell in cells["matters"])
    assert "12 paths to q, " in str(picture.source) and "any verdict wrong: 5%" in str(picture.source)
    own = evidence.of_paths(frames, "first")["q"]
    expected = {place for place, matters in zip(own.places, own.judged.matter(), strict=True) if matters}
    assert len(cells["matters"]) == len(expected)
