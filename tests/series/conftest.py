"""Fixtures for tests of series."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

STEPS = (0, 8, 16, 24)

FEW = (
    "task.prompts.train=12",
    "task.prompts.heldout=12",
    "task.prompts.two_name=4",
    "patching=heads",
    "patching.sites=[z,v]",
    "patching.prompts=6",
)
"""Overrides under which a checkpoint takes a moment."""


@pytest.fixture
def series(written: Path, tmp_path: Path) -> Path:
    """A copy of that folder."""
    return Path(shutil.copytree(written, tmp_path / "trained"))


@pytest.fixture
def make(make_config) -> Callable:
    """The configuration of a series in a folder."""

    def of(folder: Path, *overrides: str):
        return make_config("model=series", f"model.path={folder}/checkpoint-{{step}}", *FEW, *overrides)

    return of
