"""log.txt: what each attempt logs, also where attempts in one process take turns."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

_speaker: ContextVar[object] = ContextVar("speaker", default=None)


@contextmanager
def speaking(who: object) -> Iterator[None]:
    """Where attempts take turns: sends what is logged inside only to the log of the attempt that `who` began."""
    token = _speaker.set(who)
    try:
        yield
    finally:
        _speaker.reset(token)


@contextmanager
def informed() -> Iterator[None]:
    """Also logs messages of level INFO while inside."""
    logger = logging.getLogger("mi_sweeps")
    level = logger.level
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)


class _Log(logging.FileHandler):
    """A log that may fail: logging itself would print a traceback for every line that cannot be written."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Does nothing: writing the results will fail on the same disk, and that is reported."""


@contextmanager
def logging_to(file: Path) -> Iterator[None]:
    """Appends this attempt's messages to a file."""
    handler = _Log(file)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    mine = _speaker.get()
    handler.addFilter(lambda record: _speaker.get() in (None, mine))
    logger = logging.getLogger("mi_sweeps")
    logger.addHandler(handler)
    try:
        with informed():
            yield
    finally:
        logger.removeHandler(handler)
        handler.close()
