"""Activation functions by the names that Hugging Face gives them."""

from __future__ import annotations

from torch.nn import functional

from mi_sweeps.circuits.network import Activation, gelu_tanh

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
