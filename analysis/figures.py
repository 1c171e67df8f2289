"""Lists the figures that the tables allow, with the function that draws each."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path

import pandas as pd

from ..errors import UserError
from . import (
    animated,
    approximate,
    attention_pictures,
    crossings,
    curves,
    dynamics,
    faithfulness,
    gallery,
    heatmaps,
    transitions,
)
from .animated import Film
from .frames import Frames, sound
from .gallery import Draw
from .plotting import Picture
from .summaries import with_approximate

LONGEST = 100
"""Characters of a folder's name, at most."""


@dataclass(frozen=True)
class Group:
    """Runs of one setting with the same patching."""

    key: tuple[str, str]
    """Setting and `patching`."""
    label: str
    """What distinguishes it from the other groups; empty if there is only one."""
    folder: str
    """Folder of its pictures: empty, or a name that ends in a slash."""
    frames: Frames

    def picture(self, draw: Callable[[], Picture]) -> Picture:
        """Draw a picture, and name the setting on it if there are several."""
        picture = draw()
        if self.label:
            picture.of_setting(self.label)
        return picture

    def film(self, draw: Callable[[], Film]) -> Film:
        """As `picture`, for an animation."""
        film = draw()
        if self.label:
            film.picture.of_setting(self.label)
        return film


def figures(
    frames: Frames, directory: Path, formats: str | Iterable[str] | None = None, animate: bool = False
) -> list[Path]:
    """Draw all figures that the tables allow into `directory` with `gallery.write`; return the files."""
    return gallery.write(chosen(frames, animate=animate), directory, formats)


def chosen(frames: Frames, only: Sequence[str] = (), animate: bool = False) -> list[tuple[str, Draw]]:
    """Names and drawing functions of the pictures that the tables allow.

    Metrics of runs share their pictures. Patching is drawn for each setting as means over its seeds, in a folder of its
    own if there are several settings.

    Args:
        only: names or patterns, with or without a folder; empty for all.
        animate: whether to add the animations.

    Raises:
        UserError: no picture matches one of the patterns.
    """
    every: list[tuple[str, Draw]] = [*pictures(frames), *(animations(frames) if animate else ())]
    selected: set[str] = set()
    for pattern in only:
        matches = {name for name, _ in every if any(fnmatchcase(one, pattern) for one in (name, _last(name)))}
        if not matches:
            folders = list(dict.fromkeys(name.rpartition("/")[0] for name, _ in every if "/" in name))
            names = ", ".join(dict.fromkeys(_last(name) for name, _ in every)) or "none yet"
            names += f"; in the folders {', '.join(folders)}" if folders and "/" in pattern else ""
            raise UserError(f"--only {pattern}: no such picture of these runs; there are: {names}")
        selected |= matches
    return [one for one in every if one[0] in selected] if only else every


def _last(name: str) -> str:
    """A picture's name without its folder."""
    return name.rpartition("/")[2]


def pictures(frames: Frames) -> Iterator[tuple[str, Callable[[], Picture]]]:
    """Names and drawing functions of all pictures."""
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
    groups = {group.key: group for group in _groups(frames)}
    for kind, (setting, patching, corruption), draw in faithfulness.pictures(frames):
        key = setting, patching
        group = groups.get(key) or Group(key, setting, f"{_slug(setting)}/", frames)  # its other tables are damaged
        yield f"{group.folder}{kind}-{_slug(corruption)}", partial(group.picture, draw)
    for group in groups.values():
        for name, draw in _circuits(group.frames):
            yield group.folder + name, partial(group.picture, draw)


def _circuits(setting: Frames) -> Iterator[tuple[str, Callable[[], Picture]]]:
    """The pictures of one setting's patch jobs."""
    kinds = set(setting.attribution["kind"])
    if "lens" in kinds:
        yield "lens", partial(curves.lens, setting)
    if "layer" in kinds:
        yield "layers", partial(curves.layers, setting)
    if "head" in kinds:
        yield "attribution", partial(heatmaps.attribution, setting)
    if len(setting.measures):
        yield "measures", partial(curves.measures, setting)
    for corruption in heatmaps.corruptions(setting):
        rows = heatmaps.rows_of(setting, corruption)
        sites = set(rows["site"])
        if sites & set(heatmaps.HEAD_SITES):
            yield f"heads-{_slug(corruption)}", partial(heatmaps.heads, setting, corruption)
        if sites & set(heatmaps.POSITION_SITES):
            yield f"positions-{_slug(corruption)}", partial(heatmaps.positions, setting, corruption)
        both = rows["patched"].notna() & rows["approximate"].notna()
        if both.any() and corruption != heatmaps.DIFFERENCE:
            yield f"approximate-{_slug(corruption)}", partial(approximate.exact, setting, corruption)
    for corruption in pd.unique(setting.paths["corruption"]):
        yield f"paths-{_slug(corruption)}", partial(heatmaps.paths, setting, corruption)
    for corruption in attention_pictures.corruptions(setting):
        yield f"attention-{_slug(corruption)}", partial(attention_pictures.attention, setting, corruption)
    for corruption in crossings.corruptions(setting):
        yield f"cross-{_slug(corruption)}", partial(crossings.crossings, setting, corruption)
    if _heads(setting, "z"):
        yield "dynamics", partial(dynamics.heads, setting)
    if transitions.enough(setting):
        yield "transitions", partial(transitions.draw, setting)
    for across in _across(setting):
        yield f"scatter-{across}", partial(dynamics.scatter, setting, across)


def animations(frames: Frames) -> Iterator[tuple[str, Callable[[], Film]]]:
    """Names and drawing functions of all animations; settings with a single checkpoint have none."""
    for group in _groups(frames):
        for name, draw in _films(group.frames):
            yield group.folder + name, partial(group.film, draw)


def _films(setting: Frames) -> Iterator[tuple[str, Callable[[], Film]]]:
    kinds = set(setting.attribution["kind"]) if setting.attribution["step"].nunique() > 1 else set()
    for kind, draw in (("lens", animated.lens), ("layer", animated.layers), ("head", animated.attribution)):
        if kind in kinds:
            yield f"{draw.__name__}-film", partial(draw, setting)
    if attention_pictures.moves(setting):
        yield "attention-film", partial(attention_pictures.moving, setting)
    if setting.patching["step"].nunique() < 2:
        return
    for site in pd.unique(with_approximate(setting.patching)["site"]):
        yield f"{_slug(site)}-film", partial(animated.heatmap, setting, site)
    for across in _across(setting):
        yield f"scatter-{across}-film", partial(animated.scatter, setting, across)


def _across(setting: Frames) -> Iterator[str]:
    """The sites that z is plotted against: those patched at the same heads, so not key/value heads that are shared."""
    z = _heads(setting, "z")
    return (site for site in ("v", "pattern") if z and _heads(setting, site) == z)


def _groups(frames: Frames) -> list[Group]:
    """The groups of patch jobs. They are kept, because each caches the tables of its pictures."""
    if ("groups",) not in frames.kept:
        frames.kept[("groups",)] = list(_grouped(frames))
    kept: list[Group] = frames.kept[("groups",)]
    return kept


def _grouped(frames: Frames) -> Iterator[Group]:
    about = frames.runs[["run_id", "setting", "status"]]
    examined = frames.patches.merge(about, on="run_id", suffixes=("_of_job", ""))
    circuits = ("attribution", "patching", "paths", "measures")
    patch_ids = {patch_id for name in circuits for patch_id in pd.unique(getattr(frames, name)["patch_id"])}
    examined = examined[examined["patch_id"].isin(patch_ids)]
    taken: set[str] = set()
    for (setting, patching), patches in examined.groupby(["setting", "patching"], sort=False, dropna=False):
        labels = [str(setting)] if examined["setting"].nunique() > 1 else []
        labels += [f"patching {patching}"] if examined["patching"].nunique() > 1 else []
        own = {name: _of(getattr(frames, name), sound(patches)["patch_id"]) for name in circuits}
        key = str(setting), "" if pd.isna(patching) else str(patching)
        folder = f"{_folder(labels, taken)}/" if labels else ""
        yield Group(key, ", ".join(labels), folder, replace(frames, kept={}, **own))


def _folder(labels: Sequence[str], taken: set[str]) -> str:
    """A readable folder name that no other group has."""
    parts = [_slug(part) for label in labels for part in label.split(", ")]
    name = slug = "_".join(filter(None, parts))[:LONGEST].strip("-_.") or "setting"
    number = 1
    while name.lower() in taken:
        number += 1
        name = f"{slug}-{number}"
    taken.add(name.lower())
    return name


def _of(table: pd.DataFrame, patch_ids: pd.Series) -> pd.DataFrame:
    return table[table["patch_id"].isin(patch_ids)]


def _heads(frames: Frames, site: str) -> set[tuple[int, int]]:
    """The heads that were patched at a site, not only estimated."""
    rows = frames.patching[(frames.patching["site"] == site) & frames.patching["patched"].notna()]
    return set(zip(rows["layer"], rows["head"], strict=True))


def _slug(text: str) -> str:
    return re.sub(r"[^\w.]+", "-", text).strip("-")
