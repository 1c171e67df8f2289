"""The section `patching.edges`: the edges of a model's graph."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from mi_sweeps.config.section import Section


class EdgesConfig(Section):
    """Patching of edges (`mi_sweeps.circuits.edges`)."""

    exact: Literal["all"] | Annotated[int, Field(ge=1)] = "all"
    """Patches every edge, or only this many, ranked by attribution."""
    sample: int = Field(default=0, ge=0)
    """How many of the other edges to draw at random and patch, to bound what was missed."""
    ig_steps: int = Field(default=5, ge=1)
    """Steps of the integrated gradients that rank edges."""

    @model_validator(mode="after")
    def _something_to_sample(self) -> EdgesConfig:
        if self.exact == "all" and self.sample:
            raise ValueError(
                f"patching.edges.sample={self.sample}: all edges are patched, so none is left to draw; also give "
                "patching.edges.exact, for example 2000"
            )
        return self
