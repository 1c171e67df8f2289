"""Fixtures that every folder of tests uses."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from mi_sweeps import libraries

libraries.quiet()
# For the processes that tests start: two threads each for a small model only wait for each other.
os.environ["OMP_NUM_THREADS"] = "1"

import torch  # noqa: E402
from transformers import (  # noqa: E402
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from mi_sweeps.config import Config  # noqa: E402
from mi_sweeps.models.mini import FOLDER  # noqa: E402
from mi_sweeps.sweeps.grid import expand  # noqa: E402

settings.register_profile("repeatable", derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
settings.load_profile("repeatable")
torch.set_num_threads(1)

SMALL = (
    "task.prompts.train=24",
    "task.prompts.heldout=12",
    "task.prompts.two_name=4",
    "train.steps=4",
    "train.batch_size=8",
    "checkpoint.every=2",
    "checkpoint.steps=[]",
    "patching=heads",
    "patching.prompts=6",
    "patching.steps=[0,4]",
)
"""Overrides under which a cell of `mini` takes about a second."""


@pytest.fixture(scope="session")
def small() -> tuple[str, ...]:
    return SMALL


@pytest.fixture
def make_config(tmp_path: Path) -> Callable[..., Config]:
    """The configuration of one cell, with its results below `tmp_path`."""

    def make(*overrides: str) -> Config:
        given = {override.partition("=")[0] for override in overrides}
        output = () if "output" in given else (f"output={tmp_path / 'outputs'}",)
        (cell,) = expand([*output, *overrides])
        return cell.config

    return make


@pytest.fixture(scope="session")
def mini_tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(FOLDER)


@pytest.fixture(scope="session")
def mini_model() -> PreTrainedModel:
    """Shared by all tests: read it, do not change it."""
    return AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32).eval()


def _gpt2(n_words: int) -> PreTrainedModel:
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "initializer_range": 0.2}
    return GPT2LMHeadModel(GPT2Config(vocab_size=n_words, attn_implementation="eager", **sizes))


LLAMA_SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
}


def _llama(n_words: int) -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(vocab_size=n_words, attn_implementation="eager", **LLAMA_SIZES))


def _qwen3(n_words: int) -> PreTrainedModel:
    return Qwen3ForCausalLM(Qwen3Config(vocab_size=n_words, head_dim=8, attn_implementation="eager", **LLAMA_SIZES))


@pytest.fixture(params=[_gpt2, _llama, _qwen3], ids=["gpt2", "llama", "qwen3"])
def random_model(request: pytest.FixtureRequest, mini_tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """A tiny model of each architecture, with random weights that are far from zero, biases too."""
    torch.manual_seed(0)
    model = request.param(len(mini_tokenizer)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model
