"""Names for the settings of a sweep: runs that differ in their seed only share one.

What tells runs of one configuration apart (`analysis.contents`) is a group `contents` of their configurations here."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Collection, Mapping, Sequence
from os.path import commonprefix
from pathlib import PurePath
from typing import Any

APART = frozenset(
    (
        *("seed", "launcher", "tracking", "sweep", "output", "checkpoint.zoom_of"),
        *("train.micro_batch", "train.gradient_checkpointing"),
        *("patching.steps", "patching.engine", "patching.memory"),
    )
)
"""Groups and keys that do not distinguish settings: the seed, the run that was zoomed into, and keys that change no
result, such as which checkpoints are patched."""


SINCE = {
    **{"train.diverged": "3.0", "task.bos": "true", "task.disjoint_names": "false", "checkpoint.until": "null"},
    **{"model.tokenizer": "null", "model.base": "null"},
    **{"task.repeat": "1", "task.trios": "false"},
    **{"train.method": "full", "train.only": "[]", "train.weights": "fp32"},
    **{f"patching.{key}": "null" for key in ("looks", "cross", "circuits", "edges")},
}
"""Keys added in later versions, with the earlier behaviour: an old run without them has the same setting."""


LORA = "train.lora."
"""Prefixes of keys that are compared only among runs with an adapter."""

HASH = re.compile("[0-9a-f]{12}")

CONTENTS = "contents."
"""Prefix of keys that only runs have whose configuration does not tell them apart."""

WORDS = {f"{CONTENTS}run": "contents not recorded, run"}
"""Names of keys that their last part does not explain."""

OF_A_KIND = ("checkpoint", "optim", "schedule", "train")
"""Groups that are compared only among series or among fine-tunes: how a series was trained is unknown."""


def names(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """A name for each configuration, made of the values that differ between them; the seed is left out.

    Equal configurations have equal names and different ones different names: "lr 0.0001, schedule cosine".
    If a group's `name` determines all that differs within the group, only the name is used.
    """
    flat = texts(configs)
    varied = _varied(flat)
    words = {key: _word(key, varied) for key in varied}
    kinds = _kinds(flat)
    known = {series: {key for one in kind for key in one} for series, kind in kinds.items()}
    alike = {
        series: {key for key in varied if key.split(".")[0] in OF_A_KIND and not _varies(key, kind)}
        for series, kind in kinds.items()
    }

    def has(one: Mapping[str, str], key: str) -> bool:
        series = _is_series(one)
        if key in alike[series] or key.startswith(CONTENTS):
            return key in one and key not in alike[series]
        return key in one or key in SINCE or (key in known[series] and not key.startswith(LORA))

    def value(one: Mapping[str, str], key: str) -> str:
        text = one.get(key, SINCE.get(key, "unset"))
        return short[key].get(text, text)

    values = {key: {one[key] for one in flat if key in one} for key in words}
    short = {
        key: _short_hashes(texts) if key.startswith(CONTENTS) else _short_paths(texts) for key, texts in values.items()
    }
    return [", ".join(f"{word} {value(one, key)}" for key, word in words.items() if has(one, key)) for one in flat]


def _short_paths(texts: Collection[str]) -> dict[str, str]:
    """Map absolute paths to their shortest distinct endings of two or more parts: "bases/1"."""
    paths = {text: PurePath(text).parts for text in texts if PurePath(text).is_absolute()}
    longest = max(map(len, paths.values()), default=2)
    for length in range(2, longest):
        endings = {text: "/".join(parts[-length:]) for text, parts in paths.items()}
        if len({*endings.values(), *(set(texts) - set(paths))}) == len(texts):
            return endings
    return {}


def _short_hashes(texts: Collection[str]) -> dict[str, str]:
    """Map hashes to their first digits, four or as many as tell them apart."""
    hashes = sorted(text for text in texts if HASH.fullmatch(text))
    shared = [len(commonprefix(pair)) for pair in itertools.pairwise(hashes)]
    return {text: text[: max(4, *(length + 1 for length in shared), 0)] for text in hashes}


def factors(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The dotted keys that `names` uses: what a sweep varied, except the seed."""
    return _varied(texts(configs))


def of_run(config: Mapping[str, Any], contents: Mapping[str, str] | None = None) -> dict[str, Any]:
    """A run's configuration without the groups that belong to its patch jobs, with what tells it apart from others of
    the same configuration."""
    own = {key: value for key, value in config.items() if key not in ("corruption", "patching")}
    return own | ({"contents": dict(contents)} if contents else {})


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of a configuration by dotted key."""
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            flat |= flatten(inner, f"{prefix}{key}.")
        else:
            flat[prefix + key] = inner
    return flat


def _text(value: Any) -> str:
    """Format a value for a label; lists of words, as in `train.only`, without brackets."""
    if isinstance(value, (list, tuple)) and value and all(isinstance(one, str) for one in value):
        return " + ".join(value)
    return json.dumps(value)


def texts(configs: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Each configuration's values as text, without the seed and keys that change no result."""
    kept = [{key: value for key, value in config.items() if key not in APART} for config in configs]
    return [
        {
            key: value if isinstance(value, str) else _text(value)
            for key, value in flatten(config).items()
            if key not in APART and not (key.startswith(LORA) and config["train"].get("method") != "lora")
        }
        for config in kept
    ]


def _varied(flat: Sequence[Mapping[str, str]]) -> list[str]:
    keys = sorted({key for one in flat for key in one}, key=lambda key: (_order(key), key))
    kinds, every = list(_kinds(flat).values()), [list(flat)]
    compared = {key: kinds if key.split(".")[0] in OF_A_KIND else every for key in keys}
    varying = [key for key in keys if any(_varies(key, kind) for kind in compared[key])]
    return [key for key in varying if not all(_follows_name(key, varying, kind) for kind in compared[key])]


def _kinds(flat: Sequence[Mapping[str, str]]) -> dict[bool, list[Mapping[str, str]]]:
    """Fine-tunes and series."""
    return {series: [one for one in flat if _is_series(one) is series] for series in (False, True)}


def _is_series(one: Mapping[str, str]) -> bool:
    return "model.keep" in one


def _varies(key: str, kind: Sequence[Mapping[str, str]]) -> bool:
    return len({one.get(key, SINCE.get(key)) for one in kind if key in one or not key.startswith(LORA)}) > 1


def _follows_name(key: str, varying: Sequence[str], flat: Sequence[Mapping[str, str]]) -> bool:
    group = key.split(".")[0]
    name = f"{group}.name"
    if key == name or name not in varying:
        return False
    values: dict[str | None, set[str | None]] = {}
    for one in flat:
        values.setdefault(one.get(name), set()).add(one.get(key))
    return all(len(of_one_name) == 1 for of_one_name in values.values())


def _order(key: str) -> int:
    """Sort key: model, task, learning rate, schedule, then the rest."""
    first = ("model.name", "task.name", "optim.lr", "schedule.name", "train.method")
    return first.index(key) if key in first else len(first)


def _word(key: str, varied: Sequence[str]) -> str:
    """Short name of a key: its last part, or the group for a `name`; the whole key if that is ambiguous."""
    if key in WORDS:
        return WORDS[key]
    short = key.removesuffix(".name").rsplit(".", 1)[-1].replace("_", " ")
    clash = [other for other in varied if other.removesuffix(".name").rsplit(".", 1)[-1].replace("_", " ") == short]
    return short if clash == [key] and short != "seed" else key  # not to be taken for the run's seed
