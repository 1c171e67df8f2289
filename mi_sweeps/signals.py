"""Makes sure that an exception raised by a signal handler stops the process."""

from __future__ import annotations

import signal
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

Stop = TypeVar("Stop", bound=BaseException)

AGAIN_SECONDS = 0.01
"""How soon a lost exception is raised again."""

_raised: list[weakref.ref[BaseException]] = []
"""What was raised within `reraising_if_lost`."""


def reraised_if_lost(stop: Stop) -> Stop:
    """An exception for a signal handler to raise: within `reraising_if_lost` it is raised again if it is lost.

    It is lost where a destructor or a weak reference's callback is running, whose exceptions Python only prints, and in
    code that swallows every exception, such as the bare `except` in the standard library's `copyreg`, which every
    `deepcopy` passes. Either way it is freed before it has left the context, and that is noticed here.
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
    """What a signal handler raises by `reraised_if_lost` ends this context even if code inside swallows it."""
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
