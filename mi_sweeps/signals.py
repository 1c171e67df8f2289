"""Orders to stop, which signals bring as exceptions."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mi_sweeps.store.endings import Cancelled, Interrupted

AGAIN_SECONDS = 0.01
"""After so long an order that was lost is given again."""


@contextmanager
def insisted_on() -> Iterator[None]:
    """While inside, an order is raised again where Python has lost it: an exception that a signal's handler raises in a
    destructor or in a weak reference's callback is printed and forgotten, and the process would work on."""
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
