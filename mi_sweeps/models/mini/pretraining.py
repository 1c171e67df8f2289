"""Pre-training of `mini`, from random weights."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from mi_sweeps.models.mini.corpus import CURRICULUM, Lesson, rows, words
from mi_sweeps.models.mini.tokenizer import word_tokenizer

CONTEXT = max(lesson.context for lesson in CURRICULUM)


@dataclass(frozen=True)
class Recipe:
    """What decides the weights, beside the curriculum."""

    seed: int = 0
    """Draws the first weights and the stories."""
    steps: int = 1000
    learning_rate: float = 5e-3
    warmup: int = 100
    """Steps up to the full learning rate, from which it falls to nothing along a cosine."""


def new_model(tokenizer: PreTrainedTokenizerFast) -> GPT2LMHeadModel:
    """GPT-2's architecture at 0.2 M parameters, with random weights."""
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(tokenizer),
            n_positions=CONTEXT,
            n_layer=4,
            n_head=4,
            n_embd=64,
            n_inner=256,
            # At this width GPT-2's 0.02 leaves the scores of new attention heads too flat to learn from.
            initializer_range=0.05,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=tokenizer.eos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.eos_token_id,
        )
    )


def lessons(steps: int, curriculum: Sequence[Lesson] = CURRICULUM) -> Iterator[Lesson]:
    """The lesson of each step."""
    done, share = 0, 0.0
    for lesson in curriculum:
        share += lesson.share
        stop = round(share * steps)
        yield from [lesson] * (stop - done)
        done = stop


def learning_rate(step: int, recipe: Recipe) -> float:
    """A linear warm-up, then half a cosine down to nothing."""
    if step < recipe.warmup:
        return recipe.learning_rate * (step + 1) / recipe.warmup
    progress = (step - recipe.warmup) / (recipe.steps - recipe.warmup)
    return recipe.learning_rate * (1 + math.cos(math.pi * progress)) / 2


def next_token_loss(logits: Float[Tensor, "row pos d_vocab"], tokens: Int[Tensor, "row pos"]) -> Float[Tensor, ""]:
    """Mean cross entropy of each token given those before it, in nats."""
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


def pretrain(recipe: Recipe, report: Callable[[int, float], None]) -> tuple[GPT2LMHeadModel, PreTrainedTokenizerFast]:
    """Make the model; the same recipe on the same number of threads gives the same weights.

    Args:
        recipe: what decides the weights.
        report: called after each step with the number of steps done and the loss, in nats a token.
    """
    tokenizer = word_tokenizer(words(), CONTEXT)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = new_model(tokenizer).train()
    rng = random.Random(f"stories {recipe.seed}")
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.0)
    for step, lesson in enumerate(lessons(recipe.steps)):
        texts = rows(lesson, rng, separator=tokenizer.eos_token)
        tokens = tokenizer(texts, truncation=True, max_length=lesson.context, return_tensors="pt")["input_ids"]
        if (tokens == tokenizer.unk_token_id).any():
            raise ValueError("a story uses a word that is not in corpus.words()")
        loss = next_token_loss(model(tokens, attention_mask=torch.ones_like(tokens)).logits, tokens)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, recipe)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        report(step + 1, loss.item())
    return model.eval(), tokenizer
