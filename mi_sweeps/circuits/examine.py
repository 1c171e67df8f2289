"""A patch job: every wanted checkpoint of a run, under one corruption, to one table each."""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import pyarrow as pa
import torch

from mi_sweeps.circuits.attribution import attribute, check_lens
from mi_sweeps.circuits.pairs import Pairs, make_pairs
from mi_sweeps.circuits.patching import Engine, table_rows
from mi_sweeps.circuits.reference import ReferenceEngine, wrap
from mi_sweeps.config import Config
from mi_sweeps.models.load import load_model, pick_device
from mi_sweeps.store.files import write_json, write_table
from mi_sweeps.store.folders import PatchFolder, RunFolder
from mi_sweeps.tasks import data
from mi_sweeps.training import checkpoints
from mi_sweeps.training.evaluate import end_logits
from mi_sweeps.training.loop import check_commit

log = logging.getLogger(__name__)

TABLE = pa.schema(
    [
        ("kind", pa.string()),
        ("site", pa.string()),
        ("component", pa.string()),
        ("layer", pa.int64()),
        ("head", pa.int64()),
        ("position", pa.string()),
        ("logit_diff", pa.float64()),
        ("patched", pa.float64()),
        ("clean", pa.float64()),
        ("corrupted", pa.float64()),
        ("n", pa.int64()),
    ]
)
"""One file a checkpoint holds both tables: rows of kind lens, layer and head are attribution, patch is patching."""


def examine(
    config: Config,
    run: RunFolder,
    folder: PatchFolder,
    *,
    on_table: Callable[[int, list[dict[str, Any]]], None] = lambda step, rows: None,
) -> None:
    """Makes the tables that are not there yet.

    Args:
        on_table: told a checkpoint's step and rows, when they are on disk.

    Raises:
        UserError: a checkpoint is missing or damaged, or the model is not understood.
    """
    missing = [step for step in config.patch_steps if not folder.table(step).exists()]
    if not missing:
        return
    device = pick_device(config.launcher.device)
    model, tokenizer = load_model(config.model, device, attention="eager")
    check_commit(run, model)
    prompts = data.load(config, tokenizer, config.output)
    chosen = data.balanced(prompts.splits["heldout"], config.patching.prompts)
    if len(chosen) < config.patching.prompts:
        log.warning("patching.prompts=%d: only %d held-out prompts", config.patching.prompts, len(chosen))
    pairs = make_pairs(chosen, config.corruption.name, tokenizer, prompts.names, config.model.prepend_bos)
    pairs = Pairs(pairs.clean.to(device), pairs.corrupted.to(device), pairs.subject_weights.to(device))

    weights = checkpoints.parameters(model)
    base = checkpoints.snapshot(weights)
    with torch.no_grad():
        logits = end_logits(model, pairs.clean)
    bridge = wrap(model, tokenizer)
    lens_error = check_lens(bridge, pairs, logits)
    write_json(folder.path / "patch.json", describe(config, run, folder, pairs, lens_error))
    engine: Engine = ReferenceEngine(bridge)
    for step in missing:
        checkpoints.load_weights(run.checkpoint(step), weights, base)
        rows = attribute(bridge, pairs) + table_rows(engine.patch(pairs, config.patching))
        write_table(folder.table(step), pa.Table.from_pylist(rows, TABLE))
        log.info("step %d: %d rows", step, len(rows))
        on_table(step, rows)


def describe(config: Config, run: RunFolder, folder: PatchFolder, pairs: Pairs, lens_error: float) -> dict[str, Any]:
    """What patch.json says: the configuration, the prompts, and how far the lens is from the model's logits."""
    return {
        "patch_id": folder.patch_id,
        "run_id": run.run_id,
        "corruption": config.corruption.name,
        "config": config.dump(),
        "lens_error": lens_error,
        "weights": "raw",
        "prompts": [
            {"clean": clean.text, "corrupted": corrupted.text, "answer": clean.answer, "subjects": list(clean.subjects)}
            for clean, corrupted in zip(pairs.clean.prompts, pairs.corrupted.prompts, strict=True)
        ],
        "versions": {name: version(name) for name in ("mi-sweeps", "torch", "transformers", "transformer-lens")},
    }
