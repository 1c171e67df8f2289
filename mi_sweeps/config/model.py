"""The section `model`: a pretrained model, a series of checkpoints, or a model trained from scratch."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag, model_validator

from mi_sweeps.config.section import Name, Place, Section, Source, Text


class ModelConfig(Section):
    """A pretrained language model. Give at most one of `hub` and `path`; without either it is the embedded one."""

    name: Name
    hub: Text | None
    """Name on the Hugging Face hub."""
    revision: Text | None
    """Commit, tag or branch on the hub."""
    path: Place | None
    """Folder of the model and its tokenizer."""
    tokenizer: Source | None = None
    """Folder or hub name of the tokenizer, if it is not the model's own."""
    base: Source | None = None
    """Folder or hub name of an adapter's base model, if it is not the one that the adapter names."""
    prepend_bos: bool
    """Whether every prompt begins with the tokenizer's beginning-of-sequence token."""

    @model_validator(mode="after")
    def _one_source(self) -> ModelConfig:
        if self.hub and self.path:
            raise ValueError("give model.hub or model.path, not both")
        for key, value in (("path", self.path), ("revision", self.revision)):
            if "{step}" in str(value):
                raise ValueError(f"model.{key}={value}: this names many checkpoints; use model=series")
        return self


class SeriesConfig(Section):
    """A series: checkpoints that somebody else trained, in folders or as revisions on the hub (`mi_sweeps.series`)."""

    name: Name
    hub: Text | None
    """Name on the Hugging Face hub. `{seed}` is replaced by the configuration's seed, here and in `path`."""
    revision: Text | None
    """Pattern of the revisions, with `{step}`; any other name in braces matches anything:
    `stage1-step{step}-tokens{tokens}B`."""
    path: Place | None
    """Pattern of the folders, as for revisions."""
    tokenizer: Source | None
    """As for a pretrained model."""
    base: Source | None
    """As for a pretrained model."""
    prepend_bos: bool
    keep: bool
    """Whether downloads stay in the hub's cache. Changes no result."""

    @property
    def has_seeds(self) -> bool:
        """Whether the configuration's seed selects the series."""
        return "{seed}" in f"{self.hub} {self.path}"

    @model_validator(mode="after")
    def _has_a_step(self) -> SeriesConfig:
        if bool(self.hub) == bool(self.path):
            raise ValueError("give model.path='DIR/checkpoint-{step}', or model.hub and model.revision='step{step}'")
        if self.path and self.revision:
            raise ValueError("model.revision: only for a series on the hub; leave it out, or give model.hub")
        key, pattern = ("path", str(self.path)) if self.path else ("revision", self.revision or "")
        if pattern.count("{step}") != 1:
            raise ValueError(f"model.{key}={pattern or 'null'}: give a pattern that contains {{step}} once")
        return self


class ScratchConfig(Section):
    """A transformer without positional embeddings, trained from scratch (`mi_sweeps.models.nope`)."""

    name: Name
    layers: int = Field(ge=1)
    heads: int = Field(ge=1)
    d_model: int = Field(ge=1)
    d_head: int = Field(ge=1)
    d_mlp: int | None = Field(ge=1)
    """None means attention only."""
    d_vocab: int = Field(ge=2)
    init_std: float = Field(gt=0)
    """Standard deviation of the initial weights; biases start at 0."""


SingleModel = ModelConfig | ScratchConfig
"""A model with one set of initial weights."""

KINDS: dict[str, tuple[type[Section], str]] = {"scratch": (ScratchConfig, "d_vocab"), "series": (SeriesConfig, "keep")}
"""The key that distinguishes each kind from a pretrained model."""


def _kind_of_model(values: Any) -> str:
    for kind, (section, key) in KINDS.items():
        if isinstance(values, section) or (isinstance(values, dict) and key in values):
            return kind
    return "pretrained"


AnyModel = Annotated[
    Annotated[ModelConfig, Tag("pretrained")]
    | Annotated[ScratchConfig, Tag("scratch")]
    | Annotated[SeriesConfig, Tag("series")],
    Discriminator(_kind_of_model),
]
"""A single model, or a series."""
