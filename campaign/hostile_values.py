"""Random text and JSON values of the kind that breaks parsers."""

from __future__ import annotations

import random
import unicodedata
from typing import Any

NASTY = [
    *("", " ", "\0", "\ufeff", "\u202e", "\u200b", "e\u0301", "Zo\u0308e", "\ud800", "👩‍👩‍👧", "名前", "مريم"),
    *("..", "/", "~", "\\", "null", "true", "nan", "inf", "-inf", "1e999", "0x10", "1_000", "???"),
    *("${seed}", "${oc.env:HOME}", "${", "}", "a=b", "[", "]", "{}", "{a:1}", "[1,2]"),
    *("range(0,3)", "glob(*)", "choice(1,2)", "interval(0,1)", ",", "'", '"', "\n", "\t"),
    *("$(touch here)", "`id`", "; rm -rf here", "<script>", "%s%n", "{0}", "__class__", "../../etc/passwd"),
    "a" * 5_000,
]
NUMBERS = [0, 1, -1, 2, 3, 1e-4, -0.0, 0.5, 1e308, 2**31, 2**63, 2**70, float("nan"), float("inf"), -float("inf")]


def text(chance: random.Random) -> str:
    """Makes a text that a user might have."""
    return chance.choice(
        [
            lambda: chance.choice(NASTY),
            lambda: "".join(chance.choice(NASTY[:-1]) for _ in range(3)),
            lambda: "".join(chr(chance.randrange(1, 0xD7FF)) for _ in range(chance.randrange(12))),
            lambda: unicodedata.normalize(chance.choice(["NFC", "NFD", "NFKD"]), "Zoë Ångström ﬁ"),
        ]
    )()


def value(chance: random.Random, depth: int = 0) -> Any:
    """Makes any JSON value."""
    kind = chance.randrange(8 if depth < 3 else 5)
    if kind == 5:
        return [value(chance, depth + 1) for _ in range(chance.randrange(4))]
    if kind >= 6:
        return {text(chance)[:50]: value(chance, depth + 1) for _ in range(chance.randrange(4))}
    return chance.choice([None, True, False, chance.choice(NUMBERS), text(chance), chance.randrange(-5, 300)])


def spoilt(found: Any, chance: random.Random) -> Any:
    """Copies a JSON value with a change: another value, an extra key, or a missing one."""
    if isinstance(found, dict) and found and chance.random() < 0.85:
        key = chance.choice(list(found))
        how = chance.random()
        if how < 0.1:
            return {name: one for name, one in found.items() if name != key}
        if how < 0.2:
            return {**found, text(chance): value(chance)}
        return {**found, key: spoilt(found[key], chance)}
    if isinstance(found, list) and found and chance.random() < 0.7:
        at = chance.randrange(len(found))
        return [*found[:at], spoilt(found[at], chance), *found[at + 1 :]]
    return value(chance)
