"""Lines over checkpoints, read back from the pictures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from mi_sweeps.analysis import curves, dynamics
from mi_sweeps.analysis.figures import figures
from mi_sweeps.analysis.frames import attribution_by_prompt, load
from mi_sweeps.analysis.inference.estimates import mean_interval
from mi_sweeps.analysis.summaries import band


def lines(axis):
    """The x and y of each line by its name."""
    return {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axis.get_lines()}


def with_losses(frames, spike=None):
    """The frames with a loss for every batch, which falls by a tenth in ten steps; one step has a spike."""
    rows = [
        (run_id, step, "batch", "loss", 4 * 0.99**step * (8 if step == spike else 1) * (1 + 0.01 * (step % 3)), 16)
        for run_id in frames.runs["run_id"]
        for step in range(100)
    ]
    batch = pd.DataFrame(rows, columns=["run_id", "step", "split", "metric", "value", "n"])
    return replace(frames, metrics=pd.concat([frames.metrics, batch], ignore_index=True))


def test_each_run_has_its_losses_and_the_step_of_its_spike(make_output):
    frames = with_losses(load(make_output(seeds=(0, 1), schedules=("constant", "cosine"))), spike=60)
    picture = curves.losses(frames)
    assert [axis.get_title() for axis in picture.axes] == ["schedule constant", "schedule cosine"]
    for axis in picture.axes:
        assert axis.get_yscale() == "log"
        marked = [line for line in axis.get_lines() if line.get_marker() == "v"]
        assert [list(line.get_xdata()) for line in marked] == [[60, 60]]
        drawn = [line for line in axis.get_lines() if line.get_marker() != "v"]
        assert [len(line.get_xdata()) for line in drawn] == [100, 100]
    assert "triangle: spike" in str(picture.source)
    assert "degrees of freedom): constant 2 and 0.0, cosine 2 and 0.0" in str(picture.source)


def test_a_run_that_diverged_ends_in_a_cross(make_output, folders):
    output = make_output(seeds=(0, 1))
    assert "diverged" not in str(curves.training(load(output), ["win_rate"]).source)
    folders.write_run(output, "stopped", seed=2, steps=(0, 8), diverged=11)
    about = output / "runs" / "stopped" / "run.json"
    about.write_text(about.read_text().replace('"steps": 8', '"steps": 24'))
    frames = load(output)
    picture = curves.training(frames, ["win_rate"])
    (cross,) = [line for line in picture.axes[0].get_lines() if line.get_marker() == "x"]
    last = frames.metrics.query("run_id == 'stopped' and metric == 'win_rate' and split == 'heldout' and step == 8")
    assert (list(cross.get_xdata()), list(cross.get_ydata())) == ([8], list(last["value"]))
    assert "cross: last value of a run that diverged, 1 diverged run left out of means" in str(picture.source)
    (mean,) = [line for line in picture.axes[0].get_lines() if line.get_marker() == "."]
    others = frames.metrics.query("run_id != 'stopped' and metric == 'win_rate' and split == 'heldout'")
    assert list(mean.get_ydata()) == pytest.approx(list(others.groupby("step")["value"].mean()))
    picture = curves.losses(with_losses(frames))
    (cross,) = [line for line in picture.axes[0].get_lines() if line.get_marker() == "x"]
    assert list(cross.get_xdata()) == [99] and "diverged" in str(picture.source)


def test_losses_without_spikes_have_no_marks(make_output):
    (axis,) = curves.losses(with_losses(load(make_output()))).axes
    assert [len(line.get_xdata()) for line in axis.get_lines() if line.get_marker() == "v"] == [0]


def test_numbers_on_a_logarithmic_axis_can_be_read(make_output):
    picture = curves.losses(with_losses(load(make_output())))
    picture.canvas.draw()
    (axis,) = picture.axes
    low, high = axis.get_ylim()
    ticks = [tick.get_text() for tick in axis.get_yticklabels()]
    assert len([text for text in ticks if low <= float(text) <= high]) >= 2


def test_the_dotted_line_is_at_the_threshold_of_the_metric(make_output):
    frames = load(make_output())
    accuracy = frames.metrics[frames.metrics["metric"] == "win_rate"].assign(metric="accuracy")
    frames = replace(frames, metrics=pd.concat([frames.metrics, accuracy]))
    (win_rate, below) = curves.training(frames, ["win_rate", "accuracy"]).axes
    dotted = [
        [list(line.get_ydata()) for line in axis.get_lines() if line.get_linestyle() == ":"]
        for axis in (win_rate, below)
    ]
    assert dotted == [[[0.9, 0.9]], [[0.5, 0.5]]]


def test_runs_that_differ_in_more_than_the_learning_rate_are_not_averaged(make_output):
    frames = load(make_output(lrs=(1e-4, 2e-4), schedules=("constant", "cosine")))
    (_, key) = curves.training(frames, ["win_rate"]).axes
    assert [text.get_text() for text in key.get_legend().get_texts()] == ["0.0001", "0.0002"]
    layers = frames.runs["lr"].map({1e-4: "layers 1", 2e-4: "layers 2"})
    runs = frames.runs.assign(lr=1e-4, setting=layers + ", schedule " + frames.runs["schedule"])
    (axis, key) = curves.training(replace(frames, runs=runs), ["win_rate"]).axes
    assert {"layers 1", "layers 2"} < set(lines(axis))
    assert [text.get_text() for text in key.get_legend().get_texts()] == ["layers 1", "layers 2"]


def test_a_plot_for_each_measure_and_a_line_for_each_head(make_output):
    frames = load(make_output(seeds=(0, 1), layers=2, heads=2, measures=True))
    picture = curves.measures(frames)
    titles = {axis.get_title(): axis for axis in picture.axes}
    heads = lines(titles["Attention to the previous token"])
    assert list(heads) == ["0.0", "0.1", "1.0", "1.1"]
    of_head = (frames.measures["measure"] == "previous_token") & (frames.measures["layer"] == 0)
    rows = frames.measures[of_head & (frames.measures["head"] == 0)]
    means = rows.drop_duplicates(["run_id", "step"]).groupby("step")["value"].mean()
    assert heads["0.0"] == (list(means.index), pytest.approx(list(means)))
    assert "resid_pre 0" in lines(titles["Linear probe of position"])
    assert "tokens of clean held-out prompts" in str(picture.source)


def test_they_are_among_the_figures(make_output, tmp_path, monkeypatch):
    monkeypatch.setattr("mi_sweeps.analysis.gallery._save", lambda picture, file, *_: file)
    frames = with_losses(load(make_output(steps=(16,), layers=2, heads=2, corruptions=("second",), measures=True)))
    accuracy = frames.metrics[frames.metrics["metric"] == "win_rate"].assign(metric="accuracy")
    frames = replace(frames, metrics=pd.concat([frames.metrics, accuracy]))
    names = {file.stem for file in figures(frames, tmp_path)}
    assert {"loss", "measures", "accuracy", "accuracy-train"} <= names


def band_at(collection, x):
    """The ends of a band at a place on its axis."""
    vertices = np.concatenate([path.vertices for path in collection.get_paths()])
    at = vertices[np.isclose(vertices[:, 0], x), 1]
    return at.min(), at.max()


@pytest.mark.parametrize(
    ("seeds", "scope"), [((0,), "other prompts, not other seeds"), ((0, 1), "other prompts and other seeds")]
)
def test_what_layers_write_has_an_interval_over_prompts_and_seeds(make_output, seeds, scope):
    frames = load(make_output(seeds=seeds, corruptions=("first",), by_prompt=True))
    picture = curves.layers(frames)
    assert f"band: 95% interval for {scope}" in str(picture.source)
    axis = next(axis for axis in picture.axes if axis.get_title() == "attn, first corruption")
    rows = attribution_by_prompt(frames, ["layer"]).query("component == 'attn' and layer == 3 and step == 24")
    values = rows.pivot(index="run_id", columns="prompt", values="logit_diff").to_numpy()
    middle, low, high = mean_interval(values[:, None])
    assert low[0] < middle[0] < high[0]
    assert band_at(axis.collections[3], 24) == pytest.approx((low[0], high[0]))


def test_tables_without_prompts_have_intervals_over_runs_by_that_name(make_output):
    frames = load(make_output(seeds=(0, 1, 2), corruptions=("first",)))
    for picture in (curves.layers(frames), curves.lens(frames)):
        assert "95% interval over runs, on these prompts (Student's t)" in str(picture.source)
    rows = frames.attribution.query("kind == 'layer' and component == 'attn' and layer == 3 and step == 24")
    expected = band(rows, ["step"], "logit_diff").iloc[0]
    axis = next(axis for axis in curves.layers(frames).axes if axis.get_title() == "attn, first corruption")
    assert band_at(axis.collections[3], 24) == pytest.approx((expected["low"], expected["high"]))


def test_the_first_and_the_last_checkpoint_of_the_lens_have_bands(make_output):
    picture = curves.lens(load(make_output(corruptions=("first",), by_prompt=True)))
    assert len(picture.axes[0].collections) == 2 and len(lines(picture.axes[0])) == 5
    assert "band of the first and the last: 95% interval for other prompts, not other seeds" in str(picture.source)


def test_plots_with_one_scale_cut_no_band(make_output):
    """The second corruption's values are far larger than those of the first plot."""
    frames = load(make_output(seeds=(0, 1)))
    scale = frames.attribution["corruption"].map({"first": 1, "second": 9})
    frames = replace(frames, attribution=frames.attribution.assign(logit_diff=frames.attribution["logit_diff"] * scale))
    for picture in (curves.lens(frames), curves.layers(frames)):
        for axis in picture.axes:
            bottom, top = axis.get_ylim()
            assert bottom < axis.dataLim.ymin and axis.dataLim.ymax < top, picture.title


def test_curves_of_training_are_over_seeds_on_these_prompts(make_output):
    picture = curves.training(load(make_output(seeds=(0, 1))), ["win_rate"])
    assert "mean over seeds, on these prompts (Student's t)" in str(picture.source)


def drawn_lines(axis, least=2):
    """The lines of a plot by colour, as steps and values."""
    return [
        (list(line.get_xdata()), list(line.get_ydata()))
        for line in axis.lines
        if len(line.get_xdata()) > least and line.get_linestyle() != "None"
    ]


def test_lines_of_a_series_are_broken_where_it_has_no_checkpoint(make_series):
    frames = load(make_series(by_prompt=True, measures=True))
    drawn = [
        curves.training(frames, ["win_rate"]), curves.layers(frames), curves.measures(frames), dynamics.heads(frames),
    ]  # fmt: skip
    for picture in drawn:
        found = [line for axis in picture.axes for line in drawn_lines(axis)]
        assert found
        for steps, values in found:
            assert steps == [0, 8, 16, 24] and np.isnan(values[2]) and np.isfinite(values[3])
        assert "broken where there is no checkpoint: series at 16: /their/run/checkpoint-16: not there" in str(
            picture.source
        )


def test_a_mean_over_seeds_has_nothing_where_one_of_them_has_no_checkpoint(make_series):
    frames = load(make_series(seeds=(1, 2), by_prompt=True))
    axis = curves.training(frames, ["loss"]).axes[0]
    ((steps, values),) = drawn_lines(axis)
    assert steps == [0, 8, 16, 24] and list(np.isnan(values)) == [False, False, True, False]
    palette = {int(text.get_text()) for text in curves.lens(frames).axes[-1].get_legend().get_texts()}
    assert palette == {0, 8, 24}


def test_series_have_a_plot_beside_the_schedules_and_no_learning_rate(make_output, make_series):
    make_output(lrs=(1e-4, 2e-4), corruptions=())
    frames = load(make_series(seeds=(1, 2), corruptions=()))
    picture = curves.training(frames, ["win_rate"])
    assert [axis.get_title() for axis in picture.axes] == ["schedule constant", "series"]
    assert [len(drawn_lines(axis)) for axis in picture.axes] == [2, 1]
    names = [text.get_text() for text in picture.axes[-1].get_legend().get_texts()]
    assert names == ["lr 0.0001", "lr 0.0002", "series"]


def test_what_a_trainer_logged_has_a_picture_of_its_own(make_series, tmp_path):
    output = make_series(corruptions=())
    file = output / "runs" / "series" / "metrics.parquet"
    found = pd.read_parquet(file)
    theirs = [(step, "trainer", name, 3 - step / 10, 0) for step in range(20) for name in ("loss", "learning_rate")]
    theirs += [(step, "trainer", "eval_loss", 2.0, 0) for step in (0, 8, 16)]
    pd.concat([pd.DataFrame(theirs, columns=found.columns), found]).to_parquet(file)
    frames = load(output)
    files = {file.stem for file in figures(frames, tmp_path / "figures", ["png"])}
    assert "trainer-loss" in files and "loss" not in files
    picture = curves.logged(frames)
    assert sorted(len(steps) for steps, _ in drawn_lines(picture.axes[0])) == [3, 20]
    assert "prompts" not in str(picture.source)


def test_checkpoints_that_are_far_apart_have_a_log_axis(make_series):
    frames = load(
        make_series(
            steps=(0, 1, 2, 4, 64, 512, 1000, 4000, 9000), missing_steps={}, corruptions=("first",), by_prompt=True
        )
    )
    for picture in (curves.training(frames, ["win_rate"]), curves.layers(frames), dynamics.heads(frames)):
        axis = picture.axes[0]
        assert axis.get_xscale() == "function"
        at = [axis.transData.transform((step, 0))[0] for step in (0, 4, 64, 9000)]
        assert at[1] - at[0] > (at[3] - at[0]) / 8  # the first steps have room
        assert [tick.get_text() for tick in axis.get_xticklabels()][0] == "0"
    linear = replace(frames, metrics=frames.metrics[frames.metrics["step"] >= 64])
    assert curves.training(linear, ["win_rate"]).axes[0].get_xscale() == "linear"
