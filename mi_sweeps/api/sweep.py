"""A sweep from Python: planned and run with the overrides of the command line."""

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
from mi_sweeps.store.folders import Failure
from mi_sweeps.sweeps import plan as planning
from mi_sweeps.sweeps import show

if TYPE_CHECKING:
    from mi_sweeps.sweeps.cells import Cell


def plan(*overrides: str | Iterable[str], config_dir: str | Path | None = None) -> Plan:
    """What `mi-sweeps run` would do with these overrides; nothing is computed or written.

    Args:
        overrides: in Hydra's sweep grammar, as on the command line; or lists of them.
        config_dir: a folder of your own configuration, searched before ours.

    Raises:
        UserError: an override is wrong.

    >>> plan("sweep=demo", "seed=0", "launcher=inline", "output=/nowhere")
    sweep demo: 4 fine-tunes (4 to do), 8 patch jobs (8 to do)
    """
    words = [word for one in overrides for word in folder.several(one)]
    cells = common.cells_of(words, None if config_dir is None else Path(config_dir).expanduser())
    return Plan(tuple(cells), ("run", *words))


@dataclass(frozen=True, repr=False)
class Plan:
    """The cells of a sweep. A notebook shows them with their states."""

    _cells: tuple[Cell, ...]
    _words: tuple[str, ...]
    """The command that does the same."""

    @property
    def cells(self) -> pd.DataFrame:
        """One row a cell: what the grid chose for it, run_id and patch_id, and the states that they have now."""
        made = planning.make(self._cells)
        rows = [
            {
                **cell.choices,
                "run_id": cell.run_id,
                "run": made.runs[cell.run_id].state,
                "patch_id": cell.patch_id,
                "patch": made.patches[cell.patch_id].state,
            }
            for cell in self._cells
        ]
        return pd.DataFrame(rows)

    def run(self, retry: Collection[Failure] | Failure = (), wait: bool = False) -> Output:
        """Does what is missing, by the plan's launcher, and prints what `mi-sweeps run` prints.

        Args:
            retry: kinds of failures that are taken up again: error, oom, timeout, node.
            wait: stay where the launcher would return (launcher=slurm, or local workers).

        Returns:
            The runs of the sweep.

        Raises:
            UserError: something is wrong that can be known before anything is computed.
            RuntimeError: some run failed; the others are done.
        """
        from mi_sweeps import libraries
        from mi_sweeps.commands.run import carry_out

        libraries.quiet(pictures_to_files=False)
        kinds = (retry,) if isinstance(retry, str) else tuple(retry)
        config = self._cells[0].config
        code = carry_out(self._cells, kinds, wait, shlex.join(("mi-sweeps", *self._words)))
        if code:
            errors = "; ".join(show.errors(planning.make(self._cells))) or "not all of it is done"
            raise RuntimeError(f"sweep {config.sweep.name}: {errors}")
        return open(config.output, config.sweep.name)

    def __repr__(self) -> str:
        return f"sweep {self._cells[0].config.sweep.name}: {show.summary(planning.make(self._cells))}"

    def _repr_html_(self) -> str:
        return shown(self, self.cells)
