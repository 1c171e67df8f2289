"""wandb's own process, and how it ends.

wandb tells that process to end and waits without a limit, at the exit of ours, too. It sometimes waits for ever: an
answer that comes just as we hang up (of a request that was given up, say) ends the connection before the word to end is
read (wandb 0.31, core/pkg/server/connection.go; about 1 in 40 where a server does not answer).
"""

from __future__ import annotations

import logging
import subprocess
from typing import Any

log = logging.getLogger(__name__)

END_SECONDS = 10.0
"""How long it may take to end; what is of use has been written or sent when it is told to."""


def bound() -> None:
    """From here on, wandb's process is killed if it does not end when it is told to."""
    from wandb.sdk.lib.service.service_process import ServiceProcess

    ServiceProcess.join = _join


def command_line() -> None:
    """wandb's own command line, with that limit: `python -m wandb` would wait for its process without one."""
    bound()
    from wandb.cli import cli

    cli.cli(prog_name="wandb")


def _join(service: Any) -> int:
    """wandb's `ServiceProcess.join`, with a limit; gives the exit code, 0 if it had to be killed."""
    process: subprocess.Popen[bytes] = service._process
    try:
        return process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        log.info("wandb: its process did not end in %g s, and was killed", END_SECONDS)
        process.kill()
        process.wait()
        return 0  # wandb would leave this process with any other.
