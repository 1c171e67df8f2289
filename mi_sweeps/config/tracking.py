"""The section `tracking`: where runs are mirrored."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from mi_sweeps.config.section import Section, Text
from mi_sweeps.errors import UserError

REFUSED = "/\\#?%:"
"""Characters that wandb's `Settings.validate_project` refuses. An entity is part of the same address. (Copied, because
importing wandb would slow down every command.)"""

LONGEST = 128
"""wandb's limit on the length of a name."""


def wandb_name(key: str, name: str | None) -> None:
    """Checks the name of a project or entity early: if wandb refused it later, nothing would be mirrored.

    Raises:
        UserError: wandb does not accept the name.
    """
    if name is None:
        return
    found = sorted({sign for sign in name if sign in REFUSED or not sign.isprintable()})
    if found or not name.strip() or len(name) > LONGEST:
        why = f"has {' '.join(map(repr, found))}" if found else "is too long" if name.strip() else "is empty"
        rule = f"wandb takes 1 to {LONGEST} characters, but none of {' '.join(REFUSED)}"
        raise UserError(f"{key}={name[:200]!r}: {why}; {rule}")


class TrackingConfig(Section):
    """Whether and where a run is mirrored to wandb."""

    name: Literal["none", "wandb"]
    mode: Literal["offline", "online", "disabled"]
    project: Text
    entity: Text | None

    @model_validator(mode="after")
    def _wandb_takes_the_names(self) -> TrackingConfig:
        wandb_name("tracking.project", self.project)
        wandb_name("tracking.entity", self.entity or None)
        return self
