"""Measures the cost of patching all edges of a model's graph, compared with one forward pass per edge. Prints Markdown.

The forward pass per edge is that of the Hugging Face model on all corrupted prompts, the least that patching an edge
with hooks can take; its FLOPs and CPU-seconds are multiplied by the number of edges. FLOPs are those of matrix products
(`FlopCounterMode`), counted in an untimed run (the only one with `--repeats 0`). CPU-seconds are medians of
`time.process_time` on a fixed number of threads, with the two taking turns.

The prompts are the task's, with the second or the first subject corrupted, in mini's tokens even if the weights are
random: GPT-2 needs as many, because each word and name is one token there too. Further prompts are random tokens that
differ only in the ninth column from the end, or in all columns.

`python benchmarks/edges.py --help` lists the options; docs/circuits.md has results.
"""
# ruff: noqa: T201

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from statistics import median

import torch
from cases import ALL, LATE, Case, random_case, stored_case, task_pairs
from compare import count_flops, timed
from patching import machine
from printing import note, spread, table

from mi_sweeps import libraries
from mi_sweeps.circuits.edges import patch_edges
from mi_sweeps.graph import Graph
from mi_sweeps.tasks.pairs import Pairs

RANDOM: dict[str, tuple[dict[str, int], int, int]] = {
    "small": ({"n_layer": 6, "n_head": 4, "n_embd": 256, "vocab_size": 5000, "n_positions": 128}, 12, 25),
    "gpt2": ({}, 1, 25),
    "tiny": ({"n_layer": 2, "n_head": 4, "n_embd": 16, "vocab_size": 200, "n_positions": 32}, 3, 12),
}
"""Sizes other than GPT-2-small's, prompts and positions of models with random weights."""
FORWARDS = 5
"""Edges timed in each repetition."""
KINDS = ("second", "first", LATE, ALL)
"""The subject that is corrupted in the task's prompts, or the random tokens that differ."""


def prompts_of(case: Case, kind: str) -> Pairs | None:
    """None if the model has no such prompts."""
    if kind in case.pairs:
        return case.pairs[kind] if kind == ALL or case.name in RANDOM else None
    count = len(case.pairs[ALL].clean)
    return task_pairs(case.tokenizer, kind, "model=mini", f"patching.prompts={count}").to(case.model.device)


@torch.no_grad()
def rows(case: Case, options: argparse.Namespace) -> list[list[str]]:
    """Makes a row for each kind of prompts."""
    graph = case.network.graph
    found = []
    for kind in options.kinds:
        if (pairs := prompts_of(case, kind)) is None:
            continue

        def forward(tokens: torch.Tensor = pairs.corrupted.tokens) -> None:
            for _ in range(FORWARDS):
                case.model(tokens)

        theirs = count_flops(case.model, pairs.corrupted.tokens) * len(graph.edges)
        forward()
        seconds, ours = counted(case, pairs, graph, options)
        engine, forwards = [], []
        for turn in range(max(1, options.repeats)):
            if options.repeats:
                seconds, _ = timed(options.device, patch_edges, case.network, pairs, graph.edges)
            engine.append(seconds)
            forwards.append(timed(options.device, forward)[0] / FORWARDS * len(graph.edges))
            note(f"{case.name}, {kind}, repetition {turn + 1} of {options.repeats}")
        ratios = [one / other for one, other in zip(forwards, engine, strict=True)]
        spans = (pairs.clean.tokens != pairs.corrupted.tokens).int().argmax(dim=1)
        changed = (pairs.clean.end + 1 - spans).tolist()
        width = pairs.clean.tokens.shape[1]
        found.append(
            [case.name, f"{len(pairs.clean)} x {width}", kind, f"{median(changed):.0f}", f"{len(graph.edges):,}"]
            + [f"{theirs / 1e12:.3g}", f"{ours / 1e12:.3g}", f"{theirs / ours:.1f}"]
            + [spread(forwards), spread(engine), spread(ratios)]
        )
    return found


def counted(case: Case, pairs: Pairs, graph: Graph, options: argparse.Namespace) -> tuple[float, int]:
    """Returns seconds and FLOPs of all edges. Heads of a layer cost the same, so one head is measured and scaled up."""

    def of(heads: int) -> tuple[float, int]:
        edges = [edge for edge in graph.edges if edge.receiver.head is None or edge.receiver.head < heads]
        return timed(options.device, count_flops, patch_edges, case.network, pairs, edges)

    if options.heads >= graph.n_heads:
        return of(graph.n_heads)
    (less, fewer), (seconds, flops), left = of(options.heads - 1), of(options.heads), graph.n_heads - options.heads
    return seconds + left * (seconds - less), flops + left * (flops - fewer)


def main(arguments: Sequence[str]) -> int:
    """The command."""
    options = parse(arguments)
    libraries.ready(options.threads)
    print(f"{machine(options)}.\n\nCPU-seconds; medians of {options.repeats} repetitions (smallest–largest).")
    found = []
    for name in options.shapes:
        if name in RANDOM:
            found += rows(random_case(name, *RANDOM[name], options), options)
        else:
            found += rows(stored_case(name, options, "model=mini"), options)
    columns = (
        "model | prompts x tokens | differences | columns from the first to the end | edges | one forward an edge, "
        "TFLOP | engine, TFLOP | times less | one forward an edge, s | engine, s | times less"
    )
    table("All edges", columns, found)
    return 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measures the cost of patching all edges; prints Markdown.")
    parser.add_argument("--shapes", nargs="+", choices=["mini", *RANDOM], default=["mini", "small"])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="prompts")
    parser.add_argument("--device", type=torch.device, default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3, help="0: count FLOPs in the timed run")
    parser.add_argument(
        "--heads", type=int, default=sys.maxsize, help="heads of each layer to run for counting FLOPs, 2 or more"
    )
    parser.add_argument("--memory", type=int, metavar="MB")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    threads = str(parse(sys.argv[1:]).threads)
    if os.environ.get("OMP_NUM_THREADS") != threads or "TQDM_DISABLE" not in os.environ:
        # torch reads both when it is imported, so the process starts again.
        libraries.quiet()
        os.environ["OMP_NUM_THREADS"] = threads
        os.execv(sys.executable, [sys.executable, *sys.argv])
    sys.exit(main(sys.argv[1:]))
