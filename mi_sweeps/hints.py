"""Commands that a message tells the user to type."""

from __future__ import annotations

import shlex
from pathlib import Path

from mi_sweeps import locations


def hint(command: str, sweeps: str, output: Path) -> str:
    """A command for sweeps, or for all if none is named, as the user should type it next: a shell takes it as it is."""
    default = output.absolute() == Path(locations.DEFAULT).absolute()
    where = "" if default else shlex.quote(f"output={locations.quoted(output)}")
    return " ".join(filter(None, ("mi-sweeps", command, sweeps, where)))
