"""Tables and pictures of runs, shared by `Output` and `Run`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import TypeVar

import pandas as pd

from mi_sweeps.analysis import derived, figures, folder, frames, measured
from mi_sweeps.analysis.agreement import tables as agreement
from mi_sweeps.analysis.inference import changes, tables, trajectories
from mi_sweeps.analysis.plotting import Picture
from mi_sweeps.circuits.tables import TABLES
from mi_sweeps.errors import UserError

Read = TypeVar("Read")

RUNS_ALONE = 0
"""Most tables of patch jobs to read if only runs, patch jobs and metrics are needed."""


class Tables:
    """Tidy tables as pandas frames, one value a row, joined by `run_id` and `patch_id` (docs/files.md#tables).

    They are read on first use and then kept: open the folder again to see newer results. Files that cannot be read are
    left out, with a warning that names them.
    """

    def __init__(self, found: folder.OutputFolder) -> None:
        self._found = found

    @property
    def runs(self) -> pd.DataFrame:
        """One row per run, including those that failed or are still to do."""
        return self._outline.runs

    @property
    def patches(self) -> pd.DataFrame:
        """One row per patch job."""
        return self._outline.patches

    @property
    def metrics(self) -> pd.DataFrame:
        """Metrics at each checkpoint: the `value` of `metric` on `split`, over `n` prompts."""
        return self._outline.metrics

    @property
    def attribution(self) -> pd.DataFrame:
        """Direct logit differences of the residual stream, of each layer's parts and of each head."""
        return self._frames.attribution

    @property
    def patching(self) -> pd.DataFrame:
        """Patched, clean and corrupted logit differences at each site, in logits."""
        return self._frames.patching

    @property
    def paths(self) -> pd.DataFrame:
        """The same along direct paths between heads."""
        return self._frames.paths

    @property
    def measures(self) -> pd.DataFrame:
        """Measures of the clean run."""
        return self._frames.measures

    def by_prompt(self, *sites: str | Iterable[str]) -> pd.DataFrame:
        """As `patching`, with one row per prompt; for the named sites, or for all, which may be many rows."""
        return frames.by_prompt(self._frames, [name for one in sites for name in folder.several(one)] or None)

    def paths_by_prompt(self, *sites: str | Iterable[str]) -> pd.DataFrame:
        """As `paths`, with one row per prompt."""
        return frames.paths_by_prompt(self._frames, [name for one in sites for name in folder.several(one)] or None)

    def attribution_by_prompt(self, *kinds: str | Iterable[str]) -> pd.DataFrame:
        """As `attribution`, with one row per prompt; for the named kinds (lens, layer, head), or for all."""
        chosen = [name for one in kinds for name in folder.several(one)] or None
        return frames.attribution_by_prompt(self._frames, chosen)

    def measured(self, name: str, by_prompt: bool = False) -> pd.DataFrame:
        """Further measurements: looks, scores, cross, circuits, edges or patterns. Without any there are no rows. With
        `by_prompt`, each row also has an array with one value per prompt.

        Raises:
            UserError: there is no such table.
        """
        if name not in TABLES:
            raise UserError(f"{name}: no such table; there are {', '.join(TABLES)}")
        lists = [field.name for field in TABLES[name] if field.name not in measured.columns(name)]
        chosen = lists if by_prompt or name == "patterns" else []
        return warned(lambda damaged: measured.read(self._found, name, chosen, damaged))

    @cached_property
    def findings(self) -> pd.DataFrame:
        """Findings: sentences with their numbers (docs/findings.md)."""
        return warned(lambda damaged: derived.findings(self._frames, damaged))

    @cached_property
    def verdicts(self) -> pd.DataFrame:
        """Which places matter at which checkpoint, with intervals, over each setting's runs (docs/inference.md)."""
        return warned(lambda damaged: tables.verdicts(self._frames, damaged))

    @cached_property
    def courses(self) -> pd.DataFrame:
        """How each place's verdict changes over the checkpoints, and its onset; grouped as `verdicts`."""
        return warned(lambda damaged: tables.courses_of(self._frames, damaged))

    @cached_property
    def shares(self) -> pd.DataFrame:
        """The shares of pieces of one checkpoint in another, with intervals (docs/cross.md); grouped as `verdicts`."""
        return self._derived("shares")

    @cached_property
    def transformations(self) -> pd.DataFrame:
        """Whether heads were transformed, or others added, between two checkpoints (docs/cross.md)."""
        return warned(lambda damaged: changes.transformations(self._frames, damaged))

    @cached_property
    def head_changes(self) -> pd.DataFrame:
        """How each head changed between those two checkpoints."""
        return warned(lambda damaged: changes.head_changes(self._frames, damaged))

    @property
    def agreement(self) -> pd.DataFrame:
        """How well seeds, and settings that differ in one key, agree about heads (docs/agreement.md)."""
        return self._agreement["agreement"]

    @property
    def roles(self) -> pd.DataFrame:
        """Which heads of two runs have the same role."""
        return self._agreement["roles"]

    @property
    def subjects(self) -> pd.DataFrame:
        """Whether two corruptions have the same heads."""
        return self._agreement["subjects"]

    @property
    def stability(self) -> pd.DataFrame:
        """How stable the set of members is, one row per checkpoint; `inclusion` lists the heads."""
        return self._agreement["stability"]

    @property
    def inclusion(self) -> pd.DataFrame:
        """How often each head would be a member on other prompts."""
        return self._agreement["inclusion"]

    @cached_property
    def retention(self) -> pd.DataFrame:
        """Whether other tasks (`patching.also`) are kept: win rates, and what each head does for them
        (docs/retention.md)."""
        return self._derived("retention")

    @cached_property
    def attention(self) -> pd.DataFrame:
        """Where heads attend, with intervals, and what changed since the first checkpoint (docs/looks.md)."""
        return self._derived("attention")

    @cached_property
    def faithfulness(self) -> pd.DataFrame:
        """How faithful circuits of heads and MLPs are (docs/circuits.md)."""
        return self._derived("faithfulness")

    @cached_property
    def completeness(self) -> pd.DataFrame:
        """Whether each run's circuit is complete, which members it needs, and whether it is minimal."""
        return self._derived("completeness")

    @cached_property
    def edge_effects(self) -> pd.DataFrame:
        """Which edges matter, with intervals (docs/circuits.md#edges)."""
        return self._derived("edge_effects")

    @cached_property
    def edge_circuits(self) -> pd.DataFrame:
        """How faithful circuits of edges are."""
        return self._derived("edge_circuits")

    @cached_property
    def edge_bounds(self) -> pd.DataFrame:
        """How many large edges may have been missed where not all of them were patched."""
        return self._derived("edge_bounds")

    @property
    def transitions(self) -> pd.DataFrame:
        """Whether curves over checkpoints have a phase transition, by run and by setting (docs/transitions.md)."""
        return self._trajectories["transitions"]

    @property
    def onsets(self) -> pd.DataFrame:
        """Onsets of heads, over the seeds of a setting, and under one corruption compared with another."""
        return self._trajectories["onsets"]

    @property
    def sign_changes(self) -> pd.DataFrame:
        """How many effects of heads change sign near epoch ends, compared with random shifts (docs/transitions.md)."""
        return self._trajectories["sign_changes"]

    @property
    def pictures(self) -> list[str]:
        """The names of the pictures, as for `mi-sweeps report --figures`."""
        return [name for name, _ in figures.pictures(self._frames)]

    def picture(self, name: str) -> Picture:
        """Draws one of the `pictures`, a matplotlib figure.

        Raises:
            UserError: there is no such picture.
        """
        for known, draw in figures.pictures(self._frames):
            if known == name:
                return draw()
        raise UserError(f"{name}: no such picture of these runs; there are: {', '.join(self.pictures) or 'none yet'}")

    def _derived(self, name: str) -> pd.DataFrame:
        return warned(lambda damaged: derived.table(name, self._outline, damaged))

    @cached_property
    def _outline(self) -> frames.Frames:
        return warned(lambda damaged: frames.tabulate(self._found, most=RUNS_ALONE, damaged=damaged))

    @cached_property
    def _agreement(self) -> dict[str, pd.DataFrame]:
        return warned(lambda damaged: agreement.of_frames(self._frames, damaged))

    @cached_property
    def _trajectories(self) -> dict[str, pd.DataFrame]:
        return warned(lambda damaged: trajectories.of_frames(self._frames, damaged))

    @cached_property
    def _frames(self) -> frames.Frames:
        return warned(lambda damaged: frames.tabulate(self._found, damaged=damaged))


def warned(read: Callable[[list[str]], Read]) -> Read:
    """Calls a function that reads files, and warns of those it left out."""
    damaged: list[str] = []
    result = read(damaged)
    for line in damaged:
        warnings.warn(line, stacklevel=3)
    return result
