"""Logs to one wandb run for each run id, shared by the fine-tune (or series) and its patch jobs.

The x-axis is our own `checkpoint`, because `wandb sync` shifts wandb's step when it joins offline attempts. Each point
updates the summary of the whole run, so that it is right whichever attempt is uploaded last. An attempt first logs the
checkpoints on disk that no earlier attempt has, because the job was killed or not mirrored before.

If wandb fails, the run goes on; there is a warning, and a note in the job's folder (`unmirrored`). A signal to a job
also reaches wandb's process, which dies at once; the mirror then continues in a new attempt. If the server does not
answer, the attempt is offline.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from mi_sweeps.config import Config, SeriesConfig
from mi_sweeps.store.endings import Diverged
from mi_sweeps.store.files import read_json, write_json
from mi_sweeps.store.folders import Folder, PatchFolder, RunFolder
from mi_sweeps.tracking import service, unmirrored, values, wandb_folders
from mi_sweeps.tracking.pictures import heatmap
from mi_sweeps.tracking.values import Row
from mi_sweeps.tracking.wandb_folders import Attempt

log = logging.getLogger(__name__)

Mode = Literal["offline", "online"]

INIT_SECONDS = 30.0
"""How long an unreachable server may delay the first point of a run."""
FINISH_SECONDS = 20.0
"""How long it may delay the end of a run; `mi-sweeps sync` uploads the rest."""
AGAIN_SECONDS = 600.0
"""How long a process waits before it tries an unreachable server again."""
FLUSH_SECONDS = 0.1
"""How much of an attempt a kill may lose. With wandb's default of 15 s, an early kill leaves an empty file."""

_unreachable = -AGAIN_SECONDS
"""When the server last failed to answer, by the monotonic clock."""


class Mirror:
    """Logs to a wandb run, or does nothing.

    The attempt begins with the first point: an empty attempt would only overwrite the run's summary in wandb.
    """

    def __init__(
        self,
        begin: Callable[[], Any | None] | None,
        run: RunFolder,
        patch: PatchFolder | None,
        corruption: str,
        place: Path,
        alone: bool = True,
    ) -> None:
        self._begin = begin or (lambda: None)
        self._tracked = begin is not None
        self._place = place
        self._alone = alone
        self._is_whole = True
        self._begun = False
        self._wandb: Any | None = None
        self._run = run
        self._patch = patch
        self._corruption = corruption
        self._heads: frozenset[values.Head] | None = None

    def log(self, step: int, rows: Sequence[Row]) -> None:
        """Logs a checkpoint: its metrics, or the rows of a patch job's table."""
        for again in (True, False):
            earlier: list[int] = []
            if not self._begun:
                earlier = [one for one in self._unseen() if one < step]
                self._begun, self._wandb = True, self._begin()
            if self._wandb is None:
                return
            try:
                for one, found in (*values.at(self._run, self._patch, earlier), (step, rows)):
                    # Made again for each try: a picture belongs to the attempt that logged it.
                    self._wandb.log({"checkpoint": one, **self._values(one, found)})
                self._wandb.summary.update(values.summary(self._run))
                return
            except Exception as error:  # wandb raises many kinds, and none may fail a run.
                what = "the mirror goes on in a new attempt" if again else "nor is anything after it"
                log.warning("wandb: step %d is not mirrored (%s); %s", step, error, what)
                if not again:
                    self._note(f"step {step}: {_line(error)}", unmirrored.TRACK)
                _forget()
                self._begun, self._wandb = not again, None

    def _unseen(self) -> list[int]:
        """Returns the checkpoints on disk that are in no attempt; none for one part of a patch job, because another
        part may have logged them."""
        try:
            on_disk = values.steps(self._run, self._patch) if self._alone else []
            return wandb_folders.missing((self._patch or self._run).path, on_disk)
        except Exception as error:  # As above.
            log.warning("wandb: no earlier checkpoints (%s)", error)
            return []

    def _was_killed(self) -> bool:
        """Whether the job's last attempt was not finished."""
        try:
            before = wandb_folders.of_job((self._patch or self._run).path)
            return bool(before) and not before[-1].is_finished
        except Exception as error:  # As above.
            log.warning("wandb: no earlier attempts (%s)", error)
            return False

    def _values(self, step: int, rows: Sequence[Row]) -> dict[str, Any]:
        if self._patch is None:
            return values.of_metrics(rows)
        return {**self._scalars(self._patch, step, rows), **self._pictures(rows)}

    def _scalars(self, patch: PatchFolder, step: int, rows: Sequence[Row]) -> dict[str, float]:
        before = self._heads
        if before is None:
            # Continues the curves of earlier attempts. If all heads have curves, no table is read.
            before = frozenset()
            for earlier in patch.steps() if values.is_large(rows) else ():
                if earlier < step:
                    before = values.shown(values.read(patch, earlier), before)
        self._heads = values.shown(rows, before)
        return values.of_table(self._corruption, rows, self._heads)

    def _pictures(self, rows: Sequence[Row]) -> dict[str, Any]:
        sites: dict[str, list[values.Head]] = {}
        for row in values.of_heads(rows):
            sites.setdefault(row["site"], []).append((row["layer"], row["head"]))
        try:
            import wandb

            return {
                f"{self._corruption}/heads/{site}": wandb.Image(
                    heatmap(heads, values.heads_of(rows, site)), caption="layer down, head across"
                )
                for site, heads in sites.items()
            }
        except Exception as error:  # As above.
            log.warning("wandb: no heatmaps (%s)", error)
            self._note(f"no heatmaps: {_line(error)}", unmirrored.AGAIN)
            return {}

    def _note(self, why: str, mended_by: str) -> None:
        self._is_whole = False
        unmirrored.note(self._place, why, mended_by)

    def finish(self, exit_code: int) -> None:
        """Finishes the attempt with the tables and conclusions of the run; log nothing after it."""
        # A job that is being stopped has little time, so its next attempt does this.
        may_begin = self._tracked and exit_code == 0
        if may_begin and not self._begun and (unseen := self._unseen()):
            # It was killed after its last checkpoint, before logging it.
            try:
                for step, rows in values.at(self._run, self._patch, unseen[-1:]):
                    self.log(step, rows)
            except Exception as error:  # As above: a table may be damaged.
                log.warning("wandb: step %d is not mirrored (%s)", unseen[-1], error)
                self._note(f"step {unseen[-1]}: {_line(error)}", unmirrored.TRACK)
        if may_begin and not self._begun and self._was_killed():
            # Nothing is left to log, but the summary is missing.
            self._begun, self._wandb = True, self._begin()
        if self._wandb is None:
            return
        try:
            summary = {**values.summary(self._run), **values.conclusions(self._run)}
            self._wandb.summary.update({**summary, **_tables(self._wandb, self._run)})
        except Exception as error:  # As above.
            log.warning("wandb: no tables and conclusions (%s)", error)
            self._note(f"no tables and conclusions: {_line(error)}", unmirrored.AGAIN)
        try:
            folder = Path(self._wandb.dir).parent
            self._wandb.finish(exit_code=exit_code)
            for attempt in wandb_folders.in_folder(folder):
                self._check_arrival(attempt)
        except TimeoutError:
            log.warning("wandb: not all was uploaded in %g s; `mi-sweeps sync` uploads the rest", FINISH_SECONDS)
            self._note(f"not all was uploaded in {FINISH_SECONDS:g} s", unmirrored.SYNC)
        except Exception as error:  # As above.
            log.warning("wandb: not finished (%s)", error)
            self._note(f"not finished: {_line(error)}", unmirrored.TRACK)
            _forget()
        if self._is_whole:  # It has logged what earlier attempts left out, too.
            unmirrored.forget(self._place, unmirrored.TRACK)

    def _check_arrival(self, attempt: Attempt) -> None:
        """Marks an online attempt as uploaded, if its log has no error."""
        if not attempt.is_online:
            return
        if errors := attempt.errors():
            log.warning("wandb: not all was uploaded (%s); `mi-sweeps sync` uploads it again", errors[-1])
            self._note(errors[-1], unmirrored.SYNC)
        else:
            attempt.ended.touch()


@contextmanager
def mirror(
    config: Config, run: RunFolder, patch: PatchFolder | None = None, *, place: Folder | None = None
) -> Iterator[Mirror]:
    """Yields a mirror to the wandb run of a run id, resumed if it exists; it does nothing if tracking is off or wandb
    fails.

    Args:
        patch: the patch job to mirror; None for the fine-tune or series.
        place: the folder for wandb's files, if not the job's own: parts that write at once need one each.
    """
    lock = wandb_folders.online_lock(run)
    own = patch or run
    folder = (place or own).path
    begin = partial(_begin, config, run, patch, folder, lock)
    tracked = config.tracking.mode != "disabled"
    alone = place is None or place.path == own.path
    mirrored = Mirror(begin if tracked else None, run, patch, config.prompts_label, folder, alone)
    try:
        yield mirrored
    except Diverged:  # A result.
        mirrored.finish(exit_code=0)
        raise
    except BaseException:
        mirrored.finish(exit_code=1)
        raise
    else:
        mirrored.finish(exit_code=0)
    finally:
        lock.release(force=True)


def _begin(config: Config, run: RunFolder, patch: PatchFolder | None, place: Path, lock: FileLock) -> Any | None:
    """Begins an attempt: online if requested and possible, otherwise offline; None if wandb fails."""
    global _unreachable
    if unmirrored.switched_off():
        log.warning("wandb: %s: not mirrored", unmirrored.OFF)
        unmirrored.note(place, unmirrored.OFF, unmirrored.TRACK)
        return None
    if config.tracking.mode == "online" and time.monotonic() - _unreachable >= AGAIN_SECONDS:
        before = set(wandb_folders.of_job(place))
        try:
            lock.acquire()
            begun = _init("online", config, run, patch, place)
            write_json(run.wandb, {"url": begun.url})
            return begun
        except Timeout:
            log.warning("wandb: another job is uploading to this run; mirrored offline, for `mi-sweeps sync`")
            unmirrored.note(place, "another job was uploading to this run", unmirrored.SYNC)
        except Exception as error:  # As above.
            log.warning("wandb: not online (%s); mirrored offline, for `mi-sweeps sync`", _line(error))
            unmirrored.note(place, f"not online: {_line(error)}", unmirrored.SYNC)
            _unreachable = time.monotonic()
            lock.release(force=True)
            _forget()
            for attempt in set(wandb_folders.of_job(place)) - before:
                shutil.rmtree(attempt.folder, ignore_errors=True)  # It never began.
    elif config.tracking.mode == "online":
        unmirrored.note(place, "not online: the server did not answer a moment before", unmirrored.SYNC)
    try:
        return _init("offline", config, run, patch, place)
    except Exception as error:  # As above.
        log.warning("wandb: not mirrored (%s)", _line(error))
        unmirrored.note(place, _line(error), unmirrored.TRACK)
        _forget()
        return None


def _init(mode: Mode, config: Config, run: RunFolder, patch: PatchFolder | None, place: Path) -> Any:
    import wandb

    service.bound()
    found = {*values.corruptions(run), *([config.prompts_label] if patch else [])}
    is_series = isinstance(config.model, SeriesConfig)
    schedule = [] if is_series else [config.schedule.name]
    settings = values.settings(config, (read_json(run.about) or {}).get("contents"))
    seed = f" seed={settings['seed']}" if "seed" in settings else ""
    tags = [config.model.name, *schedule, *sorted(found)]
    begun = wandb.init(
        id=run.run_id,
        resume="allow",
        mode=mode,
        project=config.tracking.project,
        entity=config.tracking.entity,
        dir=str(place),
        group=config.sweep.name,
        job_type="patch" if patch else "series" if is_series else "finetune",
        name=values.name(config),
        tags=[tag[:64] for tag in dict.fromkeys(tags)],  # wandb's limit.
        notes=f"sweep {config.sweep.name}, {settings['setting']}{seed}, in {run.path.absolute()}",
        config=settings,
        reinit="create_new",
        settings=wandb.Settings(
            console="off",
            silent=True,
            init_timeout=INIT_SECONDS,
            finish_timeout=FINISH_SECONDS,
            finish_timeout_raises=True,
            x_disable_stats=True,
            x_disable_machine_info=True,
            x_save_requirements=False,  # run.json has the relevant versions.
            disable_git=True,
            disable_code=True,
            x_transaction_log_flush_interval=FLUSH_SECONDS,
        ),
    )
    begun.define_metric("checkpoint", hidden=True)
    begun.define_metric("*", step_metric="checkpoint")
    return begun


def _tables(begun: Any, run: RunFolder) -> dict[str, Any]:
    """Makes tables as files of the run. `wandb.log` would also make each an artifact, which is stored outside the run's
    folder until it is uploaded, and which makes the job wait for the server."""
    import wandb

    made = {}
    for key, (columns, rows) in values.tables(run).items():
        table = wandb.Table(columns=columns, data=rows, allow_mixed_types=True)
        table.bind_to_run(begun, key, "summary")
        made[key] = table
    return made


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


def _forget() -> None:
    """Drops a dead wandb process, so that the next job starts a new one."""
    with suppress(Exception):  # It raises the earlier error again.
        import wandb

        wandb.teardown()
