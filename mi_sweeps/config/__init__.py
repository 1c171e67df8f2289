"""The whole configuration, typed and validated; one module per section."""

from mi_sweeps.config.config import FORMAT, Config, SweepConfig, types_of
from mi_sweeps.config.launcher import LauncherConfig, PatchResourcesConfig, ResourcesConfig, SlurmConfig
from mi_sweeps.config.model import AnyModel, ModelConfig, ScratchConfig, SeriesConfig, SingleModel
from mi_sweeps.config.parsing import parse, resolve
from mi_sweeps.config.patching import CorruptionConfig, Measure, PatchingConfig, PathsConfig, Site
from mi_sweeps.config.section import NamedFunction, Section, is_path
from mi_sweeps.config.tracking import TrackingConfig, wandb_name
from mi_sweeps.config.training import DIVERGED, CheckpointConfig, LoraConfig, OptimConfig, TrainConfig

__all__ = [
    "AnyModel",
    "CheckpointConfig",
    "Config",
    "CorruptionConfig",
    "DIVERGED",
    "FORMAT",
    "LauncherConfig",
    "LoraConfig",
    "Measure",
    "ModelConfig",
    "NamedFunction",
    "OptimConfig",
    "PatchResourcesConfig",
    "PatchingConfig",
    "PathsConfig",
    "ResourcesConfig",
    "ScratchConfig",
    "Section",
    "SeriesConfig",
    "SingleModel",
    "Site",
    "SlurmConfig",
    "SweepConfig",
    "TrackingConfig",
    "TrainConfig",
    "is_path",
    "parse",
    "resolve",
    "types_of",
    "wandb_name",
]
