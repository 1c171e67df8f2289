"""The section `patching.looks`: where heads attend."""

from __future__ import annotations

from pydantic import Field

from mi_sweeps.config.section import Section


class LooksConfig(Section):
    """Attention of heads to roles, and the standard scores of heads (`mi_sweeps.circuits.looks`)."""

    patterns: int = Field(default=4, ge=0)
    """For how many prompts the full attention patterns are stored."""
