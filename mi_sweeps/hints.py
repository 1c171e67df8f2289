"""Commands that a message tells the user to type."""

from __future__ import annotations

from pathlib import Path


def hint(command: str, sweeps: str, output: Path) -> str:
    """A command for sweeps, as the user should type it next."""
    where = "" if output == Path("outputs") else f" output={output}"
    return f"mi-sweeps {command} {sweeps}{where}"
