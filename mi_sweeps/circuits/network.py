"""What the fast engine knows of a language model: a small description that every supported family is put into.

A block normalises, projects to queries, keys and values, attends, combines the heads, and adds an MLP:

    resid_mid  = resid_pre + combine(attend(project(normalise(resid_pre))))
    resid_post = resid_mid + mlp(normalise(resid_mid))

Descriptions hold views of the model's own parameters, so weights that are changed in place are seen at once and
nothing is copied, folded or wrapped.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Rotation = tuple[Float[Tensor, "... d_head"], Float[Tensor, "... d_head"]]
"""Cosines and sines of rotary position embeddings (Su et al. 2021, arXiv:2104.09864)."""

SLICE = 1024
"""Tokens in one matrix product of an MLP: enough for full speed, and the hidden layer stays in a CPU's cache."""

IN_CACHE = 1 << 17
"""Numbers that an activation function works on at once."""


def _detach(weights: Norm | Linear) -> None:
    """The same memory, unknown to autograd, so that the model may be trained or loaded anew in place."""
    object.__setattr__(weights, "weight", weights.weight.detach())
    object.__setattr__(weights, "bias", None if weights.bias is None else weights.bias.detach())


@dataclass(frozen=True)
class Norm:
    """LayerNorm (Ba et al. 2016), or RMSNorm (Zhang & Sennrich 2019) where it does not centre."""

    weight: Float[Tensor, " width"]
    bias: Float[Tensor, " width"] | None
    eps: float
    centres: bool

    def __post_init__(self) -> None:
        _detach(self)

    def __call__(self, x: Float[Tensor, "... width"]) -> Float[Tensor, "... width"]:
        if self.centres:
            return functional.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)
        return functional.rms_norm(x, self.weight.shape, self.weight, self.eps)

    def centre(self, x: Float[Tensor, "... width"]) -> Float[Tensor, "... width"]:
        """What is divided by the scale."""
        return x - x.mean(dim=-1, keepdim=True) if self.centres else x

    def scale(self, x: Float[Tensor, "... width"]) -> Float[Tensor, "... 1"]:
        """What it is divided by."""
        return (self.centre(x).pow(2).mean(dim=-1, keepdim=True) + self.eps).sqrt()


@dataclass(frozen=True)
class Activation:
    """A function of each number."""

    function: Callable[[Tensor], Tensor]
    onednn: tuple[str, str]
    """Its name and the name of its algorithm in oneDNN, which computes it as a part of a matrix product."""

    def __call__(self, x: Float[Tensor, ...]) -> Float[Tensor, ...]:
        return self.function(x)


@dataclass(frozen=True)
class Linear:
    """An affine map; `weight` may be part of a larger matrix."""

    weight: Float[Tensor, "d_in d_out"]
    bias: Float[Tensor, " d_out"] | None

    def __post_init__(self) -> None:
        _detach(self)

    def __call__(self, x: Float[Tensor, "... d_in"], then: Activation | None = None) -> Float[Tensor, "... d_out"]:
        """The map of `x`, and a function of the result."""
        flat = x.reshape(-1, x.shape[-1])
        flat = flat @ self.weight if self.bias is None else torch.addmm(self.bias, flat, self.weight)
        result = flat.view(*x.shape[:-1], -1)
        return then(result) if then else result

    def add_to(self, total: Float[Tensor, "token d_out"], x: Float[Tensor, "token d_in"]) -> None:
        """Adds the map of `x` to `total` in place, in the matrix product itself."""
        if self.bias is not None:
            total += self.bias
        total.addmm_(x, self.weight)


@dataclass(frozen=True)
class Mlp:
    """down(activation(up(x))), or with a gate down(activation(gate(x)) * up(x)) (Shazeer 2020, arXiv:2002.05202)."""

    up: Linear
    gate: Linear | None
    down: Linear
    activation: Activation

    def __call__(self, x: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        return self.down(self.hidden(x))

    def hidden(self, x: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_mlp"]:
        """What `down` is given."""
        if self.gate is None:
            return self.up(x, then=self.activation)
        return self.gate(x, then=self.activation) * self.up(x)


@dataclass(frozen=True)
class Block:
    """One layer. Under grouped-query attention (Ainslie et al. 2023, arXiv:2305.13245) `n_kv_heads` < `n_heads`."""

    n_heads: int
    n_kv_heads: int
    attention_norm: Norm
    query: Linear
    key: Linear
    value: Linear
    query_norm: Norm | None
    """Of each head's query, before it is rotated."""
    key_norm: Norm | None
    scale: float
    """What the dot product of query and key is multiplied by."""
    combine: Linear
    """From the heads' outputs z, side by side, to the residual stream."""
    mlp_norm: Norm
    mlp: Mlp

    def queries(self, normed: Float[Tensor, "... d_model"]) -> Float[Tensor, "... head d_head"]:
        """Before rotation."""
        heads = self.query(normed).unflatten(-1, (self.n_heads, -1))
        return heads if self.query_norm is None else self.query_norm(heads)

    def keys(self, normed: Float[Tensor, "... d_model"]) -> Float[Tensor, "... kv_head d_head"]:
        """Before rotation."""
        heads = self.key(normed).unflatten(-1, (self.n_kv_heads, -1))
        return heads if self.key_norm is None else self.key_norm(heads)

    def values(self, normed: Float[Tensor, "... d_model"]) -> Float[Tensor, "... kv_head d_head"]:
        """No rotation."""
        return self.value(normed).unflatten(-1, (self.n_kv_heads, -1))

    @property
    def W_O(self) -> Float[Tensor, "head d_head d_model"]:
        """The part of `combine` that each head has."""
        return self.combine.weight.unflatten(0, (self.n_heads, -1))

    def add_mlp(self, resid: Float[Tensor, "token d_model"]) -> None:
        """From resid_mid to resid_post in place, some tokens at a time."""
        for part in resid.split(SLICE):
            self.mlp.down.add_to(part, self.mlp.hidden(self.mlp_norm(part)))


@dataclass(frozen=True)
class Network:
    """A whole model."""

    embed: Callable[[Int[Tensor, "prompt pos"], Int[Tensor, "prompt pos"]], Float[Tensor, "prompt pos d_model"]]
    """From tokens and their positions."""
    rotation: Callable[[Int[Tensor, "prompt pos"]], Rotation] | None
    """Of each position, for models that rotate queries and keys."""
    blocks: tuple[Block, ...]
    final_norm: Norm
    unembed: Linear
    longest: int | None = None
    """Prompts of more tokens than this are computed in another way (a sliding window), which is not known here."""
    has_mlps: bool = True
    """Where it is false, the blocks' MLPs write nothing: the model is attention only."""


def rotate(heads: Float[Tensor, "... head d_head"], rotation: Rotation | None) -> Float[Tensor, "... head d_head"]:
    """Queries or keys at their positions.

    Args:
        rotation: of shape [..., d_head]; None leaves them as they are.
    """
    if rotation is None:
        return heads
    cos, sin = (part.unsqueeze(-2) for part in rotation)
    left, right = heads.chunk(2, dim=-1)
    return heads * cos + torch.cat([-right, left], dim=-1) * sin


def gelu_tanh(x: Float[Tensor, ...]) -> Float[Tensor, ...]:
    """GELU in the tanh approximation of Hendrycks & Gimpel (2016, arXiv:1606.08415).

    0.5 (1 + tanh(u)) is sigmoid(2u), which CPUs compute several times faster.
    """
    if torch.is_grad_enabled() or x.is_cuda:
        return functional.gelu(x, approximate="tanh")
    twice = torch.tensor(2 * math.sqrt(2 / math.pi))
    result = torch.empty_like(x)
    # So many numbers at a time that all steps on them stay in a core's cache.
    for part, out in zip(x.reshape(-1).split(IN_CACHE), result.view(-1).split(IN_CACHE), strict=True):
        torch.mul(part, part, out=out)
        torch.add(twice, out, alpha=0.044715 * twice.item(), out=out).mul_(part).sigmoid_().mul_(part)
    return result


def describe(model: PreTrainedModel) -> Network | None:
    """The description of a model; None where its architecture, or an option of it, is not known here."""
    from mi_sweeps.circuits.families import FAMILIES

    family = FAMILIES.get(model.config.model_type)
    with torch.no_grad():
        return family(model) if family else None
