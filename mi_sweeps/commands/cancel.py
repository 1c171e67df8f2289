"""`mi-sweeps cancel`."""

from __future__ import annotations

import argparse

from mi_sweeps.commands import common
from mi_sweeps.commands.common import DONE, FAILED
from mi_sweeps.errors import UserError

HELP = "stop the processes and jobs of a sweep; `run` resumes it"
WORDS = "SWEEP"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Has no options."""


def run(options: argparse.Namespace) -> int:
    """`mi-sweeps cancel`."""
    from mi_sweeps.jobs import workers
    from mi_sweeps.slurm import steer, submissions

    output, chosen = common.sweeps(options)
    console = common.console()
    code = DONE
    errors: dict[str, list[str]] = {}
    for name in chosen:
        # Local workers first: a cluster that does not answer must not keep them running.
        early = any(worker.pid is None for worker in workers.alive(output, name))
        stopped, left = workers.cancel(output, name)
        on_cluster = True
        try:
            on_cluster = bool(submissions.of_sweep(output, name))
            if on_cluster and not steer.cancel(console, output, name):
                code = FAILED
        except UserError as error:
            errors.setdefault(str(error), []).append(name)
        if on_cluster and not (early or stopped or left):
            continue
        nobody = "workers were stopped while starting" if early else "nothing is running here"
        count = f"{len(stopped)} {'process' if len(stopped) == 1 else 'processes'} stopped"
        console.print(f"{name}: {count if stopped else nobody}", soft_wrap=True)
        for worker in left:
            code = FAILED
            console.print(f"  still running: process {worker.pid} on {worker.host}; cancel it there", soft_wrap=True)
    if errors:
        raise UserError("; ".join(f"{', '.join(names)}: {error}" for error, names in errors.items()))
    return code
