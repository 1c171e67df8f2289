"""The axes of a grid: the keys of a named sweep and of the command line, with their values in Hydra's grammar."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, Quote, QuotedString
from hydra.errors import HydraException, OverrideParseException
from omegaconf import OmegaConf

from mi_sweeps import locations
from mi_sweeps.config import is_path, types_of
from mi_sweeps.errors import UserError
from mi_sweeps.sweeps import source

Axes = dict[str, list[str]]

ANY_KEYS = re.compile(r"launcher\.(\w+\.)?sbatch[.=]")
"""These sections take any key, but Hydra rejects new keys that are not marked with ++."""

PATTERN = re.compile(r"\{\w+\}")
"""A pattern in a series, such as `checkpoint-{step}`. It is text, but Hydra would read a dictionary."""

PREFIXES = "+~"
"""Hydra's marks for keys that are new, forced or deleted."""


def read(words: Sequence[str], loader: ConfigLoader, config_dir: Path | None) -> tuple[Axes, dict[str, Any]]:
    """Reads the axes: first those of the named sweep, then those of the command line, which replace them.

    Returns:
        Each key's values, and the named sweep's grid as it is in its file.

    Raises:
        UserError: a word is not KEY=VALUE, or the file is not a grid.
    """
    given: dict[str, Override] = {}
    for word in words:
        override = _override(word, loader)
        given[override.get_key_element()] = override
    grid: dict[str, Any] = {}
    axes: dict[str, Override] = {}
    if "sweep" in given:
        grid, axes = _named(given["sweep"], loader, config_dir)
    places = {known.lstrip(PREFIXES): known for known in axes}
    for key, override in given.items():
        place = places.get(key.lstrip(PREFIXES), key)
        # A key that the named sweep marked as new stays marked.
        marked = key if key[0] in PREFIXES else place
        axes = {marked if known == place else known: axes[known] for known in axes}
        axes[marked] = override
    return {key: _values(override) for key, override in axes.items()}, grid


def _named(
    sweep: Override, loader: ConfigLoader, config_dir: Path | None
) -> tuple[dict[str, Any], dict[str, Override]]:
    """Reads a named sweep's grid, as it is in its file and as overrides."""
    if sweep.is_sweep_override():
        raise UserError(f"{sweep.input_line}: give one named sweep")
    name = sweep.get_value_element_as_str()
    file = f"sweep={name}"
    if config_dir and (config_dir / "sweep" / f"{name}.yaml").exists():
        file = str(config_dir / "sweep" / f"{name}.yaml")
    grid = source.compose([f"sweep={name}"]).sweep.get("grid")
    entries: Any = OmegaConf.to_container(grid, resolve=False) if OmegaConf.is_config(grid) else grid
    if not isinstance(entries, dict):
        raise UserError(f"{file}: grid: give keys with their values, as `grid: {{seed: 0,1}}`, or {{}} for none")
    values = {str(key): value for key, value in entries.items()}
    axes: dict[str, Override | None] = {}
    for key, value in values.items():
        bare = key.lstrip(PREFIXES)
        if bare.split("@")[0] in ("sweep", "sweep.grid"):
            raise UserError(f"{file}: grid.{key}: a grid cannot name another sweep; write that sweep's keys here")
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, float) and _takes_text(bare):
                raise UserError(
                    f"{file}: grid.{key}: {item} is a number, but this key takes text; put the text in quotes"
                )
        # Lists come last: what they mean may depend on the other keys.
        axes[key] = None if isinstance(value, list) else _in_file(file, f"{key}={_written(value)}", loader)
    for key in [key for key, override in axes.items() if override is None]:
        items = values[key]
        text = _written(items)
        if not _holds_a_list(key, axes, loader):
            text = ",".join(_item(f"{file}: grid.{key}", item) for item in items)
            if not items:
                raise UserError(f"{file}: grid.{key}: this list has no values, so the grid is empty; give at least one")
        axes[key] = _in_file(file, f"{key}={text}", loader)
    return entries, {override.get_key_element(): override for override in axes.values() if override}


def _in_file(file: str, line: str, loader: ConfigLoader) -> Override:
    try:
        return _override(line, loader)
    except OverrideParseException as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{file}: grid: {line}: cannot be read as KEY=VALUE ({reason}); see Hydra's grammar") from None


def _holds_a_list(key: str, axes: Mapping[str, Override | None], loader: ConfigLoader) -> bool:
    """Whether a list in a grid is a single value, because the key takes a list, and not several values to sweep over.

    For keys whose type we do not know (arguments of a task or schedule), the default value decides; null may become a
    list.
    """
    bare = key.lstrip(PREFIXES)
    if source.choices_of(bare.split("@")[0], loader):
        return False
    if types := types_of(bare):
        return tuple in types
    lines = [f"{known}={_values(override)[0]}" for known, override in axes.items() if override]
    there: Any = OmegaConf.to_container(source.compose(lines), resolve=False)
    for part in bare.split("."):
        if not isinstance(there, dict) or part not in there:
            # Hydra reports an unknown key, unless it is marked as new.
            return key != bare
        there = there[part]
    return isinstance(there, list) or (there is None and not is_path(bare.rpartition(".")[2]))


def _item(where: str, item: Any) -> str:
    """Writes one value of a sweep that is given as a YAML list."""
    if isinstance(item, (list, dict)):
        raise UserError(f"{where}: a list in a grid is a sweep of single values; write '[…],[…]' to sweep over lists")
    if not isinstance(item, str):
        return _written(item)
    try:
        parsed = parsed_override(f"key={item}")
    except HydraException:
        return _quoted(item)
    if parsed.is_sweep_override():
        raise UserError(
            f"{where}: {item}: one entry of this list is itself a sweep; write all of it as text, not as a list"
        )
    return item


def _written(value: Any, inside: bool = False) -> str:
    """Writes a YAML value in Hydra's grammar. Text already is in that grammar, except inside a list."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(_written(item, inside=True) for item in value)}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{_written(item, inside=True)}' for key, item in value.items())}}}"
    if isinstance(value, str):
        return _quoted(value) if inside else value
    return repr(value)


def patterns_quoted(raw: str) -> str:
    """Quotes the values that contain a pattern, as Hydra's grammar requires."""
    return ",".join(_quoted(one) if PATTERN.search(one) else one for one in raw.split(","))


def _quoted(text: str) -> str:
    quoted: str = QuotedString(text, Quote.single).with_quotes()
    return quoted


def _override(word: str, loader: ConfigLoader) -> Override:
    """Parses one word according to the type of its key."""
    key, equals, raw = word.partition("=")
    bare = key.lstrip(PREFIXES)
    if equals and not bare:
        raise UserError(f"{word}: no key before the =; give KEY=VALUE")
    parser = OverridesParser.create(config_loader=loader)
    if ANY_KEYS.match(word):
        word = f"++{word}"
    if bare == "output" and equals:
        word = f"{key}={_quoted(locations.unquoted(raw))}"
    try:
        override = parser.parse_overrides([word])[0]
    except OverrideParseException:
        if PATTERN.search(raw) and _takes_text(bare):
            raw = patterns_quoted(raw)
        elif is_path(bare.rpartition(".")[2]):
            raw = _quoted(raw)  # ~/rows.jsonl, or a name with spaces
        else:
            raise
        override = parser.parse_override(f"{key}={raw}")
    if source.choices_of(override.key_or_group, loader):
        for value in _each(override):
            source.check_choice(override.key_or_group, value, loader)
    return _with_texts(override, parser) if _takes_text(bare) else override


def _takes_text(key: str) -> bool:
    types = types_of(key)
    return bool(types & {str, Path}) and not types & {int, float, bool}


def _with_texts(override: Override, parser: OverridesParser) -> Override:
    """Keeps numbers as they were written, for a key that takes text: 12e45678 may be a commit."""
    values = _each(override)
    numbers = [isinstance(value, (int, float)) for value in values]
    if not any(numbers):
        return override
    written = override.get_value_string().split(",")
    if len(written) != len(values):
        raise UserError(f"{override.input_line}: this key takes text; put what looks like a number in quotes")
    texts = [_quoted(text.strip()) if number else text for text, number in zip(written, numbers, strict=True)]
    return parser.parse_override(f"{override.get_key_element()}={','.join(texts)}")


def _each(override: Override) -> list[Any]:
    value = override.value()
    if isinstance(value, ChoiceSweep):
        return list(value.list)
    return [] if override.is_sweep_override() or override.is_delete() else [value]


def _values(override: Override) -> list[str]:
    if not override.is_sweep_override():
        return [override.get_value_element_as_str()]
    if not override.is_discrete_sweep():
        raise UserError(f"{override.input_line}: a grid needs values, not an interval; use range(…) or a list")
    values = list(override.sweep_string_iterator())
    if not values:
        raise UserError(
            f"{override.input_line}: this gives no values, so the grid is empty; use for example range(0,3)"
        )
    return values


@cache
def _parser() -> OverridesParser:
    return OverridesParser.create()


@cache
def parsed_override(text: str) -> Override:
    """Parses an override. Cached: it takes 0.1 ms, and many grid points share the same overrides."""
    return _parser().parse_override(text)
