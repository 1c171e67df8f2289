"""What the fast engine knows of a language model: a small description that every supported family is put into.

A block projects to queries, keys and values, attends, combines the heads, and adds an MLP:

    resid_mid  = resid_pre + attn_out    attn_out = write(combine(attend(project(read(resid_pre)))))
    resid_post = resid_mid + mlp_out     mlp_out  = write(mlp(read(resid_mid)))

Families differ in parts: `read` normalises or not, and so does `write`, which may also multiply; in a parallel block
the MLP reads resid_pre, as attention does. Descriptions hold views of the model's own parameters, so weights that are
changed in place are seen at once and nothing is copied, folded or wrapped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from mi_sweeps.models.head import Scaling

Rotation = tuple[Float[Tensor, "... rotated"], Float[Tensor, "... rotated"]]
"""Cosines and sines of rotary position embeddings (Su et al. 2021, arXiv:2104.09864), for as many of a head's numbers
as are rotated."""

Rotary = Callable[[Int[Tensor, "prompt pos"]], Rotation]
"""The rotation of each position."""

SLICE = 1024
"""Tokens in one matrix product of an MLP: enough for full speed, and the hidden layer stays in a CPU's cache."""


def _detach(part: object, *names: str) -> None:
    """The same memory, unknown to autograd, so that the model may be trained or loaded anew in place."""
    for name in names:
        value = getattr(part, name)
        object.__setattr__(part, name, None if value is None else value.detach())


@dataclass(frozen=True)
class Norm:
    """LayerNorm (Ba et al. 2016), or RMSNorm (Zhang & Sennrich 2019) where it does not centre."""

    weight: Float[Tensor, " width"]
    bias: Float[Tensor, " width"] | None
    eps: float
    centres: bool
    offset: float = 0.0
    """Added to the weight, which some families keep less one."""

    def __post_init__(self) -> None:
        _detach(self, "weight", "bias")

    def __call__(self, x: Float[Tensor, "... width"]) -> Float[Tensor, "... width"]:
        if self.centres:
            return functional.layer_norm(x, self.weight.shape, self.gain, self.bias, self.eps)
        return functional.rms_norm(x, self.weight.shape, self.gain, self.eps)

    @property
    def gain(self) -> Float[Tensor, " width"]:
        """What is multiplied by."""
        return self.weight + self.offset if self.offset else self.weight

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

    def __call__(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return self.function(x)


@dataclass(frozen=True)
class Linear:
    """An affine map, whose parameters may be parts of larger ones."""

    parameter: Float[Tensor, "d_in ..."]
    """The weight. What it maps to may be several axes, heads and their numbers, where those lie apart in memory."""
    added: Float[Tensor, "..."] | None
    """The bias, of the same axes."""

    def __post_init__(self) -> None:
        _detach(self, "parameter", "added")

    @property
    def weight(self) -> Float[Tensor, "d_in d_out"]:
        """The parameter itself, or a copy where it lies apart in memory."""
        return self.parameter.movedim(0, -1).flatten(0, -2).T

    @property
    def bias(self) -> Float[Tensor, " d_out"] | None:
        """Likewise."""
        return None if self.added is None else self.added.flatten()

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

    def activated(
        self, first: Float[Tensor, "... d_mlp"], *rest: Float[Tensor, "... d_mlp"]
    ) -> Float[Tensor, "... d_mlp"]:
        """The same from what `up` gives, or `gate` and `up`."""
        hidden = self.activation(first)
        return hidden * rest[0] if rest else hidden


@dataclass(frozen=True)
class Block:
    """One layer. Under grouped-query attention (Ainslie et al. 2023, arXiv:2305.13245) `n_kv_heads` < `n_heads`."""

    n_heads: int
    n_kv_heads: int
    attention_norm: Norm | None
    """Of what attention reads."""
    query: Linear
    key: Linear
    value: Linear
    query_norm: Norm | None
    """Of queries before they are rotated: of each head's, or of all together where it is that wide."""
    key_norm: Norm | None
    scale: float
    """What the dot product of query and key is multiplied by."""
    combine: Linear
    """From the heads' outputs z, side by side."""
    mlp_norm: Norm | None
    """Of what the MLP reads."""
    mlp: Mlp
    rotation: Rotary | None = None
    """Of queries and keys. Layers with the same rotation share one function, which is called once."""
    parallel: bool = False
    """Whether the MLP reads the residual stream before attention, as attention does."""
    cap: float | None = None
    """Attention scores are bounded smoothly (`mi_sweeps.models.head.capped`)."""
    attention_post_norm: Norm | None = None
    """Of what the heads write together."""
    mlp_post_norm: Norm | None = None
    """Of what the MLP writes."""
    multiplier: float = 1.0
    """Of what attention and MLP add to the residual stream."""

    def read(self, resid: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        """What queries, keys and values are made of."""
        return _normed(self.attention_norm, resid)

    def queries(self, read: Float[Tensor, "... d_model"]) -> Float[Tensor, "... head d_head"]:
        """Before rotation."""
        return by_head(self.query(read), self.n_heads, self.query_norm)

    def keys(self, read: Float[Tensor, "... d_model"]) -> Float[Tensor, "... kv_head d_head"]:
        """Before rotation."""
        return by_head(self.key(read), self.n_kv_heads, self.key_norm)

    def values(self, read: Float[Tensor, "... d_model"]) -> Float[Tensor, "... kv_head d_head"]:
        """No rotation."""
        return by_head(self.value(read), self.n_kv_heads, None)

    @property
    def W_O(self) -> Float[Tensor, "head d_head d_model"]:
        """The part of `combine` that each head has."""
        return self.combine.weight.unflatten(0, (self.n_heads, -1))

    def attn_out(self, z: Float[Tensor, "... d_heads"]) -> Float[Tensor, "... d_model"]:
        """What attention adds to the residual stream."""
        return self._write(self.attention_post_norm, self.combine(z))

    def attn_out_changed(
        self, z: Float[Tensor, "... d_heads"], change: Float[Tensor, "*more d_model"]
    ) -> Float[Tensor, "*more d_model"]:
        """How what attention adds changes, where what the heads write together changes."""
        if self.attention_post_norm is None:
            return change * self.multiplier
        before = self.combine(z)
        after, now = (self._write(self.attention_post_norm, value) for value in (before + change, before))
        return after - now

    def mlp_out(
        self, resid_pre: Float[Tensor, "... d_model"], attn_out: Float[Tensor, "... d_model"]
    ) -> Float[Tensor, "... d_model"]:
        """What the MLP adds to the residual stream."""
        read = resid_pre if self.parallel else resid_pre + attn_out
        return self.mlp_written(_normed(self.mlp_norm, read))

    def mlp_written(self, normed: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        """What the MLP adds to the residual stream, from what it reads, normalised already."""
        return self._write(self.mlp_post_norm, self.mlp(normed))

    def mlp_of_hidden(self, hidden: Float[Tensor, "... d_mlp"]) -> Float[Tensor, "... d_model"]:
        """What the MLP adds to the residual stream, from its hidden layer."""
        return self._write(self.mlp_post_norm, self.mlp.down(hidden))

    def add_attention(self, resid: Float[Tensor, "token d_model"], z: Float[Tensor, "token d_heads"]) -> None:
        """From resid_pre to resid_mid in place."""
        if self.rescales:
            resid += self.attn_out(z)
        else:
            self.combine.add_to(resid, z)

    def add_mlp(self, resid: Float[Tensor, "token d_model"]) -> None:
        """Adds what the MLP writes to what it reads in place, some tokens at a time."""
        for part in resid.split(SLICE):
            hidden = self.mlp.hidden(_normed(self.mlp_norm, part))
            if self.mlp_post_norm is None and self.multiplier == 1.0:
                self.mlp.down.add_to(part, hidden)
            else:
                part += self.mlp_of_hidden(hidden)

    @property
    def rescales(self) -> bool:
        """Whether what the heads write together is not simply added."""
        return self.attention_post_norm is not None or self.multiplier != 1.0

    def _write(self, norm: Norm | None, output: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        output = _normed(norm, output)
        return output if self.multiplier == 1.0 else output * self.multiplier


def by_head(flat: Float[Tensor, "... d_heads"], n_heads: int, norm: Norm | None) -> Float[Tensor, "... head d_head"]:
    """Queries, keys or values of each head, normalised in groups of as many numbers as the norm is wide."""
    if norm is not None:
        flat = norm(flat.unflatten(-1, (-1, len(norm.weight)))).flatten(-2)
    return flat.unflatten(-1, (n_heads, -1))


def _normed(norm: Norm | None, x: Float[Tensor, "... width"]) -> Float[Tensor, "... width"]:
    return x if norm is None else norm(x)


@dataclass(frozen=True)
class Network:
    """A whole model."""

    embed: Callable[[Int[Tensor, "prompt pos"], Int[Tensor, "prompt pos"]], Float[Tensor, "prompt pos d_model"]]
    """From tokens and their positions."""
    blocks: tuple[Block, ...]
    final_norm: Norm
    unembed: Linear
    scaling: Scaling = Scaling()
    """What becomes of the unembedding's logits."""
    longest: int | None = None
    """Prompts of more tokens than this are computed in another way (a sliding window), which is not known here."""
    has_mlps: bool = True
    """Where it is false, the blocks' MLPs write nothing: the model is attention only."""
    positional: Callable[[Int[Tensor, "prompt pos"]], Float[Tensor, "prompt pos d_model"]] | None = None
    """What `embed` adds for each position, where positions are learned."""

    def logits(self, resid: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_vocab"]:
        """From the residual stream after the last layer."""
        return self.scaling(self.unembed(self.final_norm(resid)))


def rotate(heads: Float[Tensor, "... head d_head"], rotation: Rotation | None) -> Float[Tensor, "... head d_head"]:
    """Queries or keys at their positions.

    Args:
        rotation: of shape [..., rotated]; None leaves them as they are. What is not rotated comes after what is.
    """
    if rotation is None:
        return heads
    cos, sin = (part.unsqueeze(-2) for part in rotation)
    width = cos.shape[-1]
    turned = heads[..., :width]
    left, right = turned.chunk(2, dim=-1)
    turned = turned * cos + torch.cat([-right, left], dim=-1) * sin
    return turned if width == heads.shape[-1] else torch.cat([turned, heads[..., width:]], dim=-1)
