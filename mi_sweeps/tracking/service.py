"""A time limit for the end of wandb's own process.

wandb asks that process to end and waits without a limit, also when ours exits. Sometimes it waits forever: an answer
that arrives just as we hang up (for example to a request that we gave up) closes the connection before the request to
end is read (wandb 0.31, core/pkg/server/connection.go; about 1 in 40 with a server that does not answer).
"""

from __future__ import annotations

import logging
import subprocess
from typing import Any

log = logging.getLogger(__name__)

END_SECONDS = 10.0
"""How long it may take to end. By then, all data has been written or sent."""


def bound() -> None:
    """Replaces wandb's unlimited wait: from here on, its process is killed if it does not end in time."""
    from wandb.sdk.lib.service.service_process import ServiceProcess

    ServiceProcess.join = _join


def command_line() -> None:
    """Runs wandb's command line with the limit, which `python -m wandb` lacks."""
    bound()
    from wandb.cli import cli

    cli.cli(prog_name="wandb")


def _join(service: Any) -> int:
    """Replaces wandb's `ServiceProcess.join`; returns the exit code, or 0 if the process was killed."""
    process: subprocess.Popen[bytes] = service._process
    try:
        return process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        log.info("wandb: its process did not end in %g s, and was killed", END_SECONDS)
        process.kill()
        process.wait()
        return 0  # With any other code, wandb exits our process.
