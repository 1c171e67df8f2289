"""Estimates the memory that a plan needs from sizes alone, without loading a model or importing torch.

The estimates lean high; docs/training.md compares them with measurements.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from mi_sweeps import models
from mi_sweeps.circuits.architectures import FAST, KNOWN
from mi_sweeps.config import Config, ModelConfig, ScratchConfig, SeriesConfig, SingleModel, SlurmConfig
from mi_sweeps.errors import UserError
from mi_sweeps.series.checkpoints import single
from mi_sweeps.sweeps.points import GridPoint
from mi_sweeps.tasks import PREVIOUS_TOKEN
from mi_sweeps.training.only import chosen, kind

Shapes = dict[str, tuple[int, ...]]

PROCESS = 600e6
"""Bytes of a process after its imports (Linux, CPU)."""

LENGTH = 40
"""Assumed tokens in a prompt; only the tokenizer knows the real number."""

CHUNK = 64
"""Prompts in one forward of an evaluation (`mi_sweeps.training.evaluate`)."""

ACTIVATIONS = 512 * 2**20
"""Largest size in bytes of a patch job's activations if `patching.memory` is not set."""

UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40, "": 2**20}
"""SLURM's units of memory; a bare number is MB."""


@dataclass(frozen=True)
class Sizes:
    """The sizes of a model that decide its memory."""

    shapes: Shapes
    """Shapes of its weights; tied weights once."""
    layers: int
    d_model: int
    d_mlp: int
    heads: int
    d_vocab: int
    keeps_patterns: bool
    """Whether attention patterns are kept for the backward pass, as with attention dropout."""
    model_type: str

    @property
    def parameters(self) -> int:
        return sum(map(math.prod, self.shapes.values()))


@dataclass(frozen=True)
class Need:
    """Memory in bytes."""

    working: float
    """On the device: weights, gradients, the optimiser's moments, activations."""
    host: float
    """Additionally in the machine's memory: the process, and copies made there."""

    @property
    def total(self) -> float:
        """The machine's memory, if it computes on the CPU."""
        return self.working + self.host


def finetune(sizes: Sizes, config: Config) -> Need:
    """Estimates the memory of one fine-tune."""
    train = config.train
    every, learned = sizes.parameters, _learned(sizes, config)
    adapter = train.method == "lora"
    if train.weights == "bf16":
        # bf16 weights; fp32 copies on the device for those that learn, and on the host for the others.
        working, host = 2.0 * every + 4.0 * learned, 4.0 * (every if adapter else every - learned)
    else:
        working, host = 4.0 * every + (4.0 * learned if adapter else 0), 0.0
    moments = 8.0 * learned
    prompts = min(train.batch_size, train.micro_batch or train.batch_size)
    kept = _activations(sizes, config, prompts) * (0.5 if "bf16" in (train.weights, train.precision) else 1)
    step = working + moments + 4.0 * learned + kept
    # At a checkpoint: no gradients, all weights in fp32, and a copy of what is written.
    exact = 4.0 * every if train.weights == "bf16" else working
    looking = exact + moments + 4.0 * (learned if adapter else 0) + _forward(sizes, config)
    written = 4.0 * (learned if adapter else every)
    host += PROCESS + (4.0 * every if config.checkpoint.storage == "delta" and not adapter else 0)
    # A step and a checkpoint never happen at once.
    return Need(max(step, looking + written), host)


def patch(sizes: Sizes, config: Config) -> Need:
    """Estimates the memory of one patch job."""
    config = config.for_patching
    every = 4.0 * sizes.parameters
    ours = not isinstance(config.model, SeriesConfig)
    differences = ours and (config.train.method == "lora" or config.checkpoint.storage == "delta")
    known = KNOWN.get(sizes.model_type)
    fast = known is not None and known.engine == FAST and config.patching.engine == "fast"
    activations = min(
        float(config.patching.memory * 10**6) if config.patching.memory else ACTIVATIONS, _patched(sizes, config)
    )
    # A checkpoint is read whole; then its weights are reordered, or copied for TransformerLens.
    working = every + max(every if ours else 0, every * (1.0 if fast else 1.2) + activations + _forward(sizes, config))
    more = config.patching
    # Parts of another checkpoint come from a second model.
    beside = every if more.cross or (more.circuits and more.circuits.at) else 0.0
    return Need(working + beside, PROCESS + (every if differences else 0) * (2 if beside else 1))


def _learned(sizes: Sizes, config: Config) -> int:
    """Counts the trained parameters; an upper bound if the files use other names than the model."""
    train = config.train
    try:
        names = chosen(train.only, sizes.shapes)
    except UserError:
        names = list(sizes.shapes)
    if train.method == "full":
        return sum(math.prod(sizes.shapes[name]) for name in names)
    matrices = {name.removesuffix(".weight"): sizes.shapes[name] for name in names if len(sizes.shapes[name]) == 2}
    if train.lora.targets:
        patterns = train.lora.targets
        fits = [name for name in matrices if any(fnmatchcase(name, f"*{one}") for one in patterns)]
    else:
        fits = [name for name in matrices if kind(f"{name}.weight")[0] in ("attention", "mlp")]
    return sum(train.lora.rank * sum(matrices[name]) for name in fits)


def _activations(sizes: Sizes, config: Config, prompts: int) -> float:
    """Estimates the bytes kept for the backward pass.

    Per token and layer, as counted in Hugging Face's GPT-2, Llama and GPT-NeoX: 10 d_model and 2 to 5 d_mlp numbers,
    and a pattern per head if attention keeps it.
    """
    length, scored = _length(config)
    more = _repeated(config)
    length, scored = length + more, scored + more
    tokens = prompts * length
    layer = 10.5 * sizes.d_model + 5.0 * sizes.d_mlp + sizes.heads * length * (3.0 if sizes.keeps_patterns else 1.0)
    # One more layer for the gradients that pass through it. With gradient checkpointing several layers are in memory at
    # once, because freed memory is not all given back (measured: 3 of 9 layers' worth).
    layers = sizes.layers + 1
    whole, ends = (min(4, layers), sizes.layers) if config.train.gradient_checkpointing else (layers, 0)
    numbers = whole * layer + ends * sizes.d_model
    return 4.0 * (tokens * numbers + 4.0 * prompts * scored * sizes.d_vocab)


def _forward(sizes: Sizes, config: Config) -> float:
    """Estimates the bytes of an evaluation: one layer of a chunk of prompts, and the logits."""
    length, scored = _length(config)
    layer = 6.0 * sizes.d_model + 3.0 * sizes.d_mlp + sizes.heads * length
    return 4.0 * CHUNK * (length * layer + 4.0 * scored * sizes.d_vocab)


def _patched(sizes: Sizes, config: Config) -> float:
    """Estimates the bytes of a layer's patched runs: one per position at three sites, and one per head at five."""
    length, _ = _length(config)
    runs = config.patching.prompts * (3 * length + 5 * sizes.heads)
    return 4.0 * runs * length * (2.0 * sizes.d_model + sizes.d_mlp)


def _length(config: Config) -> tuple[int, int]:
    """Returns the tokens of a prompt, and how many of them are scored."""
    arguments = config.task.arguments
    if config.task.target == PREVIOUS_TOKEN and isinstance(arguments.get("length"), int):
        return arguments["length"], arguments["length"]
    return LENGTH, 1


def _repeated(config: Config) -> int:
    """Counts the extra repetitions of the answer in training prompts."""
    repeat = config.task.arguments.get("repeat")
    return repeat - 1 if isinstance(repeat, int) and repeat > 1 else 0


def read(model: SingleModel) -> Sizes | None:
    """Reads a model's sizes from its configuration and its weights' headers; None if these are not on this machine."""
    if isinstance(model, ScratchConfig):
        return _scratch(model)
    model = models.base(model) or model
    folder = models.folder(model) or _cached(model)
    if folder is None:
        return None
    try:
        values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        values = values.get("text_config", values)
        shapes = _shapes(folder)
        first = next(iter(shapes))
        d_model = _first(values, "hidden_size", "n_embd", "d_model") or min(shapes[first])
        return Sizes(
            shapes,
            layers=_first(values, "num_hidden_layers", "n_layer", "n_layers", "num_layers") or 1,
            d_model=d_model,
            d_mlp=_first(values, "intermediate_size", "n_inner", "ffn_dim", "d_ff") or 4 * d_model,
            heads=_first(values, "num_attention_heads", "n_head", "n_heads") or 1,
            d_vocab=_first(values, "vocab_size") or max(shapes[first]),
            keeps_patterns=any(values.get(key) for key in ("attn_pdrop", "attention_dropout")),
            model_type=str(values.get("model_type")),
        )
    except (OSError, ValueError, AttributeError, KeyError, MemoryError, OverflowError, StopIteration, TypeError):
        return None  # Loading the model reports what is wrong.


def _first(values: dict[str, Any], *keys: str) -> int | None:
    return next((value for key in keys if isinstance(value := values.get(key), int) and value > 0), None)


def _shapes(folder: Path) -> Shapes:
    """Reads shapes from the headers of safetensors files, without the attention masks in older files."""
    shapes: Shapes = {}
    for file in folder.glob("model*.safetensors"):
        with file.open("rb") as stream:
            header: dict[str, Any] = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        header.pop("__metadata__", None)
        shapes |= {name: tuple(tensor["shape"]) for name, tensor in header.items() if 1 <= len(tensor["shape"]) <= 3}
    return shapes


def _cached(model: ModelConfig) -> Path | None:
    """Finds a model in the hub's cache; planning downloads nothing."""
    from mi_sweeps.models import hub
    from mi_sweeps.models.hub.cache import snapshot

    assert model.hub is not None
    try:
        return snapshot(model.hub, hub.commit(model.hub, model.revision))
    except UserError:
        return None


def _scratch(model: ScratchConfig) -> Sizes:
    width, d_model, d_mlp = model.heads * model.d_head, model.d_model, model.d_mlp or 0
    shapes: Shapes = {"model.embed.weight": (model.d_vocab, d_model), "lm_head.weight": (model.d_vocab, d_model)}
    for layer in range(model.layers):
        below = f"model.layers.{layer}"
        shapes |= {f"{below}.attention.{name}.weight": (width, d_model) for name in ("query", "key", "value")}
        shapes[f"{below}.attention.combine.weight"] = (d_model, width)
        if d_mlp:
            shapes |= {f"{below}.mlp.up.weight": (d_mlp, d_model), f"{below}.mlp.down.weight": (d_model, d_mlp)}
    return Sizes(shapes, model.layers, d_model, d_mlp, model.heads, model.d_vocab, False, "nope")


@dataclass(frozen=True)
class PlannedJob:
    """A fine-tune or a patch job of a plan."""

    name: str
    config: Config
    sizes: Sizes
    need: Need


def lines(points: Sequence[GridPoint], machine: float | None = None, gpu: float | None = None) -> Iterator[str]:
    """Yields a line with the largest need of a fine-tune and of a patch job, and a warning if the memory is too small.

    Args:
        machine: bytes of the machine's memory; None asks the system.
        gpu: bytes of the GPU's memory, if known.
    """
    tunes: list[PlannedJob] = []
    patches: list[PlannedJob] = []
    seen: set[str] = set()
    known: dict[str, Sizes | None] = {}
    for point in points:
        # Of thousands of points, most agree in these sections.
        values = point.values
        key = json.dumps([values[name] for name in ("model", "task", "train", "patching", "checkpoint")], default=str)
        if key in seen:
            continue
        seen.add(key)
        model, config = json.dumps(values["model"], default=str), point.config
        if model not in known:
            known[model] = read(single(config))
        if sizes := known[model]:
            patches.append(PlannedJob("a patch job", config, sizes, patch(sizes, config)))
            if not isinstance(config.model, SeriesConfig):
                tunes.append(PlannedJob("a fine-tune", config, sizes, finetune(sizes, config)))
    jobs = [max(some, key=lambda one: one.need.total) for some in (tunes, patches) if some]
    if not jobs:
        return
    about = "up to" if len(seen) > 1 else "about"
    shown = " and ".join(f"{_gigabytes(one.need.total)} for {one.name}" for one in jobs)
    on_gpu = f"; on a GPU, {' and '.join(_gigabytes(one.need.working) for one in jobs)} of the GPU's"
    yield f"memory: {about} {shown}{'' if points[0].config.launcher.device == 'cpu' else on_gpu}"
    for job in jobs:
        yield from _warning(job, machine, gpu)


def _warning(job: PlannedJob, machine: float | None, gpu: float | None) -> Iterator[str]:
    """Yields a warning if a job needs more memory than there is, with settings that need less."""
    launcher, finetunes = job.config.launcher, job.name == "a fine-tune"
    at_once = launcher.stack if finetunes else 1
    if gpu is not None:
        there, whose, takes = gpu, f"the GPU has {_gigabytes(gpu)}", job.need.working
    elif launcher.device.startswith("cuda") or (launcher.device == "auto" and os.path.exists("/dev/nvidiactl")):
        return  # The GPU is asked when a run begins.
    elif isinstance(launcher, SlurmConfig):
        given = (launcher.finetune if finetunes else launcher.patch).memory or launcher.memory
        if given is None:
            return
        there = float(given.rstrip("KMGT")) * UNITS[given.lstrip("0123456789")]
        whose, takes = f"launcher.memory={given}", job.need.total
    else:
        there, takes = machine or _machine(), job.need.total
        whose = f"this machine has {_gigabytes(there)}"
        if launcher.name == "local":
            at_once *= launcher.workers or 1
    if at_once * takes > there:
        who = job.name if at_once == 1 else f"{at_once} at once"
        less = _less(job, gpu is not None) if finetunes else ""
        yield f"warning: {who} may take {_gigabytes(at_once * takes)}, but {whose}{less}"


def _less(job: PlannedJob, on_gpu: bool) -> str:
    """Lists settings that need less memory, with how much they need."""
    train = job.config.train
    part = max(1, train.batch_size // 4)
    less: dict[str, dict[str, Any]] = {
        f"train.micro_batch={part}": {"micro_batch": part},
        "train.gradient_checkpointing=true": {"gradient_checkpointing": True},
        "train.method=lora": {"method": "lora"},
        **({"train.weights=bf16": {"weights": "bf16"}} if on_gpu else {}),
    }
    options = []
    for words, changes in less.items():
        need = finetune(job.sizes, job.config.model_copy(update={"train": train.model_copy(update=changes)}))
        takes, instead = (one.working if on_gpu else one.total for one in (job.need, need))
        if instead < 0.9 * takes:
            options.append(f"{_gigabytes(instead)} with {words}")
    return f"; a fine-tune takes {', '.join(options)}" if options else ""


def _machine() -> float:
    """Returns the bytes of memory this process may use: the machine's, or its control group's limit if lower."""
    there = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="utf-8").strip()
    except OSError:
        limit = "max"
    return min(there, float(limit)) if limit.isdecimal() else there


def _gigabytes(number: float) -> str:
    return f"{max(0.1, number / 1e9):.1f} GB" if number < 1e11 else f"{number / 1e9:.0f} GB"
