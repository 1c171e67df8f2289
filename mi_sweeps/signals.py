"""Raises an exception of a signal handler again if Python swallows it, so that the signal always stops the process."""

from __future__ import annotations

import signal
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

Stop = TypeVar("Stop", bound=BaseException)

AGAIN_SECONDS = 0.01
"""Delay before a lost exception is raised again."""

_raised: list[weakref.ref[BaseException]] = []
"""The exceptions raised within `reraising_if_lost`."""


def reraised_if_lost(stop: Stop) -> Stop:
    """Prepares an exception for a signal handler to raise; within `reraising_if_lost` it is raised again if it is lost.

    Exceptions are lost in destructors and callbacks of weak references, where Python only prints them, and in code that
    catches everything, such as the bare `except` in the standard library's `copyreg`, which every `deepcopy` runs. A
    lost exception is freed before it leaves the context; a weak reference to it notices that.
    """
    kind, arguments = type(stop), stop.args

    def again(lost: weakref.ref[BaseException]) -> None:
        if lost not in _raised:
            return
        _raised.remove(lost)
        before = signal.getsignal(signal.SIGALRM)

        def give(signum: int, frame: Any) -> None:
            signal.signal(signal.SIGALRM, before)
            raise reraised_if_lost(kind(*arguments))

        signal.signal(signal.SIGALRM, give)
        signal.setitimer(signal.ITIMER_REAL, AGAIN_SECONDS)

    _raised.append(weakref.ref(stop, again))
    return stop


@contextmanager
def reraising_if_lost() -> Iterator[None]:
    """An exception that a signal handler raises through `reraised_if_lost` leaves this context, even if code inside
    swallows it."""
    before = sys.unraisablehook

    def hook(lost: Any) -> None:
        if not any(one() is lost.exc_value for one in _raised):
            before(lost)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        _raised.clear()
        sys.unraisablehook = before
