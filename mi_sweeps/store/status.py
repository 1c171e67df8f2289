"""The status of a run or patch job, as its status.json holds it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Literal, get_args

State = Literal["todo", "queued", "running", "done", "failed", "cancelled", "interrupted"]
"""`interrupted`: its process is gone and left no result. `queued`: it is in a cluster's queue; only the cluster knows
this, never the folder."""

PENDING: tuple[State, ...] = ("todo", "cancelled", "interrupted")
"""States that `run` works on; `failed` only with `--retry`."""

Failure = Literal["error", "oom", "timeout", "node"]
"""Why work failed: an exception, no memory left, its time limit, or its machine. `--retry` takes these names."""


@dataclass(frozen=True)
class Status:
    """The content of a run's or patch job's status.json."""

    state: State = "todo"
    attempts: int = 0
    started: str | None = None
    finished: str | None = None
    seconds: float = 0.0
    """Time spent, over all attempts."""
    host: str | None = None
    pid: int | None = None
    error: str | None = None
    """One line; the traceback is in error.txt."""
    failure: Failure | None = None
    """The kind of failure."""
    diverged: int | None = None
    """The step at which a fine-tune diverged and was stopped."""
    missing_steps: tuple[int, ...] = ()
    """The missing steps of a series: those without a usable checkpoint."""

    def reached(self, steps: Iterable[int]) -> list[int]:
        """Returns the steps that have a checkpoint."""
        known = [step for step in steps if step not in self.missing_steps]
        return [step for step in known if self.diverged is None or step < self.diverged]


STATES: frozenset[str] = frozenset(get_args(State))


def is_sound(status: Status) -> bool:
    """Whether the fields of a status have the right types."""
    return (
        status.state in STATES
        and isinstance(status.attempts, int)
        and isinstance(status.seconds, int | float)
        and isinstance(status.pid, int | None)
        and isinstance(status.diverged, int | None)
        and all(isinstance(step, int) for step in status.missing_steps)
        and all(isinstance(text, str | None) for text in (status.started, status.finished, status.host, status.error))
    )


def now() -> str:
    """Returns the time in UTC, in a form that sorts as text."""
    return datetime.now(timezone.utc).isoformat(timespec="microseconds")
