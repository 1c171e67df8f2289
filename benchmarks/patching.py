"""Measures the cost of activation patching: the fast engine, TransformerLens, and nnsight if it is installed.

All do the same work: six families of sites (resid_pre, attn_out, mlp_out at each layer and position; z, v and pattern
at each layer and head, at all positions), every site in every pair of prompts, corrupted <- clean. There are two kinds
of prompts: "late and few", where clean and corrupted differ in one slot near the end, and "all differ", where every
token differs.

- Seconds are CPU-seconds of this process (`time.process_time`) on a fixed number of threads; with `--device cuda` they
  are wall-clock seconds of a synchronised device. All run in one process and take turns: each repetition runs the
  engine, between two measurements of the rate of matrix products (GEMM), then TransformerLens; nnsight takes turns with
  the engine on resid_pre alone. The tables show medians over repetitions, with the smallest and the largest.
- The engine is timed on all sites, together with the clean and the corrupted run that it needs.
- TransformerLens is timed on a sample of sites, `--sample` of each family in each repetition (ten times as many on
  small models, whose forward passes are short), spread over layers and places. Every site takes it one forward pass of
  all prompts, so its seconds for all sites are the mean seconds per site of a family times the number of sites, summed
  over families. The run that makes its clean cache is not counted. It runs its own `get_act_patch_*` functions
  (`generic_activation_patch` with their setters and names) on a `TransformerBridge`.
- The engine's values at the sampled sites must equal TransformerLens's to 1e-4 logits, or the exit code is 1.
- FLOPs are those of matrix products, counted by `FlopCounterMode` in a run that is not timed. The share of GEMM is
  (counted FLOPs / the engine's seconds) / rate, where the rate is that of `torch.mm` for [2048, d_model] and
  [d_model, d_mlp], the median of many products, just before and after the engine.

`python benchmarks/patching.py --help` lists the options; benchmarks/README.md has results.
"""
# ruff: noqa: T201

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from functools import wraps
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, TypeVar
from unittest import mock

import torch
from cases import ALL, LATE, PROMPTS, random_case, stored_case
from compare import LENS, Comparison, compare, nnsight_rows, now, timed
from printing import note, processor, spread, table

from mi_sweeps import libraries
from mi_sweeps.circuits import examine
from mi_sweeps.circuits.attribution import attribute
from mi_sweeps.circuits.fast import FastEngine
from mi_sweeps.circuits.reference import wrap
from mi_sweeps.errors import UserError
from mi_sweeps.jobs.finetune import finetune
from mi_sweeps.jobs.patch import patch
from mi_sweeps.sweeps.grid import expand
from mi_sweeps.sweeps.plan import folders_of
from mi_sweeps.training import models_at

T = TypeVar("T")

RANDOM: dict[str, tuple[dict[str, int], int, int]] = {
    "gpt2": ({}, 12, 25),
    "tiny": ({"n_layer": 2, "n_head": 2, "n_embd": 16, "vocab_size": 50, "n_positions": 16}, 3, 12),
}
"""Sizes other than GPT-2-small's, prompts and positions of models with random weights."""
GROWN = {"n_head": 4, "n_embd": 256, "vocab_size": 5000, "n_positions": 128}
GROWTH = {"prompts": (12, 48, 192), "positions": (25, 50, 100), "layers": (4, 8, 16)}

TOLERANCE = 1e-4
TARGETS = {("gpt2", LATE): 25, ("gpt2", ALL): 7, ("mini", LATE): 15}
"""Smallest ratio of TransformerLens's seconds to the engine's."""
TARGET_SHARE, TARGET_OVERHEAD = 0.70, 0.10


def growth(sizes: dict[str, int], axes: Mapping[str, Sequence[int]], options: argparse.Namespace) -> list[list[str]]:
    """Measures the engine as prompts, positions or layers grow, with the others at their first values."""
    first = {axis: values[0] for axis, values in axes.items()}
    points = [(axis, {**first, axis: value}) for axis, values in axes.items() for value in values]
    cases = [
        random_case("growth", {**sizes, "n_layer": at["layers"]}, at["prompts"], at["positions"], options)
        for _, at in points
    ]
    seconds: dict[tuple[int, str], list[float]] = {}
    for turn in range(-1, options.repeats):
        for index, case in enumerate(cases[:1] if turn < 0 else cases):  # the first one is repeated, to warm up
            for kind, pairs in case.pairs.items():
                took, _ = timed(options.device, case.engine.patch, pairs, case.patching)
                if turn >= 0:
                    seconds.setdefault((index, kind), []).append(took)
        note(f"growth, repetition {turn + 1} of {options.repeats}")
    patches = [
        at["prompts"] * sum(case.n_sites(site) for site in LENS) for (_, at), case in zip(points, cases, strict=True)
    ]
    tokens = [count * at["positions"] * at["layers"] for count, (_, at) in zip(patches, points, strict=True)]
    rows = []
    for index, (axis, at) in enumerate(points):
        base = next(other for other, (name, _) in enumerate(points) if name == axis)
        row = [axis, str(at[axis]), f"{patches[index] / patches[base]:.2f}", f"{tokens[index] / tokens[base]:.2f}"]
        for kind in (LATE, ALL):
            times = f"{median(seconds[index, kind]) / median(seconds[base, kind]):.2f}"
            row += [spread(seconds[index, kind]), times]
        rows.append(row)
    return rows


def overhead(name: str, options: argparse.Namespace, *overrides: str) -> tuple[list[str], float]:
    """Measures a patch job of a short fine-tune: the parts of a checkpoint, and loading and tables as a share of
    patching."""
    memory = "null" if options.memory is None else options.memory
    common = [f"launcher.device={options.device}", f"patching.memory={memory}", PROMPTS, "task.prompts.train=24"]
    with tempfile.TemporaryDirectory() as folder, laps(options.device) as found:
        (point,) = expand([f"output={folder}", *common, *overrides])
        run, job = folders_of(point)
        finetune(point.config, run)
        note(f"overhead, {name}: fine-tuned")

        def finish(_: int) -> None:
            found[-1]["tables"] = now(options.device) - found[-1].pop("begun") - sum(found[-1].values())

        patch(point.config, run, job, on_step=finish)
    parts = ["load", "attribution", "patching", "tables"]
    seconds = {part: median(checkpoint[part] for checkpoint in found) for part in parts}
    total = sum(seconds.values())
    share = (seconds["load"] + seconds["tables"]) / seconds["patching"]
    points = [f"{1e3 * seconds[part]:.1f} ms ({seconds[part] / total:.1%})" for part in parts]
    return [name, str(len(found)), *points, f"{share:.1%}"], share


@contextmanager
def laps(device: torch.device) -> Iterator[list[dict[str, float]]]:
    """Records, while a patch job runs, when each checkpoint began and the seconds of its parts."""
    found: list[dict[str, float]] = []

    def lap(part: str, work: Callable[..., T]) -> Callable[..., T]:
        @wraps(work)
        def measured(*arguments: Any, **named: Any) -> T:
            if part == "load":
                found.append({"begun": now(device)})
            seconds, result = timed(device, work, *arguments, **named)
            if found:  # the end of the first run is checked before a checkpoint is loaded
                found[-1][part] = found[-1].get(part, 0.0) + seconds
            return result

        return measured

    with (
        mock.patch.object(models_at, "load_weights", lap("load", models_at.load_weights)),
        mock.patch.object(FastEngine, "at_end", lap("attribution", FastEngine.at_end)),
        mock.patch.object(examine, "attribute", lap("attribution", attribute)),
        mock.patch.object(FastEngine, "patch", lap("patching", FastEngine.patch)),
    ):
        yield found


# What is printed


def machine(options: argparse.Namespace) -> str:
    """Returns the machine and the date."""
    gpu = f", {torch.cuda.get_device_name(options.device)}" if options.device.type == "cuda" else ""
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "transformer-lens"))
    return (
        f"{processor()}{gpu}; {options.threads} thread(s); {versions}; "
        f"{datetime.now(timezone.utc):%Y-%m-%d}; load {os.getloadavg()[0]:.1f} at the start"
    )


def print_comparisons(found: Sequence[Comparison]) -> None:
    """Prints the tables of all models and prompts."""
    table(
        "Seconds for all sites",
        "model | prompts x tokens | differences | sites (sampled) | TransformerLens | engine | times less | "
        "largest difference (largest effect)",
        [
            [one.name, one.prompts, one.kind, f"{one.sites} ({one.sampled})", spread(one.lens_all), spread(one.engine)]
            + [spread(one.ratios), f"{one.difference:.0e} ({one.effect:.1g})"]
            for one in found
        ],
    )
    print("\nTransformerLens: all sites by what the sampled ones took; each repetition sampled others.")
    table(
        "TransformerLens, milliseconds per site",
        f"model | differences | {' | '.join(LENS)}",
        [[one.name, one.kind, *(spread(values, 1e3) for values in one.lens.values())] for one in found],
    )
    table(
        "FLOPs",
        "model | differences | TransformerLens, TFLOP | engine, TFLOP | times less | GEMM, GFLOP/s | engine, GFLOP/s |"
        " share of GEMM",
        [
            [one.name, one.kind, f"{one.lens_flops / 1e12:.3g}", f"{one.flops / 1e12:.3g}"]
            + [f"{one.lens_flops / one.flops:.1f}", spread(one.rates, 1e-9)]
            + [spread([one.flops / seconds for seconds in one.engine], 1e-9), spread(one.shares, 100) + "%"]
            for one in found
        ],
    )


def print_targets(found: Sequence[Comparison], shares: Mapping[str, float]) -> None:
    """Returns the targets for what was run."""
    rows = []
    for one in found:
        place = f"{one.name}, {one.kind}"
        if (one.name, one.kind) in TARGETS:
            wanted, ratio = TARGETS[one.name, one.kind], median(one.ratios)
            verdict = met(ratio >= wanted)
            rows.append([f"{place}: times less than TransformerLens", f"at least {wanted}", f"{ratio:.1f}", verdict])
        if one.name == "gpt2":
            wanted, share = TARGET_SHARE, median(one.shares)
            rows.append([f"{place}: share of GEMM", f"at least {wanted:.0%}", f"{share:.1%}", met(share >= wanted)])
    for name, share in shares.items():
        what = f"{name}: loading and table, as a share of patching"
        rows.append([what, f"under {TARGET_OVERHEAD:.0%}", f"{share:.1%}", met(share < TARGET_OVERHEAD)])
    if rows:
        table("Targets", "what | target | measured | ", rows)


def met(holds: bool) -> str:
    """The verdict."""
    return "met" if holds else "not met"


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measures the cost of activation patching; prints Markdown.")
    shapes = ["gpt2", "mini", "smollm2", "growth", "overhead"]
    parser.add_argument("--shapes", nargs="+", choices=[*shapes, "tiny"], help="default: all (smollm2 with --model)")
    parser.add_argument("--model", type=Path, metavar="DIR", help="made by `python -m mi_sweeps.models.smollm2 DIR`")
    parser.add_argument("--device", type=torch.device, default="cpu", help="cuda: seconds are then wall-clock")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--sample", type=int, default=3, help="sites of each family that TransformerLens patches per turn"
    )
    parser.add_argument("--memory", type=int, metavar="MB", help="for the engine's activations; default: a patch job's")
    options = parser.parse_args(arguments)
    options.shapes = options.shapes or [shape for shape in shapes if shape != "smollm2" or options.model]
    if "smollm2" in options.shapes and not options.model:
        parser.error("--shapes smollm2 needs --model DIR")
    return options


def main(arguments: Sequence[str]) -> int:
    """Returns 1 if the engine and TransformerLens differ."""
    options = parse(arguments)
    libraries.ready(options.threads)
    clock = "CPU-seconds" if options.device.type == "cpu" else "wall-clock seconds"
    print(f"{machine(options)}.\n\n{clock}; medians of {options.repeats} repetitions (smallest–largest).")
    found: list[Comparison] = []
    traced: list[list[str]] = []
    with_nnsight = importlib.util.find_spec("nnsight") is not None
    local = ["model=local", f"model.path={options.model}"]
    for name in options.shapes:
        if name in RANDOM:
            case = random_case(name, *RANDOM[name], options)
        elif name in ("mini", "smollm2"):
            case = stored_case(name, options, *(local if name == "smollm2" else ["model=mini"]))
        else:
            continue
        traced += nnsight_rows(case, options) if with_nnsight else []
        bridge = wrap(case.model, case.tokenizer)
        found += [compare(case, bridge, kind, options) for kind in case.pairs]
    if found:
        print_comparisons(found)
    if traced:
        columns = "model | differences | sites | nnsight | engine | times less | largest difference"
        table(f"resid_pre alone, seconds for all sites: nnsight {version('nnsight')}", columns, traced)
    elif found:
        print("\nnnsight is not installed.")
    if "growth" in options.shapes:
        columns = f"what grows | to | sites x prompts | x tokens x layers | {LATE} | times | {ALL} | times"
        table(
            "Growth: the engine's seconds, and as multiples of the first row", columns, growth(GROWN, GROWTH, options)
        )
    shares = {}
    if "overhead" in options.shapes:
        jobs = {"mini": ["train.steps=8", "checkpoint.every=1", "checkpoint.steps=[]"]}
        if options.model:
            few = ["task.prompts.heldout=12", "task.prompts.two_name=4", "train.batch_size=4"]
            jobs["smollm2"] = [*local, *few, "train.steps=1", "checkpoint.every=1", "checkpoint.steps=[]"]
        rows = []
        for name, overrides in jobs.items():
            row, shares[name] = overhead(name, options, *overrides)
            rows.append(row)
        columns = "model | checkpoints | load | attribution | patching | rows and table | loading and table / patching"
        table("A patch job, per checkpoint", columns, rows)
    print_targets(found, shares)
    differing = [f"{one.name}, {one.kind}" for one in found if not one.difference <= TOLERANCE]
    if differing:
        print(f"\nThe engine differs from TransformerLens by more than {TOLERANCE}: {'; '.join(differing)}.")
    return 1 if differing else 0


if __name__ == "__main__":
    threads = str(parse(sys.argv[1:]).threads)
    if os.environ.get("OMP_NUM_THREADS") != threads or "TQDM_DISABLE" not in os.environ:
        # torch reads both when it is imported, so the process starts again.
        libraries.quiet()
        os.environ["OMP_NUM_THREADS"] = threads
        os.execv(sys.executable, [sys.executable, *sys.argv])
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
