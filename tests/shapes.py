"""Checks the shapes of tensors while tests run: tests/conftest.py passes `checked` to jaxtyping."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

from beartype import beartype
from jaxtyping import AbstractArray


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """Makes a function hold its arguments to the shapes in their annotations. All else is for mypy: protocols, for one,
    cannot be checked at run time."""
    hints = function.__annotations__
    function.__annotations__ = {name: hint for name, hint in hints.items() if _has_shape(hint)}
    return beartype(function) if function.__annotations__ else function


def _has_shape(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, AbstractArray) or any(map(_has_shape, get_args(hint)))
