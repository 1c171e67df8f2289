"""Something wrong with a checkpoint of a series."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal[
    "damaged", "values", "layout", "copy", "mixed", "order", "descent", "label", "config", "tokenizer", "missing"
]


@dataclass(frozen=True)
class Finding:
    """Something wrong with a checkpoint."""

    step: int
    kind: Kind
    reason: str
    missing: bool
    """Whether the checkpoint is unusable, so that its step counts as missing."""
