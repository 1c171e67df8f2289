"""A disk that fails on demand, with the library of disk.c, which must be loaded when a process starts."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import signal
import subprocess
import sys
from enum import IntEnum
from functools import cache
from pathlib import Path

SOURCE = Path(__file__).with_name("disk.c")


class Kind(IntEnum):
    """Kinds of failures at the n-th call, as in disk.c."""

    OFF = 0
    ONCE = 1
    """The call fails."""
    FROM_THEN_ON = 2
    """The call and all after it fail."""
    SHORT = 3
    """The call and all after it write only half."""
    KILL = 4
    """The call sends the process a signal."""
    READING = 5
    """The n-th call that reads fails."""


ERRORS = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO, "EROFS": errno.EROFS, "EDQUOT": errno.EDQUOT}


def preload(folder: Path) -> None:
    """Restarts this process with the library; does nothing without a C compiler."""
    if "MI_SWEEPS_DISK" in os.environ or not shutil.which("cc"):
        return
    library = folder.absolute() / "disk.so"
    made = library.with_suffix(f".{os.getpid()}")
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", str(made), str(SOURCE), "-ldl"], check=True)
    os.replace(made, library)
    os.environ |= {"LD_PRELOAD": str(library), "MI_SWEEPS_DISK": str(library)}
    os.execv(sys.executable, sys.orig_argv)


@cache
def _library() -> ctypes.CDLL | None:
    path = os.environ.get("MI_SWEEPS_DISK")
    return ctypes.CDLL(path) if path else None


def available() -> bool:
    """Whether this process has the library."""
    return _library() is not None


def arm(folder: Path, kind: Kind = Kind.OFF, error: int = signal.SIGKILL, nth: int = 0) -> None:
    """Counts this process's calls on files in a folder from now on, and makes the n-th one fail.

    Args:
        error: the errno, or for `KILL` the signal.
    """
    if library := _library():
        library.disk_arm(os.fsencode(folder.absolute()), int(kind), error, ctypes.c_long(nth))


def calls() -> tuple[int, int]:
    """Returns how many calls have written and read since."""
    library = _library()
    return (library.disk_writes(), library.disk_reads()) if library else (0, 0)
