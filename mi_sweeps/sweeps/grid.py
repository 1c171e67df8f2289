"""From Hydra overrides to grid points.

Overrides use Hydra's sweep grammar: `seed=0,1,2`, `seed=range(0,5)`, `schedule=glob(*)`. `sweep=NAME` adds the
overrides of conf/sweep/NAME.yaml; those on the command line replace them.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mi_sweeps import identity
from mi_sweeps.config import Config, parse, resolve
from mi_sweeps.errors import UserError
from mi_sweeps.series import checkpoints
from mi_sweeps.sweeps import axes as axes_of
from mi_sweeps.sweeps import other_tasks, source
from mi_sweeps.sweeps.axes import parsed_override
from mi_sweeps.sweeps.points import GridPoint
from mi_sweeps.sweeps.values import differences, put

REFERENCE = re.compile(r"\$\{([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)\}")
"""A value that refers to another: `${train.steps}`."""

ONE_FOR_A_SWEEP = ("output", "launcher", "tracking", "sweep", "patching.steps")
"""Keys that are in no identity, and so cannot be swept."""


def expand(overrides: Sequence[str], config_dir: Path | None = None) -> list[GridPoint]:
    """Returns every point of the grid that the overrides span, each once, in the grid's order.

    Args:
        config_dir: a folder of the user's own configuration, searched before ours.

    Raises:
        UserError: an override is wrong, or the grid is empty.
    """
    with source.opened(config_dir) as loader:
        axes, grid = axes_of.read(overrides, loader, config_dir)
        swept = [key for key, values in axes.items() if len(values) > 1]
        for key in swept:
            bare = key.lstrip(axes_of.PREFIXES)
            if {bare, bare.split(".")[0]} & set(ONE_FOR_A_SWEEP):
                raise UserError(
                    f"{key}={','.join(axes[key])}: changes no result, so it cannot be swept; give one value"
                )
        # Composing takes 0.1 s. Plain values (lr, seed, ...) are therefore set in copies, and Hydra composes only once
        # for each combination of the other keys.
        plain = _plain(axes, loader)
        single = [key for key in plain if len(axes[key]) > 1]
        composed: dict[tuple[str, ...], Composed] = {}
        contents = identity.HashedContents()
        points: dict[str, GridPoint] = {}
        sections: dict[str, Any] = {}
        asked: dict[str, None] = {}
        first: Config | None = None
        twins: dict[tuple[str, str], str] = {}
        for combination in itertools.product(*axes.values()):
            chosen = dict(zip(axes, combination, strict=True))
            lines = {key: f"{key}={value}" for key, value in chosen.items()}
            fixed = tuple(line for key, line in lines.items() if key not in single)
            if fixed not in composed:
                try:
                    composed[fixed] = _compose(lines, plain)
                except HydraException as error:
                    raise _not_in_this_choice(error, chosen, swept) from None
                _check_grid(composed[fixed], grid)
            config = _point(composed[fixed], [parsed_override(lines[key]) for key in single])
            config = checkpoints.resolved(config, contents.series_of)
            first = first or config
            _check_one_for_a_sweep(first, config)
            own, *others = other_tasks.patch_jobs(config, contents, sections)
            run_id = identity.run_id(config, contents)
            patch_id = identity.patch_id(own, run_id, contents)
            choices = {key: chosen[key] for key in swept}
            if patch_id not in points:
                points[patch_id] = GridPoint(own.dump(), choices, run_id, patch_id)
            else:
                for key, value in points[patch_id].choices.items():
                    twins.setdefault((key, chosen[key]), value)
            asked[patch_id] = None
            for other in others:
                patch_id = identity.patch_id(other, run_id, contents)
                points.setdefault(
                    patch_id, GridPoint(other.dump(), other_tasks.choices(choices, other), run_id, patch_id)
                )
    _check_every_value({key: axes[key] for key in swept}, [points[patch_id] for patch_id in asked], twins)
    return list(points.values())


def _not_in_this_choice(error: HydraException, chosen: Mapping[str, str], swept: Sequence[str]) -> Exception:
    """Returns the error; if a group's choice lacks the key, one that names the choice."""
    key = source.unknown_key(error)
    group, _, below = (key or "").partition(".")
    if not below or group not in chosen:
        return error
    others = "if other choices have it, run those separately, with the same sweep.name"
    todo = others if group in swept else "`mi-sweeps plan --config` without it prints all keys"
    return UserError(f"{key}: {group}={chosen[group]} has no such key; {todo}")


def _check_grid(composed: Composed, grid: Mapping[str, Any]) -> None:
    """Checks that the configuration has the grid that is being expanded.

    Raises:
        UserError: an experiment file or a key on the command line sets another grid, which would be ignored.
    """
    section = composed.values.get("sweep")
    # A missing or malformed section is reported when the configuration is parsed.
    if isinstance(section, dict) and "grid" in section and section["grid"] != grid:
        raise UserError("sweep.grid: only the grid of a sweep named on the command line is run; give sweep=NAME")


def _check_one_for_a_sweep(first: Config, config: Config) -> None:
    """Checks that two points agree in the keys that a whole sweep shares.

    Raises:
        UserError: they differ in the output folder, the sweep's name, the launcher or the tracking.
    """
    if (config.output, config.sweep.name, config.launcher, config.tracking) == (
        *(first.output, first.sweep.name, first.launcher, first.tracking),
    ):
        return
    ours, theirs = ({**one.dump(), "sweep": {"name": one.sweep.name}} for one in (first, config))
    for section in ("output", "sweep", "launcher", "tracking"):
        for key, value in differences({section: ours[section]}, {section: theirs[section]}).items():
            before: Any = ours
            for part in key.split("."):
                before = before[part]
            raise UserError(
                f"{key}: {before} in one grid point and {value} in another, but a sweep has only one; "
                f"do not let it depend on a swept key"
            )


def _check_every_value(
    axes: Mapping[str, Sequence[str]], points: Sequence[GridPoint], twins: Mapping[tuple[str, str], str]
) -> None:
    """Checks that every swept value has a point.

    Args:
        twins: for each key and value whose point equals an earlier one, the value of that key in the earlier one.

    Raises:
        UserError: some value changes nothing.
    """
    for key, values in axes.items():
        kept = {point.choices[key] for point in points}
        known = [parsed_override(f"{key}={value}").value() for value in kept]
        for value in dict.fromkeys(values):
            if value not in kept and parsed_override(f"{key}={value}").value() not in known:
                raise UserError(
                    f"{key}={value}: computes the same as {key}={twins[key, value]}, so it would have no grid point of "
                    "its own; give only one of them"
                )


def _plain(axes: Mapping[str, Sequence[str]], loader: ConfigLoader) -> list[str]:
    """Returns the keys whose value replaces one plain value and touches nothing else.

    The others are left to Hydra: choices of a group, which set many values; dictionaries, which are merged; and
    overrides of which one lies below another, because their order matters.
    """
    parsed = {key: [parsed_override(f"{key}={value}") for value in values] for key, values in axes.items()}
    paths = {
        key: override.key_or_group.split(".")
        for key, (override, *_) in parsed.items()
        if override.package is None
        and (
            not source.choices_of(override.key_or_group, loader)
            or any(isinstance(other.value(), dict) for other in parsed[key])
        )
    }

    def alone(key: str) -> bool:
        return not any(_overlap(paths[key], path) for other, path in paths.items() if other != key)

    return [
        key for key in paths if alone(key) and not any(isinstance(override.value(), dict) for override in parsed[key])
    ]


def _overlap(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether one path is a prefix of the other, or they are equal."""
    return all(part == its for part, its in zip(one, other, strict=False))


@dataclass(frozen=True)
class Composed:
    """A configuration that Hydra composed."""

    config: DictConfig
    values: dict[str, Any]
    """The same as plain values, `${...}` unresolved."""


def _compose(lines: Mapping[str, str], plain: Sequence[str]) -> Composed:
    """Composes a configuration from overrides by their keys, of which some set plain values.

    Raises:
        HydraException: Hydra finds an error. It is given all overrides, so that it can say which one is wrong.
    """
    return _shared(lines, plain) or _all(list(lines.values()))


def _shared(lines: Mapping[str, str], plain: Sequence[str]) -> Composed | None:
    """Sets plain values in a configuration that Hydra composes once for all calls that have the others in common.

    Returns:
        None: a key is new or marked with + or ~, something is wrong, or the user's own files may have changed.
    """
    if not source.only_ours():
        return None
    try:
        values = _all([line for key, line in lines.items() if key not in plain]).values
        for key in plain:
            if not _has(values, path := key.split(".")):
                return None
            values = put(values, path, parsed_override(lines[key]).value())
        return Composed(OmegaConf.create(values), values)
    except (UserError, HydraException, OmegaConfBaseException):
        return None


def _has(values: Any, path: Sequence[str]) -> bool:
    return not path or isinstance(values, dict) and path[0] in values and _has(values[path[0]], path[1:])


def _all(lines: list[str]) -> Composed:
    config = source.compose(lines)
    values = OmegaConf.to_container(config, resolve=False)
    assert isinstance(values, dict)
    return Composed(config, values)  # type: ignore[arg-type]


def _point(composed: Composed, overrides: Sequence[Override]) -> Config:
    """Sets some plain values in a composed configuration; the result is what Hydra would compose."""
    values = composed.values
    for override in overrides:
        values = put(values, override.key_or_group.split("."), override.value())
    for name in [name for name, value in values.items() if _waits(value)]:
        values = {**values, name: _followed(values[name], values)}
    waiting = [name for name, value in values.items() if _waits(value)]
    if waiting:
        for override in overrides:
            OmegaConf.update(composed.config, override.key_or_group, override.value(), merge=False, force_add=True)
        values = {**values, **resolve(composed.config, waiting)}
    return parse(values)


def _waits(value: Any) -> bool:
    """Whether a value refers to another (`${...}`) or is missing (`???`)."""
    if isinstance(value, dict):
        return any(map(_waits, value.values()))
    if isinstance(value, list):
        return any(map(_waits, value))
    return isinstance(value, str) and ("${" in value or value == "???")


def _followed(value: Any, values: Mapping[str, Any]) -> Any:
    """Resolves plain references in a value; all others are left to OmegaConf, which is slow."""
    if isinstance(value, dict):
        return {key: _followed(item, values) for key, item in value.items()}
    if isinstance(value, list):
        return [_followed(item, values) for item in value]
    reference = REFERENCE.fullmatch(value) if isinstance(value, str) else None
    if not reference:
        return value
    found: Any = values
    for part in reference[1].split("."):
        if not isinstance(found, dict) or part not in found:
            return value
        found = found[part]
    return value if _waits(found) else found
