"""Finds the checkpoints of a series: their steps, where they are, and which requested ones do not exist."""

from __future__ import annotations

import glob
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mi_sweeps import models
from mi_sweeps.config import Config, ModelConfig, SeriesConfig, SingleModel, parse
from mi_sweeps.errors import UserError
from mi_sweeps.store import hashes

PLACEHOLDER = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint of a series."""

    step: int
    name: str
    """Its folder, or its revision on the hub."""
    model: ModelConfig
    """The model of this checkpoint alone: a folder, or a hub model at a commit."""


@dataclass(frozen=True)
class Series:
    """The requested checkpoints, in order of their steps."""

    checkpoints: tuple[Checkpoint, ...]
    missing_steps: Mapping[int, str]
    """The missing steps, and why each has no checkpoint."""

    def at(self, step: int) -> Checkpoint:
        """The checkpoint of a step.

        Raises:
            UserError: the step is missing.
        """
        for checkpoint in self.checkpoints:
            if checkpoint.step == step:
                return checkpoint
        raise UserError(f"step {step}: {self.missing_steps.get(step, 'no checkpoint of this series')}")


def find(model: SeriesConfig, steps: Sequence[int] | None, seed: int = 0) -> Series:
    """Finds the checkpoints of a series.

    Args:
        steps: the requested steps; None for all.
        seed: replaces `{seed}` in the model's path or hub name.

    Raises:
        UserError: there are none, two have the same step, or the hub cannot be asked.
    """
    model = _seeded(model, seed)
    where, names, whole = _folders(model) if model.path else _revisions(model)
    matched = _matched(where, model.revision or str(model.path), names)
    asked = sorted(set(matched if steps is None else steps))
    if not whole:
        _check_known(where, matched, steps)
    if model.hub:
        from mi_sweeps.models import hub

        # Request the file lists concurrently; one by one they are slow.
        hub.files_of(model.hub, [names[matched[step]] for step in asked if step in matched])
    checkpoints, missing = [], {}
    for step in asked:
        if step not in matched:
            missing[step] = f"{where}: nothing there for step {step}"
            continue
        checkpoint = _checkpoint(model, step, matched[step], names)
        if why := _unusable(checkpoint):
            missing[step] = why
        else:
            checkpoints.append(checkpoint)
    if not checkpoints:
        some = f" ({next(iter(missing.values()))})" if matched and missing else ""
        raise UserError(f"{where}: no checkpoint there{some}; check the pattern, and checkpoint.steps if you give it")
    if model.base and not any(checkpoint.model.base for checkpoint in checkpoints):
        raise UserError(f"model.base={model.base}: no checkpoint of {where} is a PEFT adapter; leave model.base out")
    return Series(tuple(checkpoints), missing)


def of(config: Config) -> Series:
    """The series of a configuration.

    Raises:
        UserError: as for `find`, or the model is not a series.
    """
    if not isinstance(config.model, SeriesConfig):
        raise UserError(f"model={config.model.name}: is a single model, not a series; give model=series")
    hashes.recall(config.output)
    return find(config.model, config.checkpoint.steps, config.seed)


def resolved(config: Config, look: Callable[[Config], Series] = of) -> Config:
    """The configuration, with the steps of a series filled in if it names none.

    Args:
        look: finds the series of a configuration.

    Raises:
        UserError: as for `find`, or other keys do not fit these steps.
    """
    if not isinstance(config.model, SeriesConfig) or config.checkpoint.steps is not None:
        return config
    hashes.recall(config.output)
    steps = [checkpoint.step for checkpoint in look(config).checkpoints]
    values = config.dump()
    return parse({**values, "checkpoint": {**values["checkpoint"], "steps": steps}})


def single(config: Config) -> SingleModel:
    """The model of a configuration; for a series, the model of its first checkpoint.

    Raises:
        UserError: as for `find`.
    """
    return of(config).checkpoints[0].model if isinstance(config.model, SeriesConfig) else config.model


def _seeded(model: SeriesConfig, seed: int) -> SeriesConfig:
    hub = model.hub and model.hub.replace("{seed}", str(seed))
    path = model.path and Path(str(model.path).replace("{seed}", str(seed)))
    return model.model_copy(update={"hub": hub, "path": path})


def _folders(model: SeriesConfig) -> tuple[str, dict[str, str], bool]:
    """The place for messages, the folders that match the pattern, and whether the list is complete."""
    pattern = str(model.path)
    parts = PLACEHOLDER.split(pattern)
    wild = "*".join(glob.escape(text) for text in parts[::2])
    return f"model.path={pattern}", {name: name for name in glob.glob(wild) if Path(name).is_dir()}, True


def _revisions(model: SeriesConfig) -> tuple[str, dict[str, str], bool]:
    """As `_folders`, for the hub: revisions and their commits."""
    from mi_sweeps.models import hub

    assert model.hub is not None
    return f"model.hub={model.hub} model.revision={model.revision}", *hub.refs(model.hub)


def _check_known(where: str, matched: Mapping[int, str], steps: Sequence[int] | None) -> None:
    """Checks the steps when only the cache could be read: one that it lacks is not missing, as the hub may have it.

    Raises:
        UserError: the cache lacks a requested step, or all steps are requested.
    """
    unknown = sorted(set(steps or ()) - matched.keys())
    if unknown or steps is None:
        what = f"whether there is a step {unknown[0]}" if unknown else "which checkpoints there are"
        there = f", of which the cache has {', '.join(map(str, sorted(matched)))}" if matched else ""
        raise UserError(
            f"{where}: the hub does not answer, so it is unknown {what}; try again with a network connection, or "
            f"give checkpoint.steps{there}"
        )


def _matched(where: str, pattern: str, names: Mapping[str, str]) -> dict[int, str]:
    """The names that match a pattern, by step."""
    parts = PLACEHOLDER.split(pattern)
    wild = [r"(\d+)" if name == "step" else "[^/]+" for name in parts[1::2]]
    regex = re.compile("".join(re.escape(text) + one for text, one in zip(parts[::2], [*wild, ""], strict=True)))
    found: dict[int, str] = {}
    for name in sorted(names):
        if fits := regex.fullmatch(name):
            step = int(fits[1])
            if step in found:
                raise UserError(f"{where}: {found[step]} and {name} are both step {step}; give a narrower pattern")
            found[step] = name
    return found


def _checkpoint(series: SeriesConfig, step: int, name: str, names: Mapping[str, str]) -> Checkpoint:
    same = {"name": series.name, "tokenizer": series.tokenizer, "base": series.base, "prepend_bos": series.prepend_bos}
    if series.path and not (Path(name) / models.ADAPTER).is_file():
        same["base"] = None  # The base itself is often saved before the first adapter.
    place = {"hub": None, "revision": None, "path": name} if series.path else {"hub": series.hub, "path": None}
    if series.hub:
        place["revision"] = names[name]
    return Checkpoint(step, name, ModelConfig.model_validate({**same, **place}))


def _unusable(checkpoint: Checkpoint) -> str | None:
    """Why a folder or revision is not a checkpoint, judged by file names; None if it is one."""
    model = checkpoint.model
    if model.hub:
        from mi_sweeps.models import hub

        files = hub.files(model.hub, str(model.revision))
        if models.ADAPTER in files or ("config.json" in files and hub.weights_of(files)):
            return None
        return f"{model.hub}@{checkpoint.name}: no {'weights' if 'config.json' in files else 'config.json'} there"
    try:
        path = models.folder(model)
        if path and (why := models.no_weights(path)):
            return f"{path}: {why}"
    except UserError as error:
        return str(error)
    return None
