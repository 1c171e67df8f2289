"""Prompt pairs for the tests of circuits."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from transformers import PreTrainedTokenizerBase

from mi_sweeps.circuits.pairs import Pairs, make_pairs
from mi_sweeps.tasks import ioi
from mi_sweeps.tasks.data import balanced
from mi_sweeps.tasks.ioi import single_token_names


@pytest.fixture(scope="session")
def make_test_pairs(mini_tokenizer: PreTrainedTokenizerBase) -> Callable[..., Pairs]:
    """Pairs of three-name prompts; of one template and so of one length, or of unequal lengths."""

    def make(corruption: str, *, one_length: bool = False, count: int = 6) -> Pairs:
        names = single_token_names(mini_tokenizer)
        prompts = ioi.splits(names, 3, {"train": 240}, seed=0)["train"]
        if one_length:
            prompts = [
                prompt for prompt in prompts if prompt.template.split("|")[1] == "went" and "," in prompt.template
            ]
            prompts = [prompt for prompt in prompts if "decided" not in prompt.template]
        return make_pairs(balanced(prompts, count), corruption, mini_tokenizer, names, prepend_bos=False)

    return make
