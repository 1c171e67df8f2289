"""How a model is trained, and which of its weights are kept."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from mi_sweeps.config.section import Name, Section, Text

DIVERGED = 3.0
"""What `train.diverged` is where nobody says otherwise (conf/config.yaml)."""


class OptimConfig(Section):
    """AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101)."""

    name: Literal["adamw"]
    lr: float = Field(gt=0)
    weight_decay: float = Field(ge=0)
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]]


def _one_or_more(value: Any) -> Any:
    """A single name is a list of one: so it reads best where it is swept."""
    return [value] if isinstance(value, str) else value


Names = Annotated[tuple[Annotated[Text, Field(min_length=1)], ...], BeforeValidator(_one_or_more)]


class LoraConfig(Section):
    """Low-rank adapters: a weight W becomes W + alpha / rank * B A (Hu et al. 2021, arXiv:2106.09685)."""

    rank: int = Field(8, ge=1)
    alpha: float = Field(16, gt=0)
    targets: Annotated[Names, Field(min_length=1)] | None = None
    """Linear modules that have one, by name, by the end of a name or by pattern. None is what peft takes for the
    architecture; with `train.only` it is every linear module of those."""
    dropout: float = Field(0, ge=0, lt=1)


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
    method: Literal["full", "lora"] = "full"
    """What learns: the weights, or an adapter beside them."""
    lora: LoraConfig = LoraConfig()
    only: Names = ()
    """Names, patterns and words of the parameters that learn (`mi_sweeps.training.only`); empty is all of them."""
    micro_batch: int | None = Field(None, ge=1)
    """How many prompts are computed at once; None is all of a batch. Changes results by rounding only,
    but where there is dropout: each part draws its own, and the run is another one."""
    gradient_checkpointing: bool = False
    """Whether layers are computed again in the backward instead of kept. Changes no result."""
    weights: Literal["fp32", "bf16"] = "fp32"
    """`bf16`: a step computes with rounded weights; the optimiser has those that learn in fp32."""


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
