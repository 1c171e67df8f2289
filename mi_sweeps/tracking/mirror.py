"""One wandb run for each run id, written by its fine-tune and its patch jobs alike.

Everything is logged against an own `checkpoint` axis: wandb's step is shifted when offline attempts are joined. Any
failure of wandb is a warning; the run goes on without it. A signal to a job reaches wandb's own process too, which dies
of it at once: then the mirror goes on in a new attempt.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Literal

import numpy as np

from mi_sweeps.config import Config
from mi_sweeps.store.folders import Diverged, Folder

log = logging.getLogger(__name__)

INIT_SECONDS = 30.0
"""How long an unreachable server may hold up a run."""
FLUSH_SECONDS = 1.0
"""How much of an offline attempt a kill may take along. With wandb's own 15 s, early kills leave nothing."""
PIXELS = 24
"""Side of one head in a heatmap image."""


class Mirror:
    """Logs to a wandb run, or to nothing.

    It begins when there is something to log: an attempt without points would only overwrite wandb's summary of the run.
    """

    def __init__(self, begin: Callable[[], Any | None], corruption: str) -> None:
        self._begin = begin
        self._begun = False
        self._run: Any | None = None
        self._corruption = corruption

    def log_metrics(self, step: int, metrics: Sequence[dict[str, Any]]) -> None:
        """Metrics of a checkpoint as SPLIT/METRIC."""
        self._log(step, lambda: {f"{row['split']}/{row['metric']}": row["value"] for row in metrics})

    def log_tables(self, step: int, rows: Sequence[dict[str, Any]]) -> None:
        """Per-layer logit differences as CORRUPTION/attn_LAYER, and a heatmap of each head site."""
        self._log(step, lambda: self._tables(rows))

    def _tables(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for row in rows:
            if row["kind"] == "layer":
                name = row["component"] if row["layer"] is None else f"{row['component']}_{row['layer']}"
                values[f"{self._corruption}/logit_diff/{name}"] = row["logit_diff"]
        return values | self._heatmaps(rows)

    def _heatmaps(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        sites: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            if row["kind"] == "patch" and row["head"] is not None and row["patched"] is not None:
                sites.setdefault(row["site"], []).append(row)
        try:
            import wandb

            return {
                f"{self._corruption}/heads/{site}": wandb.Image(heatmap(chosen), caption="layer down, head across")
                for site, chosen in sites.items()
            }
        except Exception as error:  # wandb raises many kinds, and none may fail a run.
            log.warning("wandb: no heatmaps (%s)", error)
            return {}

    def _log(self, step: int, values: Callable[[], dict[str, Any]]) -> None:
        if not self._begun:
            self._begun, self._run = True, self._begin()
        for again in (True, False):
            if self._run is None:
                return
            try:
                # Made anew for each try: a picture belongs to the attempt that it was logged to.
                self._run.log({"checkpoint": step, **values()})
                return
            except Exception as error:  # As above.
                what = "the mirror goes on in a new attempt" if again else "nor is anything after it"
                log.warning("wandb: step %d is not mirrored (%s); %s", step, error, what)
                _forget()
                self._run = self._begin() if again else None

    def finish(self, exit_code: int) -> None:
        """Ends the wandb run; nothing may be logged after it."""
        if self._run is None:
            return
        try:
            self._run.finish(exit_code=exit_code)
        except Exception as error:  # As above.
            log.warning("wandb: not finished (%s)", error)
            _forget()


@contextmanager
def mirror(config: Config, run_id: str, folder: Folder, job_type: Literal["finetune", "patch"]) -> Iterator[Mirror]:
    """The wandb run of a run id, resumed if it exists; one that logs nothing if tracking is off or wandb fails.

    Args:
        folder: where wandb's own files go; each job has one of its own, so that two may write at once.
    """
    tracked = config.tracking.mode != "disabled"
    begin = partial(_init, config, run_id, folder, job_type) if tracked else lambda: None
    mirrored = Mirror(begin, config.corruption.name)
    try:
        yield mirrored
    except Diverged:  # A result.
        mirrored.finish(exit_code=0)
        raise
    except BaseException:
        mirrored.finish(exit_code=1)
        raise
    mirrored.finish(exit_code=0)


def _init(config: Config, run_id: str, folder: Folder, job_type: str) -> Any | None:
    try:
        import wandb

        run = wandb.init(
            id=run_id,
            resume="allow",
            mode=config.tracking.mode,
            project=config.tracking.project,
            entity=config.tracking.entity,
            dir=str(folder.path),
            group=config.sweep.name,
            job_type=job_type,
            name=f"{config.model.name} {config.schedule.name} lr={config.optim.lr:g} seed={config.seed}",
            config=_config(config),
            reinit="create_new",
            settings=wandb.Settings(
                console="off",
                silent=True,
                init_timeout=INIT_SECONDS,
                x_disable_stats=True,
                x_disable_machine_info=True,
                disable_git=True,
                disable_code=True,
                x_transaction_log_flush_interval=FLUSH_SECONDS,
            ),
        )
        run.define_metric("checkpoint", hidden=True)
        run.define_metric("*", step_metric="checkpoint")
        return run
    except Exception as error:  # Whatever wandb raises: the run goes on.
        log.warning(
            "wandb: not mirrored (%s: %s)", type(error).__name__, str(error).splitlines()[0] if str(error) else ""
        )
        _forget()
        return None


def _config(config: Config) -> dict[str, Any]:
    values = config.dump()
    flat = {"lr": config.optim.lr, "schedule": config.schedule.name, "seed": config.seed, "model": config.model.name}
    # The corruption is the patch jobs', and one wandb run shows all of them.
    kept = ("task", "optim", "train", "checkpoint")
    return {**flat, **{key: values[key] for key in kept}}


def _forget() -> None:
    """Lets go of a wandb process that is gone, so that the next job of this process starts another one."""
    with suppress(Exception):  # It raises what was raised before.
        import wandb

        wandb.teardown()


def heatmap(rows: Sequence[dict[str, Any]]) -> np.ndarray:
    """The recovered fraction of each head as pixels, [layer * PIXELS, head * PIXELS, 3]; white is 0, red is 1 and
    blue -1. Colour-mapping an array costs a hundredth of drawing a figure."""
    from matplotlib import colormaps

    values = np.zeros((1 + max(row["layer"] for row in rows), 1 + max(row["head"] for row in rows)))
    for row in rows:
        gap = row["clean"] - row["corrupted"]
        values[row["layer"], row["head"]] = (row["patched"] - row["corrupted"]) / gap if gap else 0.0
    colours = colormaps["RdBu_r"]((np.clip(values, -1, 1) + 1) / 2)[..., :3]
    return np.kron((colours * 255).astype(np.uint8), np.ones((PIXELS, PIXELS, 1), dtype=np.uint8))
