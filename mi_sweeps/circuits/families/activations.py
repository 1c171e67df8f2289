"""Activation functions, by Hugging Face's names."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from mi_sweeps.circuits.network import Activation

IN_CACHE = 1 << 17
"""Number of elements that an activation function processes at once."""


def gelu_tanh(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """GELU in the tanh approximation of Hendrycks & Gimpel (2016, arXiv:1606.08415).

    0.5 (1 + tanh(u)) is sigmoid(2u), which CPUs compute several times faster.
    """
    if torch.is_grad_enabled() or x.is_cuda:
        return functional.gelu(x, approximate="tanh")
    twice = torch.tensor(2 * math.sqrt(2 / math.pi))
    result = torch.empty_like(x)
    # In slices that stay in a core's cache for all steps.
    for part, out in zip(x.reshape(-1).split(IN_CACHE), result.view(-1).split(IN_CACHE), strict=True):
        torch.mul(part, part, out=out)
        torch.add(twice, out, alpha=0.044715 * twice.item(), out=out).mul_(part).sigmoid_().mul_(part)
    return result


GELU_TANH = Activation(gelu_tanh, ("gelu", "tanh"))
SILU = Activation(functional.silu, ("swish", ""))

ACTIVATIONS: dict[str, Activation] = {
    "gelu": Activation(functional.gelu, ("gelu", "none")),
    "gelu_new": GELU_TANH,
    "gelu_pytorch_tanh": GELU_TANH,
    "relu": Activation(functional.relu, ("relu", "")),
    "silu": SILU,
    "swish": SILU,
}
