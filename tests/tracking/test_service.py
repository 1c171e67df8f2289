"""wandb's own process, which nobody waits for for ever."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
import wandb

from mi_sweeps.tracking import service


@pytest.fixture
def core(tmp_path, cores):
    """The id of wandb's process, which a run in this one has used."""
    wandb.teardown()
    service.bound()
    wandb.init(mode="offline", dir=tmp_path, settings=wandb.Settings(silent=True)).finish()
    (found,) = cores(os.getpid())
    yield found
    wandb.teardown()


def test_one_that_does_not_end_is_killed(core, cores, tmp_path, monkeypatch):
    monkeypatch.setattr(service, "END_SECONDS", 0.5)
    os.kill(core, signal.SIGSTOP)
    wandb.teardown()  # Without a limit it would not come back.
    assert cores(os.getpid()) == []
    with wandb.init(mode="offline", dir=tmp_path, settings=wandb.Settings(silent=True)):
        assert cores(os.getpid()) not in ([], [core])  # wandb is of use again.


def test_one_that_ends_is_left_to_do_so(core, cores, caplog):
    caplog.set_level("INFO")
    wandb.teardown()
    assert cores(os.getpid()) == [] and "killed" not in caplog.text


COMMAND_LINE = """
import os, signal, wandb
from wandb.cli import cli
from mi_sweeps.tracking import service
from tests.tracking.conftest import wandb_processes

def stuck(**options):
    wandb.init(mode="offline").finish()
    (core,) = wandb_processes(os.getpid())
    os.kill(core, signal.SIGSTOP)

cli.cli, service.END_SECONDS = stuck, 0.5
service.command_line()
"""


def test_wandbs_command_line_ends_though_its_process_does_not(tmp_path):
    environment = {key: value for key, value in os.environ.items() if key != "WANDB_SERVICE"}
    ended = subprocess.run(
        [sys.executable, "-c", COMMAND_LINE], env={**environment, "WANDB_DIR": str(tmp_path)}, timeout=90
    )
    assert ended.returncode == 0
