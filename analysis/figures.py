"""All figures of some runs as files: for a paper, and moving over the checkpoints for a talk."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from ..store.files import write_bytes, write_json
from . import (
    animations,
    approximate,
    attention_pictures,
    crossings,
    curves,
    dynamics,
    faithfulness,
    films,
    heatmaps,
    transitions,
)
from .canvas import Picture, settings
from .films import Film
from .frames import Frames
from .summaries import with_approximate

DPI = 200
FORMATS = ("png", "svg", "pdf")
EDITABLE = {"pdf.fonttype": 42, "svg.fonttype": "none", "svg.hashsalt": "mi-sweeps"}
"""Text stays text, in TrueType as journals ask for; and the same tables make the same bytes."""


def figures(frames: Frames, directory: Path, formats: Sequence[str] | None = None, animate: bool = False) -> list[Path]:
    """Draw what the tables allow into `directory`; returns the files.

    What was measured of runs is drawn once for all runs; circuits once for each cell, as means over its seeds.
    `animate` adds a GIF for each picture of a checkpoint, and an MP4 where there is ffmpeg. figures.json and figures.md
    tell of each its caption and its runs.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    files: list[Path] = []
    index: list[dict[str, Any]] = []

    def add(name: str, picture: Picture, written: list[Path]) -> None:
        files.extend(written)
        names = [file.name for file in written]
        told = {"name": name, "files": names, "title": picture.title, "caption": str(picture.source)}
        index.append(told | asdict(picture.source))

    for name, draw in pictures(frames):
        picture = draw()
        add(
            name,
            picture,
            [_save(picture, directory / f"{name}.{kind}", kind) for kind in (FORMATS if formats is None else formats)],
        )
    for name, film in _filmed(frames) if animate else ():
        add(name, film.picture, animations.write(film, directory / name))
    if files:
        write_json(directory / "figures.json", index)
        write_bytes(directory / "figures.md", _gallery(index).encode())
        files += [directory / "figures.json", directory / "figures.md"]
    return files


def _save(picture: Picture, file: Path, kind: str) -> Path:
    content = io.BytesIO()
    title, about = picture.title, str(picture.source)
    metadata = {
        "png": {"Title": title, "Description": about},
        "svg": {"Title": title, "Description": about, "Date": None},
        "pdf": {"Title": title, "Subject": about, "Keywords": " ".join(picture.source.runs), "CreationDate": None},
    }
    with settings(**EDITABLE):
        picture.savefig(content, format=kind, dpi=DPI, metadata=metadata.get(kind))
    picture.set_layout_engine("none")  # the next format need not lay it out again
    write_bytes(file, content.getvalue())
    return file


def _gallery(index: Sequence[dict[str, Any]]) -> str:
    """The pictures with their captions as Markdown."""
    parts = ["# Figures"]
    for one in index:
        shown = next((file for file in one["files"] if file.endswith((".png", ".gif", ".svg"))), None)
        parts.append(f"## {one['name']}")
        if shown:
            parts.append(f"![{one['title']}]({shown})")
        parts.append(f"{one['title']}. {one['caption']}.")
        parts.append(f"Files: {', '.join(f'[{file}]({file})' for file in one['files'])}. Runs: {' '.join(one['runs'])}")
    return "\n\n".join(parts) + "\n"


def pictures(frames: Frames) -> Iterator[tuple[str, Callable[[], Picture]]]:
    """The name of every picture that the tables allow, and how it is drawn."""
    metrics = set(zip(frames.metrics["split"], frames.metrics["metric"], strict=True))
    for split in curves.SPLITS:
        ending = "" if split == "heldout" else f"-{split.replace('_', '-')}"
        for metric in curves.SHARES:
            if (split, metric) in metrics:
                yield f"{metric.replace('_', '-')}{ending}", partial(curves.training, frames, [metric], split)
    differences = sorted(name for split, name in metrics if split == "heldout" and name.startswith(curves.LOGIT_DIFF))
    if differences:
        yield "logit-diff", partial(curves.training, frames, differences)
    if ("batch", "loss") in metrics:
        yield "loss", partial(curves.losses, frames)
    if ("trainer", "loss") in metrics:
        yield "trainer-loss", partial(curves.logged, frames)
    for name, words, draw in faithfulness.pictures(frames):
        yield f"{name}-{_slug(words)}", draw
    for suffix, cell in _cells(frames):
        kinds = set(cell.attribution["kind"])
        if "lens" in kinds:
            yield f"lens{suffix}", partial(curves.lens, cell)
        if "layer" in kinds:
            yield f"layers{suffix}", partial(curves.layers, cell)
        if "head" in kinds:
            yield f"attribution{suffix}", partial(heatmaps.attribution, cell)
        if len(cell.measures):
            yield f"measures{suffix}", partial(curves.measures, cell)
        for corruption in heatmaps.corruptions(cell):
            rows = heatmaps.rows_of(cell, corruption)
            sites = set(rows["site"])
            if sites & set(heatmaps.HEAD_SITES):
                yield f"heads-{_slug(corruption)}{suffix}", partial(heatmaps.heads, cell, corruption)
            if sites & set(heatmaps.POSITION_SITES):
                yield f"positions-{_slug(corruption)}{suffix}", partial(heatmaps.positions, cell, corruption)
            both = rows["patched"].notna() & rows["approximate"].notna()
            if both.any() and corruption != heatmaps.DIFFERENCE:
                yield f"approximate-{_slug(corruption)}{suffix}", partial(approximate.exact, cell, corruption)
        for corruption in pd.unique(cell.paths["corruption"]):
            yield f"paths-{_slug(corruption)}{suffix}", partial(heatmaps.paths, cell, corruption)
        for corruption in attention_pictures.corruptions(cell):
            yield f"attention-{_slug(corruption)}{suffix}", partial(attention_pictures.attention, cell, corruption)
        for corruption in crossings.corruptions(cell):
            yield f"cross-{_slug(corruption)}{suffix}", partial(crossings.crossings, cell, corruption)
        if _heads(cell, "z"):
            yield f"dynamics{suffix}", partial(dynamics.heads, cell)
        if transitions.enough(cell):
            yield f"transitions{suffix}", partial(transitions.draw, cell)
        for across in _across(cell):
            yield f"scatter-{across}{suffix}", partial(dynamics.scatter, cell, across)


def _filmed(frames: Frames) -> Iterator[tuple[str, Film]]:
    """The same over the checkpoints, a film a site; one checkpoint makes none."""
    for suffix, cell in _cells(frames):
        kinds = set(cell.attribution["kind"]) if cell.attribution["step"].nunique() > 1 else set()
        if "lens" in kinds:
            yield f"lens-film{suffix}", films.lens(cell)
        if "layer" in kinds:
            yield f"layers-film{suffix}", films.layers(cell)
        if "head" in kinds:
            yield f"attribution-film{suffix}", films.attribution(cell)
        if attention_pictures.corruptions(cell) and (film := attention_pictures.moving(cell)):
            yield f"attention-film{suffix}", film
        if cell.patching["step"].nunique() < 2:
            continue
        for site in pd.unique(with_approximate(cell.patching)["site"]):
            yield f"{_slug(site)}-film{suffix}", films.heatmap(cell, site)
        for across in _across(cell):
            yield f"scatter-{across}-film{suffix}", films.scatter(cell, across)


def _across(cell: Frames) -> Iterator[str]:
    """What z is drawn against, head by head: not where heads share their keys and values."""
    z = _heads(cell, "z")
    return (site for site in ("v", "pattern") if z and _heads(cell, site) == z)


def _cells(frames: Frames) -> Iterator[tuple[str, Frames]]:
    """The runs of each cell that were examined in one way, with an ending for their files' names."""
    examined = frames.patches.merge(frames.runs[["run_id", "cell"]], on="run_id")
    circuits = ("attribution", "patching", "paths", "measures")
    patch_ids = {patch_id for name in circuits for patch_id in pd.unique(getattr(frames, name)["patch_id"])}
    examined = examined[examined["patch_id"].isin(patch_ids)]
    groups = list(examined.groupby(["cell", "patching"], sort=False, dropna=False))
    for (cell, patching), patches in groups:
        words = [str(cell)] if examined["cell"].nunique() > 1 else []
        words += [str(patching)] if examined["patching"].nunique() > 1 else []
        yield (
            "".join(f"-{_slug(word)}" for word in words),
            replace(frames, kept={}, **{name: _of(getattr(frames, name), patches["patch_id"]) for name in circuits}),
        )


def _of(table: pd.DataFrame, patch_ids: pd.Series) -> pd.DataFrame:
    return table[table["patch_id"].isin(patch_ids)]


def _heads(frames: Frames, site: str) -> set[tuple[int, int]]:
    """The heads that were patched themselves, and not only estimated."""
    rows = frames.patching[(frames.patching["site"] == site) & frames.patching["patched"].notna()]
    return set(zip(rows["layer"], rows["head"], strict=True))


def _slug(words: str) -> str:
    return re.sub(r"[^\w.]+", "-", words).strip("-")
