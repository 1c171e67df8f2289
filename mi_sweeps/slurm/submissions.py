"""What was submitted, on disk: written before sbatch is called, so that no job is ever unknown.

OUTPUT/sweeps/NAME/slurm/ID.json has a submission's arrays, and OUTPUT/sweeps/NAME/slurm/jobs/ what submitit writes.
Job names hold the sweep's name and the submission's id. A controller that loses its state gives job ids out anew, so
jobs are known by name.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mi_sweeps.errors import UserError
from mi_sweeps.slurm.arrays import Array
from mi_sweeps.store.files import read_json, write_json
from mi_sweeps.store.status import Failure, now
from mi_sweeps.sweeps import manifest


@dataclass(frozen=True)
class Submission:
    """One call of `mi-sweeps run`."""

    path: Path
    sweep: str
    submitted: str
    """Time, as `mi_sweeps.store.status.now` gives it."""
    retry: tuple[Failure, ...]
    """Kinds of earlier failures that its tasks take up."""
    arrays: tuple[Array, ...]
    cancelled: bool = False
    """Whether its tasks were told to end for good."""

    @property
    def output(self) -> Path:
        """The folder of results."""
        return self.path.parents[3]

    @property
    def prefix(self) -> str:
        """How the names of its arrays begin."""
        return f"{self.sweep}-{self.path.stem}"

    @property
    def jobs(self) -> Path:
        """Where submitit's files and the tasks' logs are."""
        return self.path.parent / "jobs"

    def write(self) -> None:
        """Whole or not at all."""
        values = asdict(replace(self, path=Path()))
        values.pop("path")
        write_json(self.path, values)


def new(output: Path, sweep: str, retry: tuple[Failure, ...]) -> Submission:
    """One that has no arrays yet, and is not written."""
    return Submission(_folder(output, sweep) / f"{uuid.uuid4().hex[:8]}.json", sweep, now(), retry, ())


def read(path: Path) -> Submission:
    """A submission from its file.

    Raises:
        FileNotFoundError: there is none.
        UserError: it is not one of this version.
    """
    values = read_json(path)
    if values is None:
        raise FileNotFoundError(str(path))
    try:
        arrays = tuple(_array(array) for array in values.pop("arrays"))
        return Submission(path=path, arrays=arrays, **{**values, "retry": tuple(values["retry"])})
    except (AttributeError, KeyError, TypeError):
        raise UserError(
            f"{path}: not a submission of this version; use the version that wrote it, or delete it when its jobs "
            "have ended"
        ) from None


def _array(values: dict[str, Any]) -> Array:
    return Array(
        **{
            **values,
            "tasks": tuple(map(tuple, values["tasks"])),
            "after": tuple(values["after"]),
            "jobs": tuple(values["jobs"]),
        }
    )


def of_sweep(output: Path, sweep: str) -> list[Submission]:
    """All submissions of a sweep, the oldest first."""
    found = []
    for path in _folder(output, sweep).glob("*.json"):
        with suppress(FileNotFoundError):  # Whoever submits takes it back if sbatch refuses.
            found.append(read(path))
    return sorted(found, key=lambda one: one.submitted)


def _folder(output: Path, sweep: str) -> Path:
    return manifest.path(output, sweep).parent.absolute() / "slurm"


def of_output(output: Path) -> list[Submission]:
    """All submissions into a folder of results, of whatever sweep, the oldest first."""
    every = (submission for name in manifest.names(output) for submission in of_sweep(output, name))
    return sorted(every, key=lambda one: one.submitted)


def tasks(submissions: list[Submission]) -> Iterator[tuple[Submission, Array, int, str]]:
    """Every id that was submitted: with its submission, array and number of its task."""
    for submission in submissions:
        for array in submission.arrays:
            for number, ids in enumerate(array.tasks):
                for one in ids:
                    yield submission, array, number, one
