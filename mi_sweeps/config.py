"""The whole configuration, typed and validated, and the part of it that changes a run's result."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)

from mi_sweeps.errors import UserError
from mi_sweeps.locations import local
from mi_sweeps.steps import checkpoint_steps

FORMAT = 1
"""Version of what is on disk and of what the same configuration computes; part of every identity."""

SURROGATE = re.compile("[\ud800-\udfff]")

DIVERGED = 3.0
"""What `train.diverged` is where nobody says otherwise (conf/config.yaml)."""


def _text(value: Any) -> Any:
    """A whole number as text: a SLURM account, a commit. Other numbers have lost how they were written."""
    if isinstance(value, float):
        raise ValueError(f"{value} is a number, and this is text; put it in quotes as it should be")
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _place(value: Any) -> Any:
    return local(_text(value)) if isinstance(value, (str, int, float, Path)) else value


Text = Annotated[str, BeforeValidator(_text)]
Place = Annotated[Path, BeforeValidator(_place)]
"""A file or folder, absolute."""

Site = Literal["resid_pre", "attn_out", "mlp_out", "z", "q", "k", "v", "pattern"]
Measure = Literal["position_r2", "position_r2_without_bos", "previous_token", "diagonal", "ablated_loss"]
Name = Annotated[Text, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Index = Annotated[int, Field(ge=0)]
Device = Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")]


class Section(BaseModel):
    """Read-only; a key that is not named here is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


KINDS = {"launcher": ("inline", "local", "slurm"), "model": ("pretrained", "scratch")}
"""Sections that may be of several kinds."""


def is_path(key: str) -> bool:
    """Whether a key of a task names a file of the user's."""
    return key == "path" or key.endswith("_path")


class NamedFunction(BaseModel):
    """A function named by its import path, `_target_`, with its arguments as further keys."""

    model_config = ConfigDict(frozen=True, extra="allow", populate_by_name=True)

    name: Name
    target: str = Field(alias="_target_")

    @model_validator(mode="before")
    @classmethod
    def _absolute_paths(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        paths = {key: value for key, value in values.items() if is_path(key) and isinstance(value, str)}
        for key, value in paths.items():
            try:
                paths[key] = str(local(value))
            except ValueError as error:
                raise ValueError(f"{key}={value}: {error}") from None
        return {**values, **paths}

    @property
    def arguments(self) -> dict[str, Any]:
        """The keys beside `name` and `_target_`; 1.0 as 1, so that a number is one value however it is written."""
        return {
            key: int(value) if isinstance(value, float) and value.is_integer() else value
            for key, value in (self.model_extra or {}).items()
        }


class ModelConfig(Section):
    """Which language model. At most one of `hub` and `path`; with neither it is the embedded one."""

    name: Name
    hub: Text | None
    """Name on the Hugging Face hub."""
    revision: Text | None
    """Commit, tag or branch on the hub."""
    path: Place | None
    """Folder of the model and its tokenizer."""
    prepend_bos: bool
    """Whether every prompt begins with the tokenizer's beginning-of-sequence token."""

    @model_validator(mode="after")
    def _one_source(self) -> ModelConfig:
        if self.hub and self.path:
            raise ValueError("give model.hub or model.path, not both")
        return self


class ScratchConfig(Section):
    """A transformer without positional embeddings that is trained from nothing (`mi_sweeps.models.nope`)."""

    name: Name
    layers: int = Field(ge=1)
    heads: int = Field(ge=1)
    d_model: int = Field(ge=1)
    d_head: int = Field(ge=1)
    d_mlp: int | None = Field(ge=1)
    """None is attention only."""
    d_vocab: int = Field(ge=2)
    init_std: float = Field(gt=0)
    """Standard deviation of the weights at the beginning; biases begin at 0."""


def _kind_of_model(values: Any) -> str:
    if isinstance(values, ScratchConfig):
        return "scratch"
    return "scratch" if isinstance(values, dict) and "d_vocab" in values else "pretrained"


AnyModel = Annotated[
    Annotated[ModelConfig, Tag("pretrained")] | Annotated[ScratchConfig, Tag("scratch")], Discriminator(_kind_of_model)
]


class CorruptionConfig(Section):
    """What the corruption changes in a prompt; which there are is the task's to say."""

    name: Name


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
    steps: tuple[Annotated[int, Field(ge=0)], ...]
    storage: Literal["full", "delta"]


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


REFUSED = "/\\#?%:"
"""What wandb's `Settings.validate_project` refuses in a name; an entity is a part of the same address."""

LONGEST = 128
"""And how long it may be."""


def wandb_name(key: str, name: str | None) -> None:
    """Checks a project or an entity as wandb will: what it refuses later is not mirrored.

    Raises:
        UserError: wandb takes no such name.
    """
    if name is None:
        return
    found = sorted({sign for sign in name if sign in REFUSED or not sign.isprintable()})
    if found or not name.strip() or len(name) > LONGEST:
        why = f"has {' '.join(map(repr, found))}" if found else "is too long" if name.strip() else "is empty"
        rule = f"wandb takes 1 to {LONGEST} characters, and none of {' '.join(REFUSED)}"
        raise UserError(f"{key}={name[:200]!r}: {why}; {rule}")


class TrackingConfig(Section):
    """Where the wandb mirror of a run goes."""

    name: Literal["none", "wandb"]
    mode: Literal["offline", "online", "disabled"]
    project: Text
    entity: Text | None

    @model_validator(mode="after")
    def _wandb_takes_the_names(self) -> TrackingConfig:
        wandb_name("tracking.project", self.project)
        wandb_name("tracking.entity", self.entity or None)
        return self


class LauncherConfig(Section):
    """Where cells are computed. Changes no result, so it is part of no identity."""

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
    memory: Annotated[Text, Field(pattern=r"^\d+[KMGT]?$")] | None
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
    """How many cells one task computes, one after another."""
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


class SweepConfig(Section):
    """A named grid."""

    name: Name
    grid: dict[str, Any]


class Config(Section):
    """One cell of a sweep: a run, and how its checkpoints are patched."""

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
        unknown = sorted(set(self.patching.steps or ()) - set(self.checkpoint_steps))
        if unknown:
            raise ValueError(
                f"patching.steps: {unknown} are no checkpoints of this run ({self.checkpoint_steps}); "
                "choose among those, or add them to checkpoint.steps"
            )
        return self

    @model_validator(mode="after")
    def _delta_has_a_base(self) -> Config:
        if self.checkpoint.storage == "delta" and isinstance(self.model, ScratchConfig):
            raise ValueError(
                f"checkpoint.storage=delta: model={self.model.name} begins from nothing, so what is kept would be "
                "weights rounded to bf16, not a small difference; use checkpoint.storage=full"
            )
        return self

    @property
    def checkpoint_steps(self) -> list[int]:
        """Every step whose weights are kept."""
        return checkpoint_steps(self.train.steps, self.checkpoint.every, self.checkpoint.steps)

    @property
    def patch_steps(self) -> list[int]:
        """The checkpoints that the patch job looks at."""
        return self.checkpoint_steps if self.patching.steps is None else sorted(set(self.patching.steps))

    def dump(self) -> dict[str, Any]:
        """The configuration as plain JSON values; `parse` reads it back."""
        return self.model_dump(mode="json", by_alias=True)


def types_of(key: str) -> set[type]:
    """What may stand at a key, as plain types (`str`, `int`, `tuple`, ...); none where that is not ours to say, as with
    the arguments of a task.
    """
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


def parse(values: DictConfig | dict[str, Any]) -> Config:
    """Validates a composed configuration.

    Raises:
        UserError: one line for the first value that is wrong, with its key.
    """
    plain = resolve(values) if isinstance(values, DictConfig) else values
    with _one_line():
        config = Config.model_validate(plain)
    if wrong := _unstorable(plain):
        key = ".".join(wrong)
        raise UserError(f"{key}: inf, nan and half a letter (a lone surrogate) cannot be stored; give another value")
    return config


def _unstorable(value: Any) -> list[str]:
    """The keys that lead to the first value that JSON in UTF-8 lacks: it would come back as another."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        bad = isinstance(item, float) and not math.isfinite(item)
        if bad or any(isinstance(one, str) and SURROGATE.search(one) for one in (key, item)):
            return [str(key)]
        if below := _unstorable(item):
            return [str(key), *below]
    return []


def resolve(values: DictConfig, names: Iterable[str] | None = None) -> dict[str, Any]:
    """The plain values under some names at the top, or under all, with what `${...}` refers to in its place.

    Raises:
        UserError: a reference leads nowhere, or a value is missing; with its key.
    """
    plain = {}
    with _one_line():
        for name in values if names is None else names:
            node = values[name]
            plain[str(name)] = (
                OmegaConf.to_container(node, resolve=True, throw_on_missing=True) if OmegaConf.is_config(node) else node
            )
    return plain


@contextmanager
def _one_line() -> Iterator[None]:
    """Makes one line of what OmegaConf and pydantic say."""
    try:
        yield
    except MissingMandatoryValue as error:
        raise UserError(f"{error.full_key}: no value; give {error.full_key}=VALUE on the command line") from None
    except OmegaConfBaseException as error:
        if error.full_key == "model.d_vocab":
            raise UserError(
                "model.d_vocab: a model from nothing has its task's tokens, and this task has no key d_vocab; "
                "give task=previous_token"
            ) from None
        raise UserError(f"{error.full_key or 'config'}: {str(error).splitlines()[0]}") from None
    except ValidationError as error:
        first = error.errors()[0]
        # Where a section may be of several kinds, pydantic puts the kind between the keys.
        loc = first["loc"]
        tagged = len(loc) > 1 and loc[1] in KINDS.get(str(loc[0]), ())
        key = ".".join(str(part) for part in (loc[:1] + loc[2:] if tagged else loc))
        if first["type"] == "missing":
            raise UserError(f"{key}: no value; give {key}=VALUE on the command line") from None
        if first["type"] == "extra_forbidden":
            raise UserError(f"{key}: no such key; `mi-sweeps plan --config` prints all of them") from None
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "value_error":
            told = f"{key}={first['input']}" if isinstance(first["input"], (str, int, float)) else key
            raise UserError(message if message.startswith(key) else f"{told}: {message}") from None
        if first["type"] == "tuple_type":
            given = "null" if first["input"] is None else first["input"]
            raise UserError(f"{key}={given}: give a list; for example {key}=[{given}]") from None
        raise UserError(f"{key}={first['input']}: {message[0].lower()}{message[1:]}") from None
