"""Static figures are written, and leave nothing of matplotlib changed."""

from __future__ import annotations

import json
import os
import re
import time
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from cycler import cycler
from matplotlib.collections import PathCollection
from matplotlib.lines import AxLine
from PIL import Image

from mi_sweeps.analysis import animated, animations, curves, dynamics, evidence, gallery, heatmaps, plotting
from mi_sweeps.analysis.figures import LONGEST, _folder, chosen, figures
from mi_sweeps.analysis.frames import load
from mi_sweeps.analysis.gallery import DPI, _save
from mi_sweeps.analysis.inference.differences import difference
from mi_sweeps.analysis.summaries import recovered, spread
from mi_sweeps.errors import UserError

WITH_ONE_CHECKPOINT = (
    *("win-rate", "win-rate-train", "win-rate-two-name", "logit-diff", "lens", "layers", "attribution", "dynamics"),
    *("scatter-v", "scatter-pattern", "heads-second", "positions-second"),
)


def test_figures_are_written_and_nothing_global_is_changed(make_output, tmp_path):
    frames = load(make_output(steps=(16,), layers=2, heads=2, corruptions=("second",)))
    before = dict(matplotlib.rcParams)
    files = figures(frames, tmp_path / "figures", ("png",), animate=True)
    assert dict(matplotlib.rcParams) == before
    assert {file.name for file in files} == {  # one checkpoint: nothing moves
        *(f"{name}.{kind}" for name in WITH_ONE_CHECKPOINT for kind in ("png", "csv")), "figures.json", "figures.md",
    }  # fmt: skip
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in files if file.suffix == ".png")


def test_means_of_a_cell_leave_diverged_runs_out_and_say_so(make_output, folders):
    from mi_sweeps.analysis.derived import findings
    from mi_sweeps.analysis.figures import pictures

    output = make_output(seeds=(0, 1), steps=(8, 16), layers=2, heads=2, corruptions=("second",))
    folders.write_run(output, "stopped", seed=2, steps=(8,), diverged=11)
    about = output / "runs" / "stopped" / "run.json"
    about.write_text(about.read_text().replace('"steps": 8', '"steps": 16'))
    folders.write_patch(output, "stopped", "stopped-second", "second", seed=2, steps=(8,), layers=2, heads=2)
    frames = load(output)
    drawn = dict(pictures(frames))
    for name in ("heads-second", "lens", "attribution"):
        source = drawn[name]().source
        assert source.runs == ("run-0.0001-constant-0", "run-0.0001-constant-1")
        assert source.note.endswith("; 1 diverged run left out")
    told = findings(frames).query("question == 'learned'")
    assert [row.run_ids for row in told.itertuples()] == ["run-0.0001-constant-0 run-0.0001-constant-1"]
    assert "at checkpoint 16; " in told["statement"].iloc[0]  # not at 8, the last that all three have
    assert told["statement"].iloc[0].endswith("; 1 run that diverged is left out.")


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
        film = animations.frames(animated.heatmap(frames, "z"))
        return _save(picture, tmp_path / "a.svg", "svg").read_bytes(), film[-1].tobytes()

    plain = drawn()
    strange = pd.option_context("mode.string_storage", "python", "display.precision", 1, "display.max_columns", 1)
    with matplotlib.style.context("dark_background"), matplotlib.rc_context(HOSTILE), strange:
        assert drawn() == plain
        assert matplotlib.rcParams["text.usetex"]


def test_figures_are_as_wide_as_a_column_or_a_page(make_output):
    frames = load(make_output(layers=12, heads=12, steps=(8, 16, 24)))
    assert curves.training(frames, ["win_rate"]).get_figwidth() == plotting.COLUMN
    for picture in (heatmaps.heads(frames, "first"), heatmaps.positions(frames, "first"), curves.lens(frames)):
        assert picture.get_figwidth() == plotting.PAGE
        assert picture.get_figheight() < 11


def test_the_index_tells_where_each_picture_comes_from(make_output, tmp_path, unrendered):
    frames = load(make_output(seeds=(0, 1), steps=(16,), layers=2, heads=2))
    figures(frames, tmp_path, ("png", "pdf"))
    index = {one["name"]: one for one in json.loads((tmp_path / "figures.json").read_text())}
    assert index["heads-second"]["files"] == ["heads-second.png", "heads-second.pdf", "heads-second.csv"]
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
    monkeypatch.setattr("mi_sweeps.analysis.gallery._save", lambda picture, file, *_: file)


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


def test_paths_alone_are_drawn(make_output, folders):
    output = make_output(corruptions=("first",), steps=(16,), layers=2, heads=2)
    folders.write_patch(output, "run-0.0001-constant-0", "p", "first", name="paths", steps=(16,), paths=True)
    table = output / "runs/run-0.0001-constant-0/patches/p/tables/000016.parquet"
    rows = pq.read_table(table)
    pq.write_table(rows.filter(pc.not_equal(rows["kind"], "patch")), table)
    names = {name for name, _ in chosen(load(output))}
    assert {"patching-paths/paths-first", "patching-full/heads-first", "patching-full/lens"} <= names
    assert not {"patching-paths/heads-first", "patching-paths/dynamics"} & names


def seen(picture):
    """The values that a picture shows, read from its plots."""
    for axis in picture.axes:
        if axis.get_label() == "<colorbar>":
            continue
        if axis.images:
            yield np.ma.masked_invalid(axis.images[0].get_array()).compressed()
            continue
        lines = [line for line in axis.lines if line.get_transform() == axis.transData and not isinstance(line, AxLine)]
        yield from (np.asarray(line.get_ydata(), float) for line in lines)
        yield from (np.ravel(dots.get_offsets()) for dots in axis.collections if isinstance(dots, PathCollection))


def test_beside_each_picture_are_the_numbers_that_it_shows(make_output, folders, tmp_path, unrendered):
    size = {"steps": range(0, 36, 4), "layers": 2, "heads": 2, "by_prompt": True}
    output = make_output(seeds=(0, 1), measures=True, approximate=True, paths=True, **size)
    folders.write_patterns(output, layers=2)
    losses = pd.DataFrame({"run_id": "run-0.0001-constant-0", "step": range(9), "split": "batch", "metric": "loss"})
    frames = load(output)
    frames = replace(frames, metrics=pd.concat([frames.metrics, losses.assign(value=np.exp(-losses.index / 3), n=8)]))
    drawings = [(name, draw()) for name, draw in chosen(frames)]
    gallery.write([(name, lambda one=picture: one) for name, picture in drawings], tmp_path, ())
    names = {name for name, _ in drawings}
    assert {"loss", "measures", "paths-first", "approximate-first", "attention-first", "transitions"} < names
    for name, picture in drawings:
        table = pd.read_csv(tmp_path / f"{name}.csv")
        numbers = np.unique(np.round(table.select_dtypes("number").to_numpy().ravel(), 9))
        shown = np.concatenate([values[np.isfinite(values)] for values in seen(picture)])
        assert len(shown) and set(np.round(shown, 9)) <= set(numbers), name
    heads = pd.read_csv(tmp_path / "heads-first.csv")
    assert list(heads) == ["site", "step", "layer", "head", "recovered", "verdict", "few"]
    assert set(heads["verdict"]) == {"undecided", "undefined"}


def test_each_setting_has_a_folder_and_its_pictures_name_it(make_output, tmp_path, unrendered, monkeypatch):
    monkeypatch.setattr("mi_sweeps.analysis.animations.write", lambda film, stem: [])
    output = make_output(lrs=(1e-4, 3e-4), steps=(8, 16), layers=2, heads=2, corruptions=("first",))
    drawings = [one for one in chosen(load(output), ["win-rate", "lens*"], animate=True)]
    names = [name for name, _ in drawings]
    assert names == ["win-rate", *(f"lr-{lr}/lens{film}" for film in ("", "-film") for lr in ("0.0001", "0.0003"))]
    gallery.write(drawings, tmp_path, ("png",))
    index = json.loads((tmp_path / "figures.json").read_text())
    assert [one["setting"] for one in index] == ["", "lr 0.0001", "lr 0.0003", "lr 0.0001", "lr 0.0003"]
    assert index[1]["files"] == ["lr-0.0001/lens.png", "lr-0.0001/lens.csv"] and index[1]["runs"] == [
        "run-0.0001-constant-0"
    ]
    assert (
        "of the residual stream, lr 0.0003. 12 prompts; run run-0.0003-constant-0"
        in (tmp_path / "figures.md").read_text()
    )
    film = dict(drawings)["lr-0.0003/lens-film"]()
    film.show(8)
    assert film.picture.get_suptitle().endswith("\nlr 0.0003\n\u2007")
    assert "checkpoint \u20078" in film.picture.moment.get_text()
    assert dict(drawings)["lr-0.0003/lens"]().get_suptitle().endswith("\nlr 0.0003")


def test_no_two_settings_have_one_folder():
    taken = set()
    settings = ("path a/b, lr 1", "path a:b, lr 1", "Path A/b, lr 1", "../..", "é" * 300)
    folders = [_folder([words], taken) for words in settings]
    assert folders == ["path-a-b_lr-1", "path-a-b_lr-1-2", "Path-A-b_lr-1-3", "setting", "é" * LONGEST]


def test_pictures_are_chosen_by_name_or_pattern(make_output):
    frames = load(make_output(lrs=(1e-4, 3e-4), steps=(16,), layers=2, heads=2, corruptions=("first",)))
    names = lambda *only: [name for name, _ in chosen(frames, only)]  # noqa: E731
    assert names("lr-0.0003/lens") == ["lr-0.0003/lens"]
    assert names("lr-0.0003/*") == [name for name in names() if name.startswith("lr-0.0003/")]
    assert names("scatter-?", "win-rate") == ["win-rate", "lr-0.0001/scatter-v", "lr-0.0003/scatter-v"]
    with pytest.raises(UserError, match="^--only z-film: no such picture of these runs; there are: win-rate, .*, lens"):
        names("win-rate", "z-film")
    with pytest.raises(UserError, match="in the folders lr-0.0001, lr-0.0003$"):
        names("lr-1/lens")


def test_for_a_paper_title_and_footnote_are_in_the_captions_alone(make_output, tmp_path):
    frames = load(make_output(steps=(16,), layers=2, heads=2, corruptions=("second",)))
    one = chosen(frames, ["heads-second"])
    gallery.write(one, tmp_path, ("svg", "png"))
    texts = [re.findall("<text.*?>([^<]*)</text>", (tmp_path / "heads-second.svg").read_text())]
    height = Image.open(tmp_path / "heads-second.png").height / DPI
    gallery.write(one, tmp_path, ("svg", "png"), paper=True)
    texts += [re.findall("<text.*?>([^<]*)</text>", (tmp_path / "heads-second.svg").read_text())]
    image = Image.open(tmp_path / "heads-second.png")
    assert round(image.info["dpi"][0]) == 300 and image.width == 300 * plotting.PAGE
    assert image.height / 300 < height - 0.3
    gone = " ".join(text for text in texts[0] if text not in texts[1])
    assert "Recovered by patching, second corruption" in gone and "12 prompts; run run-0.0001-constant-0" in gone
    assert texts[1] and set(texts[1]) < set(texts[0])
    told = (tmp_path / "figures.md").read_text()
    assert "Recovered by patching, second corruption. 12 prompts; run run-0.0001-constant-0" in told


def test_captions_of_what_is_not_drawn_again_stay(make_output, tmp_path, unrendered):
    frames = load(make_output(steps=(16,), layers=2, heads=2, corruptions=("second",)))
    gallery.write(chosen(frames, ["lens", "layers", "win-rate"]), tmp_path, ("png",))
    (tmp_path / "layers.csv").unlink()
    gallery.write(chosen(frames, ["heads-second", "lens"]), tmp_path, ("png",))
    index = json.loads((tmp_path / "figures.json").read_text())
    assert [one["name"] for one in index] == ["lens", "heads-second", "win-rate"]
    (tmp_path / "figures.json").write_text("[")
    gallery.write(chosen(frames, ["lens"]), tmp_path, ("png",))
    assert [one["name"] for one in json.loads((tmp_path / "figures.json").read_text())] == ["lens"]


def test_several_processes_draw_the_same(make_output, tmp_path):
    frames = load(make_output(steps=(8, 16), layers=2, heads=2, corruptions=("second",)))
    drawings = chosen(frames, ["lens", "layers", "z-film"], animate=True)
    done = []
    files = [
        gallery.write(drawings, tmp_path / f"{processes}", ("svg",), processes=processes, told=done.append)
        for processes in (1, 2)
    ]
    assert done == [0, 1, 2, 3] * 2
    assert [file.name for file in files[0]] == [file.name for file in files[1]]
    assert all(one.read_bytes() == other.read_bytes() for one, other in zip(*files, strict=True))


def test_a_process_that_is_killed_ends_it_in_one_line(tmp_path):
    drawings = [(name, partial(os._exit, 9)) for name in "ab"]
    with pytest.raises(UserError, match="figures: a process that drew was killed; is there memory enough?"):
        gallery.write(drawings, tmp_path, processes=2)


def test_processes_end_with_the_one_that_began_them(tmp_path):
    def draw():
        (tmp_path / f"{os.getpid()}.pid").touch()
        time.sleep(60)

    drawings = [("a", draw), ("b", draw)]
    work = get_context("fork").Process(
        target=gallery.write, args=(drawings, tmp_path / "figures"), kwargs={"processes": 2}
    )
    work.start()
    until(lambda: len(list(tmp_path.glob("*.pid"))) == 2)
    work.kill()
    work.join()
    until(lambda: not any(is_running(int(file.stem)) for file in tmp_path.glob("*.pid")))


def until(is_so, seconds=30):
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.02)


def is_running(process):
    """Also not of one that has ended, of which nobody has taken notice."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


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

    told = labels(heatmaps.positions(frames, "first", sites=("resid_pre",)))
    assert list(told)[:2] == ["intro 1 · When", "name 1 · Sarah"]
    assert [name for name, is_bold in told.items() if is_bold] == ["subject 1 · Emily → Sarah"]
    told = labels(heatmaps.positions(frames, "difference", sites=("resid_pre",)))
    changed = ["subject 1 · Emily → Sarah", "subject 2 · Rachel → Sarah"]
    assert [name for name, is_bold in told.items() if is_bold] == changed
    film = animated.heatmap(frames, "resid_pre")
    own, other, less = (axis for axis in film.picture.axes if axis.images)
    assert own.images[0].get_clim() == other.images[0].get_clim() == (-1, 1) != less.images[0].get_clim()
    old = load(make_output(steps=(24,), sweep="old", seeds=(1,)), ["old"])  # does not tell prompts apart
    assert "end" in labels(heatmaps.positions(old, "first", sites=("resid_pre",)))


def test_rows_of_attribution_name_their_corruption_and_scatter_has_equal_axes(make_output):
    frames = load(make_output(steps=(8, 24)))
    rows = [axis.get_ylabel() for axis in heatmaps.attribution(frames).axes]
    assert [told for told in rows if "layer" in told] == ["first corruption\nlayer", "second corruption\nlayer"]
    for picture in (dynamics.scatter(frames, "pattern"), animated.scatter(frames, "pattern").picture):
        for axis in picture.axes:
            assert axis.get_xlim() == axis.get_ylim() and axis.get_aspect() == 1


def test_a_difference_is_called_as_on_the_page(make_output):
    frames = load(make_output(steps=(24,), corruptions=("first", "second")))
    assert heatmaps.heads(frames, "difference", sites=("z",)).title == "Recovered by patching, second − first"


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
