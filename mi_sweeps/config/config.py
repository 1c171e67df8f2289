"""The configuration of one grid point: all sections together."""

from __future__ import annotations

from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, Field, model_validator

from mi_sweeps.config.cross import check_steps
from mi_sweeps.config.launcher import LauncherConfig, SlurmConfig
from mi_sweeps.config.model import AnyModel, ScratchConfig, SeriesConfig
from mi_sweeps.config.patching import CorruptionConfig, PatchingConfig
from mi_sweeps.config.section import Name, NamedFunction, Place, Section
from mi_sweeps.config.tracking import TrackingConfig
from mi_sweeps.config.training import CheckpointConfig, OptimConfig, TrainConfig
from mi_sweeps.steps import checkpoint_steps
from mi_sweeps.store.measured import prompts_label

FORMAT = 1
"""Version of the files on disk and of the results that a configuration gives; part of every id."""


class SweepConfig(Section):
    """A named grid."""

    name: Name
    grid: dict[str, Any]


class Config(Section):
    """One grid point: a run, and how its checkpoints are patched."""

    model: AnyModel
    task: NamedFunction
    corruption: CorruptionConfig
    optim: OptimConfig
    schedule: NamedFunction
    patching: PatchingConfig
    tracking: TrackingConfig
    launcher: Annotated[LauncherConfig | SlurmConfig, Field(discriminator="name")]
    sweep: SweepConfig
    seed: int = Field(ge=0, lt=2**63)
    train: TrainConfig
    checkpoint: CheckpointConfig
    output: Place

    @model_validator(mode="after")
    def _steps_are_checkpoints(self) -> Config:
        if self.checkpoint.steps is None:
            if isinstance(self.model, SeriesConfig):
                return self  # They are not known yet.
            raise ValueError("checkpoint.steps=null: give a list; for example checkpoint.steps=[1,2,4]")
        unknown = sorted(set(self.patching.steps or ()) - set(self.checkpoint_steps))
        if unknown:
            raise ValueError(
                f"patching.steps: {unknown} are not checkpoints of this run ({self.checkpoint_steps}); "
                "choose among those, or add them to checkpoint.steps"
            )
        if self.patching.cross:
            check_steps(self.patching.cross, self.patch_steps)
        at = self.patching.circuits.at if self.patching.circuits else ()
        if unknown := sorted(set(at) - set(self.patch_steps)):
            raise ValueError(
                f"patching.circuits.at: {unknown} are not among the examined checkpoints "
                f"({self.patch_steps}); choose among those"
            )
        return self

    @model_validator(mode="after")
    def _delta_has_a_base(self) -> Config:
        if self.checkpoint.storage == "delta" and isinstance(self.model, ScratchConfig):
            raise ValueError(
                f"checkpoint.storage=delta: model={self.model.name} starts from scratch, so it would store weights "
                "rounded to bf16, not a small difference; use checkpoint.storage=full"
            )
        return self

    @model_validator(mode="after")
    def _ends_within_its_steps(self) -> Config:
        until = self.checkpoint.until
        if until and isinstance(self.model, SeriesConfig):
            raise ValueError(f"checkpoint.until={until}: a series is not trained here; give its checkpoint.steps")
        if until and until > self.train.steps:
            raise ValueError(
                f"checkpoint.until={until}: this run has {self.train.steps} steps (train.steps); give one of them"
            )
        return self

    @property
    def last_step(self) -> int:
        """The last training step."""
        return self.checkpoint.until or self.train.steps

    @property
    def checkpoint_steps(self) -> list[int]:
        """Every checkpoint of the run."""
        if isinstance(self.model, SeriesConfig):
            return sorted(set(self.checkpoint.steps or ()))
        return checkpoint_steps(self.last_step, self.checkpoint.every, self.checkpoint.steps or ())

    @property
    def patch_steps(self) -> list[int]:
        """The checkpoints that the patch job examines."""
        return self.checkpoint_steps if self.patching.steps is None else sorted(set(self.patching.steps))

    @property
    def for_patching(self) -> Config:
        """The configuration with the task whose prompts are patched."""
        return self.model_copy(update={"task": self.patching.task}) if self.patching.task else self

    @property
    def prompts_label(self) -> str:
        """The name of the patch job's prompts in tables and pictures."""
        task = self.patching.task
        return prompts_label(self.corruption.name, task.name if task else None, self.patching.split)

    def dump(self) -> dict[str, Any]:
        """Returns the configuration as plain JSON values, which `parse` reads."""
        return self.model_dump(mode="json", by_alias=True)

    def meant(self) -> dict[str, Any]:
        """Returns the configuration as plain values, without training settings for a series, which ignores them."""
        if not isinstance(self.model, SeriesConfig):
            return self.dump()
        unused = {"optim", "schedule", "train", *(() if self.model.has_seeds else ("seed",))}
        return {key: value for key, value in self.dump().items() if key not in unused}


def types_of(key: str) -> set[type]:
    """Returns the types that a key takes (`str`, `int`, `tuple`, ...); empty if unknown, as for a task's arguments."""
    types: set[type] = {Config}
    for part in key.split("."):
        fields = [found.model_fields for found in types if issubclass(found, BaseModel)]
        types = {found for known in fields if part in known for found in _alternatives(known[part].annotation)}
    return types


def _alternatives(annotation: Any) -> set[type]:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _alternatives(arguments[0])
    if origin in (Union, UnionType):
        return {found for argument in arguments for found in _alternatives(argument)}
    if origin is Literal:
        return {type(argument) for argument in arguments}
    return {origin or annotation}
