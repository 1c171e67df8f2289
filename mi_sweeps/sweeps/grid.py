"""From Hydra overrides to the cells of a grid.

Overrides take Hydra's sweep grammar: `seed=0,1,2`, `seed=range(0,5)`, `schedule=glob(*)`. `sweep=NAME` brings the
overrides of conf/sweep/NAME.yaml; those on the command line take their places.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mi_sweeps.config import Config, parse, resolve
from mi_sweeps.errors import UserError
from mi_sweeps.store import identity
from mi_sweeps.sweeps.cells import Cell
from mi_sweeps.sweeps.values import put

CONFIG = "config"

REFERENCE = re.compile(r"\$\{([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)\}")
"""A value that is another one: `${train.steps}`."""

ONE_FOR_A_SWEEP = ("output", "launcher", "tracking", "sweep", "patching.steps")
"""Keys that are part of no identity."""

ANY_KEYS = re.compile(r"launcher\.(\w+\.)?sbatch[.=]")
"""What is below takes any key; Hydra wants new ones to be marked."""


def expand(overrides: Sequence[str], config_dir: Path | None = None) -> list[Cell]:
    """Every cell of the grid that the overrides span; each once, in the grid's order.

    Args:
        config_dir: a folder of the user's own configuration, searched before ours.

    Raises:
        UserError: an override is wrong, or the grid is empty.
    """
    with _hydra(config_dir) as loader:
        axes = _axes(overrides, loader)
        swept = [key for key, values in axes.items() if len(values) > 1]
        for key in swept:
            if {key.lstrip("+"), key.lstrip("+").split(".")[0]} & set(ONE_FOR_A_SWEEP):
                raise UserError(
                    f"{key}={','.join(axes[key])}: changes no result, so it cannot be swept; give one value"
                )
        # Composing costs a tenth of a second, so it is done once for each choice of the rest; these values (lr, seed,
        # ...) are set in copies of the result.
        single = _single(axes, loader)
        composed: dict[tuple[str, ...], Composed] = {}
        contents = identity.Contents()
        cells: dict[str, Cell] = {}
        for combination in itertools.product(*axes.values()):
            chosen = dict(zip(axes, combination, strict=True))
            lines = {key: f"{key}={value}" for key, value in chosen.items()}
            fixed = tuple(line for key, line in lines.items() if key not in single)
            if fixed not in composed:
                # All are given: Hydra says which key is wrong.
                composed[fixed] = _compose(list(lines.values()))
            config = _cell(composed[fixed], [_parsed(lines[key]) for key in single])
            run_id = identity.run_id(config, contents)
            patch_id = identity.patch_id(config, run_id)
            if patch_id not in cells:
                cells[patch_id] = Cell(config.dump(), {key: chosen[key] for key in swept}, run_id, patch_id)
    return list(cells.values())


@contextmanager
def _hydra(config_dir: Path | None) -> Iterator[ConfigLoader]:
    if config_dir is not None and not config_dir.is_dir():
        raise UserError(f"--config-dir {config_dir}: no such folder")
    GlobalHydra.instance().clear()
    try:
        with initialize_config_module("mi_sweeps.conf", version_base="1.3"):
            hydra = GlobalHydra.instance().hydra
            assert hydra is not None
            if config_dir is not None:
                search_path = hydra.config_loader.get_search_path()
                search_path.prepend("user", f"file://{config_dir.resolve()}")
                # The compose API knows no second folder, and globs must see it too.
                hydra.config_loader.repository.initialize_sources(search_path)  # type: ignore[attr-defined]
            yield hydra.config_loader
    except UserError:
        raise
    except MissingConfigException as error:
        raise UserError(_no_such_choice(error)) from None
    except OverrideParseException as error:
        raise UserError(
            f"{error.override}: cannot be read as KEY=VALUE ({str(error).splitlines()[0]}); see Hydra's grammar"
        ) from None
    except (HydraException, OmegaConfBaseException) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        if lines and lines[0].startswith("Could not override '"):
            key = lines[0].split("'")[1]
            raise UserError(f"{key}: no such key; `mi-sweeps plan --config` prints all of them") from None
        raise UserError(f"configuration: {' '.join(lines)}") from None


def _no_such_choice(error: MissingConfigException) -> str:
    message = str(error)
    options = [line.strip() for line in message.splitlines() if line.startswith("\t")]
    missing = str(error.missing_cfg_file or "")
    group, _, name = missing.rpartition("/")
    shown = ", ".join(option for option in options if "=" not in option)
    return (
        f"{group}={name}: no such choice; there are: {shown}" if shown else f"{group or name}: no such group; see conf/"
    )


def _axes(overrides: Sequence[str], loader: ConfigLoader) -> dict[str, list[str]]:
    """For each key its values; first those of the named sweep, then the command line's."""
    parser = OverridesParser.create(config_loader=loader)
    given = parser.parse_overrides([f"++{word}" if ANY_KEYS.match(word) else word for word in overrides])
    named = [override for override in given if override.get_key_element() == "sweep"]
    axes: dict[str, list[str]] = {}
    if named:
        if named[-1].is_sweep_override():
            raise UserError(f"{named[-1].input_line}: give one named sweep")
        grid = compose(CONFIG, [f"sweep={named[-1].get_value_element_as_str()}"]).sweep.grid
        entries = OmegaConf.to_container(grid, resolve=False)
        assert isinstance(entries, dict)
        lines = [f"{key!s}={value}" for key, value in entries.items()]
        for override in parser.parse_overrides(lines):
            axes[override.get_key_element()] = _values(override)
    for override in given:
        axes[override.get_key_element()] = _values(override)
    return axes


def _values(override: Override) -> list[str]:
    if not override.is_sweep_override():
        return [override.get_value_element_as_str()]
    if not override.is_discrete_sweep():
        raise UserError(f"{override.input_line}: a grid needs values, not an interval; use range(…) or a list")
    values = list(override.sweep_string_iterator())
    if not values:
        raise UserError(
            f"{override.input_line}: the grid is empty, because this gives no value; use for example range(0,3)"
        )
    return values


@cache
def _parser() -> OverridesParser:
    return OverridesParser.create()


@cache
def _parsed(text: str) -> Override:
    """An override; parsing one takes a tenth of a millisecond, and a grid has the same ones in many cells."""
    return _parser().parse_override(text)


def _single(axes: Mapping[str, Sequence[str]], loader: ConfigLoader) -> list[str]:
    """The swept keys whose value takes the place of another and touches nothing else.

    A group's choice brings values of its own, a dictionary is merged, and of two overrides of which one lies below the
    other the order matters: those are left to Hydra.
    """
    parsed = {key: [_parsed(f"{key}={value}") for value in values] for key, values in axes.items()}
    paths = {
        key: override.key_or_group.split(".")
        for key, (override, *_) in parsed.items()
        if override.package is None and not loader.get_group_options(override.key_or_group)
    }

    def alone(key: str) -> bool:
        return not any(_overlap(paths[key], path) for other, path in paths.items() if other != key)

    return [
        key
        for key in paths
        if len(parsed[key]) > 1
        and alone(key)
        and not any(isinstance(override.value(), dict) for override in parsed[key])
    ]


def _overlap(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether one path leads to the other, or both to the same place."""
    return all(part == its for part, its in zip(one, other, strict=False))


@dataclass(frozen=True)
class Composed:
    """What Hydra makes of some overrides."""

    config: DictConfig
    values: dict[str, Any]
    """The same as plain values, `${...}` unresolved."""


def _compose(lines: list[str]) -> Composed:
    config = compose(CONFIG, lines)
    values = OmegaConf.to_container(config, resolve=False)
    assert isinstance(values, dict)
    return Composed(config, values)  # type: ignore[arg-type]


def _cell(composed: Composed, overrides: Sequence[Override]) -> Config:
    """The configuration with other single values, as Hydra would compose it."""
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
    """Whether a value refers to another (`${...}`) or is still to be given (`???`)."""
    if isinstance(value, dict):
        return any(map(_waits, value.values()))
    if isinstance(value, list):
        return any(map(_waits, value))
    return isinstance(value, str) and ("${" in value or value == "???")


def _followed(value: Any, values: Mapping[str, Any]) -> Any:
    """A value with what it refers to in the place of plain references; others are left to OmegaConf, which is slow."""
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
