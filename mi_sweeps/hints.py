"""Commands that a message tells the user to type."""

from __future__ import annotations

import shlex
from pathlib import Path

from mi_sweeps import locations


def hint(command: str, sweeps: str, output: Path) -> str:
    """A command for sweeps, as the user should type it next: it can be pasted into a shell."""
    default = output.absolute() == Path(locations.DEFAULT).absolute()
    where = "" if default else f" {shlex.quote(f'output={locations.quoted(output)}')}"
    return f"mi-sweeps {command} {sweeps}{where}"
