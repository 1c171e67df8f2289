"""Checks that a model got exactly the weights in its files.

transformers fills missing weights at random and drops unknown ones, and only logs it.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

import torch

from mi_sweeps.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BUFFERS = re.compile(
    r"(^|\.)(attn|attention)\.(bias|masked_bias|causal_mask)$|(^|\.)(inv_freq|cos_cached|sin_cached|position_ids)$"
)
"""Constants that older versions of transformers saved with the weights: causal masks and position tables."""

WRAPPERS = re.compile(r"(?<![^.])(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module)\.")
"""Parts that torch.compile, FSDP, activation checkpointing and Lightning Fabric insert anywhere in a name."""

OUTERMOST = re.compile(r"^(?:module\.)+")
"""The prefix of DistributedDataParallel and DeepSpeed."""

LIGHTNING = "model."
"""The prefix of a LightningModule that holds the model under this name, as most do."""

NAMED = 3
"""How many names an error lists."""

log = logging.getLogger(__name__)


def unwrapped(name: str) -> str:
    """A weight's name without the parts that known wrappers add."""
    return OUTERMOST.sub("", WRAPPERS.sub("", name))


def unwrapping(
    where: str, model: PreTrainedModel, missing: Collection[str], unexpected: Collection[str]
) -> dict[str, str] | None:
    """The `key_mapping` for `from_pretrained` that removes a wrapper's prefixes from the names in a model's files; None
    if no wrapper is recognised. Logs a warning.

    Args:
        where, missing, unexpected: as for `check_names`.

    Raises:
        UserError: a weight occurs both with and without a prefix.
    """
    bare = {name: unwrapped(name) for name in unexpected}
    bare = {name: inner for name, inner in bare.items() if not BUFFERS.search(inner)}
    parts = {part for name in bare for part in WRAPPERS.findall(name)}
    # transformers applies each pattern once, and patterns must differ.
    most = max((len(WRAPPERS.findall(name)) for name in bare), default=0)
    mapping = {f"{WRAPPERS.pattern}(?#{number})": "" for number in range(most)}
    if outermost := {found[0] for name in bare if (found := OUTERMOST.search(WRAPPERS.sub("", name)))}:
        mapping[OUTERMOST.pattern] = ""
    known = model.state_dict().keys()
    prefix = _prefix(missing, bare.values(), model.base_model_prefix)
    if prefix == LIGHTNING and len(missing) == len(known):  # Only if all names have it.
        outermost.add(prefix)
        mapping[f"^{re.escape(prefix)}"] = ""
        bare = {name: inner.removeprefix(prefix) for name, inner in bare.items()}
    if not mapping:
        return None
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    there = [name.removeprefix(f"{model.base_model_prefix}.") for name in known - set(missing) - tied.keys()]
    counted = Counter([*there, *(name.removeprefix(f"{model.base_model_prefix}.") for name in bare.values())])
    prefixes = ", ".join(sorted(parts | outermost))
    if twice := [name for name, count in counted.items() if count > 1]:
        raise UserError(
            f"{where}: its files have {few(twice)} twice, with {prefixes} before the name and without; save the model "
            "that is inside the wrapper"
        )
    log.warning("%s: removed %s from the names of its weights; the model was saved in a wrapper", where, prefixes)
    return mapping


def check_names(
    where: str,
    model: PreTrainedModel,
    missing: Collection[str],
    unexpected: Collection[str],
    mismatched: Collection[tuple[str, tuple[int, ...], tuple[int, ...]]],
) -> None:
    """Checks that the files have all of the model's weights and no others; tied ones may be absent.

    Args:
        where: the model as the user specified it.
        missing: weights that the files lack.
        unexpected: weights in the files that the model does not have.
        mismatched: names of weights with their shapes in the files and in the model.

    Raises:
        UserError: they differ.
    """
    unknown = [name for name in unexpected if not BUFFERS.search(name)]
    if missing and (prefix := _prefix(missing, unknown, model.base_model_prefix)):
        raise UserError(
            f"{where}: the names of its weights begin with {prefix!r}, as if the model was saved in a wrapper; "
            "save the model that is inside it, or remove this prefix"
        )
    wrong = []
    if missing:
        wrong.append(f"its files lack {len(missing)} of the model's weights ({few(missing)})")
    if unknown:
        weights = "1 weight" if len(unknown) == 1 else f"{len(unknown)} weights"
        wrong.append(f"its files have {weights} that {type(model).__name__} does not use ({few(unknown)})")
    if mismatched:
        name, stored, expected = min(mismatched)
        more = f", and {len(mismatched) - 1} more differ" if len(mismatched) > 1 else ""
        wrong.append(f"{name} is {_shape(stored)} in its files but {_shape(expected)} by its config.json{more}")
    if wrong:
        # Loading and saving drops extra weights, but would fill missing ones at random.
        dropped = "load it with AutoModelForCausalLM and save that to drop them"
        again = dropped if unknown and not missing and not mismatched else "save the model again"
        raise UserError(f"{where}: {'; '.join(wrong)}; make config.json and weights fit, or {again}")


def check_once(where: str, model: PreTrainedModel, names: Iterable[str]) -> None:
    """Checks that no weight is stored twice, as when an old file was left behind; transformers would take either.

    Args:
        where: the model as the user specified it.
        names: of all weights in its files, file by file.

    Raises:
        UserError: some are.
    """
    known, base = model.state_dict().keys(), f"{model.base_model_prefix}."

    def named(name: str) -> str:
        # The base model's prefix may be absent, or present twice.
        bare = name.removeprefix(base)
        return bare if bare in known else base + name if base + name in known else name

    counted = Counter(named(unwrapped(name)) for name in names)
    if twice := [name for name, count in counted.items() if count > 1]:
        raise UserError(
            f"{where}: its files have {few(twice)} more than once, and nothing says which counts; save the model "
            "again in an empty folder"
        )


def check_values(where: str, model: PreTrainedModel) -> None:
    """Checks that all parameters are finite; warns about matrices of zeros.

    Raises:
        UserError: some are not.
    """
    # Extremes need one pass and no memory, and both propagate NaN.
    parameters = {name: weight.detach() for name, weight in model.named_parameters() if weight.numel()}
    extremes = {name: torch.stack(weight.aminmax()) for name, weight in parameters.items()}
    broken = [name for name, ends in extremes.items() if not ends.isfinite().all()]
    if broken:
        raise UserError(
            f"{where}: NaN or infinite numbers in {len(broken)} of its weights ({few(broken)}); "
            "give a checkpoint from before it diverged"
        )
    empty = [name for name, ends in extremes.items() if not ends.any() and parameters[name].dim() > 1]
    if empty:
        log.warning("%s: %s is all zeros: was the file copied completely?", where, few(empty))


def _prefix(missing: Collection[str], unknown: Collection[str], base: str) -> str | None:
    """The prefix that all missing weights have in the files, if there is one. `base` may be absent there, as when a
    model was saved without its head."""
    inner = {name.removeprefix(f"{base}.") for name in missing}
    found = [
        name[: dot.end()]
        for name in unknown
        for dot in re.finditer(r"\.", name)
        if name[dot.end() :] in inner or name[dot.end() :] in missing
    ]
    prefix = min(found, key=len, default=None)
    return prefix if prefix and all(name.startswith(prefix) for name in unknown) else None


def few(names: Collection[str]) -> str:
    """The first names in alphabetical order, and how many more there are."""
    text = ", ".join(sorted(names)[:NAMED])
    return f"{text} and {len(names) - NAMED} more" if len(names) > NAMED else text


def _shape(sizes: Collection[int]) -> str:
    return " × ".join(map(str, sizes)) or "one number"
