"""One fine-tune: `python jobs/finetune.py optim.lr=1e-4 seed=1`, or many with Hydra's own `-m`. A series is already
trained, so its checkpoints are only measured."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from mi_sweeps.config import Config, SeriesConfig
from mi_sweeps.errors import UserError
from mi_sweeps.identity import run_id
from mi_sweeps.store import hashes
from mi_sweeps.store.files import read_json
from mi_sweeps.store.folders import RunFolder, run_folder

if TYPE_CHECKING:
    from mi_sweeps.training.evaluate import Metric
    from mi_sweeps.training.run import TrainingState


def finetune(
    config: Config,
    folder: RunFolder,
    *,
    needed: Collection[int] = (),
    on_step: Callable[[int], None] = lambda step: None,
) -> None:
    """Does a run unless it is already done.

    Args:
        needed: steps of checkpoints that must exist; a finished run that lacks one is done again.
        on_step: called with the number of steps done.

    Raises:
        Busy: another process is working on it.
        Exception: it failed; its folder records the error too.
    """
    with folder.claim():
        if is_done(folder, needed):
            return
        with attempt(config, folder) as (check, log):
            if isinstance(config.model, SeriesConfig):
                from mi_sweeps.jobs.measure_series import measure_series

                measure_series(config, folder, before_write=check, on_step=on_step, on_checkpoint=log)
            else:
                from mi_sweeps.training import loop

                loop.finetune(
                    config, folder, before_training=rehearse, before_write=check, on_step=on_step, on_checkpoint=log
                )


def training_turns(
    config: Config, folder: RunFolder, *, needed: Collection[int], on_step: Callable[[int], None]
) -> Generator[TrainingState | None]:
    """`finetune`, but the caller takes the steps: so several runs can be trained together
    (`mi_sweeps.training.stacked`).

    Yields None once the folder is claimed, then the run before each step. An error in a step must be thrown into the
    generator, so that the folder's status records it.
    """
    with folder.claim():
        yield None
        if is_done(folder, needed):
            return
        with attempt(config, folder) as (check, log):
            from mi_sweeps.training import loop

            yield from loop.training_steps(
                config, folder, before_training=rehearse, before_write=check, on_step=on_step, on_checkpoint=log
            )


def is_done(folder: RunFolder, needed: Collection[int]) -> bool:
    """Whether a run is done and still has its needed checkpoints."""
    status = folder.status_on_disk()
    return status.state == "done" and folder.has(status.reached(needed))


@contextmanager
def attempt(
    config: Config, folder: RunFolder
) -> Iterator[tuple[Callable[[], None], Callable[[int, list[Metric]], None]]]:
    """One attempt at a run: keeps its status and its mirror, and removes the resume state at the end.

    Yields two functions: one to call before each write, and one that logs a checkpoint's metrics.
    """
    with folder.attempt() as check:
        check_identity(config, folder)
        from mi_sweeps.tracking.mirror import mirror

        with mirror(config, folder) as tracked:
            yield check, tracked.log
    # Only after the status says done: if killed in between, the run would be trained again from step 0.
    folder.resume.unlink(missing_ok=True)


def rehearse(run: TrainingState) -> None:
    """Checks that the model can be patched, before time is spent on training it."""
    from mi_sweeps.circuits import examine
    from mi_sweeps.models.load import load_tokenizer
    from mi_sweeps.series.checkpoints import single

    with run.trainable.plain() as model:
        examine.rehearse(run.config, model, load_tokenizer(single(run.config)), run.task)


def check_identity(config: Config, folder: RunFolder) -> None:
    """Checks that the model and the prompts are still those that were planned.

    Raises:
        UserError: the model's files, or the user's prompts or code, have changed since.
    """
    if run_id(config) != folder.run_id:
        began = (read_json(folder.about) or {}).get("model", {}).get("commit")
        todo = f"run the sweep again, or go on with model.revision={began}" if began else "run the sweep again"
        raise UserError(f"{folder.path}: model, prompts or your code have changed since this was planned; {todo}")
    with suppress(OSError):  # Only a cache.
        hashes.keep(config.output)


if __name__ == "__main__":
    from mi_sweeps.jobs.app import run_app

    run_app(lambda config: finetune(config, run_folder(config.output, run_id(config))))
