"""One fine-tune: `python jobs/finetune.py optim.lr=1e-4 seed=1`, or many with Hydra's own `-m`. Of a series, which is
trained already, its checkpoints are measured."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator
from contextlib import suppress
from typing import TYPE_CHECKING

from mi_sweeps.config import Config, SeriesConfig
from mi_sweeps.errors import UserError
from mi_sweeps.identity import run_id
from mi_sweeps.store import hashes
from mi_sweeps.store.files import read_json
from mi_sweeps.store.folders import RunFolder, run_folder

if TYPE_CHECKING:
    from mi_sweeps.training.run import Run


def finetune(
    config: Config,
    folder: RunFolder,
    *,
    needed: Collection[int] = (),
    on_step: Callable[[int], None] = lambda step: None,
) -> None:
    """Does a run that is not done.

    Args:
        needed: checkpoints that must be there; without them a finished run is done anew.
        on_step: told the number of steps that are done.

    Raises:
        Busy: another process does it.
        Exception: it failed; its folder says so too.
    """
    turns = in_turns(config, folder, needed=needed, on_step=on_step)
    try:
        for run in turns:
            if run is not None:
                from mi_sweeps.training.loop import train_step

                train_step(run, run.batch())
    except BaseException as error:
        turns.throw(error)  # Told there too, where the folder's status is kept.
        raise


def in_turns(
    config: Config, folder: RunFolder, *, needed: Collection[int], on_step: Callable[[int], None]
) -> Generator[Run | None]:
    """All of `finetune` but the steps, so that several runs can be trained together (`mi_sweeps.training.stacked`).

    Gives None when the folder is claimed, and then the run before each step.
    """
    with folder.claim():
        yield None
        before = folder.status_on_disk()
        if before.state == "done" and folder.has(before.reached(needed)):
            return
        with folder.attempt() as check:
            check_identity(config, folder)
            from mi_sweeps.tracking.mirror import mirror

            with mirror(config, folder) as tracked:
                if isinstance(config.model, SeriesConfig):
                    from mi_sweeps.series.stage import look

                    look(config, folder, before_write=check, on_step=on_step, on_checkpoint=tracked.log)
                    return
                from mi_sweeps.training.loop import training

                yield from rehearsed(
                    config, training(config, folder, before_write=check, on_step=on_step, on_checkpoint=tracked.log)
                )
        # After its status says done: before, a run that is killed in between would be trained again from step 0.
        folder.resume.unlink(missing_ok=True)


def rehearsed(config: Config, turns: Generator[Run]) -> Generator[Run]:
    """The same turns; before the first of them it is found out whether the model can be patched afterwards."""
    from mi_sweeps.circuits.examine import rehearse
    from mi_sweeps.models.load import load_tokenizer
    from mi_sweeps.series.checkpoints import single

    rehearsal = True
    for run in turns:
        if rehearsal:
            with run.trainable.plain() as model:
                rehearse(config, model, load_tokenizer(single(config)), run.task)
            rehearsal = False
        yield run


def check_identity(config: Config, folder: RunFolder) -> None:
    """Holds that the model and the prompts are still those that were planned.

    Raises:
        UserError: the files of the model, or the user's prompts or code, have changed since.
    """
    if run_id(config) != folder.run_id:
        began = (read_json(folder.about) or {}).get("model", {}).get("commit")
        todo = f"run the sweep again, or go on with model.revision={began}" if began else "run the sweep again"
        raise UserError(f"{folder.path}: model, prompts or your code have changed since this was planned; {todo}")
    with suppress(OSError):  # It only saves time.
        hashes.keep(config.output)


if __name__ == "__main__":
    from mi_sweeps.jobs.app import run_app

    run_app(lambda config: finetune(config, run_folder(config.output, run_id(config))))
