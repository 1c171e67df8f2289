"""Trains several runs together: one step of all of them is one forward and backward pass over K sets of weights.

Small models leave a processor idle between operations. A stack is one network for K runs: a module with weights
multiplies each run's rows by that run's weights; everywhere else, attention included, K runs are just a larger batch.
Each run computes what it would compute alone, up to the order of rounding in sums. Runs that cannot be stacked take
turns, each with its own random state, so dropout draws what it would draw alone.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from mi_sweeps.config import TrainConfig
from mi_sweeps.store.endings import Busy, Superseded
from mi_sweeps.store.files import read_json, write_json
from mi_sweeps.store.logs import informed, speaking
from mi_sweeps.tasks.tokens import Batch, join
from mi_sweeps.training.evaluate import scored_logits
from mi_sweeps.training.loop import train_step
from mi_sweeps.training.run import TrainingState, parameter_groups

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Training = Generator[TrainingState | None]
"""Yields None once its folder is claimed, and then its run before each step, which the consumer takes."""

FAMILIES = ("gpt2", "nope")
"""The Hugging Face model types whose weights are all in modules that can be stacked."""

TOKENS = 4096
"""The most tokens, of all runs together, to compute at once on a CPU. With more, activations fall out of the cache,
which costs more than stacking gains."""

log = logging.getLogger(__name__)


class Stacked(nn.Module):
    """A module with the weights of K runs, each of shape [K, …]. Its input has the runs' prompts one after another."""

    weight: Tensor
    bias: Tensor | None
    n_prompts: int
    """Prompts of all runs together."""


class Linear(Stacked):
    """Stacks `nn.Linear`, or GPT-2's `Conv1D`, whose weights are [d_in, d_out] (`transposed`)."""

    def __init__(self, transposed: bool) -> None:
        super().__init__()
        self.transposed = transposed

    def forward(self, x: Float[Tensor, "*row d_in"]) -> Float[Tensor, "*row d_out"]:
        weight = self.weight if self.transposed else self.weight.mT
        rows = x.reshape(len(weight), -1, x.shape[-1])
        y = rows @ weight if self.bias is None else torch.baddbmm(self.bias.unsqueeze(1), rows, weight)
        return y.view(*x.shape[:-1], y.shape[-1])


class Embedding(Stacked):
    """Stacks embeddings of tokens, or of positions, which may come as a single row for all prompts."""

    def forward(self, tokens: Int[Tensor, "prompt pos"]) -> Float[Tensor, "prompt pos d_model"]:
        runs, size, _ = self.weight.shape
        every = tokens.expand(self.n_prompts, -1)
        first = torch.arange(runs, device=tokens.device).repeat_interleave(self.n_prompts // runs) * size
        return nn.functional.embedding(every + first[:, None], self.weight.flatten(0, 1))


class LayerNorm(Stacked):
    """Normalises all runs at once, then scales and shifts each run by its own weights."""

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Float[Tensor, "prompt pos d_model"]) -> Float[Tensor, "prompt pos d_model"]:
        assert self.bias is not None
        normal = nn.functional.layer_norm(x, x.shape[-1:], eps=self.eps)
        rows = normal.view(len(self.weight), -1, x.shape[-1])
        return torch.addcmul(self.bias.unsqueeze(1), rows, self.weight.unsqueeze(1)).view(x.shape)


def can_stack(model: PreTrainedModel, train: TrainConfig) -> bool:
    """Whether runs of a model can be stacked: all weights must learn, in one batch, without dropout (which would need
    each run's own random numbers)."""
    if train.method != "full" or train.only or train.weights != "fp32" or train.gradient_checkpointing:
        return False
    if train.micro_batch is not None and train.micro_batch < train.batch_size:
        return False
    drops = any(isinstance(module, nn.Dropout) and module.p > 0 for module in model.modules())
    return model.config.model_type in FAMILIES and not drops


class Stack:
    """The weights and optimiser moments of K runs of one shape, one row per run.

    They are copies; `put_back` writes them to the runs' own models and optimisers.
    """

    def __init__(self, runs: Sequence[TrainingState]) -> None:
        self.runs = list(runs)
        self._shapes = [parameter.shape for parameter in _ordered(runs[0].model)]
        self._sizes = [shape.numel() for shape in self._shapes]
        self._weights = torch.stack([_row(_ordered(run.model)) for run in runs]).requires_grad_()
        # The sizes of the groups with and without weight decay.
        self._cut = [sum(map(torch.numel, group["params"])) for group in runs[0].optimizer.param_groups]
        self._rows = [[nn.Parameter(part) for part in row.split(self._cut)] for row in self._weights.detach()]
        # torch's own AdamW with each run's settings; each run is just two parameters, so it takes few operations.
        own = {"fused": runs[0].device.type == "cpu"}
        self._optimizer = torch.optim.AdamW(
            [
                group | own | {"params": [part]}
                for run, row in zip(runs, self._rows, strict=True)
                for group, part in zip(run.optimizer.param_groups, row, strict=True)
            ]
        )
        for run, row in zip(runs, self._rows, strict=True):
            for group, part in zip(run.optimizer.param_groups, row, strict=True):
                states = [run.optimizer.state[parameter] for parameter in group["params"]]
                if states[0]:
                    moments = {key: _row(state[key] for state in states) for key in ("exp_avg", "exp_avg_sq")}
                    self._optimizer.state[part] = {"step": states[0]["step"].clone(), **moments}
        self._clip = torch.tensor([[run.config.train.clip] for run in runs], device=runs[0].device)
        self._network, self._modules = _stacked(runs[0].model)

    def step(self, batches: Sequence[Batch]) -> None:
        """Updates all weights once, as `train_step` does for one run."""
        first = self.runs[0]
        batch = join(batches).to(first.device)
        pieces = self._weights.split(self._sizes, dim=1)
        weights = [piece.unflatten(1, shape) for piece, shape in zip(pieces, self._shapes, strict=True)]
        for module, weight, bias in self._modules:
            module.weight, module.bias = weights[weight], None if bias is None else weights[bias]
            module.n_prompts = len(batch)
        with torch.autocast(first.device.type, torch.bfloat16, enabled=first.config.train.precision == "bf16"):
            logits = scored_logits(self._network, batch)
        losses = nn.functional.cross_entropy(logits.float(), batch.scored[2], reduction="none")
        losses = losses.view(len(self.runs), -1).mean(dim=1)
        (gradient,) = torch.autograd.grad(losses.sum(), self._weights)
        norm = gradient.norm(dim=1, keepdim=True)
        gradient *= (self._clip / (norm + 1e-6)).clamp(max=1)
        groups = iter(self._optimizer.param_groups)
        for run, row, row_gradient in zip(self.runs, self._rows, gradient, strict=True):
            for part, part_gradient in zip(row, row_gradient.split(self._cut), strict=True):
                part.grad = part_gradient
                next(groups)["lr"] = run.rate
        self._optimizer.step()
        for run, loss in zip(self.runs, losses.detach(), strict=True):
            run.losses.append(loss)

    @torch.no_grad()
    def put_back(self) -> None:
        """Writes weights and moments back to the runs' own models and optimisers."""
        for run, row in zip(self.runs, self._rows, strict=True):
            states = [self._optimizer.state[part] for part in row]
            moved = {key: self._parts([state[key] for state in states]) for key in ("exp_avg", "exp_avg_sq")}
            for place, (parameter, values) in enumerate(zip(_ordered(run.model), self._parts(row), strict=True)):
                parameter.copy_(values)
                moments = {key: values[place].clone() for key, values in moved.items()}
                run.optimizer.state[parameter] = {"step": states[0]["step"].clone(), **moments}

    def _parts(self, row: Sequence[Float[Tensor, " weight"]]) -> list[Tensor]:
        """Splits a run's row into one tensor per parameter."""
        pieces = torch.cat(list(row)).split(self._sizes)
        return [piece.view(shape) for piece, shape in zip(pieces, self._shapes, strict=True)]


def _ordered(model: PreTrainedModel) -> list[nn.Parameter]:
    """The parameters in the optimiser's order: those with weight decay first."""
    return [parameter for group in parameter_groups(model.parameters(), 0.0) for parameter in group["params"]]


def _row(tensors: Iterable[Tensor]) -> Float[Tensor, " weight"]:
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


def _stacked(model: PreTrainedModel) -> tuple[PreTrainedModel, list[tuple[Stacked, int, int | None]]]:
    """A copy of the model with stacked modules, and for each of these the indices of its weight and bias."""
    network = copy.deepcopy(model).train()
    places = {parameter: place for place, parameter in enumerate(_ordered(network))}
    found: list[tuple[Stacked, int, int | None]] = []
    for name, module in list(network.named_modules()):
        new: Stacked
        if isinstance(module, nn.Linear | Conv1D):
            new = Linear(transposed=isinstance(module, Conv1D))
        elif isinstance(module, nn.Embedding):
            new = Embedding()
        elif isinstance(module, nn.LayerNorm):
            new = LayerNorm(module.eps)
        else:
            continue
        bias = getattr(module, "bias", None)
        found.append((new, places[module.weight], None if bias is None else places[bias]))
        network.set_submodule(name, new)
    return network, found


def train_together(trainings: Sequence[Training]) -> list[Exception | None]:
    """Trains runs to completion; those at the same step take it together. A run that fails or diverges stops no other.

    An exception that ends the process's work, such as `Cancelled`, is raised in every run.

    Returns:
        The error of each run, or None. `Busy` means that another process works on it.
    """
    with informed():
        return _Together(trainings).train()


class _Together:
    def __init__(self, trainings: Sequence[Training]) -> None:
        self._trainings = trainings
        self._errors: list[Exception | None] = [None] * len(trainings)
        self._at: dict[int, TrainingState | None] = dict.fromkeys(range(len(trainings)))
        """The unfinished runs, by number."""
        self._stacks: dict[tuple[int, ...], Stack] = {}
        self._random: dict[int, tuple[Tensor, list[Tensor]]] = {}
        """The random states of CPU and GPUs at the end of each run's last turn, by number."""

    def train(self) -> list[Exception | None]:
        try:
            # Claim all folders before the first run begins, because beginning takes a while.
            for _ in ("claim", "begin"):
                for number in list(self._at):
                    self._resume(number)
            while runs := {number: run for number, run in self._at.items() if run is not None}:
                step = min(run.step for run in runs.values())
                self._take_step({number: run for number, run in runs.items() if run.step == step})
        except BaseException as error:
            for number in self._at:
                with suppress(BaseException), speaking(self._trainings[number]):
                    self._trainings[number].throw(error)
            raise
        return self._errors

    def _resume(self, number: int, error: Exception | None = None) -> None:
        """Lets a training do its work between two steps, or end with an error."""
        training = self._trainings[number]
        try:
            with speaking(training), self._own_random(number):
                self._at[number] = next(training) if error is None else training.throw(error)
            return
        except StopIteration:
            pass
        except Superseded as late:
            self._errors[number] = Busy(str(late))
        except Exception as failure:
            self._errors[number] = failure
        del self._at[number]

    @contextmanager
    def _own_random(self, number: int) -> Iterator[None]:
        """Restores a run's random state from its last turn, and saves it again at the end of this one."""
        if before := self._random.get(number):
            torch.set_rng_state(before[0])
            torch.cuda.set_rng_state_all(before[1])
        try:
            yield
        finally:
            gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
            self._random[number] = torch.get_rng_state(), gpus

    def _take_step(self, runs: dict[int, TrainingState]) -> None:
        stacks = list(_split(runs))
        for gone in self._stacks.keys() - set(stacks):
            self._stacks.pop(gone).put_back()
        for numbers in stacks:
            try:
                self._step(numbers, [runs[number] for number in numbers])
            except Exception as error:
                self._stacks.pop(numbers, None)  # Its state is undefined, and its runs end here.
                for number in numbers:
                    self._resume(number, error)
            else:
                for number in numbers:
                    self._resume(number)

    def _step(self, numbers: tuple[int, ...], runs: Sequence[TrainingState]) -> None:
        batches = [run.batch() for run in runs]
        if len(runs) == 1 or len({(len(batch), len(batch.scored[0])) for batch in batches}) > 1:
            if stack := self._stacks.pop(numbers, None):
                stack.put_back()
            for number, run, batch in zip(numbers, runs, batches, strict=True):
                with self._own_random(number):
                    train_step(run, batch)
            return
        if numbers not in self._stacks:
            log.info("training %d runs together from step %d on", len(runs), runs[0].step)
            self._stacks[numbers] = Stack(runs)
            _note(runs)
        self._stacks[numbers].step(batches)
        if any(run.step + 1 in run.checkpoint_steps for run in runs):
            self._stacks[numbers].put_back()


def _note(runs: Sequence[TrainingState]) -> None:
    """Records in each run.json from which step on these runs train together, because their bits depend on it."""
    ids = [run.folder.run_id for run in runs]
    for run in runs:
        about = read_json(run.folder.about)
        stacks = about.get("stacks", [])
        if not stacks or stacks[-1]["runs"] != ids:
            write_json(run.folder.about, {**about, "stacks": [*stacks, {"from": run.step, "runs": ids}]})


def _split(runs: dict[int, TrainingState]) -> Iterator[tuple[int, ...]]:
    """Groups the runs that take a step together, by number."""
    fit = [number for number, run in runs.items() if can_stack(run.model, run.config.train)]
    yield from ((number,) for number in runs if number not in fit)
    if fit:
        most = len(fit)
        if (run := runs[fit[0]]).device.type == "cpu":
            most = TOKENS // (run.config.train.batch_size * run.evaluated["heldout"].tokens.shape[1])
            # If fewer than four batches fit, they are so large that stacking saves little.
            most = most if most >= 4 else 1
        size = math.ceil(len(fit) / math.ceil(len(fit) / most))
        yield from (tuple(fit[start : start + size]) for start in range(0, len(fit), size))
