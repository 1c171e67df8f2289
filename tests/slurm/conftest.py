"""A fake scheduler: SLURM's commands as a script on PATH."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from mi_sweeps.config import SlurmConfig
from mi_sweeps.sweeps.grid import expand

SCRIPT = Path(__file__).with_name("scheduler.py")
COMMANDS = ("sbatch", "squeue", "sacct", "scancel", "scontrol")


class Scheduler:
    """The fake's state, to be set and looked at."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for command in COMMANDS:
            # -I -S: a Python without site-packages starts in 20 ms.
            (folder / command).write_text(f"#!{sys.executable} -IS\n{SCRIPT.read_text()}")
            (folder / command).chmod(0o755)
        # submitit asks for it by name only.
        (folder / "srun").write_text("#!/bin/sh\nexit 1\n")
        (folder / "srun").chmod(0o755)
        empty = {"queue": [], "ended": [], "calls": [], "refuse": {}, "hang": [], "job": "", "config": []}
        self._write({"next": 100, "watch": str(folder.parent / "outputs"), **empty})

    def _write(self, state: dict[str, Any]) -> None:
        (self.folder / "state.json").write_text(json.dumps(state))

    @property
    def state(self) -> dict[str, Any]:
        return json.loads((self.folder / "state.json").read_text())

    def set(self, **values: Any) -> None:
        self._write({**self.state, **values})

    @property
    def queue(self) -> list[list[str]]:
        """Rows as squeue prints them: id, name, state, reason, node."""
        return self.state["queue"]

    def calls(self, command: str) -> list[list[str]]:
        """The arguments of each call of a command."""
        return [call["arguments"] for call in self.state["calls"] if call["command"] == command]

    def records(self, command: str) -> list[list[dict[str, Any]]]:
        """The submissions that were on disk at each call of a command."""
        return [list(map(json.loads, call["records"])) for call in self.state["calls"] if call["command"] == command]

    @property
    def scripts(self) -> list[str]:
        """What was submitted, in order."""
        return [file.read_text() for file in sorted((self.folder / "scripts").glob("*.sh"))]

    def end(self, state: str, code: str = "0:0", node: str = "n1") -> None:
        """All jobs leave the queue in this state."""
        ended = [[id, name, state, code, node] for id, name, *_ in self.queue]
        self.set(queue=[], ended=[*self.state["ended"], *ended])


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scheduler:
    """An empty cluster."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return Scheduler(folder)


@pytest.fixture(scope="session")
def defaults() -> SlurmConfig:
    """Those of `launcher=slurm`."""
    config = expand(["launcher=slurm"])[0].config.launcher
    assert isinstance(config, SlurmConfig)
    return config


@pytest.fixture
def launcher(defaults: SlurmConfig) -> Callable[..., SlurmConfig]:
    """The settings of `launcher=slurm`, some of them given; Hydra's own composing takes a tenth of a second."""

    def make(*settings: str) -> SlurmConfig:
        values = OmegaConf.merge(defaults.model_dump(mode="json"), OmegaConf.from_dotlist([*settings]))
        return SlurmConfig.model_validate(OmegaConf.to_container(values))

    return make
