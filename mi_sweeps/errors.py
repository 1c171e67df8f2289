"""Errors that are the user's to mend."""

from __future__ import annotations


class UserError(Exception):
    """What was wrong, where, and what to do, in one line. The command line prints it and exits with 2."""

    def __init__(self, message: object) -> None:
        # What a user has typed or stored, and is told again, may have line breaks.
        super().__init__(" ".join(str(message).splitlines()))
