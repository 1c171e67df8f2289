"""Where runs are mirrored to."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from mi_sweeps.config.section import Section, Text
from mi_sweeps.errors import UserError

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
