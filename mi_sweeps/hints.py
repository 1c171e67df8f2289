"""Commands in messages, for the user to type."""

from __future__ import annotations

import shlex
from pathlib import Path

from mi_sweeps import locations


def hint(command: str, sweeps: str, output: Path) -> str:
    """Formats a command for some sweeps, or for all if none is named, quoted for a shell."""
    default = output.absolute() == Path(locations.DEFAULT).absolute()
    where = "" if default else shlex.quote(f"output={locations.quoted(output)}")
    return " ".join(filter(None, ("mi-sweeps", command, sweeps, where)))
