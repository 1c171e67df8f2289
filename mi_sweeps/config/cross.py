"""Pieces of one checkpoint in another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field, field_validator

from mi_sweeps.config.section import Index, Section


class CrossConfig(Section):
    """Pieces of one checkpoint in another, and the other way (`mi_sweeps.circuits.cross`)."""

    with_: tuple[Index, ...] | Literal["first", "previous"] = Field(default="first", alias="with")
    """The checkpoints that each is crossed with: steps, the first that is looked at, or the one before."""
    kinds: tuple[Literal["activation", "weights", "shapley"], ...] = Field(
        default=("activation", "weights", "shapley"), min_length=1
    )
    permutations: int = Field(default=16, ge=4)
    """Orders for Shapley values, of which every second is the one before it backwards."""

    @field_validator("with_")
    @classmethod
    def _some_others(cls, value: str | tuple[int, ...]) -> str | tuple[int, ...]:
        if not value:
            raise ValueError("patching.cross.with=[]: name a step, first, or previous")
        if isinstance(value, tuple) and len(set(value)) < len(value):
            raise ValueError("patching.cross.with: a step is named twice")
        return value

    @field_validator("kinds")
    @classmethod
    def _once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) < len(value):
            raise ValueError("patching.cross.kinds: a kind is named twice")
        return value

    @field_validator("permutations")
    @classmethod
    def _in_pairs(cls, value: int) -> int:
        if value % 2:
            raise ValueError(
                f"patching.cross.permutations={value}: each order is walked backwards too, so give an even number"
            )
        return value


def others(asked: CrossConfig, step: int, steps: Sequence[int]) -> tuple[int, ...]:
    """The checkpoints that one at `step` is crossed with, of a run that is looked at at `steps`; never itself."""
    if asked.with_ == "first":
        chosen: Sequence[int] = sorted(steps)[:1]
    elif asked.with_ == "previous":
        chosen = sorted(one for one in steps if one < step)[-1:]
    else:
        chosen = asked.with_
    return tuple(one for one in chosen if one != step)


def check_steps(asked: CrossConfig, steps: Sequence[int]) -> None:
    """Holds that each of the checkpoints that are looked at, but one, has another to be crossed with.

    Raises:
        ValueError: there is none, or it is not looked at.
    """
    if len(steps) < 2:
        raise ValueError(
            f"patching.cross: needs two checkpoints, and {list(steps)} are looked at; give patching.steps another one, "
            "or patching.cross=null"
        )
    unknown = sorted(set(asked.with_) - set(steps)) if isinstance(asked.with_, tuple) else []
    if unknown:
        raise ValueError(
            f"patching.cross.with: {unknown} are not looked at, but {list(steps)}; choose among those, or add them to "
            "patching.steps"
        )
