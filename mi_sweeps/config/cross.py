"""The section `patching.cross`: pieces of one checkpoint in another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field, field_validator

from mi_sweeps.config.section import Index, Section


class CrossConfig(Section):
    """Which pieces of checkpoints are put into each other (`mi_sweeps.circuits.cross`)."""

    with_: tuple[Index, ...] | Literal["first", "previous"] = Field(default="first", alias="with")
    """The checkpoints to cross each with: steps, the first examined one, or the one before."""
    kinds: tuple[Literal["activation", "weights", "shapley"], ...] = Field(
        default=("activation", "weights", "shapley"), min_length=1
    )
    permutations: int = Field(default=16, ge=4)
    """Orders for Shapley values; every second one is the reverse of the one before."""

    @field_validator("with_")
    @classmethod
    def _some_others(cls, value: str | tuple[int, ...]) -> str | tuple[int, ...]:
        if not value:
            raise ValueError("patching.cross.with=[]: name a step, first, or previous")
        if isinstance(value, tuple) and len(set(value)) < len(value):
            raise ValueError("patching.cross.with: a step is given twice")
        return value

    @field_validator("kinds")
    @classmethod
    def _once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) < len(value):
            raise ValueError("patching.cross.kinds: a kind is given twice")
        return value

    @field_validator("permutations")
    @classmethod
    def _in_pairs(cls, value: int) -> int:
        if value % 2:
            raise ValueError(
                f"patching.cross.permutations={value}: each order is also used in reverse, so give an even number"
            )
        return value


def others(asked: CrossConfig, step: int, steps: Sequence[int]) -> tuple[int, ...]:
    """Returns the checkpoints that the one at `step` is crossed with, if `steps` are examined; never itself."""
    if asked.with_ == "first":
        chosen: Sequence[int] = sorted(steps)[:1]
    elif asked.with_ == "previous":
        chosen = sorted(one for one in steps if one < step)[-1:]
    else:
        chosen = asked.with_
    return tuple(one for one in chosen if one != step)


def check_steps(asked: CrossConfig, steps: Sequence[int]) -> None:
    """Checks that there are checkpoints to cross with, and that all are examined.

    Raises:
        ValueError: there are none, or one is not examined.
    """
    if len(steps) < 2:
        raise ValueError(
            f"patching.cross: needs two checkpoints, but only {list(steps)} are examined; add one to patching.steps, "
            "or give patching.cross=null"
        )
    unknown = sorted(set(asked.with_) - set(steps)) if isinstance(asked.with_, tuple) else []
    if unknown:
        raise ValueError(
            f"patching.cross.with: {unknown} are not among the examined checkpoints ({list(steps)}); choose among "
            "those, or add them to patching.steps"
        )
