"""A patch job: every wanted checkpoint of a run, under one corruption, to one table each."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import torch

from mi_sweeps.circuits.approximate import estimate
from mi_sweeps.circuits.attribution import attribute, check_lens
from mi_sweeps.circuits.fast import MEMORY, FastEngine
from mi_sweeps.circuits.measures import take
from mi_sweeps.circuits.network import Network, describe
from mi_sweeps.circuits.patching import Engine, check_effects, correlations, prompt_rows, table_rows
from mi_sweeps.circuits.paths import patch_paths, path_rows
from mi_sweeps.circuits.reference import ReferenceEngine, wrap
from mi_sweeps.config import Config, PatchingConfig
from mi_sweeps.errors import UserError
from mi_sweeps.models.load import load_model, pick_device
from mi_sweeps.store.files import write_json, write_table
from mi_sweeps.store.folders import PatchFolder, RunFolder
from mi_sweeps.tasks.pairs import Pairs
from mi_sweeps.tasks.task import load
from mi_sweeps.training import checkpoints
from mi_sweeps.training.evaluate import end_logits
from mi_sweeps.training.run import check_commit

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)

TABLE = pa.schema(
    [
        ("kind", pa.string()),
        ("site", pa.string()),
        ("measure", pa.string()),
        ("component", pa.string()),
        ("layer", pa.int64()),
        ("head", pa.int64()),
        ("position", pa.string()),
        ("source_layer", pa.int64()),
        ("source_head", pa.int64()),
        ("prompt", pa.int64()),
        ("logit_diff", pa.float64()),
        ("patched", pa.float64()),
        ("approximate", pa.float64()),
        ("clean", pa.float64()),
        ("corrupted", pa.float64()),
        ("value", pa.float64()),
        ("n", pa.int64()),
        ("by_prompt", pa.list_(pa.float32())),
    ]
)
"""One file a checkpoint holds all tables: rows of kind lens, layer and head are attribution, patch is patching, path
is path patching, measure is what is measured of a clean run alone, and prompt has what clean and corrupted are for each
prompt that `by_prompt` lists."""


def examine(
    config: Config,
    run: RunFolder,
    folder: PatchFolder,
    steps: Sequence[int],
    *,
    before_write: Callable[[], None] = lambda: None,
    on_table: Callable[[int, list[dict[str, Any]]], None] = lambda step, rows: None,
) -> None:
    """Makes the tables that are not there yet.

    Args:
        steps: the checkpoints to look at.
        before_write: called before each table; may raise, and nothing is written then.
        on_table: told a checkpoint's step and rows, when they are on disk.

    Raises:
        UserError: a checkpoint is missing or damaged, or the model is not understood.
    """
    missing = [step for step in steps if not folder.table(step).exists()]
    if not missing:
        return
    device = pick_device(config.launcher.device)
    model, tokenizer = load_model(config.model, device, attention="eager", seed=config.seed)
    check_commit(run, model)
    task = load(config, tokenizer, config.output)
    pairs = task.pairs(config.corruption.name, config.patching.prompts)
    if len(pairs.clean) < config.patching.prompts:
        log.warning("patching.prompts=%d: only %d held-out prompts", config.patching.prompts, len(pairs.clean))
    pairs = pairs.to(device)
    heldout = task.splits["heldout"]
    heldout = heldout.select(range(min(config.patching.measured_prompts, len(heldout)))).to(device)

    weights = checkpoints.parameters(model)
    base = checkpoints.snapshot(weights)
    with torch.no_grad():
        logits = end_logits(model, pairs.clean)
    network = known(model, pairs)
    if network is None and config.patching.for_known_models:
        raise UserError(
            "patching.approximate, patching.paths, patching.measures: not for models of type "
            f"{model.config.model_type}, which TransformerLens alone patches here; use patching.approximate=false "
            "patching.paths=null patching.measures=[]"
        )
    engine: Engine
    # Checked whoever patches: paths and estimates come from the description too.
    fast = FastEngine(network, memory(config.patching, device)) if network else None
    lens_error = check_lens(fast.at_end(pairs), logits) if fast else 0.0
    if fast and config.patching.engine == "fast":
        engine = fast
    else:
        if config.patching.engine == "fast":
            log.warning(
                "the fast engine does not know models of type %s with these options; "
                "TransformerLens patches instead, one forward a site",
                model.config.model_type,
            )
        if tokenizer is None:
            raise UserError(
                f"patching.engine=reference: TransformerLens does not know model={config.model.name}; use fast"
            )
        engine = ReferenceEngine(wrap(model, tokenizer))
        lens_error = max(lens_error, check_lens(engine.at_end(pairs), logits))
    write_json(folder.path / "patch.json", about(config, run, folder, pairs, lens_error, type(engine).__name__))
    with tf32(config.patching.tf32):
        for step in missing:
            checkpoints.load_weights(run.checkpoint(step), weights, base)
            rows = measure(engine, network, pairs, config.patching, f"step {step}")
            if network and config.patching.measures:
                rows += take(network, heldout, config.patching.measures, memory(config.patching, device))
            before_write()
            write_table(folder.table(step), pa.Table.from_pylist(rows, TABLE))
            log.info("step %d: %d rows", step, len(rows))
            on_table(step, rows)


def known(model: PreTrainedModel, pairs: Pairs) -> Network | None:
    """The model as the fast engine computes it, if it knows it for prompts of this length."""
    network = describe(model)
    if network and network.longest and pairs.clean.tokens.shape[1] > network.longest:
        return None
    return network


def memory(patching: PatchingConfig, device: torch.device) -> int:
    """Bytes that activations may take."""
    if patching.memory is not None:
        return patching.memory * 1_000_000
    return torch.cuda.mem_get_info(device)[0] // 2 if device.type == "cuda" else MEMORY


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Whether products on a GPU may round their factors, for a while."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def measure(
    engine: Engine, network: Network | None, pairs: Pairs, patching: PatchingConfig, name: str
) -> list[dict[str, Any]]:
    """All rows of one checkpoint.

    Raises:
        UserError: some family's patches do nothing.
    """
    rows = attribute(engine.at_end(pairs), pairs)
    exact = engine.patch(pairs, patching) if patching.exact else None
    if exact:
        check_effects(pairs, exact)
    approximate = estimate(network, pairs, patching) if network and patching.approximate else None
    if exact and approximate:
        found = ", ".join(f"{site} {r:.3f}" for site, r in correlations(exact, approximate).items())
        log.info("%s: correlation of approximate with exact effects: %s", name, found)
    paths = None
    if network and patching.paths:
        paths = patch_paths(network, pairs, patching.paths, memory(patching, pairs.clean.tokens.device))
    one = exact or approximate or paths
    if one:
        rows += prompt_rows(one.clean, one.corrupted)
    return rows + table_rows(exact, approximate) + (path_rows(paths) if paths else [])


def about(
    config: Config, run: RunFolder, folder: PatchFolder, pairs: Pairs, lens_error: float, engine: str
) -> dict[str, Any]:
    """What patch.json says: the configuration, the prompts, who computes, and how far that is from the model's
    own logits."""
    return {
        "patch_id": folder.patch_id,
        "run_id": run.run_id,
        "corruption": config.corruption.name,
        "config": config.dump(),
        "engine": engine,
        "lens_error": lens_error,
        "weights": "raw",
        "prompts": [
            {"clean": clean.text, "corrupted": corrupted.text, "answer": clean.answer, "subjects": list(clean.subjects)}
            for clean, corrupted in zip(pairs.clean.prompts, pairs.corrupted.prompts, strict=True)
        ],
        "versions": {name: version(name) for name in ("mi-sweeps", "torch", "transformers", "transformer-lens")},
    }
