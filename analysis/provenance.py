"""Where runs came from, for the report's page: configuration, audit of the prompts, log, and wandb run."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..errors import UserError
from ..store import checksums
from ..store.files import read_json
from . import configs
from .folder import Json, OutputFolder, RunRecord

WANDB = "https://wandb.ai"


def configurations(runs: Sequence[RunRecord]) -> Json:
    """The configurations of runs with versions and the model found, each value stored once.

    `same` has the values that all started runs share, by dotted key. `differs` has the other keys: their distinct
    `values`, and in `of` the index for each run, null if it has none. `factors` are keys that a sweep may have varied:
    those that change a result and do not follow from another key.
    """
    every = [_about(run) for run in runs]
    started = [about for about in every if about]
    same: Json = {}
    differs: Json = {}
    for key in dict.fromkeys(key for about in started for key in about):
        values = {_text(about[key]): about[key] for about in started if key in about}
        if len(values) == 1 and all(key in about for about in started):
            same[key] = next(iter(values.values()))
        else:
            numbers = {text: number for number, text in enumerate(values)}
            of = [numbers[_text(about[key])] if key in about else None for about in every]
            differs[key] = {"values": list(values.values()), "of": of}
    factors = configs.factors([configs.of_run(run.config, run.contents) for run in runs if run.config])
    return {"same": same, "differs": differs, "factors": factors}


def _about(run: RunRecord) -> Json:
    if not run.config:
        return {}
    # `model` in the configuration is what was requested; this is what was found.
    found = {"model_found": run.about.get("model") or {}, "versions": run.about.get("versions") or {}}
    every = configs.flatten(configs.of_run(run.config, run.contents) | found)
    return {key: _finite(value) for key, value in every.items()}


def _finite(value: Any) -> Any:
    """Non-finite numbers as text, which JSON lacks."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def audits(runs: Iterable[RunRecord]) -> list[Json]:
    """The audits of prompts, each once with the indices of its `runs`."""
    found: dict[bytes, Json] = {}
    for number, run in enumerate(runs):
        try:
            text = (run.path / "audit.json").read_bytes()
            about = found[text] if text in found else {"audit": _prompts(text), "runs": []}
        except (OSError, ValueError, AttributeError):  # missing, damaged, or not an object
            continue
        found.setdefault(text, about)["runs"].append(number)
    return list(found.values())


def _prompts(text: bytes) -> Json:
    audit = checksums.parse(text, parse_constant=str)
    return {key: value for key, value in audit.items() if key != "names"}


def links(output: OutputFolder, beside: Path) -> Json:
    """Links to each run's `log`, `error` and `wandb` from a page in the folder `beside`; None if there is none."""
    try:
        root = quote(Path(os.path.relpath(output.path.absolute(), beside.absolute())).as_posix())
    except ValueError:  # another drive
        root = quote(output.path.absolute().as_posix())

    def file(run: RunRecord, name: str) -> str | None:
        return f"{root}/runs/{quote(run.run_id)}/{name}" if (run.path / name).exists() else None

    return {
        "log": [file(run, "log.txt") for run in output.runs],
        "error": [file(run, "error.txt") for run in output.runs],
        "wandb": [wandb(run) for run in output.runs],
    }


def wandb(run: RunRecord) -> str | None:
    """The address of a run in wandb: as noted when it was sent, or else built for runs that were online or uploaded and
    name their entity."""
    with suppress(OSError, UserError, AttributeError):
        url = (read_json(run.path / "wandb.json") or {}).get("url")
        if str(url).startswith(("https://", "http://")):
            return str(url)
    asked = [about.get("config", {}).get("tracking", {}) for about in (run.about, *(p.about for p in run.patches))]
    tracking = next((one for one in asked if one.get("mode", "disabled") != "disabled" and one.get("entity")), None)
    if tracking is None or not any(_is_there(folder) for folder in (run.path, *(patch.path for patch in run.patches))):
        return None
    server = os.environ.get("WANDB_BASE_URL", WANDB).replace("https://api.wandb.ai", WANDB).rstrip("/")
    entity, project = (quote(tracking[key], safe="") for key in ("entity", "project"))
    return f"{server}/{entity}/{project}/runs/{quote(run.run_id)}"


def _is_there(folder: Path) -> bool:
    """Whether an attempt was online or uploaded without an error (`mi-sweeps sync` marks failures)."""
    online = any(folder.glob("wandb/run-*/*.wandb"))
    uploaded = (mark.with_suffix(".uploading") for mark in folder.glob("wandb/offline-run-*/*.wandb.synced"))
    return online or any(not mark.exists() for mark in uploaded)
