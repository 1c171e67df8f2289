"""Compares what the small files of checkpoints (config, tokenizer, trainer state) say about them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from itertools import pairwise
from typing import Any

from mi_sweeps.series.finding import Finding
from mi_sweeps.series.sources import Source

TEXTS = ("config.json", "tokenizer.json", "trainer_state.json")
IGNORED = ("transformers_version", "_name_or_path", "torch_dtype", "dtype", "use_cache", "architectures")
"""Keys of config.json that do not change the computation, or that show in the weights anyway."""

HEAD_KEYS = ("model_type", "num_attention_heads", "n_head", "num_heads", "num_key_value_heads", "head_dim")
"""Keys that define a layer's heads: if they differ, head 0 of one checkpoint is not head 0 of another."""


def texts(ordered: Sequence[Source], pool: Executor) -> list[dict[str, Any]]:
    """Reads the small files of each checkpoint as JSON objects. Files with equal hashes are read once."""

    def key(source: Source, name: str) -> str | tuple[int, str]:
        return source.files[name].hash or (source.step, name)

    def read(source: Source, name: str) -> Any:
        with suppress(ValueError):
            content = json.loads(source.read(name, 0, source.files[name].size))
            return content if isinstance(content, dict) else None

    there = [[name for name in TEXTS if name in source.files] for source in ordered]
    first = {key(source, name): (source, name) for source, names in zip(ordered, there, strict=True) for name in names}
    contents = dict(zip(first, pool.map(lambda pair: read(*pair), first.values()), strict=True))
    return [{name: contents[key(source, name)] for name in names} for source, names in zip(ordered, there, strict=True)]


def differing(ordered: Sequence[Source], texts: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """Reports checkpoints whose files name another step, or another model or vocabulary than most."""
    configs = [text.get("config.json") for text in texts]
    vocabularies = [
        json.dumps([tokenizer.get("model"), tokenizer.get("added_tokens")], sort_keys=True) if tokenizer else None
        for tokenizer in (text.get("tokenizer.json") for text in texts)
    ]
    counted = [(text.get("trainer_state.json") or {}).get("global_step") for text in texts]
    # Counts in another unit, such as epochs, rise with the steps but match none.
    known = [(source.step, count) for source, count in zip(ordered, counted, strict=True) if isinstance(count, int)]
    other_units = not any(step == count for step, count in known if step) and all(
        before[1] < after[1] for before, after in pairwise(known)
    )
    found = []
    for source, config, vocabulary, count in zip(ordered, configs, vocabularies, counted, strict=True):
        for key, value in (config or {}).items():
            usual = _usual([other[key] for other in configs if other and key in other])
            if key not in IGNORED and value != usual:
                reason = f"its config.json has {key}={value}, that of most others {usual}"
                found.append(Finding(source.step, "config", reason, missing=key in HEAD_KEYS))
        if vocabulary and vocabulary != vocabularies[0]:
            # All checkpoints are measured with the first one's tokenizer.
            first, compared = f"that of step {ordered[0].step}", vocabularies[0] is not None
            reason = f"is not {first}" if compared else f"cannot be compared with {first}, which has none"
            found.append(Finding(source.step, "tokenizer", f"its tokenizer.json {reason}", missing=compared))
        if isinstance(count, int) and count != source.step and not (other_units and len(known) > 1):
            reason = f"its trainer_state.json counts {count} steps, but its name says {source.step}"
            found.append(Finding(source.step, "label", reason, missing=True))
    return found


def _usual(values: Sequence[Any]) -> Any:
    """The most frequent value."""
    spelled = [json.dumps(value, sort_keys=True) for value in values]
    return values[spelled.index(Counter(spelled).most_common(1)[0][0])]
