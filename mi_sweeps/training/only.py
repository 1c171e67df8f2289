"""Which parameters learn: what `train.only` means, told from the names that an architecture gives its parameters.

Read without importing torch, so that `plan` can say how much memory they need.
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
"""The last one, or one of the others with layers behind a colon, counts layers from 0: `layers:6-`, `mlp:0-3`."""

WORD = re.compile(rf"({'|'.join(WORDS)})(?::(\d+)?(-)?(\d+)?)?")

NAMED = 6
"""So many of the names that there are are told."""


def kind(name: str) -> tuple[str | None, int | None]:
    """What a parameter belongs to, one of `WORDS` without the last, and its layer; None where it has none.

    Norms come first, also inside attention; attention and MLPs are looked for inside layers only.
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
    """The names that learn, in their order; all of them where nothing is said.

    Args:
        only: each is a parameter's name, a module's, a pattern of names with `*`, or a word with or without layers.
        names: of all parameters.

    Raises:
        UserError: one of them has no parameter.
    """
    if not only:
        return list(names)
    found: set[str] = set()
    for one in only:
        its = set(_matches(one, names))
        if not its:
            raise UserError(
                f"train.only={one}: no parameter of this model; words are {', '.join(WORDS)} (also mlp:6-), "
                f"and names are as {', '.join(examples(names))}"
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
    """Some of the names: one of each sort, whichever the layer."""
    sorts = {re.sub(r"\.\d+\.", ".*.", name): name for name in reversed(list(names))}
    return list(reversed(sorts.values()))[:NAMED]
