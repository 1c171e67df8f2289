"""What a wheel has."""

from __future__ import annotations

from pathlib import Path

import pytest

tomllib = pytest.importorskip("tomllib", reason="Python 3.11 reads TOML")
ROOT = Path(__file__).parents[1]


def test_every_folder_of_the_package_is_in_the_wheel():
    """An editable installation, as tests have it, finds a folder that a wheel would lack."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    places = {name: ROOT / folder for name, folder in settings["package-dir"].items()}
    found = {
        ".".join([name, *file.parent.relative_to(place).parts])
        for name, place in places.items()
        for file in place.rglob("*.py")
    }
    assert found == set(settings["packages"])
