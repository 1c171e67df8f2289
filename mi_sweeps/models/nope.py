"""A transformer without positional embeddings, trained from scratch.

Pre-norm blocks of causal attention and, optionally, an MLP with ReLU; embedding and unembedding are untied. There is no
positional embedding, learned or rotary, so only the causal mask reveals positions: a head averages over fewer tokens
early in the context (Haviv et al. 2022, arXiv:2203.16634). If the first token is distinguished, as BOS is, its share of
the average works as a clock (Kazemnejad et al. 2023, arXiv:2305.19466, show that it can); docs/no_position.md measures
how much depends on it.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutput

from mi_sweeps.config import ScratchConfig


class NopeConfig(PreTrainedConfig):
    """The sizes, under Hugging Face's names."""

    model_type = "nope"

    def __init__(
        self,
        vocab_size: int = 64,
        hidden_size: int = 64,
        num_hidden_layers: int = 2,
        num_attention_heads: int = 4,
        head_dim: int = 16,
        intermediate_size: int | None = None,
        initializer_range: float = 0.02,
        **more: Any,
    ) -> None:
        super().__init__(tie_word_embeddings=False, **more)
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.head_dim = head_dim
        self.intermediate_size = intermediate_size
        self.initializer_range = initializer_range


class Attention(nn.Module):
    """Causal self-attention without any information about distance."""

    def __init__(self, config: NopeConfig) -> None:
        super().__init__()
        width = config.num_attention_heads * config.head_dim
        self.n_heads = config.num_attention_heads
        self.scale = config.head_dim**-0.5
        self.query, self.key, self.value = (nn.Linear(config.hidden_size, width) for _ in range(3))
        self.combine = nn.Linear(width, config.hidden_size)

    def forward(self, x: Float[Tensor, "prompt pos d_model"]) -> Float[Tensor, "prompt pos d_model"]:
        q, k, v = (
            part(x).unflatten(-1, (self.n_heads, -1)).transpose(1, 2).flatten(0, 1)
            for part in (self.query, self.key, self.value)
        )
        # Written out, because at these sizes it is faster than a fused kernel.
        length = x.shape[1]
        later = torch.full((length, length), -torch.inf, dtype=q.dtype, device=x.device).triu(1)
        scores = torch.baddbmm(later, q, k.mT, alpha=self.scale)
        z = (scores.softmax(dim=-1) @ v).unflatten(0, (-1, self.n_heads))
        return self.combine(z.transpose(1, 2).flatten(-2))


class Mlp(nn.Module):
    """One hidden layer with ReLU."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)

    def forward(self, x: Float[Tensor, "prompt pos d_model"]) -> Float[Tensor, "prompt pos d_model"]:
        return self.down(self.up(x).relu())


class Layer(nn.Module):
    """Attention and an optional MLP, each applied after a LayerNorm and added to the residual stream."""

    def __init__(self, config: NopeConfig) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.hidden_size)
        self.attention = Attention(config)
        self.mlp_norm, self.mlp = None, None
        if config.intermediate_size:
            self.mlp_norm = nn.LayerNorm(config.hidden_size)
            self.mlp = Mlp(config.hidden_size, config.intermediate_size)

    def forward(self, resid: Float[Tensor, "prompt pos d_model"]) -> Float[Tensor, "prompt pos d_model"]:
        resid = resid + self.attention(self.attention_norm(resid))
        if self.mlp is None or self.mlp_norm is None:
            return resid
        return resid + self.mlp(self.mlp_norm(resid))


class NopePreTrainedModel(PreTrainedModel):
    """The attributes and initialisation that Hugging Face's methods need."""

    config_class = NopeConfig
    base_model_prefix = "model"

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            module.weight.normal_(std=self.config.initializer_range)
        if isinstance(module, nn.Linear) and module.bias is not None:
            module.bias.zero_()
        if isinstance(module, nn.LayerNorm):
            module.weight.fill_(1)
            module.bias.zero_()


class NopeModel(NopePreTrainedModel):
    """Maps tokens to the normalised residual stream."""

    def __init__(self, config: NopeConfig) -> None:
        super().__init__(config)
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(config.hidden_size)
        self.post_init()

    def forward(self, input_ids: Int[Tensor, "prompt pos"], **_: object) -> BaseModelOutput:
        """The normalised residual stream, as `last_hidden_state`."""
        resid = self.embed(input_ids)
        for layer in self.layers:
            resid = layer(resid)
        return BaseModelOutput(last_hidden_state=self.norm(resid))


class NopeForCausalLM(NopePreTrainedModel):
    """The model with its unembedding, which has no bias."""

    def __init__(self, config: NopeConfig) -> None:
        super().__init__(config)
        self.model = NopeModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def forward(self, input_ids: Int[Tensor, "prompt pos"], **_: object) -> CausalLMOutput:
        """Next-token logits at every position."""
        return CausalLMOutput(logits=self.lm_head(self.model(input_ids).last_hidden_state))


def sizes(model: ScratchConfig) -> NopeConfig:
    """The sizes of a configured model."""
    return NopeConfig(
        vocab_size=model.d_vocab,
        hidden_size=model.d_model,
        num_hidden_layers=model.layers,
        num_attention_heads=model.heads,
        head_dim=model.d_head,
        intermediate_size=model.d_mlp,
        initializer_range=model.init_std,
    )


def build(model: ScratchConfig, seed: int) -> NopeForCausalLM:
    """A new fp32 model with random weights that depend only on the seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return NopeForCausalLM(sizes(model))
