"""Write a series of small random checkpoints to try `model=series` with: `python examples/make_series.py DIR`.

They have the architecture GPT-NeoX (Pythia's); each is the one before with small random changes to all weights. They
cannot do any task.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Iterator
from pathlib import Path

import torch
from transformers import AutoTokenizer, GPTNeoXConfig, GPTNeoXForCausalLM

from mi_sweeps.models.mini import FOLDER

STEPS = (0, 8, 16, 24)
MOVED = 0.02
"""Standard deviation of the change of each weight from one checkpoint to the next."""


def models(d_vocab: int) -> Iterator[tuple[int, GPTNeoXForCausalLM]]:
    """Yields each step with its model."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    config = GPTNeoXConfig(vocab_size=d_vocab, max_position_embeddings=64, initializer_range=0.2, **sizes)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = GPTNeoXForCausalLM(config).eval()
        for step in STEPS:
            yield step, copy.deepcopy(model)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(MOVED * torch.randn_like(parameter))


def write(folder: Path) -> None:
    """Writes the folders checkpoint-0, checkpoint-8, …, with the tokenizer of `mini`."""
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    for step, model in models(len(tokenizer)):
        model.save_pretrained(folder / f"checkpoint-{step}")
        tokenizer.save_pretrained(folder / f"checkpoint-{step}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    write(parser.parse_args().folder)
