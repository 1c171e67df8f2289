"""All static figures of some runs, as files for a paper or a README."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from ..store.files import write_bytes
from . import approximate, curves, dynamics, heatmaps
from .frames import Frames

DPI = 160


def figures(frames: Frames, directory: Path, formats: Sequence[str] = ("png",)) -> list[Path]:
    """Draw what the tables allow into `directory`; returns the files.

    Win rates are drawn once for all runs; circuits once for each cell, as means over its seeds.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    files = []
    for name, figure in _drawn(frames):
        for kind in formats:
            content = io.BytesIO()
            figure.savefig(content, format=kind, dpi=DPI)
            files.append(directory / f"{name}.{kind}")
            write_bytes(files[-1], content.getvalue())
    return files


def _drawn(frames: Frames) -> Iterator[tuple[str, Figure]]:
    if (frames.metrics["metric"] == "win_rate").any():
        yield "win-rate", curves.win_rate(frames)
    for suffix, cell in _cells(frames):
        kinds = set(cell.attribution["kind"])
        if "lens" in kinds:
            yield f"lens{suffix}", curves.lens(cell)
        if "layer" in kinds:
            yield f"layers{suffix}", curves.layers(cell)
        for corruption, rows in cell.patching.groupby("corruption"):
            sites = set(rows["site"])
            if sites & set(heatmaps.HEAD_SITES):
                yield f"heads-{_slug(corruption)}{suffix}", heatmaps.heads(cell, corruption)
            if sites & set(heatmaps.POSITION_SITES):
                yield f"positions-{_slug(corruption)}{suffix}", heatmaps.positions(cell, corruption)
            if (rows["patched"].notna() & rows["approximate"].notna()).any():
                yield f"approximate-{_slug(corruption)}{suffix}", approximate.exact(cell, corruption)
        for corruption in pd.unique(cell.paths["corruption"]):
            yield f"paths-{_slug(corruption)}{suffix}", heatmaps.paths(cell, corruption)
        if _heads(cell, "z"):
            yield f"dynamics{suffix}", dynamics.heads(cell)
        if _heads(cell, "z") and _heads(cell, "z") == _heads(cell, "v"):  # else heads share their keys and values
            yield f"scatter{suffix}", dynamics.scatter(cell)


def _cells(frames: Frames) -> Iterator[tuple[str, Frames]]:
    """The runs of each cell that were examined in one way, with an ending for their files' names."""
    examined = frames.patches.merge(frames.runs[["run_id", "cell"]], on="run_id")
    circuits = ("attribution", "patching", "paths")
    patch_ids = {patch_id for name in circuits for patch_id in pd.unique(getattr(frames, name)["patch_id"])}
    examined = examined[examined["patch_id"].isin(patch_ids)]
    groups = list(examined.groupby(["cell", "patching"], sort=False, dropna=False))
    for (cell, patching), patches in groups:
        words = [str(cell)] if examined["cell"].nunique() > 1 else []
        words += [str(patching)] if examined["patching"].nunique() > 1 else []
        yield (
            "".join(f"-{_slug(word)}" for word in words),
            replace(frames, **{name: _of(getattr(frames, name), patches["patch_id"]) for name in circuits}),
        )


def _of(table: pd.DataFrame, patch_ids: pd.Series) -> pd.DataFrame:
    return table[table["patch_id"].isin(patch_ids)]


def _heads(frames: Frames, site: str) -> set[tuple[int, int]]:
    """The heads that were patched themselves, and not only estimated."""
    rows = frames.patching[(frames.patching["site"] == site) & frames.patching["patched"].notna()]
    return set(zip(rows["layer"], rows["head"], strict=True))


def _slug(words: str) -> str:
    return re.sub(r"[^\w.]+", "-", words).strip("-")
