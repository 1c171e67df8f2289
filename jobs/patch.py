"""One patch job: `python jobs/patch.py corruption=second optim.lr=1e-4 seed=1`, after its fine-tune."""

from __future__ import annotations

from collections.abc import Callable

from mi_sweeps.config import Config
from mi_sweeps.errors import UserError
from mi_sweeps.jobs.finetune import check_identity
from mi_sweeps.store.folders import PatchFolder, RunFolder, run_folder
from mi_sweeps.store.identity import patch_id, run_id


def patch(
    config: Config, run: RunFolder, folder: PatchFolder, *, on_step: Callable[[int], None] = lambda step: None
) -> None:
    """Does a patch job that is not done.

    Args:
        on_step: told the number of checkpoints that are done.

    Raises:
        Busy: another process does it.
        UserError: its fine-tune is not done.
        Exception: it failed; its folder says so too.
    """
    if run.status_on_disk().state != "done":
        raise UserError(f"{run.path}: this fine-tune is not done; do it first: `mi-sweeps run` or jobs/finetune.py")
    with folder.claim():
        if folder.status_on_disk().state == "done" and folder.has(config.patch_steps):
            return
        with folder.attempt():
            check_identity(config, run)
            from mi_sweeps.circuits.examine import examine
            from mi_sweeps.tracking.mirror import mirror

            done = [step for step in config.patch_steps if folder.table(step).exists()]
            with mirror(config, run.run_id, folder, "patch") as tracked:

                def on_table(step: int, rows: list[dict]) -> None:
                    done.append(step)
                    tracked.log_tables(step, rows)
                    on_step(len(done))

                examine(config, run, folder, on_table=on_table)


if __name__ == "__main__":
    from mi_sweeps.jobs.app import run_app

    def one(config: Config) -> None:  # noqa: D103
        run = run_folder(config.output, run_id(config))
        patch(config, run, run.patch(patch_id(config)))

    run_app(one)
