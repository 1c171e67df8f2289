"""Whether a model's weights are those that its files were to give it.

transformers fills a weight that it does not find at random and drops one that it does not know, and only logs it.
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
"""Constants that older versions of transformers saved among the weights: causal masks and tables of positions."""

WRAPPERS = re.compile(r"(?<![^.])(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module)\.")
"""Parts of names by torch.compile, FSDP, activation checkpointing and Lightning Fabric; anywhere in a name."""

OUTERMOST = re.compile(r"^(?:module\.)+")
"""That of DistributedDataParallel and DeepSpeed."""

LIGHTNING = "model."
"""What a LightningModule's weights begin with, if it has the model under this name, as most have."""

NAMED = 3
"""So many names are told, and how many more there are."""

log = logging.getLogger(__name__)


def unwrapped(name: str) -> str:
    """A weight's name without what is known to be a wrapper's."""
    return OUTERMOST.sub("", WRAPPERS.sub("", name))


def unwrapping(
    where: str, model: PreTrainedModel, missing: Collection[str], unexpected: Collection[str]
) -> dict[str, str] | None:
    """What to take off the names in the files of a model that was saved with its wrapper, as `key_mapping` of
    `from_pretrained`; None where nothing is known to be wrapped. Warns.

    Args:
        where, missing, unexpected: as of `check_names`.

    Raises:
        UserError: a weight is there with and without.
    """
    bare = {name: unwrapped(name) for name in unexpected}
    bare = {name: inner for name, inner in bare.items() if not BUFFERS.search(inner)}
    parts = {part for name in bare for part in WRAPPERS.findall(name)}
    # transformers takes one off for each pattern, and patterns must differ.
    most = max((len(WRAPPERS.findall(name)) for name in bare), default=0)
    mapping = {f"{WRAPPERS.pattern}(?#{number})": "" for number in range(most)}
    if outermost := {found[0] for name in bare if (found := OUTERMOST.search(WRAPPERS.sub("", name)))}:
        mapping[OUTERMOST.pattern] = ""
    known = model.state_dict().keys()
    prefix = _prefix(missing, bare.values(), model.base_model_prefix)
    if prefix == LIGHTNING and len(missing) == len(known):  # Only where all names have it.
        outermost.add(prefix)
        mapping[f"^{re.escape(prefix)}"] = ""
        bare = {name: inner.removeprefix(prefix) for name, inner in bare.items()}
    if not mapping:
        return None
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    there = [name.removeprefix(f"{model.base_model_prefix}.") for name in known - set(missing) - tied.keys()]
    counted = Counter([*there, *(name.removeprefix(f"{model.base_model_prefix}.") for name in bare.values())])
    told = ", ".join(sorted(parts | outermost))
    if twice := [name for name, count in counted.items() if count > 1]:
        raise UserError(
            f"{where}: its files have {few(twice)} twice, with {told} before the name and without; save the model "
            "that is inside the wrapper"
        )
    log.warning("%s: %s taken off the names of its weights, as of a model that was saved in a wrapper", where, told)
    return mapping


def check_names(
    where: str,
    model: PreTrainedModel,
    missing: Collection[str],
    unexpected: Collection[str],
    mismatched: Collection[tuple[str, tuple[int, ...], tuple[int, ...]]],
) -> None:
    """Holds that the files have each of the model's weights and no others; tied ones count as there.

    Args:
        where: the model, as the user gave it.
        missing: weights that the files lack.
        unexpected: weights in the files that the model does not have.
        mismatched: names of weights with their shapes in the files and in the model.

    Raises:
        UserError: they differ.
    """
    unknown = [name for name in unexpected if not BUFFERS.search(name)]
    if missing and (prefix := _prefix(missing, unknown, model.base_model_prefix)):
        raise UserError(
            f"{where}: the names of its weights begin with {prefix!r}, as those of a wrapped model do; "
            "save the model that is inside the wrapper, or take this off the names"
        )
    wrong = []
    if missing:
        wrong.append(f"its files lack {len(missing)} of the model's weights ({few(missing)})")
    if unknown:
        weights = "1 weight" if len(unknown) == 1 else f"{len(unknown)} weights"
        wrong.append(f"its files have {weights} that {type(model).__name__} does not use ({few(unknown)})")
    if mismatched:
        name, there, asked = min(mismatched)
        more = f", and {len(mismatched) - 1} more differ" if len(mismatched) > 1 else ""
        wrong.append(f"{name} is {_shape(there)} in its files and {_shape(asked)} by its config.json{more}")
    if wrong:
        # Those that are too many go when a model is loaded and saved; others would be drawn at random.
        dropped = "load it with AutoModelForCausalLM and save that to drop them"
        anew = dropped if unknown and not missing and not mismatched else "save the model anew"
        raise UserError(f"{where}: {'; '.join(wrong)}; make config.json and weights fit, or {anew}")


def check_once(where: str, model: PreTrainedModel, names: Iterable[str]) -> None:
    """Holds that no weight is in a model's files twice, as where a file was left over; transformers takes either.

    Args:
        where: the model, as the user gave it.
        names: of all weights in its files, one file after another.

    Raises:
        UserError: some are.
    """
    known, base = model.state_dict().keys(), f"{model.base_model_prefix}."

    def named(name: str) -> str:
        # The base model's name may be left out, or be there twice.
        bare = name.removeprefix(base)
        return bare if bare in known else base + name if base + name in known else name

    counted = Counter(named(unwrapped(name)) for name in names)
    if twice := [name for name, count in counted.items() if count > 1]:
        raise UserError(
            f"{where}: its files have {few(twice)} more than once, and it cannot be told which counts; save the model "
            "anew in an empty folder"
        )


def check_values(where: str, model: PreTrainedModel) -> None:
    """Holds that all parameters are finite.

    Raises:
        UserError: some are not.
    """
    # The extremes take one pass and no memory; NaN is passed on by both.
    parameters = {name: weight.detach() for name, weight in model.named_parameters() if weight.numel()}
    extremes = {name: torch.stack(weight.aminmax()) for name, weight in parameters.items()}
    broken = [name for name, ends in extremes.items() if not ends.isfinite().all()]
    if broken:
        raise UserError(
            f"{where}: NaN or infinite numbers in {len(broken)} of its weights ({few(broken)}); "
            "give one that was saved before it diverged"
        )
    empty = [name for name, ends in extremes.items() if not ends.any() and parameters[name].dim() > 1]
    if empty:
        log.warning("%s: nothing but zeros in %s: was the file copied whole?", where, few(empty))


def _prefix(missing: Collection[str], unknown: Collection[str], base: str) -> str | None:
    """What comes before the names of all missing weights in the files; `base` may be left out there, as it is where a
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
    """The first names, in the order of the alphabet, and how many more there are."""
    told = ", ".join(sorted(names)[:NAMED])
    return f"{told} and {len(names) - NAMED} more" if len(names) > NAMED else told


def _shape(sizes: Collection[int]) -> str:
    return " × ".join(map(str, sizes)) or "one number"
