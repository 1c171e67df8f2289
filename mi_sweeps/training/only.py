"""Chooses the parameters that learn: interprets `train.only` by the names that an architecture gives its parameters.

Does not import torch, so that `plan` can tell how much memory they need.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from fnmatch import fnmatchcase

from mi_sweeps.errors import UserError

EMBEDDINGS = re.compile(r"^(wte|wpe|(lm_)?head|embed_\w+|\w*embed(ding)?s?)$")
NORM = re.compile(r"norm|(^|_)ln(_|\d|$)", re.IGNORECASE)
ATTENTION = re.compile(r"attn|attention")
MLP = re.compile(r"mlp|ffn|feed_forward|moe|experts")

WORDS = ("attention", "mlp", "embeddings", "norms", "layers")
"""Any of them can be limited to layers after a colon, counted from 0: `layers:6-`, `mlp:0-3`."""

WORD = re.compile(rf"({'|'.join(WORDS)})(?::(\d+)?(-)?(\d+)?)?")

NAMED = 6
"""How many example names an error lists."""


def kind(name: str) -> tuple[str | None, int | None]:
    """The kind of a parameter (one of `WORDS` but "layers") and its layer; each None if it has none.

    A norm counts as a norm even inside attention. Attention and MLPs are recognised only inside layers.
    """
    *modules, _ = name.split(".")
    at = next((place for place, part in enumerate(modules) if part.isdigit()), None)
    layer = None if at is None else int(modules[at])
    inside = [] if at is None else modules[at + 1 :]
    if modules and NORM.search(modules[-1]):
        return "norms", layer
    if any(map(ATTENTION.search, inside)):
        return "attention", layer
    if any(map(MLP.search, inside)):
        return "mlp", layer
    if layer is None and modules and EMBEDDINGS.match(modules[-1]):
        return "embeddings", layer
    return None, layer


def chosen(only: Sequence[str], names: Collection[str]) -> list[str]:
    """The names of the parameters that learn, in order; all of them if `only` is empty.

    Args:
        only: each entry is the name of a parameter or module, a pattern with `*`, or a word, with or without layers.
        names: of all parameters.

    Raises:
        UserError: an entry matches no parameter.
    """
    if not only:
        return list(names)
    found: set[str] = set()
    for one in only:
        its = set(_matches(one, names))
        if not its:
            raise UserError(
                f"train.only={one}: matches no parameter of this model; use {', '.join(WORDS)} (also mlp:6-), "
                f"or names such as {', '.join(examples(names))}"
            )
        found |= its
    return [name for name in names if name in found]


def _matches(one: str, names: Iterable[str]) -> Iterable[str]:
    if not (word := WORD.fullmatch(one)):
        return (name for name in names if fnmatchcase(name, one) or name.startswith(f"{one}."))
    what, first, dash, last = word.groups()
    low = int(first or 0)
    high = int(last) if last else None if dash or not first else low

    def fits(name: str) -> bool:
        its, layer = kind(name)
        if what == "layers" and layer is None:
            return False
        if ":" in one and (layer is None or layer < low or (high is not None and layer > high)):
            return False
        return what in ("layers", its)

    return filter(fits, names)


def examples(names: Iterable[str]) -> list[str]:
    """Example names: one of each kind, ignoring the layer."""
    sorts = {re.sub(r"\.\d+\.", ".*.", name): name for name in reversed(list(names))}
    return list(reversed(sorts.values()))[:NAMED]
