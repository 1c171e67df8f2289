"""Measures what training runs together saves, compared with one after another; prints Markdown.

Both take the same steps of the same runs, taking turns in one process. `--vmap` compares with `torch.func` instead.
`--whole` adds whole sweeps of fine-tunes, with evaluation and writing at checkpoints.
"""
# ruff: noqa: T201

from __future__ import annotations

import argparse
import copy
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from printing import note, processor, spread, table

from mi_sweeps import libraries

libraries.quiet()

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.func import functional_call, grad_and_value, stack_module_state, vmap  # noqa: E402

from mi_sweeps.jobs.execute import execute  # noqa: E402
from mi_sweeps.store.folders import run_folder  # noqa: E402
from mi_sweeps.sweeps.grid import expand  # noqa: E402
from mi_sweeps.training.loop import train_step  # noqa: E402
from mi_sweeps.training.run import TrainingState, begin  # noqa: E402
from mi_sweeps.training.stacked import train_together  # noqa: E402

NOPE = ("model=nope", "task=previous_token", "corruption=previous", "optim.lr=1e-3")
MODELS = {
    "nope, 1 layer": (*NOPE, "model.layers=1"),
    "nope, 2 layers": NOPE,
    "nope, 2 layers, MLP": (*NOPE, "model.d_mlp=256"),
    "mini": (),
}


@dataclass(frozen=True)
class Took:
    """Seconds of one repetition."""

    cpu: float
    """CPU-seconds of all threads."""
    wall: float


def took(work: Callable[[], object]) -> Took:
    """Waits for the GPU, if there is one."""
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return Took(time.process_time() - cpu, time.perf_counter() - wall)


def turns(run: TrainingState, steps: int) -> Iterator[TrainingState | None]:
    """Takes steps of a run, with nothing between them."""
    yield None
    for _ in range(steps):
        yield run
        run.step += 1
    run.losses.clear()


def one_after_another(runs: Sequence[TrainingState], steps: int) -> None:
    """Trains each run as `mi_sweeps.training.loop` does."""
    for run in runs:
        for taken in turns(run, steps):
            if taken is not None:
                train_step(taken, taken.batch())


def together(runs: Sequence[TrainingState], steps: int) -> None:
    """Raises the error of the first that failed."""
    for error in train_together([turns(run, steps) for run in runs]):
        if error is not None:
            raise error


class Vmapped:
    """Takes the same steps with `torch.func`: weights from `stack_module_state`, and `vmap` over the model."""

    def __init__(self, runs: Sequence[TrainingState]) -> None:
        self.runs = runs
        self.weights, self.buffers = stack_module_state([copy.deepcopy(run.model) for run in runs])
        own = {key: runs[0].optimizer.defaults[key] for key in ("lr", "betas", "eps")}
        fused = runs[0].device.type == "cpu"  # As in a stack.
        # Matrices and embeddings decay, as in a run; here each has one more dimension.
        matrices, vectors = ([w for w in self.weights.values() if (w.dim() > 2) is which] for which in (True, False))
        decay = runs[0].optimizer.param_groups[0]["weight_decay"]
        groups = [{"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, **own, fused=fused)
        model = copy.deepcopy(runs[0].model)

        def loss(
            weights: dict[str, Tensor], buffers: dict[str, Tensor], tokens: Tensor, scored: Tensor, targets: Tensor
        ) -> Tensor:
            hidden = functional_call(model.base_model, (_below(model, weights), _below(model, buffers)), (tokens,))
            at = hidden.last_hidden_state[scored[0], scored[1]]
            return nn.functional.cross_entropy(at @ weights["lm_head.weight"].T, targets)

        self.gradients = vmap(grad_and_value(loss), in_dims=(0, 0, 0, None, 0))

    def __call__(self, steps: int) -> None:
        """Trains all runs at once, with the settings of the first."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.runs[0].rate
        for step in range(steps):
            batches = [run.task.training(step, run.config.train.batch_size, run.config.seed) for run in self.runs]
            batches = [batch.to(run.device) for run, batch in zip(self.runs, batches, strict=True)]
            tokens = torch.stack([batch.tokens for batch in batches])
            targets = torch.stack([batch.scored[2] for batch in batches])
            gradients, _ = self.gradients(
                self.weights, self.buffers, tokens, torch.stack(batches[0].scored[:2]), targets
            )
            norm = torch.stack([gradient.flatten(1).norm(dim=1) for gradient in gradients.values()]).norm(dim=0)
            scale = (self.runs[0].config.train.clip / (norm + 1e-6)).clamp(max=1)
            for name, gradient in gradients.items():
                self.weights[name].grad = gradient * scale.view(-1, *[1] * (gradient.dim() - 1))
            self.optimizer.step()


def _below(model: nn.Module, values: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns the parameters of the part without the unembedding, by their names there."""
    prefix = f"{model.base_model_prefix}."
    return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}


def in_turns(repeats: int, alone: Callable[[], object], stacked: Callable[[], object]) -> list[tuple[Took, Took]]:
    """Runs both, once to warm up and then `repeats` times."""
    return [(took(alone), took(stacked)) for _ in range(1 + repeats)][1:]


def row(found: Sequence[tuple[Took, Took]], steps: int) -> list[str]:
    """Returns CPU and wall-clock milliseconds per step of a run, and the speed-up by the stack, pair by pair."""
    points = []
    for clock in ("cpu", "wall"):
        alone, stacked = ([getattr(pair[which], clock) for pair in found] for which in (0, 1))
        ratios = [theirs / ours for theirs, ours in zip(alone, stacked, strict=True)]
        points += [f"{1e3 * median(alone) / steps:.2f}", f"{1e3 * median(stacked) / steps:.2f}", spread(ratios)]
    return points


def single_steps(
    options: argparse.Namespace, threads: int, folder: Path, models: Sequence[str], vmapped: bool = False
) -> Iterator[list[str]]:
    """Makes a row for each model, batch size and stack, compared with single runs or `torch.func`."""
    libraries.ready(threads)
    for name in models:
        for batch in options.batches:
            seeds = range(max(options.stacks))
            size = f"train.batch_size={batch}"
            place = f"output={folder / f'{threads}-{list(MODELS).index(name)}-{batch}-{vmapped}'}"
            points = expand([*MODELS[name], size, f"seed={','.join(map(str, seeds))}", place])
            runs = [begin(point.config, run_folder(point.output, point.run_id)) for point in points]
            for count in options.stacks:
                note(f"{threads} threads, {name}, batch {batch}, {count} runs")
                chosen = runs[:count]
                other = Vmapped(chosen) if vmapped else partial(one_after_another, chosen)
                found = in_turns(
                    options.repeats,
                    partial(other, options.steps),
                    partial(together, chosen, options.steps),
                )
                yield [name, str(batch), str(count), *row(found, options.steps * count)]


def whole(options: argparse.Namespace, threads: int, folder: Path) -> Iterator[list[str]]:
    """Makes a row for each model: a sweep with as many fine-tunes as the largest stack."""
    libraries.ready(threads)
    for name in options.models:
        count = max(options.stacks)
        numbers = iter(range(1000))

        def sweep(stack: int, name: str = name, numbers: Iterator[int] = numbers, count: int = count) -> None:
            place = f"output={folder / f'whole-{threads}-{list(MODELS).index(name)}-{next(numbers)}'}"
            seeds = f"seed={','.join(map(str, range(count)))}"
            points = expand([*MODELS[name], seeds, f"launcher.stack={stack}", place])
            if failed := execute(points, stages=("finetune",)).failed:
                raise RuntimeError(next(iter(failed.values()))[1])

        note(f"{threads} threads, {name}, a whole sweep of {count} runs")
        found = in_turns(options.repeats, lambda: sweep(1), lambda count=count: sweep(count))
        yield [name, "16", str(count), *row(found, 184 * count)]


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measures what training runs together saves; prints Markdown.")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--stacks", nargs="+", type=int, default=[4, 8, 16], help="runs trained together")
    parser.add_argument("--batches", nargs="+", type=int, default=[16, 64], help="prompts in a batch")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--steps", type=int, default=10, help="steps of each run in a repetition")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--vmap", action="store_true", help="compare with torch.func instead (nope only)")
    parser.add_argument("--whole", action="store_true", help="also whole sweeps, with evaluation and checkpoints")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    """Measures and prints."""
    options = parse(arguments)
    gpu = f"; {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    print(
        f"{processor()}{gpu}; torch {torch.__version__}; {datetime.now(timezone.utc):%Y-%m-%d}; "
        f"load {os.getloadavg()[0]:.1f} at the start. Medians of {options.repeats} repetitions."
    )
    other = "vmap" if options.vmap else "alone"
    columns = f"model | batch | runs | CPU ms {other} | stacked | times less | wall ms {other} | stacked | times less"
    # Hugging Face's GPT-2 (mini) is not made for vmap.
    models = [name for name in options.models if not options.vmap or name != "mini"]
    with TemporaryDirectory() as folder:
        for threads in options.threads:
            rows = list(single_steps(options, threads, Path(folder), models, options.vmap))
            table(f"A step of one run, {threads} threads", columns, rows)
            if options.whole:
                rows = list(whole(options, threads, Path(folder)))
                table(f"A step of one run in a whole sweep, {threads} threads", columns, rows)


if __name__ == "__main__":
    main(sys.argv[1:])
