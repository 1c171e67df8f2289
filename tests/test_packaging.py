"""A wheel has everything that the package needs, and works outside the repository."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from zipfile import ZipFile

import pytest

tomllib = pytest.importorskip("tomllib", reason="Python 3.11 reads TOML")
pytest.importorskip("pip", reason="pip installs the wheel")
ROOT = Path(__file__).parents[1]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
FOLDERS = {name.replace(".", "/"): ROOT / folder for name, folder in SETTINGS["package-dir"].items()}
"""By their place in a wheel."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built of a copy: setuptools leaves files beside what it builds."""
    copy, wheels = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("wheels")
    for folder in FOLDERS.values():
        shutil.copytree(folder, copy / folder.name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    build = f"from setuptools import build_meta; build_meta.build_wheel({str(wheels)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=copy, check=True, capture_output=True)
    (built,) = wheels.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts of a new environment that has the wheel, and sees what else is installed here."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, symlinks=True)
    pip = [sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--no-index", wheel], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    # A path in a .pth file is only looked into: the editable installation in it stays unknown.
    (packages / "here.pth").write_text(sysconfig.get_path("purelib"))
    return folder / "bin"


@pytest.mark.slow
def test_every_file_of_the_package_is_in_the_wheel(wheel: Path) -> None:
    """An editable installation, as tests have it, finds what a wheel would lack."""
    there = {
        f"{place}/{file.relative_to(folder).as_posix()}"
        for place, folder in FOLDERS.items()
        for file in folder.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert not there - {*ZipFile(wheel).namelist()}
    assert {name.rpartition(".")[2] for name in there} >= {"py", "yaml", "js", "html", "css", "json", "safetensors"}


@pytest.mark.slow
def test_it_works_outside_the_repository(installed: Path, small: tuple[str, ...], tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def call(program: str, *words: str) -> str:
        done = subprocess.run(
            [installed / program, *words], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = call("python", "-c", "import mi_sweeps.analysis; print(mi_sweeps.analysis.__file__)")
    assert Path(where).is_relative_to(installed.parent)
    assert call("mi-sweeps", "--version").startswith("mi-sweeps ")
    assert "8 patch jobs (8 to do)" in call("mi-sweeps", "plan", "sweep=demo")
    assert "1 patch job (1 done)" in call("mi-sweeps", "run", "sweep.name=tiny", "corruption=first", *small)
    call("mi-sweeps", "report", "tiny")
    assert "window.Plotly" in (tmp_path / "outputs" / "report-tiny.html").read_text()
