"""From Hydra overrides to the cells of a grid.

Overrides take Hydra's sweep grammar: `seed=0,1,2`, `seed=range(0,5)`, `schedule=glob(*)`. `sweep=NAME` brings the
overrides of conf/sweep/NAME.yaml; those on the command line take their places.
"""

from __future__ import annotations

import itertools
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
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mi_sweeps.config import Config, parse
from mi_sweeps.errors import UserError
from mi_sweeps.store import identity

CONFIG = "config"

ONE_FOR_A_SWEEP = ("output", "launcher", "tracking", "sweep", "patching.steps")
"""Keys that are part of no identity."""


@dataclass(frozen=True)
class Cell:
    """One point of a grid: a run, and one patch job on it."""

    config: Config
    choices: Mapping[str, str]
    """The values that the grid gave this cell, by key."""
    run_id: str
    """The fine-tune that this cell looks at; cells that differ only in how they patch share it."""
    patch_id: str
    """The patch job."""

    @property
    def label(self) -> str:
        """The choices as a user would type them."""
        return " ".join(f"{key}={value}" for key, value in self.choices.items()) or "(defaults)"


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
            if key in ONE_FOR_A_SWEEP or key.split(".")[0] in ONE_FOR_A_SWEEP:
                raise UserError(
                    f"{key}={','.join(axes[key])}: changes no result, so it cannot be swept; give one value"
                )
        single = [key for key in swept if not loader.get_group_options(key)]
        composed: dict[tuple[str, ...], dict[str, Any]] = {}
        cells: dict[str, Cell] = {}
        for combination in itertools.product(*axes.values()):
            chosen = dict(zip(axes, combination, strict=True))
            # Composing costs a tenth of a second, so it is done once for each choice of groups; single values that
            # are swept (lr, seed, ...) are set in copies of the result.
            values = {key: chosen[key] for key in single}
            fixed = tuple(f"{key}={value}" for key, value in chosen.items() if key not in values)
            if fixed not in composed:
                composed[fixed] = _compose(fixed, values)
            config = _with_values(composed[fixed], values)
            choices = {key: chosen[key] for key in swept}
            cell = Cell(config, choices, identity.run_id(config), identity.patch_id(config))
            cells.setdefault(cell.patch_id, cell)
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
    given = parser.parse_overrides([*overrides])
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


def _compose(fixed: Sequence[str], values: Mapping[str, str]) -> dict[str, Any]:
    # The values are given too: Hydra says which key is wrong.
    composed = compose(CONFIG, [*fixed, *(f"{key}={value}" for key, value in values.items())])
    container = OmegaConf.to_container(composed, resolve=False)
    assert isinstance(container, dict)
    return container  # type: ignore[return-value]


@cache
def _parsed(text: str) -> Override:
    """An override; parsing one takes milliseconds, and a grid has the same ones in many cells."""
    return OverridesParser.create().parse_override(text)


def _with_values(container: dict[str, Any], values: Mapping[str, str]) -> Config:
    changed = OmegaConf.create(container)
    for key, value in values.items():
        override = _parsed(f"{key}={value}")
        # As Hydra does it: dictionaries are merged.
        OmegaConf.update(changed, override.key_or_group, override.value(), merge=True, force_add=True)
    return parse(changed)
