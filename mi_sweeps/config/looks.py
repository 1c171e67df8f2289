"""Who looks where."""

from __future__ import annotations

from pydantic import Field

from mi_sweeps.config.section import Section


class LooksConfig(Section):
    """Attention of heads to roles, and what heads do by the standard scores (`mi_sweeps.circuits.looks`)."""

    patterns: int = Field(default=4, ge=0)
    """Of how many prompts the full attention patterns are kept."""
