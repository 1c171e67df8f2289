"""The output folder as it is on disk: its sweeps, runs and patch jobs, and those still missing."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..store import checksums
from ..store.files import names
from ..store.folders import Folder, PatchFolder

Json = dict[str, Any]


@dataclass(frozen=True)
class Sweep:
    """A grid that someone asked for."""

    name: str
    command: str
    """What was typed to run it."""
    cells: tuple[Json, ...]
    """One entry a (run, patch job): run_id, patch_id, corruption, overrides."""


@dataclass(frozen=True)
class Patch:
    """One run's checkpoints examined under one corruption."""

    patch_id: str
    run_id: str
    corruption: str
    path: Path
    about: Json
    """patch.json; empty while the patch job was never started."""
    status: Json
    """status.json, whose `state` is `todo` while the patch job was never started."""

    def steps(self) -> list[int]:
        """The checkpoints examined so far, in order."""
        return PatchFolder(self.path).steps()

    def table(self, step: int) -> Path:
        """The Parquet file of a checkpoint."""
        return PatchFolder(self.path).table(step)


@dataclass(frozen=True)
class Run:
    """One fine-tune."""

    run_id: str
    sweeps: tuple[str, ...]
    """Names of the sweeps that hold this run."""
    path: Path
    about: Json
    """run.json; empty while the run was never started."""
    status: Json
    """status.json, whose `state` is `todo` while the run was never started."""
    overrides: Json
    """What the sweep set for this run: all that is known of a run that was never started."""
    patches: tuple[Patch, ...] = field(repr=False)

    @property
    def config(self) -> Json:
        """The resolved configuration; empty while the run was never started."""
        return self.about.get("config", {})


@dataclass(frozen=True)
class Output:
    """An output folder, or the part of it that belongs to some sweeps."""

    path: Path
    sweeps: tuple[Sweep, ...]
    runs: tuple[Run, ...]

    @property
    def patches(self) -> Iterator[Patch]:
        """The patch jobs of all runs."""
        return (patch for run in self.runs for patch in run.patches)


@contextmanager
def collector_paused() -> Iterator[None]:
    """Of thousands of files' content all stays, and Python's collector would look through it again and again."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@collector_paused()
def read(output: Path, sweeps: Sequence[str] | None = None) -> Output:
    """What the folder `output` holds, limited to the named `sweeps` if any are given.

    A planned cell without a folder is there with state `todo`. Raises UserError where the folder or a sweep
    does not exist, or a JSON file cannot be read.
    """
    output = Path(output)
    if not output.is_dir():
        raise UserError(f"no output folder at {output}: give the folder that a sweep wrote to (output=...)")
    known = {file.parent.name: _sweep(file) for file in sorted((output / "sweeps").glob("*/sweep.json"))}
    if unknown := [name for name in sweeps or () if name not in known]:
        there = ", ".join(known) or "none"
        raise UserError(f"no sweep named {', '.join(unknown)} in {output}: there is {there}")
    chosen = tuple(known[name] for name in dict.fromkeys(sweeps)) if sweeps else tuple(known.values())

    planned = _planned(chosen)
    run_ids = list(planned)
    if not sweeps:  # all there is, also what belongs to no sweep
        on_disk = (path.name for path in sorted((output / "runs").glob("*")) if path.is_dir())
        run_ids += [run_id for run_id in on_disk if run_id not in planned]
    runs = (_run(output, run_id, planned.get(run_id, []), everything=not sweeps) for run_id in run_ids)
    return Output(output, chosen, tuple(runs))


def find(output: Path, id: str) -> Output:
    """The one run that `id` or its beginning names, with all its patch jobs; of a patch job's id, with that one only.

    Raises UserError where there is none, or more than one run.
    """
    output = Path(output)
    sweeps = [_sweep(file) for file in sorted((output / "sweeps").glob("*/sweep.json"))]
    planned = _planned(sweeps)
    owners = {run_id: run_id for run_id in (*planned, *sorted(names(output / "runs")))}
    for run_id in list(owners):
        # Patch jobs that a sweep planned are known without a look at their folders, of which there may be thousands.
        known = [cell["patch_id"] for _, cell in planned.get(run_id, ()) if cell.get("patch_id")]
        owners |= dict.fromkeys(known or sorted(names(output / "runs" / run_id / "patches")), run_id)
    found = [id] if id in owners else [known for known in owners if known.startswith(id)]
    runs = {owners[known] for known in found}
    if not runs:
        raise UserError(f"{id}: no run or patch job of that id in {output}; `mi-sweeps status --cells` lists them")
    if len(runs) > 1:
        raise UserError(f"{id}: {len(found)} ids begin so, {found[0]} and {found[1]} among them; give more of it")
    run_id = runs.pop()
    run = _run(output, run_id, planned.get(run_id, []), everything=True)
    if run_id not in found:
        run = replace(run, patches=tuple(patch for patch in run.patches if patch.patch_id in found))
    return Output(output, tuple(sweep for sweep in sweeps if sweep.name in run.sweeps), (run,))


def _sweep(file: Path) -> Sweep:
    about = _json(file)
    return Sweep(about.get("name", file.parent.name), about.get("command", ""), tuple(about.get("cells", ())))


def _planned(sweeps: Sequence[Sweep]) -> dict[str, list[tuple[str, Json]]]:
    """The cells of each run id, each with the name of its sweep."""
    planned: dict[str, list[tuple[str, Json]]] = {}
    for sweep in sweeps:
        for cell in sweep.cells:
            planned.setdefault(cell["run_id"], []).append((sweep.name, cell))
    return planned


def _run(output: Path, run_id: str, cells: Sequence[tuple[str, Json]], everything: bool) -> Run:
    path = output / "runs" / run_id
    corruptions = {cell["patch_id"]: cell.get("corruption", "") for _, cell in cells if cell.get("patch_id")}
    if everything:
        for folder in sorted((path / "patches").glob("*")):
            if folder.is_dir():
                corruptions.setdefault(folder.name, "")
    return Run(
        run_id=run_id,
        sweeps=tuple(dict.fromkeys(name for name, _ in cells)),
        path=path,
        about=_json(path / "run.json"),
        status=_status(path),
        overrides=cells[0][1].get("overrides", {}) if cells else {},
        patches=tuple(_patch(path, run_id, patch_id, known) for patch_id, known in corruptions.items()),
    )


def _patch(run: Path, run_id: str, patch_id: str, corruption: str) -> Patch:
    path = run / "patches" / patch_id
    about = _json(path / "patch.json")
    return Patch(patch_id, run_id, about.get("corruption", corruption), path, about, _status(path))


def _status(folder: Path) -> Json:
    """As every reader sees it: a `running` one whose process is gone is `interrupted`."""
    return dict(vars(Folder(folder).status()))


def _json(file: Path) -> Json:
    """The object in `file`; empty if there is no such file."""
    try:
        value = checksums.parse(file.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise UserError(f"cannot read {file} ({error}): delete it and run the sweep again") from None
    if not isinstance(value, dict):
        raise UserError(f"cannot read {file} (not a JSON object): delete it and run the sweep again")
    return value
