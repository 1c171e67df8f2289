"""Sets of heads and MLPs."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mi_sweeps.config.section import Index, Section


class CircuitsConfig(Section):
    """Circuits of nodes, found and evaluated (`mi_sweeps.circuits.circuits`)."""

    ablation: Literal["mean", "corrupted"] = "mean"
    """What everything outside a circuit is put to."""
    random: int = Field(default=200, ge=0)
    """Random sets of the same size, for comparison."""
    at: tuple[Index, ...] = ()
    """Checkpoints whose circuits are evaluated at all of these."""
    given: str | None = None
    """A file with a circuit that was found elsewhere."""
