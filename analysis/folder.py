"""The output folder as it is on disk: its sweeps, runs and patch jobs, and those still missing."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..hints import hint
from ..series import missing_steps
from ..store import checksums
from ..store.files import names
from ..store.folders import Folder, PatchFolder
from ..sweeps.manifest import sound
from . import contents

Json = dict[str, Any]


@dataclass(frozen=True)
class Sweep:
    """A named set of grid points."""

    name: str
    command: str
    """The command that ran it."""
    points: tuple[Json, ...]
    """One entry per grid point: run_id, patch_id, corruption, overrides."""


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
    is_damaged: bool = False
    """Whether patch.json is unreadable. Its tables are then left out too."""
    missing_steps: frozenset[int] = frozenset()
    """Missing steps of its run."""

    def steps(self) -> list[int]:
        """The checkpoints examined so far, in order, without missing steps."""
        return [step for step in PatchFolder(self.path).steps() if step not in self.missing_steps]

    def table(self, step: int, name: str | None = None) -> Path:
        """The Parquet file of a checkpoint, or of its table `name` (`mi_sweeps.circuits.tables`)."""
        return PatchFolder(self.path).table(step, name)

    def has(self, step: int, name: str) -> bool:
        """Whether a checkpoint has the table `name`."""
        return PatchFolder(self.path).has([step], [name])


@dataclass(frozen=True)
class RunRecord:
    """What an output folder holds of a run: one fine-tune, or one series."""

    run_id: str
    sweeps: tuple[str, ...]
    """Names of the sweeps that hold this run."""
    path: Path
    about: Json
    """run.json; empty while the run was never started."""
    status: Json
    """status.json, whose `state` is `todo` while the run was never started."""
    overrides: Json
    """Overrides of the sweep: all that is known of a run before it starts."""
    patches: tuple[Patch, ...] = field(repr=False)
    is_damaged: bool = False
    """Whether run.json is unreadable. All its tables are then left out too."""
    missing_steps: Mapping[int, str] = field(default_factory=dict)
    """Missing steps of a series, with the reason."""
    contents: Mapping[str, str] = field(default_factory=dict)
    """What tells it apart, beside the seed, from other runs of its configuration (`analysis.contents`)."""

    @property
    def is_series(self) -> bool:
        """Whether somebody else trained it."""
        return "keep" in (self.config.get("model") or {})

    @property
    def config(self) -> Json:
        """The resolved configuration; empty while the run was never started."""
        return self.about.get("config", {})


@dataclass(frozen=True)
class OutputFolder:
    """An output folder, or the part of it that belongs to some sweeps."""

    path: Path
    sweeps: tuple[Sweep, ...]
    runs: tuple[RunRecord, ...]

    @property
    def patches(self) -> Iterator[Patch]:
        """The patch jobs of all runs."""
        return (patch for run in self.runs for patch in run.patches)


@contextmanager
def collector_paused() -> Iterator[None]:
    """Pause garbage collection while thousands of files are read, all of which are kept."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def several(given: str | Iterable[str]) -> tuple[str, ...]:
    """Return names as a tuple; a string is one name."""
    return (given,) if isinstance(given, str) else tuple(given)


@collector_paused()
def read(output: Path, sweeps: str | Iterable[str] | None = None, damaged: list[str] | None = None) -> OutputFolder:
    """Read the folder `output`, limited to the named `sweeps` (one name or several) if any are given.

    Planned points without a folder have the state `todo`. With a list `damaged`, runs and patch jobs whose JSON cannot
    be read count as failed, and their files are named in the list.

    Raises:
        UserError: the folder or a sweep does not exist, or a JSON file cannot be read and `damaged` is None.
    """
    output, sweeps = Path(output), several(sweeps or ())
    if not output.is_dir():
        raise UserError(f"no output folder at {output}: give the folder that a sweep wrote to (output=...)")
    known = {file.parent.name: file for file in sorted((output / "sweeps").glob("*/sweep.json"))}
    if unknown := [name for name in sweeps if name not in known]:
        there = ", ".join(known) or "none"
        raise UserError(f"no sweep named {', '.join(unknown)} in {output}; there are: {there}")
    files = [known[name] for name in dict.fromkeys(sweeps)] if sweeps else list(known.values())
    chosen = tuple(map(_sweep, files))

    planned = _planned(chosen)
    run_ids = list(planned)
    if not sweeps:  # everything, with or without a sweep
        on_disk = (path.name for path in sorted((output / "runs").glob("*")) if path.is_dir())
        run_ids += [run_id for run_id in on_disk if run_id not in planned]
    runs = [_run(output, run_id, planned.get(run_id, []), not sweeps, damaged) for run_id in run_ids]
    apart = contents.distinguishing(runs)
    return OutputFolder(output, chosen, tuple(replace(run, contents=apart.get(run.run_id, {})) for run in runs))


def find(output: Path, id: str, damaged: list[str] | None = None) -> OutputFolder:
    """Find the run that `id` or its beginning names, with its patch jobs; for a patch job's id, with that job only.

    With a list `damaged`, unreadable files are named there.

    Raises:
        UserError: no run or several match, or a JSON file cannot be read and `damaged` is None.
    """
    output = Path(output)
    sweeps = []
    for file in sorted((output / "sweeps").glob("*/sweep.json")):
        try:
            sweeps.append(_sweep(file))
        except UserError as error:
            leave_out(error, damaged)
    planned = _planned(sweeps)
    owners = {run_id: run_id for run_id in (*planned, *sorted(names(output / "runs")))}
    for run_id in list(owners):
        # Planned patch jobs are known without reading their folders, of which there may be thousands.
        known = [point["patch_id"] for _, point in planned.get(run_id, ()) if point.get("patch_id")]
        owners |= dict.fromkeys(known or sorted(names(output / "runs" / run_id / "patches")), run_id)
    found = [id] if id in owners else [known for known in owners if known.startswith(id)]
    runs = {owners[known] for known in found}
    if not runs:
        raise UserError(
            f"{id}: no run or patch job of that id in {output}; `{hint('status --points', '', output)}` lists them"
        )
    if len(runs) > 1:
        raise UserError(f"{id}: {len(found)} ids begin with this, such as {found[0]} and {found[1]}; give more of it")
    run_id = runs.pop()
    run = _run(output, run_id, planned.get(run_id, []), True, damaged)
    if run_id not in found:
        run = replace(run, patches=tuple(patch for patch in run.patches if patch.patch_id in found))
    return OutputFolder(output, tuple(sweep for sweep in sweeps if sweep.name in run.sweeps), (run,))


def leave_out(error: UserError, damaged: list[str] | None) -> None:
    """Add an error to `damaged`, or raise it if that is None."""
    if damaged is None:
        raise error
    if str(error) not in damaged:  # a file may be read several times
        damaged.append(str(error))


def _sweep(file: Path) -> Sweep:
    about = _json(file)
    points = about.get("points", about.get("cells", []))  # as versions before 1.0 called them
    if not (isinstance(points, list) and all(sound(point) and "run_id" in point for point in points)):
        raise UserError(f"cannot read {file} (not a sweep): delete it and run the sweep again")
    # the folder gives its name
    return Sweep(file.parent.name, str(about.get("command", "")), tuple(points))


def _planned(sweeps: Sequence[Sweep]) -> dict[str, list[tuple[str, Json]]]:
    """Grid points by run id, each with the name of its sweep."""
    planned: dict[str, list[tuple[str, Json]]] = {}
    for sweep in sweeps:
        for point in sweep.points:
            planned.setdefault(point["run_id"], []).append((sweep.name, point))
    return planned


def _run(
    output: Path, run_id: str, points: Sequence[tuple[str, Json]], everything: bool, damaged: list[str] | None
) -> RunRecord:
    path = output / "runs" / run_id
    corruptions = {point["patch_id"]: point.get("corruption", "") for _, point in points if point.get("patch_id")}
    if everything:
        for folder in sorted((path / "patches").glob("*")):
            if folder.is_dir():
                corruptions.setdefault(folder.name, "")
    about, status, is_damaged = _state(path, "run.json", damaged)
    missing = _missing_steps(path, status, damaged)
    return RunRecord(
        run_id=run_id,
        sweeps=tuple(dict.fromkeys(name for name, _ in points)),
        path=path,
        about=about,
        status=status,
        overrides=points[0][1].get("overrides", {}) if points else {},
        patches=tuple(
            _patch(path, run_id, patch_id, known, frozenset(missing), damaged)
            for patch_id, known in corruptions.items()
        ),
        is_damaged=is_damaged,
        missing_steps=missing,
    )


def _patch(
    run: Path, run_id: str, patch_id: str, corruption: str, missing: frozenset[int], damaged: list[str] | None
) -> Patch:
    path = run / "patches" / patch_id
    about, status, is_damaged = _state(path, "patch.json", damaged)
    return Patch(patch_id, run_id, about.get("corruption", corruption), path, about, status, is_damaged, missing)


def _missing_steps(path: Path, status: Json, damaged: list[str] | None) -> dict[int, str]:
    """Missing steps with their reason; "" if the reason cannot be read."""
    steps: Iterable[int] = status.get("missing_steps") or status.get("gaps", ())  # as versions before 1.0 called them
    try:
        return missing_steps.read(path, steps)
    except UserError as error:
        leave_out(error, damaged)
        return dict.fromkeys(steps, "")


def _state(folder: Path, name: str, damaged: list[str] | None) -> tuple[Json, Json, bool]:
    """Read the description and status of a run or patch job, and whether the description is damaged.

    A `running` one whose process is gone is `interrupted`.
    """
    status = dict(vars(Folder(folder).status()))
    try:
        about = _json(folder / name)
        if not isinstance(about.get("config", {}), dict):
            raise UserError(f"cannot read {folder / name} (no configuration): delete it and run the sweep again")
    except UserError as error:
        leave_out(error, damaged)
        return {}, status | {"state": "failed", "error": str(error)}, True
    return about, status, False


def _json(file: Path) -> Json:
    """The object in `file`; empty if there is no such file."""
    try:
        value = checksums.parse(file.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (ValueError, RecursionError, OSError) as error:
        raise UserError(f"cannot read {file} ({error}): delete it and run the sweep again") from None
    if not isinstance(value, dict):
        raise UserError(f"cannot read {file} (not a JSON object): delete it and run the sweep again")
    return value
