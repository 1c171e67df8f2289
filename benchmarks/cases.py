"""The benchmarks' models and their pairs of prompts."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, PreTrainedModel, PreTrainedTokenizerBase

from mi_sweeps.circuits.engine import POSITION_SITES
from mi_sweeps.circuits.families import describe
from mi_sweeps.circuits.fast import FastEngine, memory
from mi_sweeps.circuits.network import Network
from mi_sweeps.config import PatchingConfig, Site
from mi_sweeps.models.load import load_model
from mi_sweeps.models.mini import FOLDER as MINI
from mi_sweeps.sweeps.grid import expand
from mi_sweeps.tasks import data
from mi_sweeps.tasks.pairs import Pairs, make_pairs
from mi_sweeps.tasks.prompts import Prompt
from mi_sweeps.tasks.tokens import Batch

Place = tuple[int, int]
"""Layer, and position or head."""

PROMPTS = "patching.prompts=12"
"""Pairs per model; the published ratios are for 12."""
LATE, ALL = "late and few", "all differ"
FROM_END = 9
"""Number of columns from a late difference to the end of the prompt, as from the second subject in the task's
prompts."""
SMALL = 256
"""Models narrower than this are fast enough to sample more sites."""


@dataclass(frozen=True)
class Case:
    """A model and its pairs of prompts."""

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    network: Network
    pairs: dict[str, Pairs]
    patching: PatchingConfig

    @property
    def engine(self) -> FastEngine:
        """The engine, with the memory that a patch job would give it."""
        return FastEngine(self.network, memory(self.patching, self.model.device))

    def shape(self, site: Site) -> Place:
        """The number of patches by TransformerLens: layers, and positions or heads."""
        block = self.network.blocks[0]
        width = self.pairs[LATE].clean.tokens.shape[1]
        heads = block.n_kv_heads if site == "v" else block.n_heads
        return len(self.network.blocks), width if site in POSITION_SITES else heads

    def n_sites(self, site: Site) -> int:
        """The layers and positions, or heads, of one family."""
        layers, places = self.shape(site)
        return layers * places

    def sample(self, site: Site, turn: int, count: int) -> list[Place]:
        """The sample of one repetition: `count`, or ten times as many on a small model, whose forward passes are short.
        All repetitions together spread evenly over the family (the sequence R2 of Roberts, 2018)."""
        layers, places = self.shape(site)
        if len(self.network.final_norm.weight) < SMALL:
            count = min(10 * count, layers * places)
        numbers = range(turn * count, (turn + 1) * count)
        return [(int((0.5 + 0.75488 * n) % 1 * layers), int((0.5 + 0.56984 * n) % 1 * places)) for n in numbers]


def random_case(name: str, sizes: dict[str, int], n_prompts: int, width: int, options: argparse.Namespace) -> Case:
    """Makes a GPT-2 with random weights, and random tokens; the time does not depend on either."""
    torch.manual_seed(0)
    config = GPT2Config(attn_implementation="eager", **sizes)  # type: ignore[arg-type]
    tokens = torch.randint(config.vocab_size, (n_prompts, width))
    answers = torch.randint(config.vocab_size, (n_prompts, 1))
    corrupted = tokens.clone()
    corrupted[:, -FROM_END] = others(tokens, config.vocab_size)[:, -FROM_END]
    clean = Batch(
        (Prompt("", "", (), 0),) * n_prompts,
        tokens,
        torch.full((n_prompts,), width - 1),
        answers[:, 0],
        others(answers, config.vocab_size),
        ((*(f"intro {place}" for place in range(1, width)), "end"),) * n_prompts,
    )
    late = Pairs(clean, replace(clean, tokens=corrupted), torch.ones(1))
    return make_case(name, GPT2LMHeadModel(config).eval(), AutoTokenizer.from_pretrained(MINI), late, options)


def stored_case(name: str, options: argparse.Namespace, *overrides: str) -> Case:
    """Loads a configured model with held-out prompts, as its patch jobs do."""
    (point,) = expand(["output=unused", *overrides])
    torch.manual_seed(0)
    model, tokenizer = load_model(point.config.model, attention="eager")
    late = task_pairs(tokenizer, "second", PROMPTS, *overrides)
    return make_case(name, model, tokenizer, late, options)


def task_pairs(tokenizer: PreTrainedTokenizerBase, corruption: str, *overrides: str) -> Pairs:
    """The task's held-out prompts, as patch jobs use them."""
    (point,) = expand(["output=unused", f"corruption={corruption}", *overrides])
    config = point.config
    prompts = data.load(config, tokenizer)
    chosen = data.balanced(prompts.splits["heldout"], config.patching.prompts)
    return make_pairs(chosen, config.corruption.name, tokenizer, prompts.names, config.model.prepend_bos)


def make_case(
    name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, late: Pairs, options: argparse.Namespace
) -> Case:
    """A case on the device, with both kinds of prompts and the sites of conf/patching/full.yaml."""
    (point,) = expand(["output=unused"])
    patching = point.config.patching.model_copy(update={"memory": options.memory})
    model = model.to(options.device)
    network = describe(model)
    if network is None:
        sys.exit(f"{name}: the fast engine does not know models of type {model.config.model_type}")
    every = replace(late.corrupted, tokens=others(late.clean.tokens, model.config.vocab_size))
    pairs = {LATE: late, ALL: replace(late, corrupted=every)}
    there = {kind: pair.to(options.device) for kind, pair in pairs.items()}
    return Case(name, model, tokenizer, network, there, patching)


def others(tokens: Tensor, vocabulary: int) -> Tensor:
    """Replaces every token by another one."""
    return (tokens + torch.randint_like(tokens, 1, vocabulary)) % vocabulary
