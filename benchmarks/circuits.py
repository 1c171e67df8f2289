"""Measures the cost of circuits of nodes: all sets of one checkpoint, compared with one forward pass per set.

The model has GPT-2-small's shape and random weights, the prompts are 12 x 25 random tokens, and
conf/patching/circuits.yaml sets what is measured. Seconds are CPU-seconds of this process on `--threads` threads. The
forward pass per set is TransformerLens's, over all prompts together, with a hook on each layer's z and MLP. It runs for
a sample of the sets, and its values must equal ours to 1e-4 logits, or the exit code is 1. A set that is judged on half
of the prompts counts as half a forward pass.

    python benchmarks/circuits.py            # mean: every column differs; corrupted: the last 9
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from unittest import mock

import torch
from cases import FROM_END, LATE, Case, random_case
from compare import UNCOUNTED, now
from jaxtyping import Bool
from printing import note, table
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from mi_sweeps import libraries
from mi_sweeps.circuits import circuits
from mi_sweeps.circuits.ablated_sets import Node, ablate_sets
from mi_sweeps.circuits.chosen_sets import count_of
from mi_sweeps.circuits.fast import memory
from mi_sweeps.circuits.means import Means
from mi_sweeps.circuits.network import Network
from mi_sweeps.circuits.reference import wrap
from mi_sweeps.circuits.view import View
from mi_sweeps.config.circuits import CircuitsConfig
from mi_sweeps.errors import UserError
from mi_sweeps.tasks.pairs import Pairs

TOLERANCE = 1e-4
TARGET = 10
"""Target: how many times fewer FLOPs than one forward pass per set."""
SIZES = {"gpt2": {}, "tiny": {"n_layer": 2, "n_head": 2, "n_embd": 16, "vocab_size": 50, "n_positions": 16}}


class NoTask:
    """A task whose ablated nodes write averages over the corrupted prompts."""

    def pairs(self, corruption: str, count: int) -> Pairs:
        raise UserError(corruption)


@dataclass(frozen=True)
class Call:
    """Distinct sets that keep about the same number of nodes, evaluated together."""

    size: str
    pairs: Pairs
    nodes: Sequence[Node]
    kept: Tensor
    means: Means | None
    seconds: float
    flops: int
    least: int

    @property
    def runs(self) -> int:
        """FLOPs per prompt."""
        return len(self.kept) * len(self.pairs.clean)


def by_size(kept: Bool[Tensor, "set node"]) -> dict[str, Bool[Tensor, "set node"]]:
    """Groups distinct sets by the number of nodes they keep: up to each of the configured sizes, or all but one."""
    each = torch.unique(kept, dim=0)
    count, n_nodes = each.sum(dim=1), each.shape[1]
    sizes = {count_of(percent, n_nodes) for percent in CircuitsConfig().sizes if percent < 100}
    borders = [-1, *sorted({1, *sizes} - {0}), n_nodes - 2, n_nodes]
    names = {1: "0 or 1", n_nodes: f"{n_nodes - 1} or {n_nodes}"}
    found = {}
    for low, high in zip(borders, borders[1:], strict=False):
        of = (count > low) & (count <= high)
        if of.any():
            found[names.get(high, f"{low + 1} to {high}" if high > low + 1 else str(high))] = each[of]
    return found


def least(network: Network, nodes: Sequence[Node], kept: Bool[Tensor, "set node"], span: int, width: int) -> int:
    """Fewest FLOPs per prompt of an exact evaluation, unless nodes can be computed in some cheaper way: each kept node
    is computed once for each distinct set of nodes kept before it, in the columns that a kept node still reads.

    Args:
        nodes: all heads and MLPs of a GPT-2.
        span: how many last columns ablation can change.
        width: all columns.
    """
    block, n_layers = network.blocks[0], len(network.blocks)
    assert len(nodes) == n_layers * (block.n_heads + 1)
    d_model, d_mlp = block.mlp.up.weight.shape
    of_head = 2 * d_model * (d_model // block.n_heads)  # queries; and so are keys, values and the output
    kept = torch.unique(kept, dim=0).unflatten(1, (n_layers, -1))
    heads, mlps = kept[..., :-1], kept[..., -1]
    before, known = torch.zeros(len(kept), dtype=torch.long), torch.ones(len(kept), dtype=torch.bool)
    total = 0

    def columns(of: Tensor, stream: Tensor, read: Tensor) -> tuple[int, int]:
        """Counts the streams of some sets, and the columns in which they are read."""
        streams, whole = stream[of].unique().numel(), stream[of & read].unique().numel()
        return streams, whole * span + streams - whole

    for layer in range(n_layers):
        later = heads[:, layer + 1 :].flatten(1).any(dim=1)
        for head in range(block.n_heads):
            streams, asking = columns(heads[:, layer, head] & ~known, before, later)
            attention = 2 * asking * 2 * width * (d_model // block.n_heads)
            total += streams * span * 2 * of_head + asking * 2 * of_head + attention
        known &= heads[:, layer].all(dim=1)
        _, before = torch.unique(torch.cat([before[:, None], heads[:, layer]], dim=1), dim=0, return_inverse=True)
        _, written = columns(mlps[:, layer] & ~known, before, later)
        total += written * 2 * 2 * d_model * d_mlp
        known &= mlps[:, layer]
        _, before = torch.unique(torch.stack([before, mlps[:, layer]], dim=1), dim=0, return_inverse=True)
    return total


def measured(case: Case, ablation: str, random: int) -> list[Call]:
    """Measures all sets of one checkpoint."""
    calls: list[Call] = []

    def timed(
        network: Network, pairs: Pairs, nodes: Sequence[Node], kept: Tensor, means: Means | None, limit: int
    ) -> Tensor:
        span = FROM_END if means is None else pairs.clean.tokens.shape[1]
        results: dict[tuple[bool, ...], Tensor] = {}
        for size, some in by_size(kept).items():
            with FlopCounterMode(display=False, custom_mapping=UNCOUNTED) as counter:
                begun = now(torch.device("cpu"))
                found = ablate_sets(network, pairs, nodes, some, means, limit)
                seconds = now(torch.device("cpu")) - begun
            fewest = least(network, nodes, some, span, pairs.clean.tokens.shape[1]) * len(pairs.clean)
            calls.append(Call(size, pairs, nodes, some, means, seconds, counter.get_total_flops(), fewest))
            results |= {tuple(row): values for row, values in zip(some.tolist(), found, strict=True)}
            note(f"{ablation}: {len(some)} sets of {size}, {seconds:.0f} s")
        return torch.stack([results[tuple(row)] for row in kept.tolist()])

    config = CircuitsConfig(ablation=ablation, random=random)  # type: ignore[arg-type]
    settings = case.patching.model_copy(update={"circuits": config})
    limit = memory(settings, torch.device("cpu"))
    view = View(0, case.network, case.pairs[LATE], NoTask(), settings, limit, (0,), _nowhere)  # type: ignore[arg-type]
    with mock.patch.object(circuits, "ablate_sets", timed):
        list(circuits.rows(view))
    return calls


def _nowhere(step: int) -> None:
    raise AssertionError(step)


def forward(case: Case, call: Call) -> Callable[[Tensor], Tensor]:
    """Runs one TransformerLens forward pass for a set; returns the logit difference of each prompt."""
    bridge = wrap(case.model, case.tokenizer)
    if call.means is not None:
        z, mlp_out = call.means.of(call.pairs.clean)
    else:
        _, cache = bridge.run_with_cache(call.pairs.corrupted.tokens)
        layers = range(len(case.network.blocks))
        z = [cache[f"blocks.{layer}.attn.hook_z"] for layer in layers]
        mlp_out = [cache[f"blocks.{layer}.hook_mlp_out"] for layer in layers]

    def run(kept: Tensor) -> Tensor:
        hooks = []
        for layer in range(len(z)):
            off = [
                head
                for (at, head), keeps in zip(call.nodes, kept.tolist(), strict=True)
                if at == layer and head is not None and not keeps
            ]
            if off:

                def write(value: Tensor, hook: object, layer: int = layer, off: list[int] = off) -> Tensor:
                    value[:, :, off] = z[layer][:, :, off]
                    return value

                hooks.append((f"blocks.{layer}.attn.hook_z", write))
            if not kept[call.nodes.index((layer, None))]:
                hooks.append((f"blocks.{layer}.hook_mlp_out", lambda value, hook, layer=layer: mlp_out[layer]))
        logits = bridge.run_with_hooks(call.pairs.clean.tokens, fwd_hooks=hooks)
        return call.pairs.logit_diff(call.pairs.at_end(logits))

    return run


@torch.no_grad()
def main(arguments: Sequence[str]) -> int:
    """Returns 1 if the engine and TransformerLens differ."""
    options = parse(arguments)
    libraries.ready(options.threads)
    width = 25 if options.shape == "gpt2" else 12
    case = random_case(options.shape, SIZES[options.shape], options.prompts, width, options)
    prompts = len(case.pairs[LATE].clean)
    rows, targets, worst = [], [], 0.0
    for ablation in ("mean", "corrupted"):
        calls = measured(case, ablation, options.random)
        first = next(call for call in calls if len(call.pairs.clean) == prompts)
        run, kept = forward(case, first), torch.cat([call.kept for call in calls])
        seconds = []
        for one in kept[torch.linspace(0, len(kept) - 1, options.sample).long()]:
            begun = now(options.device)
            expected = run(one)
            seconds.append(now(options.device) - begun)
            limit = memory(case.patching, one.device)
            found = ablate_sets(case.network, first.pairs, first.nodes, one[None], first.means, limit)
            worst = max(worst, (found[0] - expected).abs().max().item())
        each = sum(seconds) / len(seconds)
        with FlopCounterMode(display=False) as counter:
            run(kept[0])
        calls.sort(key=lambda call: int(call.kept.sum(dim=1).max()))
        sizes = {call.size: [other for other in calls if other.size == call.size] for call in calls}
        for size, of in [*sizes.items(), ("all", calls)]:
            theirs = sum(call.runs for call in of) / prompts
            ours, flops, fewest = (sum(getattr(call, name) for call in of) for name in ("seconds", "flops", "least"))
            ratio = f"{each * theirs / ours:.1f}"
            rows.append(
                [ablation, size, f"{sum(len(call.kept) for call in of)} ({theirs:.0f})"]
                + [f"{each * theirs:.3g}", f"{ours:.3g}", ratio, f"{counter.get_total_flops() * theirs / flops:.1f}"]
                + [f"{counter.get_total_flops() * theirs / fewest:.1f}" if fewest else "none is needed"]
            )
        targets.append([f"{ablation}: times less, all sets", f"at least {TARGET}", ratio])
        targets.append([f"{ablation}: largest difference, logits", f"at most {TOLERANCE:g}", f"{worst:.0e}"])
    table(
        f"Circuits of one checkpoint, {options.shape}, {prompts} prompts",
        "ablation | nodes kept | different sets (forwards of all prompts) | one forward a set, s | ours, s | "
        "times less | FLOPs: times less | kept nodes alone, FLOPs: times less",
        rows,
    )
    table("Targets", "what | target | measured", targets)
    return 1 if worst > TOLERANCE else 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measures the cost of circuits of nodes; prints Markdown.")
    parser.add_argument("--shape", choices=SIZES, default="gpt2")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--prompts", type=int, default=12)
    parser.add_argument("--sample", type=int, default=12, help="sets that TransformerLens runs")
    parser.add_argument("--random", type=int, default=200, help="random sets to compare a circuit with")
    parser.add_argument("--memory", type=int, metavar="MB")
    parser.set_defaults(device=torch.device("cpu"))
    return parser.parse_args(arguments)


if __name__ == "__main__":
    if "TQDM_DISABLE" not in os.environ or "OMP_NUM_THREADS" not in os.environ:
        # torch reads both when it is imported, so the process starts again.
        libraries.quiet()
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        os.execv(sys.executable, [sys.executable, *sys.argv])
    sys.exit(main(sys.argv[1:]))
