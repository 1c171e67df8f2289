"""What a patch job looks at."""

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


def _asked(value: Any) -> Any:
    """`true` asks for a measurement as it is by default, `false` for none."""
    return ({} if value else None) if isinstance(value, bool) else value


T = TypeVar("T")
Asked = Annotated[T | None, BeforeValidator(_asked), Field(json_schema_extra={"switch": True})]


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
    """How many prompts are patched."""
    split: Literal["heldout", "train"] = "heldout"
    """Whether these are held out, or were trained on."""
    also: tuple[Name, ...] = ()
    """Tasks on whose prompts a sweep examines the same checkpoints too: a grid makes a patch job of each, which has it
    as its `task`, and leaves none here."""
    task: NamedFunction | None = None
    """Whose prompts are patched; None is the run's own task."""
    measures: tuple[Measure, ...]
    """What is measured besides, of a clean run alone (`mi_sweeps.circuits.measures`)."""
    measured_prompts: int = Field(ge=1)
    """On how many held-out prompts, at most."""
    looks: Asked[LooksConfig] = None
    """Attention to roles, and the standard scores of heads."""
    cross: Asked[CrossConfig] = None
    """Patching between checkpoints."""
    circuits: Asked[CircuitsConfig] = None
    """Circuits of heads and MLPs: how faithful, complete and minimal."""
    edges: Asked[EdgesConfig] = None
    """Patching of every edge between heads, MLPs, embedding and logits."""
    steps: tuple[Index, ...] | None
    """Which checkpoints; None is all of them."""
    tf32: bool
    """Whether a GPU may round the factors of its products to 10 bits."""
    engine: Literal["fast", "reference"]
    """Who patches; both are exact."""
    memory: int | None = Field(ge=1)
    """MB that the fast engine's activations may take; None chooses. Changes no result."""

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
        """The keys that ask for what the reference engine cannot do."""
        keys = ("approximate", "paths", "measures", *MEASURED)
        return [f"patching.{key}" for key in keys if getattr(self, key)]

    @property
    def measured(self) -> dict[str, Section]:
        """What else is measured of each checkpoint, by key."""
        found = {key: getattr(self, key) for key in MEASURED}
        return {key: section for key, section in found.items() if section is not None}

    @property
    def tables(self) -> tuple[str, ...]:
        """The tables that are made of each checkpoint beside that of patching."""
        return tables({key: True for key in self.measured})
