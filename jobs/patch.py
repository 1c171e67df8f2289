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
    """Does a patch job that is not done, or one part of it.

    Args:
        part: of `parts`, which take turns with the checkpoints. Whoever makes the last table ends the whole job.
        on_step: told the number of checkpoints that are done.

    Raises:
        Busy: another process does it.
        UserError: its fine-tune is not done, or of its series there is nothing to look at.
        Exception: it failed; its folder says so too.
    """
    trained = run.status_on_disk()
    if trained.state != "done":
        raise UserError(f"{run.path}: this fine-tune is not done; do it first: `mi-sweeps run` or jobs/finetune.py")
    run.resume.unlink(missing_ok=True)  # There still if the fine-tune was killed in its last moment.
    mine = folder if parts == 1 else folder.part(part, parts)
    steps, tables = trained.reached(config.patch_steps[part::parts]), config.patching.tables
    if config.patch_steps and set(config.patch_steps) <= set(trained.gaps):
        raise UserError(
            f"patching.steps={config.patch_steps}: all of them are gaps of this series ({run.series} says why); give "
            "others"
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
                        if rows:  # Else only a further table was made, of which the mirror shows nothing.
                            tracked.log(step, rows)
                        on_step(len(done))

                    examine(config, run, folder, steps, before_write=check, on_table=on_table)
    if parts > 1 and folder.has(trained.reached(config.patch_steps), tables):
        with suppress(Busy):  # Another part ends the job.
            patch(config, run, folder)


def _spent(part: Status, since: str | None) -> float:
    """Seconds of a part that are not in the job's own time, which has all until `since`: then its last attempt's."""
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
