"""The section `launcher`: where grid points are computed."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from mi_sweeps.config.section import MEMORY, Device, Section, Text


class LauncherConfig(Section):
    """Where grid points are computed. It changes no result, so it is in no id."""

    name: Literal["inline", "local"]
    workers: int | None = Field(ge=1)
    device: Device
    threads: int | None = Field(ge=1)
    wait: bool
    """Whether `run` stays until all is done, as with `--wait`."""
    stack: int = Field(1, ge=1)
    """How many runs of one shape are trained together (`mi_sweeps.training.stacked`)."""


class ResourcesConfig(Section):
    """What a SLURM job requests; None means the setting for both stages, or else the cluster's default."""

    partition: Text | None
    account: Text | None
    qos: Text | None
    constraint: Text | None
    time: int | None = Field(ge=1)
    """Minutes."""
    memory: Annotated[Text, Field(pattern=MEMORY)] | None
    """Per node, as `--mem` takes it: 8G; without a unit, MB."""
    cpus: int | None = Field(ge=1)
    gpus: int | None = Field(ge=0)
    setup: tuple[str, ...]
    """Shell lines to run before the job."""
    sbatch: dict[str, str | int | float | bool]
    """Any other option of sbatch, by its long name."""

    @field_validator("time", mode="before")
    @classmethod
    def _minutes(cls, time: Any) -> Any:
        if isinstance(time, str) and not time.isdecimal():
            raise ValueError("give minutes as a whole number; an hour is 60")
        return time

    @field_validator("gpus", mode="before")
    @classmethod
    def _count(cls, gpus: Any) -> Any:
        if isinstance(gpus, str) and not gpus.isdecimal():
            raise ValueError(f"give a number; request a kind of GPU with launcher.sbatch.gres=gpu:{gpus}")
        return gpus


class PatchResourcesConfig(ResourcesConfig):
    """What a patch job requests; patch jobs can be split."""

    split: int = Field(ge=1)
    """How many tasks share the checkpoints of one patch job."""


class SlurmConfig(ResourcesConfig):
    """Jobs on a SLURM cluster (`mi_sweeps.slurm`). It changes no result, so it is in no id."""

    name: Literal["slurm"]
    device: Device
    threads: int | None = Field(ge=1)
    wait: bool
    """Whether `run` stays until all is done, as with `--wait`."""
    time: int = Field(ge=1)
    """Time limit of a task in minutes; a requeued task gets the full time again."""
    pack: int = Field(ge=1)
    """How many grid points one task computes, one after another."""
    stack: int = Field(1, ge=1)
    """How many runs of one shape a task trains together."""
    max_running: int | None = Field(ge=1)
    """How many tasks of one array may run at once."""
    finetune: ResourcesConfig
    patch: PatchResourcesConfig

    @model_validator(mode="after")
    def _stack_is_in_one_task(self) -> SlurmConfig:
        if self.stack > self.pack:
            raise ValueError(
                f"launcher.stack={self.stack}: runs are stacked within a task, which computes only "
                f"launcher.pack={self.pack}; give launcher.pack={self.stack} or more"
            )
        return self
