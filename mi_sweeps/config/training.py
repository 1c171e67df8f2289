"""How a model is trained, and which of its weights are kept."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mi_sweeps.config.section import Name, Section

DIVERGED = 3.0
"""What `train.diverged` is where nobody says otherwise (conf/config.yaml)."""


class OptimConfig(Section):
    """AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101)."""

    name: Literal["adamw"]
    lr: float = Field(gt=0)
    weight_decay: float = Field(ge=0)
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]]


class TrainConfig(Section):
    """The fine-tuning loop."""

    steps: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    clip: float = Field(gt=0)
    """Largest L2 norm of the gradient; larger ones are scaled down."""
    precision: Literal["fp32", "bf16"]
    """`bf16` runs the forward under autocast; weights and optimiser stay fp32."""
    diverged: float | None = Field(gt=1)
    """A run is stopped where the loss, as a mean over some steps, is so many times the first one. None: only where it
    is not finite."""


class CheckpointConfig(Section):
    """When the weights are kept, and how."""

    every: int = Field(ge=1)
    steps: tuple[Annotated[int, Field(ge=0)], ...] | None
    """Of a run of ours: more than `every` gives. Of a series: all of them, and None is all that there are."""
    storage: Literal["full", "delta"]
    until: int | None = Field(None, ge=1)
    """The last step that is taken, of `train.steps`; the schedule and the order of the prompts are of all of them."""
    zoom_of: Name | None = None
    """The run whose first steps these are: what both keep must be equal, bit for bit (`mi_sweeps.training.zoom`)."""
