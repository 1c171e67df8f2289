"""An output folder: selecting its runs, and the report that compares them."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from mi_sweeps import locations
from mi_sweeps.analysis import configs, folder
from mi_sweeps.analysis import report as reports
from mi_sweeps.analysis.frames import tabulate
from mi_sweeps.api.run import Run
from mi_sweeps.api.tables import Tables, warned
from mi_sweeps.errors import UserError
from mi_sweeps.store.files import write_bytes

NOT_SHOWN = ("setting", "attempts", "host")
"""Columns of `runs` that are left out in a notebook."""

MOST_ROWS = 60
"""Most rows of a table to show in a notebook."""


def open(path: str | Path = locations.DEFAULT, *sweeps: str | Iterable[str]) -> Output:
    """Opens an output folder.

    Args:
        path: the folder.
        sweeps: names of sweeps, or lists of names; without any, all sweeps and runs.

    Raises:
        UserError: there is no such folder, or no such sweep.

    >>> out = open(finished)
    >>> out.sweeps
    ['default']
    >>> len(out.select(seed=0).runs)
    1
    """
    place = Path(path).expanduser()
    names = [name for one in sweeps for name in folder.several(one)]
    return Output(warned(lambda damaged: folder.read(place, names, damaged)))


class Output(Tables):
    """Some runs of an output folder. A notebook shows them as a table."""

    @property
    def path(self) -> Path:
        """The folder."""
        return self._found.path

    @property
    def sweeps(self) -> list[str]:
        """The names of its sweeps."""
        return [sweep.name for sweep in self._found.sweeps]

    def select(self, **wanted: Any) -> Output:
        """Selects runs.

        Args:
            wanted: by column of `runs`, or by key of the configuration (`**{"optim.betas": [0.9, 0.99]}`): a value; a
                set, tuple or range of allowed values; or a function that tests the value.

        Raises:
            UserError: there is no such column or key, or no run matches.

        >>> out = open(finished)
        >>> out.select(seed=range(2), **{"train.steps": 4}).runs.seed.tolist()
        [0, 1]
        >>> out.select(lr=lambda lr: lr > 1)
        Traceback (most recent call last):
        mi_sweeps.errors.UserError: select lr=<function>: no run has it; there are: 0.0001
        """
        chosen = set(self.runs["run_id"])
        for name, value in wanted.items():
            values = self._values(name)
            fits = {run_id for run_id, one in values.items() if _fits(one, value)}
            if not fits & chosen:
                shown = "<function>" if callable(value) else value
                there = dict.fromkeys(str(values[run_id]) for run_id in self.runs["run_id"] if run_id in chosen)
                raise UserError(f"select {name}={shown}: no run has it; there are: {', '.join(there)}")
            chosen &= fits
        kept = tuple(run for run in self._found.runs if run.run_id in chosen)
        return Output(replace(self._found, runs=kept))

    def _values(self, name: str) -> dict[str, Any]:
        """Returns the values of a column of `runs` or a key of the configuration, by run id."""
        if name in self.runs:
            return dict(zip(self.runs["run_id"], self.runs[name], strict=True))
        keyed = {run.run_id: configs.flatten(run.config) for run in self._found.runs}
        if not any(name in one for one in keyed.values()):
            raise UserError(
                f"select {name}: not a column of `runs` ({', '.join(self.runs.columns)}) nor a key of the configuration"
            )
        return {run_id: one.get(name) for run_id, one in keyed.items()}

    def run(self, id: str | None = None) -> Run:
        """Returns one run.

        Args:
            id: the id of the run or of one of its patch jobs, or a prefix; None if there is only one run.

        Raises:
            UserError: no run, or more than one, matches.

        >>> open(finished).select(seed=1).run().config["seed"]
        1
        """
        ids = {run.run_id: (run.run_id, *(patch.patch_id for patch in run.patches)) for run in self._found.runs}
        found = [run for run, own in ids.items() if any(one.startswith(id or "") for one in own)]
        if len(found) != 1:
            asked = "run()" if id is None else id
            several = f"{len(found)} runs match, such as {', '.join(found[:2])}; give more of the id"
            raise UserError(f"{asked}: {several if found else 'no such run'}; `runs` lists those of {self.path}")
        return Run(replace(self._found, runs=tuple(run for run in self._found.runs if run.run_id == found[0])))

    def __iter__(self) -> Iterator[Run]:
        """Yields every run in order."""
        return (Run(replace(self._found, runs=(run,))) for run in self._found.runs)

    def __len__(self) -> int:
        return len(self._found.runs)

    def report(self) -> Page:
        """Makes the report on these runs, as `mi-sweeps report` does; a notebook shows it."""

        def page(damaged: list[str]) -> str:
            tables = tabulate(self._found, paths=False, most=reports.MOST, damaged=damaged)
            return reports.page(self._found, tables, damaged=damaged)

        return Page(warned(page))

    def __repr__(self) -> str:
        return f"{len(self)} runs in {self.path}"

    def _repr_html_(self) -> str:
        columns = [name for name in self.runs if name not in NOT_SHOWN and not self.runs[name].isna().all()]
        return shown(self, self.runs[columns])


@dataclass(frozen=True)
class Page:
    """A self-contained HTML page."""

    text: str

    def save(self, path: str | Path) -> Path:
        """Writes it to a file, whole or not at all."""
        file = Path(path).expanduser().absolute()
        write_bytes(file, self.text.encode())
        return file

    def __repr__(self) -> str:
        return f"a page of {len(self.text.encode()) / 1e6:.1f} MB; save(FILE) writes it"

    def _repr_html_(self) -> str:
        # In a frame, so that its style and code stay separate.
        return f'<iframe srcdoc="{html.escape(self.text)}" style="width: 100%; height: 900px; border: 0"></iframe>'


def _fits(value: Any, wanted: Any) -> bool:
    if value is pd.NA:
        return False
    if callable(wanted):
        return bool(wanted(value))
    if isinstance(wanted, set | frozenset | tuple | range):
        return any(value == one for one in wanted)
    return bool(value == wanted)


def shown(what: object, table: pd.DataFrame) -> str:
    """Formats an object and its table for a notebook."""
    return f"<p>{html.escape(repr(what))}</p>{table.to_html(index=False, na_rep='', max_rows=MOST_ROWS)}"
