"""Checks the shapes of tensors while tests run: tests/conftest.py installs it in jaxtyping's import hook."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import is_dataclass
from functools import wraps
from inspect import signature
from types import FunctionType
from typing import Any, get_args

import jaxtyping
from beartype import beartype
from jaxtyping import AbstractArray, install_import_hook
from jaxtyping import jaxtyped as each_call


def install(modules: str) -> None:
    """Has the functions of these modules checked."""
    install_import_hook(modules, "tests.shapes.checked")
    jaxtyping.jaxtyped = once  # what the hook decorates with


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """Makes a function hold its arguments to the shapes in their annotations. All else is for mypy: protocols, for one,
    cannot be checked at run time."""
    hints = function.__annotations__
    function.__annotations__ = {name: hint for name, hint in hints.items() if _has_shape(hint)}
    return beartype(function) if function.__annotations__ else function


def once(*, typechecker: Callable[..., Any]) -> Callable[[Any], Any]:
    """`jaxtyping.jaxtyped` that checks a function's arguments and value once for each combination of their shapes. To
    check every call made the tests of circuits a third slower."""

    def decorate(function: Any) -> Any:
        if isinstance(function, type):
            if is_dataclass(function) and "__init__" in vars(function):
                function.__init__ = decorate(function.__init__)
            return function
        if not isinstance(function, FunctionType):
            return each_call(function, typechecker=typechecker)
        has_shape: dict[str, None] = {}

        def noting(function: Callable[..., Any]) -> Callable[..., Any]:
            function = typechecker(function)
            has_shape.update(dict.fromkeys(function.__annotations__))
            return function

        value: list[Any] = []
        check = each_call(_returning(value, function), typechecker=noting)
        if not has_shape:
            return function
        places = [place for place in enumerate(signature(function).parameters) if place[1] in has_shape]
        known: set[Any] = set()

        @wraps(function)
        def checking(*args: Any, **kwargs: Any) -> Any:
            result = function(*args, **kwargs)
            given = [_form(args[at] if at < len(args) else kwargs.get(name)) for at, name in places]
            forms = (*given, _form(result))
            if forms not in known:
                value[:] = [result]
                check(*args, **kwargs)
                value.clear()
                known.add(forms)
            return result

        return checking

    return decorate


def _returning(value: list[Any], function: FunctionType) -> FunctionType:
    """A function of the same signature that returns the one value."""

    def stub(*args: Any, **kwargs: Any) -> Any:
        return value[0]

    found = FunctionType(stub.__code__, function.__globals__, function.__name__, None, stub.__closure__)
    return wraps(function)(found)


def _form(value: Any) -> Any:
    """Whatever of a value its check may depend on."""
    if isinstance(value, tuple | list):
        return type(value), *map(_form, value)
    if isinstance(value, dict):
        return type(value), *map(_form, value.values())
    return getattr(value, "shape", None), getattr(value, "dtype", None), type(value)


def _has_shape(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, AbstractArray) or any(map(_has_shape, get_args(hint)))
