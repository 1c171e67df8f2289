"""Planning and running sweeps from Python, with the overrides of the command line."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from mi_sweeps.analysis import folder
from mi_sweeps.api.output import Output, open, shown
from mi_sweeps.commands import common
from mi_sweeps.store.status import Failure
from mi_sweeps.sweeps import plan as planning
from mi_sweeps.sweeps import show

if TYPE_CHECKING:
    from mi_sweeps.sweeps.points import GridPoint


def plan(*overrides: str | Iterable[str], config_dir: str | Path | None = None) -> Plan:
    """Plans what `mi-sweeps run` would do with these overrides; computes and writes nothing.

    Args:
        overrides: in Hydra's sweep grammar, as on the command line; or lists of them.
        config_dir: a folder of your own configuration, searched before ours.

    Raises:
        UserError: an override is wrong.

    >>> plan("sweep=demo", "seed=0", "launcher=inline", "output=/nowhere")
    sweep demo: 2 fine-tunes (2 to do), 4 patch jobs (4 to do)
    """
    words = [word for one in overrides for word in folder.several(one)]
    points = common.points_of(words, None if config_dir is None else Path(config_dir).expanduser())
    return Plan(tuple(points), ("run", *words))


@dataclass(frozen=True, repr=False)
class Plan:
    """The grid points of a sweep. A notebook shows them with their states."""

    _points: tuple[GridPoint, ...]
    _words: tuple[str, ...]
    """The equivalent command."""

    @property
    def points(self) -> pd.DataFrame:
        """One row per grid point: its choices, its run_id and patch_id, and their current states."""
        made = planning.make(self._points)
        rows = [
            {
                **point.choices,
                "run_id": point.run_id,
                "run": made.runs[point.run_id].state,
                "patch_id": point.patch_id,
                "patch": made.patches[point.patch_id].state,
            }
            for point in self._points
        ]
        return pd.DataFrame(rows)

    def run(self, retry: Collection[Failure] | Failure = (), wait: bool = False) -> Output:
        """Computes what is missing with the plan's launcher, and prints what `mi-sweeps run` prints.

        Args:
            retry: kinds of failures to try again: error, oom, timeout, node.
            wait: wait until all is done, also with launcher=slurm or launcher=local.

        Returns:
            The runs of the sweep.

        Raises:
            UserError: an error was found before anything was computed.
            RuntimeError: a run failed; the others are done.
        """
        from mi_sweeps import libraries
        from mi_sweeps.commands.run import carry_out

        libraries.quiet(pictures_to_files=False)
        kinds = (retry,) if isinstance(retry, str) else tuple(retry)
        config = self._points[0].config
        code = carry_out(self._points, kinds, wait, shlex.join(("mi-sweeps", *self._words)))
        if code:
            errors = "; ".join(show.errors(planning.make(self._points))) or "not everything is done"
            raise RuntimeError(f"sweep {config.sweep.name}: {errors}")
        return open(config.output, config.sweep.name)

    def __repr__(self) -> str:
        return f"sweep {self._points[0].config.sweep.name}: {show.summary(planning.make(self._points))}"

    def _repr_html_(self) -> str:
        return shown(self, self.points)
