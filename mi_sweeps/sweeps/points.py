"""Grid points. They are kept light, because a plan has thousands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mi_sweeps.steps import checkpoint_steps
from mi_sweeps.store import measured
from mi_sweeps.store.measured import prompts_label

if TYPE_CHECKING:
    from mi_sweeps.config import Config

Stage = Literal["finetune", "patch"]


def of_patch_job(key: str) -> bool:
    """Whether a key belongs to the patch job, not to the run."""
    return key.lstrip("+").split(".")[0] in ("corruption", "patching")


@dataclass(frozen=True)
class GridPoint:
    """A run and one patch job on it."""

    values: Mapping[str, Any]
    """The complete, valid configuration as plain values."""
    choices: Mapping[str, str]
    """The values that the grid gave this point, by key."""
    run_id: str
    """The run; shared by points that differ only in how they patch it."""
    patch_id: str

    @cached_property
    def config(self) -> Config:
        """The configuration, typed. Looking at folders needs neither it nor its imports."""
        from mi_sweeps.config import parse

        return parse(dict(self.values))

    @property
    def prompts_label(self) -> str:
        """As `Config.prompts_label`."""
        patching = self.values["patching"]
        task = patching.get("task") or {}
        return prompts_label(self.values["corruption"]["name"], task.get("name"), patching.get("split", "heldout"))

    @property
    def label(self) -> str:
        """The choices as a user would type them."""
        return " ".join(f"{key}={value}" for key, value in self.choices.items()) or "(defaults)"

    def called(self, stage: Stage) -> str:
        """Names its run or its patch job for the user, with the choices that made it."""
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
        """Whether the run is a series, trained by somebody else."""
        return "keep" in self.values["model"]

    @property
    def run_name(self) -> str:
        """What its run is called: "series" or "fine-tune"."""
        return "series" if self.is_series else "fine-tune"

    @property
    def checkpoint_steps(self) -> list[int]:
        """Every checkpoint of the run."""
        checkpoint = self.values["checkpoint"]
        if self.is_series:
            return sorted(set(checkpoint["steps"]))
        last = checkpoint.get("until") or self.values["train"]["steps"]
        return checkpoint_steps(last, checkpoint["every"], checkpoint["steps"])

    @property
    def patch_steps(self) -> list[int]:
        """The checkpoints that the patch job examines."""
        steps = self.values["patching"]["steps"]
        return self.checkpoint_steps if steps is None else sorted(set(steps))

    @property
    def tables(self) -> tuple[str, ...]:
        """Its tables at each checkpoint, besides that of patching."""
        return measured.tables(self.values["patching"])
