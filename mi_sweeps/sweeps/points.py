"""The points of a grid, as light as can be: a plan has thousands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mi_sweeps.steps import checkpoint_steps
from mi_sweeps.store import measured
from mi_sweeps.tasks import asked

if TYPE_CHECKING:
    from mi_sweeps.config import Config

Stage = Literal["finetune", "patch"]


def of_patch_job(key: str) -> bool:
    """Whether a key says how a run is patched, and nothing of the run itself."""
    return key.lstrip("+").split(".")[0] in ("corruption", "patching")


@dataclass(frozen=True)
class GridPoint:
    """One point of a grid: a run, and one patch job on it."""

    values: Mapping[str, Any]
    """The whole configuration as plain values, valid and complete."""
    choices: Mapping[str, str]
    """The values that the grid gave this point, by key."""
    run_id: str
    """The fine-tune that this point looks at; points that differ only in how they patch share it."""
    patch_id: str
    """The patch job."""

    @cached_property
    def config(self) -> Config:
        """The configuration, typed. Whoever only looks at folders needs none, nor the import of its libraries."""
        from mi_sweeps.config import parse

        return parse(dict(self.values))

    @property
    def asked(self) -> str:
        """As of a configuration."""
        patching = self.values["patching"]
        task = patching.get("task") or {}
        return asked(self.values["corruption"]["name"], task.get("name"), patching.get("split", "heldout"))

    @property
    def label(self) -> str:
        """The choices as a user would type them."""
        return " ".join(f"{key}={value}" for key, value in self.choices.items()) or "(defaults)"

    def called(self, stage: Stage) -> str:
        """What a user calls its run, with the choices that made it, or its patch job."""
        if stage == "patch":
            return f"patch job {self.label}"
        own = {key: value for key, value in self.choices.items() if not of_patch_job(key)}
        return f"{self.run_name} {replace(self, choices=own).label}"

    @property
    def output(self) -> Path:
        """The folder of all results."""
        return Path(self.values["output"])

    @property
    def is_series(self) -> bool:
        """Whether somebody else trained the run."""
        return "keep" in self.values["model"]

    @property
    def run_name(self) -> str:
        """What a user calls its run."""
        return "series" if self.is_series else "fine-tune"

    @property
    def checkpoint_steps(self) -> list[int]:
        """Every step whose weights are kept, or that a series has."""
        checkpoint = self.values["checkpoint"]
        if self.is_series:
            return sorted(set(checkpoint["steps"]))
        last = checkpoint.get("until") or self.values["train"]["steps"]
        return checkpoint_steps(last, checkpoint["every"], checkpoint["steps"])

    @property
    def patch_steps(self) -> list[int]:
        """The checkpoints that the patch job looks at."""
        steps = self.values["patching"]["steps"]
        return self.checkpoint_steps if steps is None else sorted(set(steps))

    @property
    def tables(self) -> tuple[str, ...]:
        """The tables that it makes of each checkpoint beside that of patching."""
        return measured.tables(self.values["patching"])
