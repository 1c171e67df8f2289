"""What a patch job looks at."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from mi_sweeps.config.section import Index, Name, Section

Site = Literal["resid_pre", "attn_out", "mlp_out", "z", "q", "k", "v", "pattern"]
Measure = Literal["position_r2", "position_r2_without_bos", "previous_token", "diagonal", "ablated_loss"]


class CorruptionConfig(Section):
    """What the corruption changes in a prompt; which there are is the task's to say."""

    name: Name


class PathsConfig(Section):
    """Direct paths from every head to the inputs of later heads and to the logits (`mi_sweeps.circuits.paths`)."""

    receivers: Literal["all"] | tuple[tuple[Index, Index], ...]
    """Layer and head of each; under grouped-query attention k and v count key/value heads."""
    inputs: tuple[Literal["q", "k", "v", "logits"], ...]
    """By what the receivers are reached; `logits` is a receiver of its own, whichever heads are named."""
    norm: Literal["recomputed", "frozen"]
    """Whether the receiver's normalisation sees the change, or keeps the corrupted run's scale."""

    @model_validator(mode="after")
    def _named_heads_receive(self) -> PathsConfig:
        if self.receivers != "all" and self.receivers and set(self.inputs) == {"logits"}:
            raise ValueError(
                "patching.paths.receivers: heads receive by q, k and v, and patching.paths.inputs has logits alone; "
                "add one of them, or give patching.paths.receivers=all"
            )
        return self


class PatchingConfig(Section):
    """What a patch job looks at."""

    name: Name
    sites: tuple[Site, ...]
    heads: Literal["all", "end"]
    exact: bool
    """Whether every site is patched."""
    approximate: bool
    """Whether every site is estimated from a gradient (`mi_sweeps.circuits.approximate`)."""
    paths: PathsConfig | None
    prompts: int = Field(ge=1)
    """How many held-out prompts are patched."""
    measures: tuple[Measure, ...]
    """What is measured besides, of a clean run alone (`mi_sweeps.circuits.measures`)."""
    measured_prompts: int = Field(ge=1)
    """On how many held-out prompts, at most."""
    steps: tuple[Index, ...] | None
    """Which checkpoints; None is all of them."""
    tf32: bool
    """Whether a GPU may round the factors of its products to 10 bits."""
    engine: Literal["fast", "reference"]
    """Who patches; both are exact."""
    memory: int | None = Field(ge=1)
    """MB that the fast engine's activations may take; None chooses. Changes no result."""

    @property
    def for_known_models(self) -> bool:
        """Whether something is asked for that the reference engine cannot do."""
        return bool(self.approximate or self.paths or self.measures)
