"""One checkpoint with parts of another."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mi_sweeps.config.section import Index, Section


class CrossConfig(Section):
    """Patching between checkpoints (`mi_sweeps.circuits.cross`)."""

    with_: tuple[Index, ...] | Literal["first", "previous"] = Field(default="first", alias="with")
    """The checkpoints that each is crossed with: steps, the first one, or the one before."""
    kinds: tuple[Literal["activation", "weights", "shapley"], ...] = ("activation", "weights", "shapley")
    permutations: int = Field(default=8, ge=2)
    """Orders in which Shapley values put parts in, half of them the other half backwards."""
