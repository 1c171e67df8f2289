"""The families of verdicts behind pictures, read once per setting."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pandas as pd

from ..counting import counted
from ..errors import UserError
from .columns import SOURCE
from .frames import Frames, paths_by_prompt
from .inference import words
from .inference.differences import Difference
from .inference.estimates import estimate, of_means
from .inference.families import Family, PatchJob, families, jobs, means
from .inference.verdicts import DELTA
from .prompts import attribution_values
from .prompts import read as read_prompts
from .summaries import band

SMALL = f"small (less than {DELTA} either way)"
NO_GAP = "grey: the corruption makes no measurable difference there, at least in one run"


def of_sites(frames: Frames, corruption: str) -> dict[str, Family]:
    """The families of all patched sites under a corruption, by site.

    Raises:
        UserError: a table is damaged.
    """
    rows = frames.patching[frames.patching["corruption"] == corruption]
    patch_ids = tuple(pd.unique(rows["patch_id"]))
    if patch_ids not in frames.kept:
        assert frames.output is not None
        damaged: list[str] = []
        found = jobs(frames.output, frames.runs, patch_ids, damaged)
        read = {(job.patch.patch_id, step) for job in found for one in job.sites.values() for step in one.steps}
        # Tables that could not be read earlier are not in the frames either.
        if damaged and not read.issuperset(rows[["patch_id", "step"]].itertuples(index=False, name=None)):
            raise UserError(damaged[0])
        frames.kept[patch_ids] = {one.site: one for one in families(found)}
    kept: dict[str, Family] = frames.kept[patch_ids]
    return kept


def of_attribution(frames: Frames, corruption: str, kind: str) -> tuple[pd.DataFrame, str]:
    """Attribution by step, component and layer: `mean` and 95% interval (`low`, `high`), and its scope in words.

    Tables without single prompts give Student's t over runs.
    """
    rows = frames.attribution[(frames.attribution["corruption"] == corruption) & (frames.attribution["kind"] == kind)]
    there = set(rows["patch_id"])
    setting = dict(zip(frames.runs["run_id"], frames.runs["setting"], strict=True))
    key = ("attribution", *sorted(there))
    if key not in frames.kept:
        patches = [one for one in (frames.output.patches if frames.output else ()) if one.patch_id in there]
        # Loading the frames has named damaged files.
        frames.kept[key] = [
            PatchJob(one, str(setting[one.run_id]), {}, {}, attribution_values(read_prompts(one, [])))
            for one in patches
        ]
    found = means(frames.kept[key], kind)
    if found is None:
        interval = "95% interval over runs, on these prompts (Student's t)"
        return band(rows, ["step", "component", "layer"], "logit_diff"), interval
    index = [(step, component, layer) for step in found.steps for component, layer, _ in found.parts]
    values = pd.DataFrame(index, columns=["step", "component", "layer"]).astype({"layer": "Int64"})
    settings = [job.setting for job in frames.kept[key]]
    seeds = all(settings.count(one) > 1 for one in settings)
    interval = f"95% interval for other prompts{' and other seeds' if seeds else ', not other seeds'}"
    return values.assign(mean=found.mean, low=found.low, high=found.high).dropna(subset=["mean"]), interval


def of_paths(frames: Frames, corruption: str) -> dict[str, Family]:
    """Families of direct paths at the last checkpoint, by the receiver's input.

    A place is (layer, head) of the receiver, with the source as its position.
    """
    rows = frames.paths[frames.paths["corruption"] == corruption]
    rows = rows[rows["step"] == rows["step"].max()]
    found = {}
    every = _with_source(paths_by_prompt(replace(frames, paths=rows)))
    for site, own in _with_source(rows).groupby("site", sort=False):
        found[str(site)] = _paths(frames, str(site), own, every[every["site"] == site])
    return found


def _with_source(rows: pd.DataFrame) -> pd.DataFrame:
    layer, head = (rows[name].astype("Int64").astype("string") for name in SOURCE)
    receiver = {name: rows[name].fillna(-1) for name in ("layer", "head")}  # the logits are not a head
    return rows.assign(source=layer + "." + head, **receiver)


def _paths(frames: Frames, site: str, rows: pd.DataFrame, prompts: pd.DataFrame) -> Family:
    """The family of one input. `rows` are means over prompts; `prompts` has single prompts, if tables have them."""
    assert frames.output is not None
    setting = dict(zip(frames.runs["run_id"], frames.runs["setting"], strict=True))
    there = set(rows["patch_id"])
    own = [PatchJob(one, str(setting[one.run_id]), {}, {}) for one in frames.output.patches if one.patch_id in there]
    labels, step = [job.setting for job in own], int(rows["step"].iloc[0])
    numbers = {job.patch.patch_id: number for number, job in enumerate(own)}
    keys = ["layer", "head", "source"]
    places = pd.MultiIndex.from_frame(rows[keys].drop_duplicates())
    receivers = tuple((int(layer), int(head), str(source)) for layer, head, source in places)

    def laid(table: pd.DataFrame, *last: int) -> np.ndarray:
        """Gain and gap: [2, run, place, ...]."""
        filled = np.full((2, len(own), len(places), *last), np.nan)
        at = table["patch_id"].map(numbers), places.get_indexer(pd.MultiIndex.from_frame(table[keys]))
        where = (*at, *([table["at"]] if last else []))
        corrupted = table["corrupted"]
        filled[0][where], filled[1][where] = table["patched"] - corrupted, table["clean"] - corrupted
        return filled

    if set(prompts["patch_id"]) != there:
        gain, gap = laid(rows)
        means = of_means(gain, gap, np.full(len(places), rows["n"].max()), labels)
        return Family(site, tuple(own), (step,), receivers, (), means, None)
    texts = dict.fromkeys(key for job in own for key in job.prompts)
    at = {key: number for number, key in enumerate(texts)}
    of_job = {job.patch.patch_id: [at[key] for key in job.prompts] for job in own}
    columns = [
        of_job[patch_id][prompt] if of_job[patch_id] else prompt
        for patch_id, prompt in zip(prompts["patch_id"], prompts["prompt"], strict=True)
    ]
    size = max(len(texts), 1 + max(columns))
    gain, gap = laid(prompts.assign(at=columns), size)
    every = tuple(texts) or tuple((site, number) for number in range(size))
    return Family(site, tuple(own), (step,), receivers, every, estimate(gain, gap, labels), gain)


def scope(found: Iterable[Family], rows: pd.DataFrame, what: str | None = None) -> str:
    """For captions: what verdicts apply to, and how many hold together in each family.

    Args:
        rows: of the picture. The caption begins with their numbers of prompts and runs, which are not repeated if they
            are those of every family.
        what: the number of verdicts in words, if it is not places × checkpoints.
    """
    each = list(found)
    scopes = list(dict.fromkeys(words.scope(one, is_caption=True) for one in each))
    counts = f"{_prompts(rows)}, {counted(rows['run_id'].nunique(), 'run')}; "
    many = [what] if what else dict.fromkeys(words.verdicts_of(one) for one in each)
    judged = any(one.gain is not None or len(one.jobs) > 1 for one in each)
    return "; ".join([*_without(scopes, counts), *([_chance(list(many))] if judged else [])])


def scope_of_differences(found: Iterable[Difference], rows: pd.DataFrame) -> str:
    """As `scope`, for differences between two groups of runs, paired by prompt."""
    each = list(found)
    scopes = list(dict.fromkeys(words.scope_of_difference(one) for one in each))
    many = dict.fromkeys(words.verdicts_of(one) for one in each)
    return "; ".join([*_without(scopes, f"{_prompts(rows)}; "), _chance(list(many))])


def _prompts(rows: pd.DataFrame) -> str:
    return "/".join(counted(int(n), "prompt") for n in pd.unique(rows["n"]))


def _without(scopes: list[str], counts: str) -> list[str]:
    return [scopes[0].removeprefix(counts)] if len(scopes) == 1 else scopes


def _chance(many: list[str]) -> str:
    return f"5% chance of any wrong verdict per family of {' or '.join(many)}"
