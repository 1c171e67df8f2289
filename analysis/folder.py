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
from ..series import gaps
from ..store import checksums
from ..store.files import names
from ..store.folders import Folder, PatchFolder
from ..sweeps.manifest import sound

Json = dict[str, Any]


@dataclass(frozen=True)
class Sweep:
    """A grid that someone asked for."""

    name: str
    command: str
    """What was typed to run it."""
    points: tuple[Json, ...]
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
    is_damaged: bool = False
    """Whether patch.json cannot be read. Then its tables are left out, too."""
    gaps: frozenset[int] = frozenset()
    """Those of its run."""

    def steps(self) -> list[int]:
        """The checkpoints examined so far, in order. What was found at a step before it was known as a gap is none."""
        return [step for step in PatchFolder(self.path).steps() if step not in self.gaps]

    def table(self, step: int, name: str | None = None) -> Path:
        """The Parquet file of a checkpoint; with a name another table of it (`mi_sweeps.circuits.tables`)."""
        return PatchFolder(self.path).table(step, name)

    def has(self, step: int, name: str) -> bool:
        """Whether there is such another table of a checkpoint."""
        return PatchFolder(self.path).has([step], [name])


@dataclass(frozen=True)
class Run:
    """One fine-tune, or one series."""

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
    is_damaged: bool = False
    """Whether run.json cannot be read. Then all its tables are left out, too."""
    gaps: Mapping[int, str] = field(default_factory=dict)
    """The steps of a series that have no checkpoint which can be used, and why."""

    @property
    def is_series(self) -> bool:
        """Whether somebody else trained it, so that nothing is known of how."""
        return "keep" in (self.config.get("model") or {})

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


def several(given: str | Iterable[str]) -> tuple[str, ...]:
    """One name, or several: text is one name, and no sequence of letters."""
    return (given,) if isinstance(given, str) else tuple(given)


@collector_paused()
def read(output: Path, sweeps: str | Iterable[str] | None = None, damaged: list[str] | None = None) -> Output:
    """What the folder `output` holds, limited to the named `sweeps` (one name or several) if any are given.

    A planned point without a folder is there with state `todo`. Raises UserError where the folder or a sweep
    does not exist, or a JSON file cannot be read; with a list `damaged`, such a run or patch job is there as failed,
    and the file is named in that list.
    """
    output, sweeps = Path(output), several(sweeps or ())
    if not output.is_dir():
        raise UserError(f"no output folder at {output}: give the folder that a sweep wrote to (output=...)")
    known = {file.parent.name: file for file in sorted((output / "sweeps").glob("*/sweep.json"))}
    if unknown := [name for name in sweeps if name not in known]:
        there = ", ".join(known) or "none"
        raise UserError(f"no sweep named {', '.join(unknown)} in {output}: there is {there}")
    files = [known[name] for name in dict.fromkeys(sweeps)] if sweeps else list(known.values())
    chosen = tuple(map(_sweep, files))

    planned = _planned(chosen)
    run_ids = list(planned)
    if not sweeps:  # all there is, also what belongs to no sweep
        on_disk = (path.name for path in sorted((output / "runs").glob("*")) if path.is_dir())
        run_ids += [run_id for run_id in on_disk if run_id not in planned]
    runs = (_run(output, run_id, planned.get(run_id, []), not sweeps, damaged) for run_id in run_ids)
    return Output(output, chosen, tuple(runs))


def find(output: Path, id: str, damaged: list[str] | None = None) -> Output:
    """The one run that `id` or its beginning names, with all its patch jobs; of a patch job's id, with that one only.

    Raises UserError where there is none, or more than one run; or where a JSON file cannot be read. With a list
    `damaged`, that is named there, and the rest is shown.
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
        # Patch jobs that a sweep planned are known without a look at their folders, of which there may be thousands.
        known = [point["patch_id"] for _, point in planned.get(run_id, ()) if point.get("patch_id")]
        owners |= dict.fromkeys(known or sorted(names(output / "runs" / run_id / "patches")), run_id)
    found = [id] if id in owners else [known for known in owners if known.startswith(id)]
    runs = {owners[known] for known in found}
    if not runs:
        raise UserError(
            f"{id}: no run or patch job of that id in {output}; `{hint('status --points', '', output)}` lists them"
        )
    if len(runs) > 1:
        raise UserError(f"{id}: {len(found)} ids begin so, {found[0]} and {found[1]} among them; give more of it")
    run_id = runs.pop()
    run = _run(output, run_id, planned.get(run_id, []), True, damaged)
    if run_id not in found:
        run = replace(run, patches=tuple(patch for patch in run.patches if patch.patch_id in found))
    return Output(output, tuple(sweep for sweep in sweeps if sweep.name in run.sweeps), (run,))


def leave_out(error: UserError, damaged: list[str] | None) -> None:
    """Names what cannot be read; where nobody asks for that, it is an error."""
    if damaged is None:
        raise error
    if str(error) not in damaged:  # It may be read for several ends.
        damaged.append(str(error))


def _sweep(file: Path) -> Sweep:
    about = _json(file)
    points = about.get("points", about.get("cells", []))  # as versions before 1.0 called them
    if not (isinstance(points, list) and all(sound(point) and "run_id" in point for point in points)):
        raise UserError(f"cannot read {file} (not a sweep): delete it and run the sweep again")
    # It is known by its folder.
    return Sweep(file.parent.name, str(about.get("command", "")), tuple(points))


def _planned(sweeps: Sequence[Sweep]) -> dict[str, list[tuple[str, Json]]]:
    """The points of each run id, each with the name of its sweep."""
    planned: dict[str, list[tuple[str, Json]]] = {}
    for sweep in sweeps:
        for point in sweep.points:
            planned.setdefault(point["run_id"], []).append((sweep.name, point))
    return planned


def _run(
    output: Path, run_id: str, points: Sequence[tuple[str, Json]], everything: bool, damaged: list[str] | None
) -> Run:
    path = output / "runs" / run_id
    corruptions = {point["patch_id"]: point.get("corruption", "") for _, point in points if point.get("patch_id")}
    if everything:
        for folder in sorted((path / "patches").glob("*")):
            if folder.is_dir():
                corruptions.setdefault(folder.name, "")
    about, status, is_damaged = _state(path, "run.json", damaged)
    missing = _gaps(path, status, damaged)
    return Run(
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
        gaps=missing,
    )


def _patch(
    run: Path, run_id: str, patch_id: str, corruption: str, missing: frozenset[int], damaged: list[str] | None
) -> Patch:
    path = run / "patches" / patch_id
    about, status, is_damaged = _state(path, "patch.json", damaged)
    return Patch(patch_id, run_id, about.get("corruption", corruption), path, about, status, is_damaged, missing)


def _gaps(path: Path, status: Json, damaged: list[str] | None) -> dict[int, str]:
    """Why steps of a run are gaps; without a reason where that cannot be read."""
    steps = status.get("gaps", ())
    try:
        return gaps.read(path, steps)
    except UserError as error:
        leave_out(error, damaged)
        return dict.fromkeys(steps, "")


def _state(folder: Path, name: str, damaged: list[str] | None) -> tuple[Json, Json, bool]:
    """What a run or patch job says of itself; its status, as every reader sees it (a `running` one whose process is
    gone is `interrupted`); and whether the former cannot be read."""
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
