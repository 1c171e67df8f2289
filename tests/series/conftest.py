"""A series of small random checkpoints: GPT-NeoX's architecture, with the embedded model's tokenizer."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedModel

STEPS = (0, 8, 16, 24)

FEW = (
    "task.prompts.train=12",
    "task.prompts.heldout=12",
    "task.prompts.two_name=4",
    "patching=heads",
    "patching.sites=[z,v]",
    "patching.prompts=6",
)
"""Overrides under which a checkpoint takes a moment."""


@pytest.fixture(scope="session")
def checkpoints_of(mini_tokenizer) -> dict[int, PreTrainedModel]:
    """The models by their steps: each is the one before with all its weights moved. Read them, do not change them."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    config = GPTNeoXConfig(vocab_size=len(mini_tokenizer), max_position_embeddings=64, initializer_range=0.2, **sizes)
    model = GPTNeoXForCausalLM(config).eval()
    made = {}
    for step in STEPS:
        made[step] = copy.deepcopy(model)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
    return made


@pytest.fixture(scope="session")
def written(checkpoints_of, mini_tokenizer, tmp_path_factory) -> Path:
    """The folder with checkpoint-0 to checkpoint-24. Read it, do not change it."""
    folder = tmp_path_factory.mktemp("trained")
    for step, model in checkpoints_of.items():
        model.save_pretrained(folder / f"checkpoint-{step}")
        mini_tokenizer.save_pretrained(folder / f"checkpoint-{step}")
    return folder


@pytest.fixture
def series(written: Path, tmp_path: Path) -> Path:
    """A copy of that folder."""
    import shutil

    return Path(shutil.copytree(written, tmp_path / "trained"))


@pytest.fixture
def make(make_config) -> Callable:
    """The configuration of a series in a folder."""

    def of(folder: Path, *overrides: str):
        return make_config("model=series", f"model.path={folder}/checkpoint-{{step}}", *FEW, *overrides)

    return of
