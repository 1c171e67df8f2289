"""The building blocks of all sections of the configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from mi_sweeps.locations import local


def _text(value: Any) -> Any:
    """Turns an integer into text: a SLURM account, a commit. It refuses floats, whose spelling is lost."""
    if isinstance(value, float):
        raise ValueError(f"{value} is a number, but this key takes text; put the text in quotes")
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _place(value: Any) -> Any:
    return local(_text(value)) if isinstance(value, (str, int, float, Path)) else value


def _source(value: Any) -> Any:
    text = _text(value)
    folder = isinstance(text, str) and (text.startswith(("/", "~", ".")) or local(text).is_dir())
    return str(local(text)) if folder else text


Text = Annotated[str, BeforeValidator(_text)]
Place = Annotated[Path, BeforeValidator(_place)]
"""A file or folder, absolute."""
Source = Annotated[str, BeforeValidator(_source)]
"""A folder, absolute, or a name on the Hugging Face hub."""

NAME, DEVICE, MEMORY = r"^[A-Za-z0-9][A-Za-z0-9._-]*$", r"^(auto|cpu|cuda(:\d+)?)$", r"^\d+[KMGT]?$"
PATTERNS = {
    NAME: "a name: letters, digits, dots, hyphens and underscores, a letter or digit first",
    DEVICE: "auto, cpu, cuda or cuda:1",
    MEMORY: "MB, or a number with a unit: 500M, 8G",
}
"""The patterns in words."""

Name = Annotated[Text, Field(pattern=NAME)]
Index = Annotated[int, Field(ge=0)]
Device = Annotated[str, Field(pattern=DEVICE)]


class Section(BaseModel):
    """A read-only section; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def is_path(key: str) -> bool:
    """Whether a task's key names a file."""
    return key == "path" or key.endswith("_path")


class NamedFunction(BaseModel):
    """A function, given by its import path `_target_`, with its arguments as further keys."""

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
        """The keys besides `name` and `_target_`. 1.0 becomes 1, so that the spelling of a number does not matter."""
        return {
            key: int(value) if isinstance(value, float) and value.is_integer() else value
            for key, value in (self.model_extra or {}).items()
        }
