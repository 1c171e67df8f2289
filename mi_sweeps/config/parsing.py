"""From plain values to a valid configuration, or to a one-line error."""

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
"""Most characters of a wrong value to quote."""


def parse(values: DictConfig | dict[str, Any]) -> Config:
    """Validates a composed configuration.

    Raises:
        UserError: one line about the first wrong value, with its key.
    """
    plain = resolve(values) if isinstance(values, DictConfig) else values
    with _one_line(plain):
        config = Config.model_validate(plain)
    if wrong := _unstorable(plain):
        key = ".".join(wrong)
        raise UserError(f"{key}: inf, nan and half a letter (a lone surrogate) cannot be stored; give another value")
    return config


def _unstorable(value: Any) -> list[str]:
    """Returns the keys that lead to the first value that JSON in UTF-8 cannot hold."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        bad = isinstance(item, float) and not math.isfinite(item)
        if bad or any(isinstance(one, str) and SURROGATE.search(one) for one in (key, item)):
            return [str(key)]
        if below := _unstorable(item):
            return [str(key), *below]
    return []


def resolve(values: DictConfig, names: Iterable[str] | None = None) -> dict[str, Any]:
    """Returns the plain values of some or all top-level names, with references (`${...}`) resolved.

    Raises:
        UserError: a reference leads nowhere, or a value is missing; names the key.
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
    """Turns errors of OmegaConf, and of pydantic about plain values, into one line."""
    try:
        yield
    except MissingMandatoryValue as error:
        raise UserError(f"{error.full_key}: no value; give {error.full_key}=VALUE on the command line") from None
    except OmegaConfBaseException as error:
        if error.full_key == "model.d_vocab":
            raise UserError(
                "model.d_vocab: a model from scratch uses its task's tokens, but this task has no key d_vocab; "
                "give task=previous_token"
            ) from None
        raise UserError(f"{error.full_key or 'config'}: {str(error).splitlines()[0]}") from None
    except ValidationError as error:
        raise UserError(_message(error, plain)) from None


def _message(error: ValidationError, plain: Any) -> str:
    """Describes the first wrong value in one line. If several types are allowed, it reports the error in the type that
    fits best, and the values that any of them allows."""
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
    assignment = f"{key}={given if len(given) <= LONGEST else given[:LONGEST] + '…'}"
    if kind == "value_error":
        message = wrong["msg"].removeprefix("Value error, ")
        return message if message.startswith(key) else f"{key if given[:1] in '{[' else assignment}: {message}"
    if kind.startswith("union_tag"):  # The wrong key selects the kind of the section.
        tag = wrong["ctx"]["discriminator"].strip("'")
        path, assignment = (*path, tag), f"{key}.{tag}={shown(wrong['ctx'].get('tag'))}"
    may = allowed(schema, path)
    if kind == "string_pattern_mismatch":
        may = PATTERNS[wrong["ctx"]["pattern"]]
    if kind == "finite_number":
        may = may.replace("a number", "a finite number")
    if kind in ("too_short", "string_too_short") and not given.strip("[]") and "of at least 1" not in may:
        may += " that is not empty"
    if kind in ("list_type", "tuple_type") and given[:1] not in "{[":
        may += f"; for example {key}=[{given}]"
    return f"{assignment}: give {may}"


@cache
def _schema() -> dict[str, Any]:
    return Config.model_json_schema()


def _path(wrong: Any, plain: Any) -> tuple[str | int, ...]:
    """Returns the keys that lead to a wrong value, without the names of types that pydantic puts between them."""
    path: list[str | int] = []
    for part in wrong["loc"]:
        if _has(plain, part):
            path.append(part)
            plain = plain[part]
    # An item missing from a list means that the list itself is wrong.
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
