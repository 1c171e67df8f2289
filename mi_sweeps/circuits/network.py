"""The fast engine's description of a language model, the same for all supported families.

A block projects to queries, keys and values, attends, combines the heads, and adds an MLP:

    resid_mid  = resid_pre + attn_out    attn_out = write(combine(attend(project(read(resid_pre)))))
    resid_post = resid_mid + mlp_out     mlp_out  = write(mlp(read(resid_mid)))

Families differ in a few parts: `read` and `write` may normalise, and `write` may also multiply; in a parallel block the
MLP reads resid_pre, as attention does. Descriptions hold views of the model's own parameters, so they follow in-place
changes of the weights; nothing is copied, folded or wrapped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from mi_sweeps.graph import Graph
from mi_sweeps.models.head import Scaling

Rotation = tuple[Float[Tensor, "... rotated"], Float[Tensor, "... rotated"]]
"""Cosines and sines of rotary position embeddings (Su et al. 2021, arXiv:2104.09864), for the rotated dimensions of a
head."""

Rotary = Callable[[Int[Tensor, "prompt pos"]], Rotation]
"""Returns the rotation of each position."""

SLICE = 1024
"""Tokens per matrix product in an MLP: enough for full speed, and the hidden layer stays in a CPU's cache."""


def _detach(part: object, *names: str) -> None:
    """Detaches attributes from autograd without copying, so that the model can be trained or reloaded in place."""
    for name in names:
        value = getattr(part, name)
        object.__setattr__(part, name, None if value is None else value.detach())


@dataclass(frozen=True)
class Norm:
    """LayerNorm (Ba et al. 2016), or RMSNorm (Zhang & Sennrich 2019) if it does not centre."""

    weight: Float[Tensor, " width"]
    bias: Float[Tensor, " width"] | None
    eps: float
    centres: bool
    offset: float = 0.0
    """Added to the weight: some families store the weight minus one."""

    def __post_init__(self) -> None:
        _detach(self, "weight", "bias")

    def __call__(self, x: Float[Tensor, "... width"]) -> Float[Tensor, "... width"]:
        if self.centres:
            return functional.layer_norm(x, self.weight.shape, self.gain, self.bias, self.eps)
        return functional.rms_norm(x, self.weight.shape, self.gain, self.eps)

    @property
    def gain(self) -> Float[Tensor, " width"]:
        """The factor applied after dividing by the scale."""
        return self.weight + self.offset if self.offset else self.weight

    def centre(self, x: Float[Tensor, "... width"]) -> Float[Tensor, "... width"]:
        """The input, centred if the norm centres."""
        return x - x.mean(dim=-1, keepdim=True) if self.centres else x

    def scale(self, x: Float[Tensor, "... width"]) -> Float[Tensor, "... 1"]:
        """The divisor."""
        return (self.centre(x).pow(2).mean(dim=-1, keepdim=True) + self.eps).sqrt()


@dataclass(frozen=True)
class Activation:
    """An elementwise activation function."""

    function: Callable[[Tensor], Tensor]
    onednn: tuple[str, str]
    """Its name and algorithm in oneDNN, which fuses it with a matrix product."""

    def __call__(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return self.function(x)


@dataclass(frozen=True)
class Linear:
    """An affine map, whose parameters may be views of larger ones."""

    parameter: Float[Tensor, "d_in ..."]
    """The weight. Its output may have several axes (head, d_head) if these are not contiguous in memory."""
    added: Float[Tensor, "..."] | None
    """The bias, with the same output axes."""

    def __post_init__(self) -> None:
        _detach(self, "parameter", "added")

    @property
    def weight(self) -> Float[Tensor, "d_in d_out"]:
        """The parameter as a matrix; a copy if it is not contiguous."""
        return self.parameter.movedim(0, -1).flatten(0, -2).T

    @property
    def bias(self) -> Float[Tensor, " d_out"] | None:
        """The bias as a vector."""
        return None if self.added is None else self.added.flatten()

    def __call__(self, x: Float[Tensor, "... d_in"], then: Activation | None = None) -> Float[Tensor, "... d_out"]:
        """Maps `x`, then applies an activation function if given."""
        flat = x.reshape(-1, x.shape[-1])
        flat = flat @ self.weight if self.bias is None else torch.addmm(self.bias, flat, self.weight)
        result = flat.view(*x.shape[:-1], -1)
        return then(result) if then else result

    def add_to(self, total: Float[Tensor, "token d_out"], x: Float[Tensor, "token d_in"]) -> None:
        """Adds the map of `x` to `total` in place, within the matrix product."""
        if self.bias is not None:
            total += self.bias
        total.addmm_(x, self.weight)


@dataclass(frozen=True)
class Mlp:
    """down(activation(up(x))), or with a gate, down(activation(gate(x)) * up(x)) (Shazeer 2020, arXiv:2002.05202)."""

    up: Linear
    gate: Linear | None
    down: Linear
    activation: Activation

    def __call__(self, x: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        return self.down(self.hidden(x))

    def hidden(self, x: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_mlp"]:
        """The hidden layer: the input of `down`."""
        if self.gate is None:
            return self.up(x, then=self.activation)
        return self.gate(x, then=self.activation) * self.up(x)

    def activated(
        self, first: Float[Tensor, "... d_mlp"], *rest: Float[Tensor, "... d_mlp"]
    ) -> Float[Tensor, "... d_mlp"]:
        """The hidden layer, given the output of `up`, or of `gate` and `up`."""
        hidden = self.activation(first)
        return hidden * rest[0] if rest else hidden


@dataclass(frozen=True)
class Block:
    """One layer. With grouped-query attention (Ainslie et al. 2023, arXiv:2305.13245), `n_kv_heads` < `n_heads`."""

    n_heads: int
    n_kv_heads: int
    attention_norm: Norm | None
    """Norm of attention's input."""
    query: Linear
    key: Linear
    value: Linear
    query_norm: Norm | None
    """Norm of queries before rotation: of each head, or of all heads together if it is that wide."""
    key_norm: Norm | None
    scale: float
    """Factor on the dot product of query and key."""
    combine: Linear
    """Maps the concatenated heads' outputs z to d_model."""
    mlp_norm: Norm | None
    """Norm of the MLP's input."""
    mlp: Mlp
    rotation: Rotary | None = None
    """Rotation of queries and keys. Layers with the same rotation share one function, which is called once."""
    parallel: bool = False
    """Whether the MLP reads the residual stream before attention."""
    cap: float | None = None
    """Smooth bound on attention scores (`mi_sweeps.models.head.capped`)."""
    attention_post_norm: Norm | None = None
    """Norm of the heads' summed output."""
    mlp_post_norm: Norm | None = None
    """Norm of the MLP's output."""
    multiplier: float = 1.0
    """Factor on what attention and MLP add to the residual stream."""

    def read(self, resid: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        """The normalised input of queries, keys and values."""
        return _normed(self.attention_norm, resid)

    def queries(self, read: Float[Tensor, "... d_model"]) -> Float[Tensor, "... head d_head"]:
        """Queries before rotation."""
        return by_head(self.query(read), self.n_heads, self.query_norm)

    def keys(self, read: Float[Tensor, "... d_model"]) -> Float[Tensor, "... kv_head d_head"]:
        """Keys before rotation."""
        return by_head(self.key(read), self.n_kv_heads, self.key_norm)

    def values(self, read: Float[Tensor, "... d_model"]) -> Float[Tensor, "... kv_head d_head"]:
        """Values, which are never rotated."""
        return by_head(self.value(read), self.n_kv_heads, None)

    @property
    def W_O(self) -> Float[Tensor, "head d_head d_model"]:
        """The part of `combine` that belongs to each head."""
        return self.combine.weight.unflatten(0, (self.n_heads, -1))

    def attn_out(self, z: Float[Tensor, "... d_heads"]) -> Float[Tensor, "... d_model"]:
        """The output of attention, as added to the residual stream."""
        return self.attn_written(self.combine(z))

    def attn_written(self, summed: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        """The output of attention, given the heads' summed output."""
        return self._write(self.attention_post_norm, summed)

    def attn_out_changed(
        self, z: Float[Tensor, "... d_heads"], change: Float[Tensor, "*more d_model"]
    ) -> Float[Tensor, "*more d_model"]:
        """The change in attention's output due to a change in the heads' summed output."""
        if self.attention_post_norm is None:
            return change * self.multiplier
        before = self.combine(z)
        return self.attn_written(before + change) - self.attn_written(before)

    def mlp_out(
        self, resid_pre: Float[Tensor, "... d_model"], attn_out: Float[Tensor, "... d_model"]
    ) -> Float[Tensor, "... d_model"]:
        """The output of the MLP, as added to the residual stream."""
        read = resid_pre if self.parallel else resid_pre + attn_out
        return self.mlp_written(_normed(self.mlp_norm, read))

    def mlp_written(self, normed: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        """The output of the MLP, given its normalised input."""
        return self._write(self.mlp_post_norm, self.mlp(normed))

    def mlp_of_hidden(self, hidden: Float[Tensor, "... d_mlp"]) -> Float[Tensor, "... d_model"]:
        """The output of the MLP, given its hidden layer."""
        return self._write(self.mlp_post_norm, self.mlp.down(hidden))

    def add_attention(self, resid: Float[Tensor, "token d_model"], z: Float[Tensor, "token d_heads"]) -> None:
        """Turns resid_pre into resid_mid in place."""
        if self.rescales:
            resid += self.attn_out(z)
        else:
            self.combine.add_to(resid, z)

    def add_mlp(self, resid: Float[Tensor, "token d_model"]) -> None:
        """Adds the MLP's output to its input in place, some tokens at a time."""
        for part in resid.split(SLICE):
            hidden = self.mlp.hidden(_normed(self.mlp_norm, part))
            if self.mlp_post_norm is None and self.multiplier == 1.0:
                self.mlp.down.add_to(part, hidden)
            else:
                part += self.mlp_of_hidden(hidden)

    @property
    def rescales(self) -> bool:
        """Whether the heads' summed output is rescaled before it is added to the residual stream."""
        return self.attention_post_norm is not None or self.multiplier != 1.0

    def _write(self, norm: Norm | None, output: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        output = _normed(norm, output)
        return output if self.multiplier == 1.0 else output * self.multiplier


def by_head(flat: Float[Tensor, "... d_heads"], n_heads: int, norm: Norm | None) -> Float[Tensor, "... head d_head"]:
    """Splits queries, keys or values into heads, after normalising them in groups as wide as the norm."""
    if norm is not None:
        flat = norm(flat.unflatten(-1, (-1, len(norm.weight)))).flatten(-2)
    return flat.unflatten(-1, (n_heads, -1))


def _normed(norm: Norm | None, x: Float[Tensor, "... width"]) -> Float[Tensor, "... width"]:
    return x if norm is None else norm(x)


@dataclass(frozen=True)
class Network:
    """A whole model."""

    embed: Callable[[Int[Tensor, "prompt pos"], Int[Tensor, "prompt pos"]], Float[Tensor, "prompt pos d_model"]]
    """Embeds tokens at their positions."""
    blocks: tuple[Block, ...]
    final_norm: Norm
    unembed: Linear
    scaling: Scaling = Scaling()
    """How the unembedding's logits are scaled."""
    longest: int | None = None
    """The most tokens in a prompt; longer ones need a sliding window, which is not supported."""
    has_mlps: bool = True
    """False for an attention-only model, whose blocks have MLPs that write nothing."""
    positional: Callable[[Int[Tensor, "prompt pos"]], Float[Tensor, "prompt pos d_model"]] | None = None
    """The positional embedding that `embed` adds, if positions are learned."""

    def logits(self, resid: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_vocab"]:
        """Logits, given the residual stream after the last layer."""
        return self.scaling(self.unembed(self.final_norm(resid)))

    @property
    def graph(self) -> Graph:
        """Its nodes and edges."""
        return Graph(self.blocks[0].n_heads, tuple(block.parallel for block in self.blocks), self.has_mlps)


def rotate(heads: Float[Tensor, "... head d_head"], rotation: Rotation | None) -> Float[Tensor, "... head d_head"]:
    """Rotates queries or keys by their positions.

    Args:
        rotation: of shape [..., rotated]; the remaining dimensions stay as they are. None rotates nothing.
    """
    if rotation is None:
        return heads
    cos, sin = (part.unsqueeze(-2) for part in rotation)
    width = cos.shape[-1]
    turned = heads[..., :width]
    left, right = turned.chunk(2, dim=-1)
    turned = turned * cos + torch.cat([-right, left], dim=-1) * sin
    return turned if width == heads.shape[-1] else torch.cat([turned, heads[..., width:]], dim=-1)
