"""From plain values to a valid configuration, or to one line that says what is wrong with it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from pydantic import ValidationError

from mi_sweeps.config.cell import Config
from mi_sweeps.errors import UserError

SURROGATE = re.compile("[\ud800-\udfff]")

KINDS = {"launcher": ("inline", "local", "slurm"), "model": ("pretrained", "scratch", "series")}
"""Sections that may be of several kinds."""


def parse(values: DictConfig | dict[str, Any]) -> Config:
    """Validates a composed configuration.

    Raises:
        UserError: one line for the first value that is wrong, with its key.
    """
    plain = resolve(values) if isinstance(values, DictConfig) else values
    with _one_line():
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
def _one_line() -> Iterator[None]:
    """Makes one line of what OmegaConf and pydantic say."""
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
        first = error.errors()[0]
        # Where a section may be of several kinds, pydantic puts the kind between the keys.
        loc = first["loc"]
        tagged = len(loc) > 1 and loc[1] in KINDS.get(str(loc[0]), ())
        key = ".".join(str(part) for part in (loc[:1] + loc[2:] if tagged else loc))
        if first["type"] == "missing":
            raise UserError(f"{key}: no value; give {key}=VALUE on the command line") from None
        if first["type"] == "extra_forbidden":
            raise UserError(f"{key}: no such key; `mi-sweeps plan --config` prints all of them") from None
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "value_error":
            told = f"{key}={first['input']}" if isinstance(first["input"], (str, int, float)) else key
            raise UserError(message if message.startswith(key) else f"{told}: {message}") from None
        if first["type"] == "tuple_type":
            given = "null" if first["input"] is None else first["input"]
            raise UserError(f"{key}={given}: give a list; for example {key}=[{given}]") from None
        raise UserError(f"{key}={first['input']}: {message[0].lower()}{message[1:]}") from None
