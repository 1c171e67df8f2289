"""How work ends other than well: the exceptions that stop it, and how an error is recorded."""

from __future__ import annotations

import errno
import traceback
from pathlib import Path

from mi_sweeps.errors import UserError
from mi_sweeps.store.status import Failure


class Cancelled(BaseException):
    """A signal ended the work. Not an `Exception`, so that no handler takes it for a failure."""


class Interrupted(BaseException):
    """The machine is taken away and the work will resume later. Not an `Exception`, as above."""


class Superseded(BaseException):
    """A later attempt works here; this one has lost its lock and must not write anything more."""


class Diverged(BaseException):
    """The loss is not finite, or far above the first one. This is a result, not a failure."""

    def __init__(self, step: int) -> None:
        super().__init__(f"diverged at step {step}")
        self.step = step


class Busy(Exception):
    """Another process is working on this folder."""


def hidden_stop(error: BaseException) -> BaseException | None:
    """Returns the order to stop that an error hides, as when a library's `finally` fails while the order passes
    through it; None if there is none."""
    chain, seen = [error], set[int]()
    while chain:
        one = chain.pop()
        if isinstance(one, (Cancelled, Interrupted, KeyboardInterrupt)):
            return one
        seen.add(id(one))
        chain += [
            before for before in (one.__cause__, one.__context__) if before is not None and id(before) not in seen
        ]
    return None


def describe(error: BaseException) -> str:
    """Formats an error as the one line that a user reads before the traceback."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"disk full while writing {error.filename or 'a result'}; make room and run again with --retry"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(error, UserError):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:500] + where


def failure_of(error: BaseException) -> Failure:
    """Returns the kind of failure. PyTorch raises OutOfMemoryError on a GPU, and a RuntimeError on a CPU."""
    no_memory = isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__
    return "oom" if no_memory or "can't allocate memory" in str(error) else "error"
