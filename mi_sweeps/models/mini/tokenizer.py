"""A tokenizer with one token for each word and punctuation mark."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

UNKNOWN, END = "<unk>", "<eos>"


def word_tokenizer(words: Sequence[str], context: int) -> PreTrainedTokenizerFast:
    """A tokenizer of these words; it adds no special token to a text, and any other word is `<unk>`.

    >>> word_tokenizer(["After", "Mary", ","], 64).tokenize("After Mary, Zoe")
    ['After', 'Mary', ',', '<unk>']
    """
    vocabulary = {word: token for token, word in enumerate([UNKNOWN, END, *words])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token=UNKNOWN, eos_token=END, pad_token=END, model_max_length=context
    )
