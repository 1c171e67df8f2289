"""Which heads are drawn over checkpoints, with which bands and marks, and what the caption says about them."""

from __future__ import annotations

import numpy as np
import pytest

from mi_sweeps.analysis import dynamics, evidence
from mi_sweeps.analysis.frames import load
from mi_sweeps.analysis.inference.courses import courses
from mi_sweeps.analysis.inference.words import name

SETTINGS = {"corruptions": ("first",), "by_prompt": True}


def caption(picture):
    return " ".join(picture.get_supxlabel().split())


def bands(axis):
    """The ends of each head's band at the last checkpoint that has one."""
    found = {}
    lines = [line for line in axis.lines if not line.get_label().startswith("_")]
    for line, band in zip(lines, axis.collections, strict=False):
        vertices = np.concatenate([path.vertices for path in band.get_paths()] or [np.empty((0, 2))])
        vertices = vertices[~np.isnan(vertices).any(axis=1)]
        at = vertices[vertices[:, 0] == 24, 1]
        found[line.get_label()] = (at.min(), at.max()) if len(at) else None
    return found


def marks(axis, marker):
    """Where a head has a marker, in the order of heads: (step, recovered) of each."""
    return [list(zip(*line.get_data(), strict=True)) for line in axis.lines if line.get_marker() == marker]


@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
def test_the_heads_that_matter_or_else_the_largest_with_their_intervals(make_output, seeds):
    frames = load(make_output(seeds=seeds, **SETTINGS))
    own = evidence.of_sites(frames, "first")["z"]
    matter = own.grid(own.judged.matter()).any(axis=0)
    assert (0 < matter.sum() < 16) == (len(seeds) == 1)  # The seeds here have other heads each.
    figure = dynamics.heads(frames, top=16)
    drawn = bands(figure.axes[0])
    chosen = matter if matter.any() else np.ones(16, bool)
    assert set(drawn) == {name(place) for place, one in zip(own.places, chosen, strict=True) if one}
    low, high = own.interval
    for number in np.flatnonzero(chosen):
        at = own.at(24).start + number
        assert drawn[name(own.places[number])] == pytest.approx((low[at], high[at]))
    scope = (
        "for other prompts in this run, not for other seeds" if len(seeds) == 1 else "for other prompts and other seeds"
    )
    chance = "5% chance of any wrong verdict per family of 16 heads × 4 checkpoints"
    assert caption(figure).startswith("12 prompts; run") and caption(figure).endswith(f"; {scope}; {chance}")
    assert caption(figure).count("12 prompts") == 1
    assert "band: 95% interval at each checkpoint" in caption(figure)


def test_dots_where_a_head_matters_and_a_mark_at_its_onset(make_output):
    frames = load(make_output(**SETTINGS, steps=(8, 12, 16, 20, 24)))
    own = evidence.of_sites(frames, "first")["z"]
    (axis,) = [axis for axis in dynamics.heads(frames, top=16).axes if axis.get_title() == "first corruption"]
    values, matters = own.grid(own.estimate.recovered), own.grid(own.judged.matter())
    shown = np.flatnonzero(matters.any(axis=0))
    shown = sorted(shown, key=lambda number: own.places[number])
    expected = [[(own.steps[at], values[at, number]) for at in np.flatnonzero(matters[:, number])] for number in shown]
    assert marks(axis, ".") == expected
    onsets = [courses(own)[number].onset for number in shown]
    assert any(onset is not None for onset in onsets)
    assert [onset for ((onset, _),) in marks(axis, "D")] == [onset for onset in onsets if onset is not None]


def test_of_many_heads_the_largest_and_how_many_more(make_output):
    frames = load(make_output(**SETTINGS))
    own = evidence.of_sites(frames, "first")["z"]
    matter = int(own.grid(own.judged.matter()).any(axis=0).sum())
    figure = dynamics.heads(frames, top=2)
    assert len(bands(figure.axes[0])) == 2
    assert f"{matter - 2} more heads matter at some checkpoint" in caption(figure)


def test_where_no_head_matters_that_is_the_title_and_the_largest_are_grey(make_output):
    frames = load(make_output(**SETTINGS, steps=(0, 2, 4)))
    figure = dynamics.heads(frames)
    assert figure.title == "Recovered by patching z: no head is shown to matter"
    assert {line.get_color() for line in figure.axes[0].lines if not line.get_label().startswith("_")} <= {"0.6"}
    assert not marks(figure.axes[0], "D") and "◆" not in caption(figure)


def test_tables_without_prompts_have_no_bands_in_one_run_and_say_so(make_output):
    figure = dynamics.heads(load(make_output(corruptions=("first",))))
    assert "no bands" in caption(figure) and "nothing can be concluded" in caption(figure)
    assert "wrong verdict" not in caption(figure) and figure.title.endswith("no head is shown to matter")
    assert not any(bands(figure.axes[0]).values())


def test_each_corruption_has_the_scope_of_its_runs(make_output, folders):
    output = make_output(seeds=(0, 1), **SETTINGS)
    folders.write_patch(output, "run-0.0001-constant-0", "alone", "second", by_prompt=True)
    figure = dynamics.heads(load(output), top=2)
    assert "2 runs; for other prompts and other seeds; 12 prompts, 1 run; for other prompts in this run" in caption(
        figure
    )
    assert all(bands(figure.axes[0]).values()) and all(bands(figure.axes[1]).values())


def test_dots_are_filled_where_a_head_matters_and_only_those_have_names(make_output):
    frames = load(make_output(**SETTINGS))
    figure = dynamics.scatter(frames)
    axis = figure.axes[0]
    families = evidence.of_sites(frames, "first")
    matter = {
        name(place)
        for site in ("z", "v")
        for place, matters in zip(
            families[site].places, families[site].judged.matter()[families[site].at(24)], strict=True
        )
        if matters
    }
    assert 0 < len(matter) < 16
    colours = axis.collections[0].get_facecolors()
    assert len(colours) == 16 and (colours[:, 3] > 0).sum() == len(matter)
    assert 0 < len(axis.texts) <= 6 and {text.get_text() for text in axis.texts} <= matter
    assert axis.get_xlim() == axis.get_ylim() and axis.get_aspect() == 1
    assert "filled: the head matters at either site, hollow: not shown to" in caption(figure)
