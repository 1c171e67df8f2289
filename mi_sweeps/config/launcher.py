"""Where points are computed."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from mi_sweeps.config.section import MEMORY, Device, Section, Text


class LauncherConfig(Section):
    """Where points are computed. Changes no result, so it is part of no identity."""

    name: Literal["inline", "local"]
    workers: int | None = Field(ge=1)
    device: Device
    threads: int | None = Field(ge=1)
    wait: bool
    """Whether `run` stays until all is done, as with `--wait`."""
    stack: int = Field(1, ge=1)
    """How many runs of one shape are trained together (`mi_sweeps.training.stacked`)."""


class ResourcesConfig(Section):
    """What a job asks a SLURM cluster for; None leaves it to what both stages ask for, and then to the cluster."""

    partition: Text | None
    account: Text | None
    qos: Text | None
    constraint: Text | None
    time: int | None = Field(ge=1)
    """Minutes."""
    memory: Annotated[Text, Field(pattern=MEMORY)] | None
    """Of a node, as `--mem` takes it: 8G; without a unit it is MB."""
    cpus: int | None = Field(ge=1)
    gpus: int | None = Field(ge=0)
    """How many."""
    setup: tuple[str, ...]
    """Lines of shell before the job's own."""
    sbatch: dict[str, str | int | float | bool]
    """Any other option of sbatch, by its long name."""

    @field_validator("time", mode="before")
    @classmethod
    def _minutes(cls, time: Any) -> Any:
        if isinstance(time, str) and not time.isdecimal():
            raise ValueError("give minutes, as a whole number; an hour is 60")
        return time

    @field_validator("gpus", mode="before")
    @classmethod
    def _count(cls, gpus: Any) -> Any:
        if isinstance(gpus, str) and not gpus.isdecimal():
            raise ValueError(f"give how many; a kind of GPU is asked for with launcher.sbatch.gres=gpu:{gpus}")
        return gpus


class PatchResourcesConfig(ResourcesConfig):
    """Patch jobs can be split."""

    split: int = Field(ge=1)
    """Over how many tasks the checkpoints of one patch job are spread."""


class SlurmConfig(ResourcesConfig):
    """Jobs on a SLURM cluster (`mi_sweeps.slurm`). Changes no result, so it is part of no identity."""

    name: Literal["slurm"]
    device: Device
    threads: int | None = Field(ge=1)
    wait: bool
    """Whether `run` stays until all is done, as with `--wait`."""
    time: int = Field(ge=1)
    """Minutes that a task may take; one that was interrupted has them anew."""
    pack: int = Field(ge=1)
    """How many points one task computes, one after another."""
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
                f"launcher.stack={self.stack}: runs are stacked within a task, which has launcher.pack={self.pack}; "
                f"give launcher.pack={self.stack} or more"
            )
        return self
