"""The configuration that tests change, and a model whose files they change."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mi_sweeps.config import Config
from mi_sweeps.models.mini import FOLDER
from mi_sweeps.sweeps.grid import expand


@pytest.fixture(scope="module")
def default() -> Config:
    return expand([])[0].config


@pytest.fixture
def model_copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FOLDER, tmp_path / "model"))
