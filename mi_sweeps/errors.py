"""Errors that the user can fix."""

from __future__ import annotations


class UserError(Exception):
    """What is wrong, where, and what to do, in one line. The command line prints it and exits with 2."""

    def __init__(self, message: object) -> None:
        # Quoted input may contain line breaks.
        super().__init__(" ".join(str(message).splitlines()))
