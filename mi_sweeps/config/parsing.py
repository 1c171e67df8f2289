"""From plain values to a valid configuration, or to one line that says what is wrong with it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from pydantic import ValidationError

from mi_sweeps.config.allowed import allowed, keys, shown
from mi_sweeps.config.config import Config
from mi_sweeps.config.section import PATTERNS
from mi_sweeps.errors import UserError

SURROGATE = re.compile("[\ud800-\udfff]")

LONGEST = 100
"""So many characters of a wrong value are told."""


def parse(values: DictConfig | dict[str, Any]) -> Config:
    """Validates a composed configuration.

    Raises:
        UserError: one line for the first value that is wrong, with its key.
    """
    plain = resolve(values) if isinstance(values, DictConfig) else values
    with _one_line(plain):
        config = Config.model_validate(plain)
    if wrong := _unstorable(plain):
        key = ".".join(wrong)
        raise UserError(f"{key}: inf, nan and half a letter (a lone surrogate) cannot be stored; give another value")
    return config


def _unstorable(value: Any) -> list[str]:
    """The keys that lead to the first value that JSON in UTF-8 lacks: it would come back as another."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        bad = isinstance(item, float) and not math.isfinite(item)
        if bad or any(isinstance(one, str) and SURROGATE.search(one) for one in (key, item)):
            return [str(key)]
        if below := _unstorable(item):
            return [str(key), *below]
    return []


def resolve(values: DictConfig, names: Iterable[str] | None = None) -> dict[str, Any]:
    """The plain values under some names at the top, or under all, with what `${...}` refers to in its place.

    Raises:
        UserError: a reference leads nowhere, or a value is missing; with its key.
    """
    plain = {}
    with _one_line():
        for name in values if names is None else names:
            node = values[name]
            plain[str(name)] = (
                OmegaConf.to_container(node, resolve=True, throw_on_missing=True) if OmegaConf.is_config(node) else node
            )
    return plain


@contextmanager
def _one_line(plain: Any = None) -> Iterator[None]:
    """Makes one line of what OmegaConf and pydantic say, the latter of plain values."""
    try:
        yield
    except MissingMandatoryValue as error:
        raise UserError(f"{error.full_key}: no value; give {error.full_key}=VALUE on the command line") from None
    except OmegaConfBaseException as error:
        if error.full_key == "model.d_vocab":
            raise UserError(
                "model.d_vocab: a model from nothing has its task's tokens, and this task has no key d_vocab; "
                "give task=previous_token"
            ) from None
        raise UserError(f"{error.full_key or 'config'}: {str(error).splitlines()[0]}") from None
    except ValidationError as error:
        raise UserError(_told(error, plain)) from None


def _told(error: ValidationError, plain: Any) -> str:
    """One line for the first value that is wrong. Of one that fits none of several types it is told where it fits one
    best, and what all of them allow."""
    found = [(_path(one, plain), one) for one in error.errors()]
    first = found[0][0]
    path, wrong = max((one for one in found if one[0][: len(first)] == first), key=lambda one: len(one[0]))
    key, kind = ".".join(map(str, path)), wrong["type"]
    if kind == "missing" and not _has(_at(plain, path[:-1]), path[-1]):
        return f"{key}: no value; give {key}=VALUE on the command line"
    schema = _schema()
    if kind == "extra_forbidden":
        return f"{key}: no such key; there are: {', '.join(keys(schema, path[:-1]))}"
    given = shown(_at(plain, path))
    told = f"{key}={given if len(given) <= LONGEST else given[:LONGEST] + '…'}"
    if kind == "value_error":
        message = wrong["msg"].removeprefix("Value error, ")
        return message if message.startswith(key) else f"{key if given[:1] in '{[' else told}: {message}"
    if kind.startswith("union_tag"):  # the key that says which of several kinds a section is
        tag = wrong["ctx"]["discriminator"].strip("'")
        path, told = (*path, tag), f"{key}.{tag}={shown(wrong['ctx'].get('tag'))}"
    may = allowed(schema, path)
    if kind == "string_pattern_mismatch":
        may = PATTERNS[wrong["ctx"]["pattern"]]
    if kind == "finite_number":
        may = may.replace("a number", "a finite number")
    if kind in ("too_short", "string_too_short") and not given.strip("[]") and "of at least 1" not in may:
        may += ", and not an empty one"
    if kind in ("list_type", "tuple_type") and given[:1] not in "{[":
        may += f"; for example {key}=[{given}]"
    return f"{told}: give {may}"


@cache
def _schema() -> dict[str, Any]:
    return Config.model_json_schema()


def _path(wrong: Any, plain: Any) -> tuple[str | int, ...]:
    """The keys that lead to a wrong value. Pydantic puts names of types between them, where there are several."""
    path: list[str | int] = []
    for part in wrong["loc"]:
        if _has(plain, part):
            path.append(part)
            plain = plain[part]
    # Of a list that is too short, the list is wrong.
    if wrong["type"] == "missing" and isinstance(wrong["loc"][-1], str):
        path.append(wrong["loc"][-1])
    return tuple(path)


def _has(value: Any, part: str | int) -> bool:
    if isinstance(part, int):
        return isinstance(value, list | tuple) and part < len(value)
    return isinstance(value, dict) and part in value


def _at(value: Any, path: Iterable[str | int]) -> Any:
    for part in path:
        value = value[part]
    return value
