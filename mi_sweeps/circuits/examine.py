"""A patch job: examines the requested checkpoints of a run under one corruption, and writes one table for each."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import torch
from jaxtyping import Float
from torch import Tensor

from mi_sweeps.circuits import composition
from mi_sweeps.circuits.approximate import estimate
from mi_sweeps.circuits.attribution import EndActivations, Kind, attribute, lens_error, misfits
from mi_sweeps.circuits.engine import Engine, check_effects, correlations, prompt_rows, table_rows
from mi_sweeps.circuits.fast import FastEngine, memory
from mi_sweeps.circuits.fidelity import check_logits, compare, known, own_logits
from mi_sweeps.circuits.measurements import MEASUREMENTS
from mi_sweeps.circuits.measures import take
from mi_sweeps.circuits.network import Network
from mi_sweeps.circuits.other_checkpoints import Others
from mi_sweeps.circuits.paths import patch_paths, path_rows
from mi_sweeps.circuits.record import about, check_prompts
from mi_sweeps.circuits.reference import ReferenceEngine, wrap
from mi_sweeps.circuits.view import View
from mi_sweeps.config import Config, PatchingConfig
from mi_sweeps.errors import UserError
from mi_sweeps.identity import data_folder
from mi_sweeps.models.load import load_tokenizer, pick_device
from mi_sweeps.series.checkpoints import single
from mi_sweeps.store.files import write_json, write_table
from mi_sweeps.store.folders import PatchFolder, RunFolder
from mi_sweeps.tasks import prompt_hashes
from mi_sweeps.tasks.load import load, patched_pairs
from mi_sweeps.tasks.pairs import Pairs, uncorrupted_note
from mi_sweeps.tasks.task import Task
from mi_sweeps.tasks.tokens import Batch
from mi_sweeps.training.evaluate import CHUNK, end_logits
from mi_sweeps.training.models_at import models_at

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

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
"""One file per checkpoint holds several tables, distinguished by `kind`: lens, layer and head are attribution, patch is
patching, path is path patching, measure is a measurement on clean prompts, win marks which of another task's held-out
prompts are won, and prompt has each prompt's clean and corrupted value. `by_prompt` lists the values that `logit_diff`,
`patched` or a win rate is the mean of, in the order of the prompts."""


def examine(
    config: Config,
    run: RunFolder,
    folder: PatchFolder,
    steps: Sequence[int],
    *,
    before_write: Callable[[], None] = lambda: None,
    on_table: Callable[[int, list[dict[str, Any]]], None] = lambda step, rows: None,
) -> None:
    """Makes the tables that do not exist yet.

    Args:
        steps: the checkpoints to examine.
        before_write: called before each table; if it raises, nothing is written.
        on_table: called with a checkpoint's step and rows once they are on disk.

    Raises:
        UserError: a checkpoint is missing or damaged, or the model is not supported.
    """
    tables = config.patching.tables
    missing = [step for step in steps if not folder.has([step], tables)]
    if not missing:
        return
    device = pick_device(config.launcher.device)
    tokenizer = load_tokenizer(single(config))
    asked = config.for_patching
    data = data_folder(asked)
    task = load(asked, tokenizer, cache=data)
    pairs = patched_pairs(task, asked)
    made = prompt_hashes.of_task(task, training=False) | prompt_hashes.of_pairs(pairs, asked)
    own = () if config.patching.task else (run.about,)
    prompt_hashes.compare(asked, made, *own, prompt_hashes.record_of(data))
    check_prompts(asked, folder, pairs)
    prompt_hashes.keep(prompt_hashes.record_of(data), made)
    if len(pairs.clean) < config.patching.prompts:
        log.warning("patching.prompts=%d: only %d prompts", config.patching.prompts, len(pairs.clean))
    for line in uncorrupted_note(pairs, config.prompts_label):
        log.warning("%s", line)
    pairs = pairs.to(device)
    measured = {
        split: batch.select(range(min(config.patching.measured_prompts, len(batch)))).to(device)
        for split, batch in task.splits.items()
        if split in ("heldout", "without_bos")
    }

    examined = tuple(run.status_on_disk().reached(config.patch_steps))
    others = Others(config, run, pairs, device)
    prepared: Prepared | None = None
    for step, model in models_at(config, run, missing, device, attention="eager"):
        if prepared is None:
            prepared = prepare(model, tokenizer, pairs, config.patching)
            for what, why in prepared.left_out.items():
                log.warning("%s are left out: %s", what, why)
            write_json(folder.about, about(config, run, folder, pairs, tokenizer, prepared))
        # Made for each checkpoint, because TransformerLens copies weights for some architectures.
        engine, network = make_engine(model, tokenizer, pairs, prepared.patching)
        if network and tables:
            limit = memory(prepared.patching, device)
            compare(model, network, pairs, limit, f"step {step}")
            view = View(step, network, pairs, task, prepared.patching, limit, examined, others.at)
            for name in tables:
                if not folder.table(step, name).exists():
                    with tf32(prepared.patching.tf32):
                        table = MEASUREMENTS[name](view)
                    before_write()
                    write_table(folder.table(step, name), table)
                    log.info("step %d, %s: %d rows", step, name, len(table))
            del view
        rows: list[dict[str, Any]] = []
        if not folder.table(step).exists():
            rows = measure(model, engine, network, pairs, prepared.patching, f"step {step}")
            if network and prepared.patching.measures:
                with tf32(prepared.patching.tf32):
                    rows += take(
                        network,
                        measured["heldout"],
                        prepared.patching.measures,
                        memory(prepared.patching, device),
                        measured.get("without_bos"),
                    )
            if prepared.patching.task:
                rows += win_rows(model, task, measured["heldout"])
            before_write()
            write_table(folder.table(step), pa.Table.from_pylist(rows, TABLE))
            log.info("step %d: %d rows", step, len(rows))
        # The engine may hold a copy of the model, and the next checkpoint of a series is another model.
        del engine, network, model
        on_table(step, rows)


@dataclass(frozen=True)
class Prepared:
    """What can be examined in a model."""

    patching: PatchingConfig
    """With the sites that can be patched."""
    left_out: dict[str, str]
    """Requested sites and kinds of attribution rows that are not available, each with the reason."""
    engine: str
    error: float | None
    """The difference between the lens and the model's own logits; None without a lens."""


def prepare(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, pairs: Pairs, patching: PatchingConfig
) -> Prepared:
    """Tests what can be examined in a model with its current weights.

    Raises:
        UserError: nothing can be, or something required cannot.
    """
    engine, network = make_engine(model, tokenizer, pairs, patching)
    kind = model.config.model_type
    if network is None and patching.engine == "fast":
        log.warning(
            "the fast engine does not support models of type %s with these options; "
            "TransformerLens patches instead, with one forward pass per site",
            kind,
        )
    left: dict[str, str] = {}
    own = own_logits(model, pairs)
    try:
        if isinstance(engine, ReferenceEngine):
            missing = engine.sites(pairs, patching.sites)
            patching = patching.model_copy(update={"sites": tuple(one for one in patching.sites if one not in missing)})
            if not patching.sites:
                reasons = "; ".join(f"{site}: {why}" for site, why in missing.items())
                raise UserError(f"patching.sites: none of them can be patched in models of type {kind} ({reasons})")
            left = {f"patches of {site}": why for site, why in missing.items()}
        end = engine.at_end(pairs)
    except (AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        # An error in our own engine is a bug, and running out of memory says nothing about the architecture.
        if isinstance(engine, FastEngine) or isinstance(error, torch.OutOfMemoryError):
            raise
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(
            f"patching: TransformerLens cannot run models of type {kind}, so they cannot be patched ({reason[:150]})"
        ) from error
    rows = without(engine, end, pairs, own.clean)
    if network and patching.only_for_known_models:  # These need the description, whichever engine patches.
        described = FastEngine(network, memory(patching, pairs.clean.tokens.device))
        without(described, described.at_end(pairs), pairs, own.clean)
    left |= {f"attribution rows of kind {row}": why for row, why in rows.items()}
    if network and patching.looks:
        left |= composition.left_out(network)
    return Prepared(patching, left, type(engine).__name__, lens_error(end, own.clean) if end else None)


def rehearse(
    config: Config, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, task: Task, prompts: int = 3
) -> None:
    """Tests, on a few prompts, whether a model can be patched, before it is trained.

    Raises:
        UserError: it cannot, or not as requested.
    """
    if config.patching.task:
        task = load(config.for_patching, tokenizer)
    pairs = patched_pairs(task, config.for_patching, prompts)
    with torch.random.fork_rng():  # So that training has the same random numbers with and without it.
        prepare(model, tokenizer, pairs.to(model.device), config.patching)


def make_engine(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, pairs: Pairs, patching: PatchingConfig
) -> tuple[Engine, Network | None]:
    """The engine that patches a model with its current weights, and the model's description if there is one.

    Raises:
        UserError: no engine can, or not what is required.
    """
    network = known(model, pairs)
    if network is None and patching.only_for_known_models:
        raise UserError(
            f"{', '.join(patching.only_for_known_models)}: not for models of type {model.config.model_type}, which "
            "only TransformerLens can patch here; leave them out"
        )
    if network and patching.engine == "fast":
        return FastEngine(network, memory(patching, pairs.clean.tokens.device)), network
    if tokenizer is None:
        raise UserError(
            f"patching.engine=reference: TransformerLens does not know models of type {model.config.model_type}; "
            "use fast"
        )
    return ReferenceEngine(wrap(model, tokenizer)), network


def without(
    engine: Engine, end: EndActivations | None, pairs: Pairs, logits: Float[Tensor, "prompt d_vocab"]
) -> dict[Kind, str]:
    """The kinds of attribution rows that are not available, each with the reason.

    Raises:
        UserError: the fast engine's description does not fit the model.
    """
    if end is None:
        reason = "the model's logits are not its last residual stream, normalised and unembedded"
        return {"lens": reason, "layer": reason, "head": reason}
    found = misfits(end, pairs, logits)
    if found and isinstance(engine, FastEngine):
        raise UserError(f"patching: {next(iter(found.values()))}; this architecture is not supported")
    if end.cap is not None:
        reason = "the model's logits are capped, so no sum of terms gives their difference"
        return {"lens": reason, "layer": reason, "head": reason}
    return found


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Within the context, allows or forbids matrix products on a GPU to round their factors to TF32."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def measure(
    model: PreTrainedModel,
    engine: Engine,
    network: Network | None,
    pairs: Pairs,
    patching: PatchingConfig,
    name: str,
) -> list[dict[str, Any]]:
    """All rows of one checkpoint.

    Args:
        model: the unwrapped model, whose logits every engine must reproduce.

    Raises:
        UserError: no patch of some site has an effect, or logits differ from the model's own.
    """
    own = own_logits(model, pairs)
    end = engine.at_end(pairs)
    kinds = without(engine, end, pairs, own.clean)
    rows = attribute(end, pairs, kinds.keys()) if end else []
    paths = None
    with tf32(patching.tf32):  # The comparison with the model's own logits above is exact.
        exact = engine.patch(pairs, patching) if patching.exact else None
        approximate = estimate(network, pairs, patching) if network and patching.approximate else None
        if network and patching.paths:
            paths = patch_paths(network, pairs, patching.paths, memory(patching, pairs.clean.tokens.device))
    if exact:
        check_effects(pairs, exact)
    if exact and approximate:
        found = ", ".join(f"{site} {r:.3f}" for site, r in correlations(exact, approximate).items())
        log.info("%s: correlation of approximate with exact effects: %s", name, found)
    for one in (exact, approximate, paths):
        if one:
            check_logits(pairs, own, one.clean, one.corrupted, name, rounded=patching.tf32)
    one = exact or approximate or paths
    if one:
        rows += prompt_rows(one.clean, one.corrupted)
    return rows + table_rows(exact, approximate) + (path_rows(paths) if paths else [])


@torch.no_grad()
def win_rows(model: PreTrainedModel, task: Task, batch: Batch) -> list[dict[str, Any]]:
    """Which held-out prompts a model wins, if they are another task's, which the run's own metrics do not cover. Empty
    for a task that does not report wins by prompt.

    Args:
        model: the unwrapped model.
    """
    wins = getattr(task, "wins", None)
    if wins is None:
        return []
    parts = [batch.select(range(start, min(start + CHUNK, len(batch)))) for start in range(0, len(batch), CHUNK)]
    each = [float(won) for part in parts for won in wins(end_logits(model, part).float(), part).tolist()]
    value = sum(each) / len(each)
    return [{"kind": "win", "measure": "win_rate", "value": value, "n": len(each), "by_prompt": each}]
