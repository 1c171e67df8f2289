"""Chooses the training prompts of each step: pure functions of the step, so that resuming needs no loader state."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor


def batch_rows(step: int, n: int, batch_size: int, seed: int) -> Int[Tensor, " row"]:
    """The rows, out of `n`, that a step trains on: one epoch after another, each shuffled anew."""
    start, stop = step * batch_size, (step + 1) * batch_size
    epochs = range(start // n, (stop - 1) // n + 1)
    orders = [torch.randperm(n, generator=generator(seed, epoch)) for epoch in epochs]
    return torch.cat(orders)[start - epochs[0] * n :][:batch_size]


def generator(seed: int, number: int) -> torch.Generator:
    """A random generator for one epoch or step of a run."""
    return torch.Generator().manual_seed(hash_seed(seed, number))


def hash_seed(seed: int, number: int) -> int:
    """A seed for one part of a run, unrelated to those of its neighbours (SplitMix64, Steele et al. 2014)."""
    mask = (1 << 64) - 1
    value = (seed * 0x9E3779B97F4A7C15 + (number + 1) * 0xBF58476D1CE4E5B9) & mask
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & mask
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & mask
    return (value ^ (value >> 31)) >> 1
