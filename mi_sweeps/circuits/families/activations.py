"""Activation functions by the names that Hugging Face gives them."""

from __future__ import annotations

from torch.nn import functional

from mi_sweeps.circuits.network import Activation, gelu_tanh

ACTIVATIONS: dict[str, Activation] = {
    "gelu": functional.gelu,
    "gelu_new": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
    "relu": functional.relu,
    "silu": functional.silu,
    "swish": functional.silu,
}
