"""The sections `patching` and `corruption`: what a patch job measures."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, Field, model_validator

from mi_sweeps.config.circuits import CircuitsConfig
from mi_sweeps.config.cross import CrossConfig
from mi_sweeps.config.edges import EdgesConfig
from mi_sweeps.config.looks import LooksConfig
from mi_sweeps.config.section import Index, Name, NamedFunction, Section
from mi_sweeps.store.measured import MEASURED, tables

Site = Literal["resid_pre", "attn_out", "mlp_out", "z", "q", "k", "v", "pattern"]
Measure = Literal["position_r2", "position_r2_without_bos", "previous_token", "diagonal", "ablated_loss"]


class CorruptionConfig(Section):
    """The corruption of the prompts; the task defines which there are."""

    name: Name


class PathsConfig(Section):
    """Direct paths from every head to the inputs of later heads and to the logits (`mi_sweeps.circuits.paths`)."""

    receivers: Literal["all"] | tuple[tuple[Index, Index], ...]
    """Layer and head of each receiver; with grouped-query attention, k and v count key/value heads."""
    inputs: tuple[Literal["q", "k", "v", "logits"], ...]
    """The inputs of the receivers; `logits` is a receiver itself, whichever heads are given."""
    norm: Literal["recomputed", "frozen"]
    """Whether the receiver's normalisation is recomputed, or keeps the scale of the corrupted run."""

    @model_validator(mode="after")
    def _named_heads_receive(self) -> PathsConfig:
        if self.receivers != "all" and self.receivers and set(self.inputs) == {"logits"}:
            raise ValueError(
                "patching.paths.receivers: heads receive through q, k and v, but patching.paths.inputs is only logits; "
                "add one of them, or give patching.paths.receivers=all"
            )
        return self


def _asked(value: Any) -> Any:
    """Turns `true` into a section with its defaults, and `false` into None."""
    return ({} if value else None) if isinstance(value, bool) else value


T = TypeVar("T")
Asked = Annotated[T | None, BeforeValidator(_asked), Field(json_schema_extra={"switch": True})]


class PatchingConfig(Section):
    """What a patch job measures."""

    name: Name
    sites: tuple[Site, ...]
    heads: Literal["all", "end"]
    exact: bool
    """Whether every site is patched."""
    approximate: bool
    """Whether every site is estimated from a gradient (`mi_sweeps.circuits.approximate`)."""
    paths: PathsConfig | None
    prompts: int = Field(ge=1)
    """How many prompts are patched."""
    split: Literal["heldout", "train"] = "heldout"
    """Whether these are held-out prompts, or prompts that the run was trained on."""
    also: tuple[Name, ...] = ()
    """Other tasks on whose prompts the same checkpoints are examined. The grid makes a patch job for each, with that
    `task` and an empty `also`."""
    task: NamedFunction | None = None
    """The task whose prompts are patched; None means the run's own."""
    measures: tuple[Measure, ...]
    """Measurements of the clean run, without patching (`mi_sweeps.circuits.measures`)."""
    measured_prompts: int = Field(ge=1)
    """Most held-out prompts for the measures."""
    looks: Asked[LooksConfig] = None
    """Attention to roles, and the standard scores of heads."""
    cross: Asked[CrossConfig] = None
    """Patching between checkpoints."""
    circuits: Asked[CircuitsConfig] = None
    """Circuits of heads and MLPs: how faithful, complete and minimal they are."""
    edges: Asked[EdgesConfig] = None
    """Patching of the edges between heads, MLPs, embedding and logits."""
    steps: tuple[Index, ...] | None
    """Checkpoints to examine; None means all of them."""
    tf32: bool
    """Whether a GPU may round the factors of its products to 10 bits."""
    engine: Literal["fast", "reference"]
    """The code that patches; both are exact."""
    memory: int | None = Field(ge=1)
    """MB for the fast engine's activations; None chooses automatically. Changes no result."""

    @model_validator(mode="after")
    def _trained_on_its_own_prompts(self) -> PatchingConfig:
        if self.task and self.split == "train":
            raise ValueError(
                f"patching.split=train: runs are not trained on prompts of task={self.task.name} (patching.task); use "
                "patching.split=heldout"
            )
        return self

    @property
    def only_for_known_models(self) -> list[str]:
        """The keys in use that the reference engine does not support."""
        keys = ("approximate", "paths", "measures", *MEASURED)
        return [f"patching.{key}" for key in keys if getattr(self, key)]

    @property
    def measured(self) -> dict[str, Section]:
        """The further measurements at each checkpoint, by key."""
        found = {key: getattr(self, key) for key in MEASURED}
        return {key: section for key, section in found.items() if section is not None}

    @property
    def tables(self) -> tuple[str, ...]:
        """The tables made at each checkpoint, besides that of patching."""
        return tables({key: True for key in self.measured})
