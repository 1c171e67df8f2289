"""One fine-tune: `python jobs/finetune.py optim.lr=1e-4 seed=1`, or many with Hydra's own `-m`."""

from __future__ import annotations

from collections.abc import Callable

from mi_sweeps.config import Config
from mi_sweeps.errors import UserError
from mi_sweeps.store.folders import RunFolder, run_folder
from mi_sweeps.store.identity import run_id


def finetune(config: Config, folder: RunFolder, *, on_step: Callable[[int], None] = lambda step: None) -> None:
    """Does a run that is not done.

    Raises:
        Busy: another process does it.
        Exception: it failed; its folder says so too.
    """
    with folder.claim():
        if is_done(config, folder):
            return
        with folder.attempt():
            check_identity(config, folder)
            from mi_sweeps.tracking.mirror import mirror
            from mi_sweeps.training.loop import finetune as train

            with mirror(config, folder.run_id, folder, "finetune") as tracked:
                train(config, folder, on_step=on_step, on_checkpoint=tracked.log_metrics)


def check_identity(config: Config, folder: RunFolder) -> None:
    """Holds that the model and the prompts are still those that were planned.

    Raises:
        UserError: the files of the model, or the user's prompts, have changed since.
    """
    if run_id(config) != folder.run_id:
        raise UserError(f"{folder.path}: model or prompts have changed since this was planned; run the sweep again")


def is_done(config: Config, folder: RunFolder) -> bool:
    """Whether the run ended well and what came of it is still there."""
    files = [folder.metrics, *(folder.checkpoint(step) for step in config.checkpoint_steps)]
    return folder.status_on_disk().state == "done" and all(file.exists() for file in files)


if __name__ == "__main__":
    from mi_sweeps.jobs.app import run_app

    run_app(lambda config: finetune(config, run_folder(config.output, run_id(config))))
