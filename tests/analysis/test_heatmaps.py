"""Heatmaps: cells, colour scales, verdict marks, labels."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mi_sweeps.analysis import animated, dynamics, evidence, heatmaps, plotting
from mi_sweeps.analysis.frames import load
from mi_sweeps.analysis.inference.differences import difference
from mi_sweeps.analysis.summaries import recovered, spread


def drawn(picture):
    """The heatmaps of a picture, by their title: their axes."""
    return {axis.get_title(): axis for axis in picture.axes if len(axis.images) == 2}


def marked(axis):
    """The cells (row, column) that have each kind of mark."""
    dots, small, more, less = axis.collections
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
    assert "; for other prompts in this run, not for other seeds" in caption
    assert caption.count("12 prompts") == 1 and "mean over runs" not in caption
    assert "5% chance of any wrong verdict per family of 16 heads × 2 checkpoints" in caption


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
    assert "not tested" in str(old.source) and not any(marked(drawn(old)["checkpoint 24"]).values())


def test_a_caption_repeats_numbers_of_prompts_and_runs_only_where_they_differ(make_output, folders):
    output = make_output(steps=(24,), corruptions=("first",), by_prompt=True)
    folders.write_run(output, "same", seed=1, steps=(24,))
    folders.write_patch(output, "same", "same-first", seed=1, steps=(24,), by_prompt=True)
    caption = str(heatmaps.heads(load(output), "first").source)
    assert caption.startswith("12 prompts; runs") and "mean over runs; " in caption
    assert caption.count("12 prompts") == 1 and "2 runs" not in caption
    folders.write_run(output, "other", seed=2, steps=(24,))
    folders.write_patch(
        output, "other", "other-first", seed=2, steps=(24,), by_prompt=True, prompt="Then Ann, Bo and Tom met, Bo gave"
    )
    caption = str(heatmaps.heads(load(output), "first").source)
    assert caption.startswith("12 prompts; runs") and "; 24 prompts, 3 runs; for other prompts" in caption


def test_positions_that_few_prompts_have_are_hatched(make_output):
    output = make_output(steps=(24,), corruptions=("first",), by_prompt=True)
    frames = load(output)
    (axis,) = drawn(heatmaps.positions(frames, "first", sites=("resid_pre",))).values()
    assert not axis.lines[0].get_visible()
    own = evidence.of_sites(frames, "first")["resid_pre"]
    own.estimate.n[[place[2] == "intro 1" for place in own.places]] = 5  # Of 12.
    frames.kept.pop(("cells", "first", "position"))
    picture = heatmaps.positions(frames, "first", sites=("resid_pre",))
    (axis,) = drawn(picture).values()
    lines = axis.lines[0].get_xydata().reshape(-1, 3, 2)[:, :2]  # each has a gap after it
    cells = {tuple(np.round(cell)) for cell in lines.mean(axis=1)}
    assert axis.lines[0].get_visible() and cells == {(0, layer) for layer in range(4)}
    assert np.allclose(lines[:, 1] - lines[:, 0], (lines[:, 1] - lines[:, 0])[:, ::-1])  # at 45 degrees
    assert np.abs(lines - np.round(lines.mean(axis=1, keepdims=True))).max() == 0.5
    assert "hatched: less than half of the prompts have it" in str(picture.source)


def test_what_is_small_is_pale(make_output):
    """Recovered ends at 1 either way whatever there is, with arrows; differences end at their largest."""
    frames = load(make_output(steps=(24,), by_prompt=True))
    picture = heatmaps.heads(frames, "second", sites=("k",))
    (axis,) = drawn(picture).values()
    assert 0 < np.abs(axis.images[0].get_array()).max() < 0.1
    assert axis.images[0].get_clim() == (-1, 1) and axis.images[0].colorbar.extend == "both"
    assert "grey" not in str(picture.source)
    (axis,) = drawn(heatmaps.heads(frames, "difference", sites=("k",))).values()
    image = axis.images[0]
    assert image.get_clim()[1] == pytest.approx(np.abs(image.get_array()).max()) and image.colorbar.extend == "neither"
    assert image.get_cmap().name == plotting.DIFFERING and image.colorbar.ax.get_ylabel() == "difference"


def test_cells_are_square_and_positions_name_an_examples_tokens(make_output):
    output = make_output(steps=(24,), by_prompt=True)
    tokens = "When Sarah Emily and Rachel Emily and Rachel gave to".split()
    for file in output.glob("runs/*/patches/*/patch.json"):
        about = json.loads(file.read_text())
        at = {"first": 5, "second": 7}[about["corruption"]]
        about["prompts"][0] |= {"tokens": tokens, "corrupted_tokens": [*tokens[:at], "Sarah", *tokens[at + 1 :]]}
        file.write_text(json.dumps(about))
    frames = load(output)

    def labels(picture):
        (axis,) = drawn(picture).values()
        assert axis.get_aspect() == 1
        return {one.get_text(): one.get_fontweight() == "bold" for one in axis.get_xticklabels()}

    result = labels(heatmaps.positions(frames, "first", sites=("resid_pre",)))
    assert list(result)[:2] == ["intro 1 · When", "name 1 · Sarah"]
    assert [name for name, is_bold in result.items() if is_bold] == ["subject 1 · Emily → Sarah"]
    result = labels(heatmaps.positions(frames, "difference", sites=("resid_pre",)))
    changed = ["subject 1 · Emily → Sarah", "subject 2 · Rachel → Sarah"]
    assert [name for name, is_bold in result.items() if is_bold] == changed
    film = animated.heatmap(frames, "resid_pre")
    own, other, less = (axis for axis in film.picture.axes if axis.images)
    assert own.images[0].get_clim() == other.images[0].get_clim() == (-1, 1) != less.images[0].get_clim()
    old = load(make_output(steps=(24,), sweep="old", seeds=(1,)), ["old"])  # does not tell prompts apart
    assert "end" in labels(heatmaps.positions(old, "first", sites=("resid_pre",)))


def test_rows_of_attribution_name_their_corruption_and_scatter_has_equal_axes(make_output):
    frames = load(make_output(steps=(8, 24)))
    rows = [axis.get_ylabel() for axis in heatmaps.attribution(frames).axes]
    assert [result for result in rows if "layer" in result] == ["first corruption\nlayer", "second corruption\nlayer"]
    for picture in (dynamics.scatter(frames, "pattern"), animated.scatter(frames, "pattern").picture):
        for axis in picture.axes:
            assert axis.get_xlim() == axis.get_ylim() and axis.get_aspect() == 1


def test_long_row_labels_are_written_across(make_output):
    frames = load(make_output(steps=(8, 24), by_prompt=True))
    across, upwards = (
        {axis.yaxis.label.get_rotation() for axis in picture.axes if axis.get_ylabel().endswith("layer")}
        for picture in (heatmaps.attribution(frames), heatmaps.heads(frames, "first"))
    )
    assert (across, upwards) == ({0}, {90})


def test_ticks_of_colour_bars_are_round(make_output):
    picture = heatmaps.heads(load(make_output(steps=(24,))), "first", sites=("z",))
    bar = picture.axes[0].images[0].colorbar
    for limit in (1, 0.0937, 0.31, 4.7, 12):
        bar.mappable.set_clim(-limit, limit)
        ticks = [tick for tick in bar.get_ticks() if abs(tick) <= limit]
        assert 3 <= len(ticks) <= 7 and 0 in ticks, limit
        assert ticks == pytest.approx([float(f"{tick:.1g}") for tick in ticks])


def test_a_difference_is_called_as_on_the_page(make_output):
    frames = load(make_output(steps=(24,), corruptions=("first", "second")))
    assert heatmaps.heads(frames, "difference", sites=("z",)).title == "Recovered by patching, second − first"


def test_the_difference_is_of_the_second_corruption_to_the_first(make_output):
    frames = load(make_output(steps=(16,)))
    first, second, difference = (
        heatmaps.heads(frames, name, sites=("z",)).axes[0].images[0].get_array()
        for name in ("first", "second", "difference")
    )
    assert np.allclose(difference, second - first) and np.abs(difference).max() > 0.01
    assert heatmaps.corruptions(frames) == ["first", "second", "difference"]
    assert heatmaps.corruptions(load(make_output(corruptions=("both",), sweep="other"), ["other"])) == ["both"]


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
    assert "12 paths to q, " in str(picture.source) and "5% chance of any wrong verdict" in str(picture.source)
    own = evidence.of_paths(frames, "first")["q"]
    expected = {place for place, matters in zip(own.places, own.judged.matter(), strict=True) if matters}
    assert len(cells["matters"]) == len(expected)
