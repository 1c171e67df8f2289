"""One patch job: `python jobs/patch.py corruption=second optim.lr=1e-4 seed=1`, after its fine-tune."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import datetime

from mi_sweeps.config import Config
from mi_sweeps.errors import UserError
from mi_sweeps.identity import patch_id, run_id
from mi_sweeps.jobs.finetune import check_identity
from mi_sweeps.store.endings import Busy
from mi_sweeps.store.folders import PatchFolder, RunFolder, run_folder
from mi_sweeps.store.status import Status


def patch(
    config: Config,
    run: RunFolder,
    folder: PatchFolder,
    *,
    part: int = 0,
    parts: int = 1,
    on_step: Callable[[int], None] = lambda step: None,
) -> None:
    """Does a patch job, or one part of it, unless it is already done.

    Args:
        part: index among `parts`, which share out the checkpoints. The part that makes the last table ends the job.
        on_step: called with the number of checkpoints done.

    Raises:
        Busy: another process is working on it.
        UserError: its fine-tune is not done, or none of its steps has a checkpoint.
        Exception: it failed; its folder records the error too.
    """
    trained = run.status_on_disk()
    if trained.state != "done":
        raise UserError(f"{run.path}: this fine-tune is not done; do it first: `mi-sweeps run` or jobs/finetune.py")
    run.resume.unlink(missing_ok=True)  # Left behind if the fine-tune was killed at its very end.
    mine = folder if parts == 1 else folder.part(part, parts)
    steps, tables = trained.reached(config.patch_steps[part::parts]), config.patching.tables
    if config.patch_steps and set(config.patch_steps) <= set(trained.missing_steps):
        raise UserError(
            f"patching.steps={config.patch_steps}: this series has no usable checkpoint at any of them ({run.series} "
            "says why); give others"
        )
    with mine.claim():
        if not (mine.status_on_disk().state == "done" and folder.has(steps, tables)):
            since = mine.status_on_disk().finished
            parts_done = [part.status_on_disk() for part in folder.all_parts()] if parts == 1 else []
            spent = sum(_spent(status, since) for status in parts_done)
            with mine.attempt(spent) as check:
                check_identity(config, run)
                from mi_sweeps.circuits.examine import examine
                from mi_sweeps.tracking.mirror import mirror

                done = [step for step in steps if folder.has([step], tables)]
                with mirror(config, run, folder, place=mine) as tracked:

                    def on_table(step: int, rows: list[dict]) -> None:
                        done.append(step)
                        if rows:  # Without rows only a further table was made, which the mirror does not show.
                            tracked.log(step, rows)
                        on_step(len(done))

                    examine(config, run, folder, steps, before_write=check, on_table=on_table)
    if parts > 1 and folder.has(trained.reached(config.patch_steps), tables):
        with suppress(Busy):  # Another part is ending the job.
            patch(config, run, folder)


def _spent(part: Status, since: str | None) -> float:
    """Seconds of a part that the job's own time lacks: all of them, or with `since` (when the job last ended) those of
    an attempt that began later."""
    if since is None:
        return part.seconds
    if not (part.started and part.finished and part.started > since):
        return 0.0
    return (datetime.fromisoformat(part.finished) - datetime.fromisoformat(part.started)).total_seconds()


if __name__ == "__main__":
    from mi_sweeps.jobs.app import run_app

    def one(config: Config) -> None:  # noqa: D103
        run = run_folder(config.output, run_id(config))
        patch(config, run, run.patch(patch_id(config)))

    run_app(one)
