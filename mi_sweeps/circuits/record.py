"""Writes the record of a patch job, patch.json."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from mi_sweeps.config import Config
from mi_sweeps.identity import task_contents
from mi_sweeps.store.files import read_json
from mi_sweeps.store.folders import PatchFolder, RunFolder
from mi_sweeps.tasks.pairs import Pairs
from mi_sweeps.tasks.prompt_hashes import refused
from mi_sweeps.tasks.tokens import Batch

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from mi_sweeps.circuits.examine import Prepared


def about(
    config: Config,
    run: RunFolder,
    folder: PatchFolder,
    pairs: Pairs,
    tokenizer: PreTrainedTokenizerBase | None,
    prepared: Prepared,
) -> dict[str, Any]:
    """The contents of patch.json: the configuration, the prompts, the engine, its distance from the model's own logits,
    and what is not available. Includes the tokens of the first prompts, which pictures show."""
    shown = prepared.patching.looks.patterns if prepared.patching.looks else 1
    return {
        "patch_id": folder.patch_id,
        "run_id": run.run_id,
        "corruption": config.prompts_label,
        "config": config.meant(),
        "contents": task_contents(config.for_patching) if config.patching.task else {},
        "engine": prepared.engine,
        "lens_error": prepared.error,
        "left_out": prepared.left_out,
        "weights": "raw",
        "prompts": [
            {
                "clean": clean.text,
                "corrupted": corrupted.text,
                "answer": clean.answer,
                "subjects": list(clean.subjects),
            }
            | (
                {
                    "tokens": words(pairs.clean, number, tokenizer),
                    "corrupted_tokens": words(pairs.corrupted, number, tokenizer),
                }
                if number < shown
                else {}
            )
            for number, (clean, corrupted) in enumerate(zip(pairs.clean.prompts, pairs.corrupted.prompts, strict=True))
        ],
        "versions": {name: version(name) for name in ("mi-sweeps", "torch", "transformers", "transformer-lens")},
    }


def check_prompts(config: Config, folder: PatchFolder, pairs: Pairs) -> None:
    """Checks that the pairs are those of the tables that a patch job already has.

    Raises:
        UserError: they differ.
    """
    before = (read_json(folder.about) or {}).get("prompts")
    now = [(one.text, other.text) for one, other in zip(pairs.clean.prompts, pairs.corrupted.prompts, strict=True)]
    if folder.steps() and before is not None and [(one["clean"], one["corrupted"]) for one in before] != now:
        raise refused(config, f"than {folder.about} lists")


def words(batch: Batch, prompt: int, tokenizer: PreTrainedTokenizerBase | None) -> list[str]:
    """A prompt's tokens as text, or as numbers without a tokenizer."""
    tokens = batch.tokens[prompt, : int(batch.end[prompt]) + 1].tolist()
    return [tokenizer.decode([token]) if tokenizer else str(token) for token in tokens]
