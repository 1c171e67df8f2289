"""Merges PEFT adapters into their base model in memory, and checks that the result computes the same.

peft only warns about missing weights, and merges some adapters incorrectly (one on an output layer that shares its
weights with the embedding changes both).
"""

from __future__ import annotations

import json
import logging
import re
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_sweeps.errors import UserError
from mi_sweeps.models import ADAPTER, no_weights
from mi_sweeps.models.weights import check_values, few, unwrapped

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)

NEVER = ("megatron_config", "layer_replication", "arrow_config")
"""Options that are refused: they import a module named in the file, add layers, or need other adapters."""

ROUNDING = 3e-5
"""Tolerance for logits relative to the largest: once weights are merged, fp32 sums are rounded in another order."""

MERGED = 1e-2
"""Additional tolerance, relative to the change that the adapter makes."""

N_TOKENS = 8


def merged(path: Path, where: str, network: PreTrainedModel) -> PreTrainedModel:
    """Merges the adapter in a folder into its base model, in fp32. On the meta device, only names and shapes are
    compared.

    Args:
        where: the model as the user specified it.
        network: the base model in fp32; it is changed.

    Raises:
        UserError: peft is not installed, or the adapter lacks weights, has extra ones, does not fit the base model, is
            not finite, or is of a kind that cannot be merged.
    """
    try:
        import peft  # noqa: F401
    except ImportError:
        raise UserError(f"{where}: a PEFT adapter, which needs peft; pip install 'mi-sweeps[peft]'") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Those that matter are errors here.
            return _merged(path, where, network)
    except UserError:
        raise
    except Exception as error:
        reason = " ".join(line.strip() for line in str(error).splitlines() if line.strip())[:200]
        raise _refused(where, f"cannot be applied to its base model ({type(error).__name__}: {reason})") from error


@torch.no_grad()
def _merged(path: Path, where: str, network: PreTrainedModel) -> PreTrainedModel:
    from peft import PeftModel

    config = _config(path, where)
    weights = _weights(path, where)
    shapes = {name: weight.shape for name, weight in network.named_parameters()}
    on_meta = network.device.type == "meta"
    if not on_meta:
        check_values(where, network)
        tokens = torch.arange(min(N_TOKENS, network.config.get_text_config().vocab_size))[None]
        plain = _logits(network, tokens)
    model = PeftModel(network, config).eval()
    if not on_meta:
        with model.disable_adapter():
            apart = (_logits(model, tokens) - plain).abs().max()
        if not apart <= ROUNDING * plain.abs().max():
            raise _refused(where, "changes the base model's own weights at initialisation (init_lora_weights)")
    _fill(model, weights, where)
    if on_meta:
        return network
    adapted = _logits(model, tokens)
    whole: PreTrainedModel = model.merge_and_unload().eval()
    for name, weight in whole.named_parameters():
        if shapes.pop(name, None) != weight.shape:
            raise _refused(where, f"adds or reshapes {name}")
        weight.requires_grad_(True)  # peft freezes the base model.
    limit = ROUNDING * adapted.abs().max() + MERGED * (adapted - plain).abs().max()
    if shapes or not (_logits(whole, tokens) - adapted).abs().max() <= limit:
        raise _refused(where, "computes something else once it is merged")
    return whole


def _fill(model: PeftModel, weights: dict[str, Tensor], where: str) -> None:
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    found = set_peft_model_state_dict(model, weights)
    missing = [name for name in found.missing_keys if re.search(r"\.default(\.|$)", name)]
    if getattr(model.active_peft_config, "bias", "none") != "none":  # Trained biases are in the base model's modules.
        missing += get_peft_model_state_dict(model, save_embedding_layers=False).keys() - weights.keys()
    wrong = []
    if missing:
        wrong.append(f"lacks {_weights_of(missing)}")
    if found.unexpected_keys:
        wrong.append(f"has {_weights_of(found.unexpected_keys)} that fit neither it nor its base model")
    if wrong:
        raise UserError(f"{where}: its adapter {' and '.join(wrong)}; save it again, or give its base as model.base")


def _config(path: Path, where: str) -> Any:
    from peft import PeftConfig

    values = json.loads((path / ADAPTER).read_text(encoding="utf-8"))
    config = PeftConfig.from_pretrained(str(path))
    unknown = [key for key, value in values.items() if value and key != "auto_mapping" and not hasattr(config, key)]
    if unknown:
        raise UserError(
            f"{where}: its {ADAPTER} has {few(unknown)}, which this version of peft does not know; install a newer one"
        )
    if never := [key for key in NEVER if values.get(key)]:
        raise _refused(where, f"has {few(never)}")
    if config.task_type not in (None, "CAUSAL_LM") or config.is_prompt_learning:
        raise _refused(where, f"is of type {config.peft_type.value} for {config.task_type or 'any task'}")
    return config


def _weights(path: Path, where: str) -> dict[str, Tensor]:
    from peft.utils import load_peft_weights

    # Otherwise peft would look for them on the hub.
    if why := no_weights(path):
        raise UserError(f"{where}: {why}; give the folder of a saved adapter")
    found = load_peft_weights(str(path), device="cpu")
    weights = {unwrapped(name): weight for name, weight in found.items()}
    if weights.keys() != found.keys():
        log.warning("%s: removed a wrapper's prefix from the names of its adapter's weights", where)
    if len(weights) < len(found):
        raise UserError(f"{where}: its adapter has weights twice, with a wrapper's prefix and without; save it again")
    if broken := [name for name, weight in weights.items() if not weight.isfinite().all()]:
        raise UserError(
            f"{where}: NaN or infinite numbers in {_weights_of(broken)} of its adapter; give an earlier one"
        )
    return weights


def _logits(model: Any, tokens: Int[Tensor, "prompt pos"]) -> Float[Tensor, "prompt pos d_vocab"]:
    return model(input_ids=tokens).logits


def _refused(where: str, why: str) -> UserError:
    return UserError(
        f"{where}: its adapter {why}; merge it where it was trained (merge_and_unload of peft) and save the whole "
        "model in a folder of its own"
    )


def _weights_of(names: Collection[str]) -> str:
    return f"{len(names)} weight{'s' * (len(names) > 1)} ({few(names)})"
