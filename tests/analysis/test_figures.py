"""Static figures are written, and matplotlib's settings stay unchanged."""

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
from matplotlib.colors import to_hex
from matplotlib.lines import AxLine
from PIL import Image

from mi_sweeps.analysis import animated, animations, curves, gallery, heatmaps, plotting
from mi_sweeps.analysis.figures import LONGEST, _folder, chosen, figures
from mi_sweeps.analysis.frames import load
from mi_sweeps.analysis.gallery import DPI, _save
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
    result = findings(frames).query("question == 'learned'")
    assert [row.run_ids for row in result.itertuples()] == ["run-0.0001-constant-0 run-0.0001-constant-1"]
    assert "at checkpoint 16; " in result["statement"].iloc[0]  # not at 8, the last that all three have
    assert result["statement"].iloc[0].endswith("; 1 run that diverged is left out.")


@pytest.mark.slow
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
    for result in ("12 prompts", "run-0.0001-constant-0"):
        assert result.encode("utf-16-be") in pdf and result.encode() in svg
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


def test_the_index_has_the_origin_of_each_picture(make_output, tmp_path, unrendered):
    frames = load(make_output(seeds=(0, 1), steps=(16,), layers=2, heads=2))
    figures(frames, tmp_path, ("png", "pdf"))
    index = {one["name"]: one for one in json.loads((tmp_path / "figures.json").read_text())}
    assert index["heads-second"]["files"] == ["heads-second.png", "heads-second.pdf", "heads-second.csv"]
    assert index["heads-second"]["runs"] == ["run-0.0001-constant-0", "run-0.0001-constant-1"]
    assert index["heads-second"]["prompts"] == [12]
    assert "Student's t" in index["win-rate"]["caption"]
    result = (tmp_path / "figures.md").read_text()
    assert all(f"## {name}\n\n![{one['title']}]({name}.png)" in result for name, one in index.items())


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


@pytest.mark.slow
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
    result = (tmp_path / "figures.md").read_text()
    assert "Recovered by patching, second corruption. 12 prompts; run run-0.0001-constant-0" in result


def test_for_a_paper_legends_are_as_light_as_grids(make_output):
    picture = curves.lens(load(make_output(steps=(16, 24), layers=2, heads=2, corruptions=("second",))))
    picture.bare()
    frames = [axis.get_legend().get_frame() for axis in picture.axes if axis.get_legend()]
    assert [to_hex(frame.get_edgecolor()) for frame in frames] == [to_hex(plotting.PALE)]
    assert frames[0].get_linewidth() < 0.5


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
        gallery.write(drawings, tmp_path / f"{processes}", ("svg",), processes=processes, report=done.append)
        for processes in (1, 2)
    ]
    assert done == [0, 1, 2, 3] * 2
    assert [file.name for file in files[0]] == [file.name for file in files[1]]
    assert all(one.read_bytes() == other.read_bytes() for one, other in zip(*files, strict=True))


def test_a_process_that_is_killed_ends_it_in_one_line(tmp_path):
    drawings = [(name, partial(os._exit, 9)) for name in "ab"]
    with pytest.raises(UserError, match="figures: a drawing process was killed; is there enough memory?"):
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
