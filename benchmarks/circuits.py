"""What circuits of nodes cost: all sets that one checkpoint asks for, against one forward for each set.

The model has GPT-2-small's shape and random weights, the prompts are 12 x 25 random tokens, and what is asked for is
what conf/patching/circuits.yaml says. Seconds are CPU-seconds of this process on `--threads` threads. One forward a set
is TransformerLens's, with a hook on each layer's z and MLP, of all prompts together; a sample of sets is run, spread
over all that were asked for, and their values must equal ours to 1e-4 logits, or the exit code is 1. Sets that are
judged on half of the prompts count half of a forward.

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
from cases import LATE, Case, random_case
from compare import UNCOUNTED, now
from printing import note, table
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from mi_sweeps import libraries
from mi_sweeps.circuits import circuits
from mi_sweeps.circuits.ablated_sets import Means, Node, ablate_sets
from mi_sweeps.circuits.examine import memory
from mi_sweeps.circuits.network import Network
from mi_sweeps.circuits.reference import wrap
from mi_sweeps.circuits.view import View
from mi_sweeps.config.circuits import CircuitsConfig
from mi_sweeps.errors import UserError
from mi_sweeps.tasks.pairs import Pairs

TOLERANCE = 1e-4
TARGET = 10
"""How many times less than one forward a set."""
SIZES = {"gpt2": {}, "tiny": {"n_layer": 2, "n_head": 2, "n_embd": 16, "vocab_size": 50, "n_positions": 16}}


class NoTask:
    """The prompts that are averaged are the corrupted ones."""

    def pairs(self, corruption: str, count: int) -> Pairs:
        raise UserError(corruption)


@dataclass(frozen=True)
class Call:
    """Sets that were evaluated together."""

    pairs: Pairs
    nodes: Sequence[Node]
    kept: Tensor
    means: Means | None
    seconds: float
    flops: int
    found: Tensor


def measured(case: Case, ablation: str, random: int) -> tuple[list[Call], float]:
    """All that a checkpoint asks for, and the seconds of all of it."""
    calls: list[Call] = []

    def timed(
        network: Network, pairs: Pairs, nodes: Sequence[Node], kept: Tensor, means: Means | None, limit: int
    ) -> Tensor:
        with FlopCounterMode(display=False, custom_mapping=UNCOUNTED) as counter:
            begun = now(torch.device("cpu"))
            found = ablate_sets(network, pairs, nodes, kept, means, limit)
            seconds = now(torch.device("cpu")) - begun
        calls.append(Call(pairs, nodes, kept, means, seconds, counter.get_total_flops(), found))
        note(f"{ablation}: {len(kept)} sets, {seconds:.0f} s")
        return found

    config = CircuitsConfig(ablation=ablation, random=random)  # type: ignore[arg-type]
    settings = case.patching.model_copy(update={"circuits": config})
    limit = memory(settings, torch.device("cpu"))
    view = View(0, case.network, case.pairs[LATE], NoTask(), settings, limit, (0,), _nowhere)  # type: ignore[arg-type]
    begun = now(torch.device("cpu"))
    with mock.patch.object(circuits, "ablate_sets", timed):
        list(circuits.rows(view))
    return calls, now(torch.device("cpu")) - begun


def _nowhere(step: int) -> None:
    raise AssertionError(step)


def forward(case: Case, call: Call) -> Callable[[Tensor], Tensor]:
    """One forward of TransformerLens for a set; gives the logit difference of each prompt."""
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
    """1 if the engine and TransformerLens differ."""
    parser = argparse.ArgumentParser(description="What circuits of nodes cost; prints Markdown.")
    parser.add_argument("--shape", choices=SIZES, default="gpt2")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--sample", type=int, default=12, help="sets that TransformerLens runs")
    parser.add_argument("--random", type=int, default=200, help="random sets that a circuit is compared with")
    parser.add_argument("--memory", type=int, metavar="MB")
    parser.set_defaults(device=torch.device("cpu"))
    options = parser.parse_args(arguments)
    libraries.ready(options.threads)
    case = random_case(options.shape, SIZES[options.shape], 12, 25 if options.shape == "gpt2" else 12, options)
    prompts = len(case.pairs[LATE].clean)
    rows, worst = [], 0.0
    for ablation in ("mean", "corrupted"):
        calls, total = measured(case, ablation, options.random)
        distinct = [len(torch.unique(call.kept, dim=0)) for call in calls]
        sets = sum(distinct)
        forwards = sum(count * len(call.pairs.clean) / prompts for count, call in zip(distinct, calls, strict=True))
        run, kept = forward(case, calls[0]), torch.cat([call.kept for call in calls])
        chosen = kept[torch.linspace(0, len(kept) - 1, options.sample).long()]
        seconds = []
        for one in chosen:
            begun = now(options.device)
            expected = run(one)
            seconds.append(now(options.device) - begun)
            found = ablate_sets(
                case.network,
                calls[0].pairs,
                calls[0].nodes,
                one[None],
                calls[0].means,
                memory(case.patching, one.device),
            )
            worst = max(worst, (found[0] - expected).abs().max().item())
        each = sum(seconds) / len(seconds)
        with FlopCounterMode(display=False) as counter:
            run(chosen[0])
        flops = counter.get_total_flops() * forwards
        counted = sum(call.flops for call in calls)
        alone, *_ = calls
        alone_ratio = each * len(alone.kept) / alone.seconds
        rows.append(
            [ablation, f"{sets} ({forwards:.0f})", f"{each:.2f}", f"{each * forwards:.0f}", f"{total:.0f}"]
            + [f"{each * forwards / total:.1f}", f"{alone_ratio:.1f}", f"{flops / counted:.1f}", f"{worst:.0e}"]
        )
    table(
        f"Circuits of one checkpoint, {options.shape}, {prompts} prompts",
        "ablation | different sets (forwards of all prompts) | TransformerLens, s a forward | one forward a set, s | "
        "ours, s | times less | nodes alone: times less | FLOPs: times less | largest difference",
        rows,
    )
    if options.shape == "gpt2":
        table("Target", "what | target | measured", [["times less", f"at least {TARGET}", row[5]] for row in rows])
    return 1 if worst > TOLERANCE else 0


if __name__ == "__main__":
    if "TQDM_DISABLE" not in os.environ or "OMP_NUM_THREADS" not in os.environ:
        # Both are read when torch is imported, so once more from the start.
        libraries.quiet()
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        os.execv(sys.executable, [sys.executable, *sys.argv])
    sys.exit(main(sys.argv[1:]))
