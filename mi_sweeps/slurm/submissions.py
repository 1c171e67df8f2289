"""Records of submissions. They are written before sbatch is called, so that no job is ever unknown.

OUTPUT/sweeps/NAME/slurm/ID.json has a submission's arrays; OUTPUT/sweeps/NAME/slurm/jobs/ is submitit's folder.
Jobs are identified by name (the sweep's name and the submission's id), because a controller that loses its state reuses
job ids.
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
    """Kinds of earlier failures that its tasks try again."""
    arrays: tuple[Array, ...]
    cancelled: bool = False
    """Whether its tasks must not be requeued."""

    @property
    def output(self) -> Path:
        """The output folder."""
        return self.path.parents[3]

    @property
    def prefix(self) -> str:
        """The prefix of its arrays' names."""
        return f"{self.sweep}-{self.path.stem}"

    @property
    def jobs(self) -> Path:
        """The folder with submitit's files and the tasks' logs."""
        return self.path.parent / "jobs"

    def write(self) -> None:
        """Writes its file, whole or not at all."""
        values = asdict(replace(self, path=Path()))
        values.pop("path")
        write_json(self.path, values)


def new(output: Path, sweep: str, retry: tuple[Failure, ...]) -> Submission:
    """Makes a submission without arrays; writes nothing."""
    return Submission(_folder(output, sweep) / f"{uuid.uuid4().hex[:8]}.json", sweep, now(), retry, ())


def read(path: Path) -> Submission:
    """Reads a submission.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: the file is of another version.
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
    """Returns all submissions of a sweep, oldest first."""
    found = []
    for path in _folder(output, sweep).glob("*.json"):
        with suppress(FileNotFoundError):  # It is deleted if sbatch refuses.
            found.append(read(path))
    return sorted(found, key=lambda one: one.submitted)


def _folder(output: Path, sweep: str) -> Path:
    return manifest.path(output, sweep).parent.absolute() / "slurm"


def of_output(output: Path) -> list[Submission]:
    """Returns the submissions of all sweeps in an output folder, oldest first."""
    every = (submission for name in manifest.names(output) for submission in of_sweep(output, name))
    return sorted(every, key=lambda one: one.submitted)


def tasks(submissions: list[Submission]) -> Iterator[tuple[Submission, Array, int, str]]:
    """Yields every submitted id with its submission, its array and its task's number."""
    for submission in submissions:
        for array in submission.arrays:
            for number, ids in enumerate(array.tasks):
                for one in ids:
                    yield submission, array, number, one
