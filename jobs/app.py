"""A job as a Hydra application, with one-line errors and exit codes 0 done, 1 failed, 2 bad input."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from mi_sweeps import libraries
from mi_sweeps.config import Config, parse
from mi_sweeps.errors import UserError
from mi_sweeps.series.checkpoints import resolved
from mi_sweeps.store.endings import Busy, describe
from mi_sweeps.sweeps.axes import PATTERN, patterns_quoted
from mi_sweeps.sweeps.source import check_choices


def run_app(job: Callable[[Config], None]) -> None:
    """Runs a job for the configuration on the command line; with `-m`, for each of them, even if one fails."""
    libraries.quiet()
    codes = [0]
    here = os.getpid()

    def one(values: DictConfig) -> None:
        try:
            if HydraConfig.initialized():
                check_choices(values, HydraConfig.get().runtime.choices)
            config = resolved(parse(values))
            if config.sweep.grid:
                name = config.sweep.name
                raise UserError(
                    f"sweep={name}: a job is a single grid point; run the grid with `mi-sweeps run sweep={name}`, or "
                    f"give one point's values and sweep.name={name}"
                )
            if config.patching.also:
                names = ",".join(config.patching.also)
                raise UserError(
                    f"patching.also=[{names}]: each of these is a patch job of its own, and this is only one job; use "
                    "`mi-sweeps run`"
                )
            libraries.ready(config.launcher.threads)
            job(config)
        except UserError as error:
            codes.append(2)
            print(f"error: {error}", file=sys.stderr)  # noqa: T201
        except Busy as error:
            codes.append(2)
            print(f"error: {error}: another process is working there; wait for it", file=sys.stderr)  # noqa: T201
        except Exception as error:
            codes.append(1)
            print(f"failed: {describe(error)}", file=sys.stderr)  # noqa: T201

        if os.getpid() != here and max(codes):
            # A Hydra launcher runs this in a process of its own, such as a cluster job: only the exit code reports
            # failure.
            sys.exit(max(codes))

    sys.argv[1:] = map(_as_hydra_reads, sys.argv[1:])
    hydra.main(version_base="1.3", config_path="pkg://mi_sweeps.conf", config_name="config")(one)()
    sys.exit(max(codes))


def _as_hydra_reads(word: str) -> str:
    """Quotes an override for Hydra, so that `model.path=DIR/checkpoint-{step}` works as for `mi-sweeps run`."""
    key, equals, raw = word.partition("=")
    bare = equals and PATTERN.search(raw) and not set("'\"") & set(raw)
    return f"{key}={patterns_quoted(raw)}" if bare else word
