"""Makes sure that an exception raised by a signal handler stops the process."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mi_sweeps.store.endings import Cancelled, Interrupted

AGAIN_SECONDS = 0.01
"""How soon a lost exception is raised again."""


@contextmanager
def insisted_on() -> Iterator[None]:
    """Raises `Cancelled` and `Interrupted` again if Python loses them: an exception that a signal handler raises inside
    a destructor or a weak reference's callback is only printed, and the process would go on."""
    before = sys.unraisablehook

    def again(lost: Any) -> None:
        if not isinstance(lost.exc_value, (Cancelled, Interrupted)):
            before(lost)
            return
        order = lost.exc_value
        alarm = signal.getsignal(signal.SIGALRM)

        def give(signum: int, frame: Any) -> None:
            signal.signal(signal.SIGALRM, alarm)
            raise order

        signal.signal(signal.SIGALRM, give)
        signal.setitimer(signal.ITIMER_REAL, AGAIN_SECONDS)

    sys.unraisablehook = again
    try:
        yield
    finally:
        sys.unraisablehook = before
