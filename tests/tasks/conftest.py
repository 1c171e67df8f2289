"""A tokenizer that knows the words of the ready-made tasks."""

from __future__ import annotations

import re

import pytest
from tokenizers import Regex, pre_tokenizers
from transformers import PreTrainedTokenizerBase

from mi_sweeps.models.mini.tokenizer import word_tokenizer
from mi_sweeps.tasks import docstring, gender, greater_than, sva

AROUND = """The lasted from the year to So is , isn ' t near behind beside by above below are was were has have
def ( self ): \"\"\" : param"""


@pytest.fixture(scope="session")
def words() -> PreTrainedTokenizerBase:
    """One token for each word, but two for a year: "1732" is "17" and "32"."""
    lists = [greater_than.NOUNS, gender.WOMEN, gender.MEN, gender.DESCRIPTIONS, docstring.WORDS, greater_than.YEARS]
    lists += [[noun, f"{noun}s"] for noun in (*sva.SUBJECTS, *sva.ATTRACTORS)]
    lists += [["she", "he"], [AROUND]]
    known = dict.fromkeys(re.findall(r"\w+|[^\w\s]+", " ".join(word for one in lists for word in one)))
    tokenizer = word_tokenizer(list(known), context=96)
    pairs = pre_tokenizers.Split(Regex(r"\d\d"), "isolated")
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pairs])
    return tokenizer
