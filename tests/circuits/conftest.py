"""Prompt pairs for the tests of circuits."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from transformers import PreTrainedTokenizerBase

from mi_sweeps.config import PatchingConfig
from mi_sweeps.sweeps.grid import expand
from mi_sweeps.tasks.ioi import single_token_names
from mi_sweeps.tasks.pairs import Pairs, make_pairs
from mi_sweeps.tasks.prompts import fill

SHORT = (
    ("{}, {} and {} met, {} and {} gave to", ["Tom", "Mary", "John", "Mary", "John"], "Tom"),
    ("{}, {} and {} met, {} and {} gave to", ["Anna", "Paul", "Luke", "Luke", "Anna"], "Paul"),
    ("Then {}, {} and {} met, {} and {} gave lunch to", ["Amy", "Eric", "Kate", "Kate", "Eric"], "Amy"),
    ("{}, {} and {} met, {} and {} to", ["Jane", "Sean", "Rose", "Jane", "Sean"], "Rose"),
)
"""Prompts of three lengths, whose subjects are at three distances from their ends."""


@pytest.fixture(scope="session")
def make_short_pairs(mini_tokenizer: PreTrainedTokenizerBase) -> Callable[[str], Pairs]:
    """A few pairs of unequal length that even the reference engine patches in a moment; two have one length."""
    names = single_token_names(mini_tokenizer)
    prompts = [fill(template, slots, answer, 2) for template, slots, answer in SHORT]
    return lambda corruption: make_pairs(prompts, corruption, mini_tokenizer, names, prepend_bos=False)


@pytest.fixture(scope="session")
def patching() -> Callable[..., PatchingConfig]:
    """What conf/patching/full.yaml says, at some sites."""
    (cell,) = expand(["output=unused", "patching=full"])

    def make(*sites: str, heads: str = "all") -> PatchingConfig:
        return cell.config.patching.model_copy(update={"sites": sites, "heads": heads})

    return make
