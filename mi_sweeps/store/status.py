"""The status of a run or patch job, as its status.json holds it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Literal, get_args

State = Literal["todo", "queued", "running", "done", "failed", "cancelled", "interrupted"]
"""`interrupted`: its process is gone and left no result. Like `todo` and `cancelled`, `run` takes it up.
`queued`: it waits in a cluster's queue; only the cluster says so, never a folder."""

PENDING: tuple[State, ...] = ("todo", "cancelled", "interrupted")
"""States that `run` works on; `failed` only with `--retry`."""

Failure = Literal["error", "oom", "timeout", "node"]
"""Why work failed: an exception, no memory left, its time limit, or its machine. `--retry` takes them by name."""


@dataclass(frozen=True)
class Status:
    """What status.json says of a run or patch job."""

    state: State = "todo"
    attempts: int = 0
    started: str | None = None
    finished: str | None = None
    seconds: float = 0.0
    """Time at work, over all attempts."""
    host: str | None = None
    pid: int | None = None
    error: str | None = None
    """One line; the traceback is in error.txt."""
    failure: Failure | None = None
    """What kind of failure that was."""
    diverged: int | None = None
    """The step at which a fine-tune that is done was stopped, because it had diverged."""
    gaps: tuple[int, ...] = ()
    """The steps of a series that have no checkpoint that can be used."""

    def reached(self, steps: Iterable[int]) -> list[int]:
        """Those of the steps that have a checkpoint."""
        known = [step for step in steps if step not in self.gaps]
        return [step for step in known if self.diverged is None or step < self.diverged]


STATES: frozenset[str] = frozenset(get_args(State))


def is_sound(status: Status) -> bool:
    """Whether what was read can be a status."""
    return (
        status.state in STATES
        and isinstance(status.attempts, int)
        and isinstance(status.seconds, int | float)
        and isinstance(status.pid, int | None)
        and isinstance(status.diverged, int | None)
        and all(isinstance(step, int) for step in status.gaps)
        and all(isinstance(text, str | None) for text in (status.started, status.finished, status.host, status.error))
    )


def now() -> str:
    """The time in UTC, in a form that sorts as text."""
    return datetime.now(timezone.utc).isoformat(timespec="microseconds")
