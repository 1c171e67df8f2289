"""The sections `optim`, `train` and `checkpoint`: how a model is trained, and which weights are kept."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from mi_sweeps.config.section import Name, Section, Text

DIVERGED = 3.0
"""The default of `train.diverged` (conf/config.yaml)."""


class OptimConfig(Section):
    """AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101)."""

    name: Literal["adamw"]
    lr: float = Field(gt=0)
    weight_decay: float = Field(ge=0)
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]]


def _one_or_more(value: Any) -> Any:
    """Turns a single name into a list of one, which is easier to write in a sweep."""
    return [value] if isinstance(value, str) else value


Names = Annotated[tuple[Annotated[Text, Field(min_length=1)], ...], BeforeValidator(_one_or_more)]


class LoraConfig(Section):
    """Low-rank adapters: a weight W becomes W + alpha / rank * B A (Hu et al. 2021, arXiv:2106.09685)."""

    rank: int = Field(8, ge=1)
    alpha: float = Field(16, gt=0)
    targets: Annotated[Names, Field(min_length=1)] | None = None
    """Linear modules that get an adapter: names, ends of names, or patterns. None means peft's default for the
    architecture, or with `train.only`, every linear module in it."""
    dropout: float = Field(0, ge=0, lt=1)


class TrainConfig(Section):
    """The fine-tuning loop."""

    steps: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    clip: float = Field(gt=0)
    """Largest L2 norm of the gradient; larger gradients are scaled down."""
    precision: Literal["fp32", "bf16"]
    """`bf16` runs the forward under autocast; weights and optimiser stay fp32."""
    diverged: float | None = Field(gt=1)
    """A run is stopped when its loss, averaged over some steps, is this many times the first one. None: only when it is
    not finite."""
    method: Literal["full", "lora"] = "full"
    """Whether the weights are trained, or an adapter."""
    lora: LoraConfig = LoraConfig()
    only: Names = ()
    """Names, patterns and words for the parameters to train (`mi_sweeps.training.only`); empty means all."""
    micro_batch: int | None = Field(None, ge=1)
    """How many prompts are computed at once; None means the whole batch. It changes results only by rounding, except
    with dropout or a router's noise: each micro-batch draws its own, so it is another run."""
    gradient_checkpointing: bool = False
    """Whether layers are recomputed in the backward pass instead of kept. Changes no result."""
    weights: Literal["fp32", "bf16"] = "fp32"
    """`bf16`: a step computes with rounded weights; the optimiser keeps the trained ones in fp32."""


class CheckpointConfig(Section):
    """When and how weights are kept."""

    every: int = Field(ge=1)
    steps: tuple[Annotated[int, Field(ge=0)], ...] | None
    """Further checkpoints besides those of `every`. For a series: its checkpoints, with None for all that exist."""
    storage: Literal["full", "delta"]
    until: int | None = Field(None, ge=1)
    """Stops training after this step; the schedule and the order of the prompts still follow `train.steps`."""
    zoom_of: Name | None = None
    """The run that this one repeats: their common checkpoints must be equal bit for bit (`mi_sweeps.training.zoom`)."""
