"""What learns of a model, and the model as its checkpoints have it, whichever way it is trained."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from mi_sweeps.config import LoraConfig, TrainConfig
from mi_sweeps.errors import UserError
from mi_sweeps.training.checkpoints import Tensors, merged, parameters
from mi_sweeps.training.only import chosen

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ADAPTER = "default"
"""peft's name of the one adapter."""

NOPE_TARGETS = ("query", "value")
"""Of our own architecture, as peft takes it for others."""

NAMED = 8
"""So many of the modules that there are are told."""


@dataclass
class Trainable:
    """A model in training.

    Between `plain` blocks it computes as a step needs it: with an adapter in it, or with rounded weights. Within one
    it is the plain model of a checkpoint, in fp32, whichever way it is trained.
    """

    model: PreTrainedModel
    learned: dict[str, nn.Parameter]
    """In fp32, by name: what the optimiser has. The model's own parameters, except where those are rounded."""
    adapters: dict[str, Any] = field(default_factory=dict)
    """peft's layers, by the name of the module that each is in the place of."""
    exact: Tensors = field(default_factory=dict)
    """Of rounded weights, by name: in fp32, those that learn where they compute and the others on the CPU."""

    @contextmanager
    def plain(self) -> Iterator[PreTrainedModel]:
        """The model of a checkpoint: for as long as this lasts its weights are those that are kept, in fp32."""
        network = self.model.eval()
        with ExitStack() as after:
            after.callback(self.settle)
            rounded = parameters(network)
            for name, weight in self.exact.items():
                rounded[name].data = weight.detach().to(rounded[name].device)
            for name, layer in self.adapters.items():
                base = layer.get_base_layer()
                after.callback(network.set_submodule, name, layer)
                after.callback(setattr, base.weight, "data", base.weight.data)
                base.weight.data = merged(base.weight.data, *_factors(layer))
                network.set_submodule(name, base)
            yield network

    @torch.no_grad()
    def settle(self) -> None:
        """Rounds what has changed in fp32; where nothing is rounded there is nothing to do."""
        names = parameters(self.model)
        for name, weight in self.exact.items():
            if names[name].dtype != torch.bfloat16:
                names[name].data = weight.detach().to(names[name].device, torch.bfloat16)
            elif name in self.learned:
                names[name].copy_(weight)

    def sizes(self) -> dict[str, Any]:
        """How many numbers the plain model has, and how many learn; the modules that have an adapter, if any."""
        learned = sum(weight.numel() for weight in self.learned.values())
        every = sum(weight.numel() for weight in self.model.parameters())
        if not self.adapters:
            return {"parameters": every, "learned": learned}
        return {"parameters": every - learned, "learned": learned, "adapters": list(self.adapters)}

    def kept(self, network: PreTrainedModel) -> Tensors:
        """What a checkpoint's file has: the plain model's weights, or an adapter's factors.

        Args:
            network: as `plain` gives it.
        """
        if not self.adapters:
            return parameters(network)
        return {
            f"{name}.weight.{side}": factor
            for name, layer in self.adapters.items()
            for side, factor in zip(("left", "right"), _factors(layer), strict=True)
        }


def prepare(model: PreTrainedModel, train: TrainConfig, seed: int) -> Trainable:
    """Makes a plain model ready to be trained as is wanted.

    Args:
        seed: of an adapter's first weights. The caller's random state stays as it is.

    Raises:
        UserError: the model has not what is to learn, or cannot be trained in this way.
    """
    learning, modules = check_trainable(model, train)
    if train.gradient_checkpointing:
        # Its name in newer versions of transformers first.
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
        model.disable_input_require_grads()  # For the other kind of checkpointing; here it would reach frozen layers.
    adapters = _inject(model, train.lora, modules, seed) if modules else {}
    for name, weight in parameters(model).items():
        weight.requires_grad_(weight.requires_grad if adapters else name in learning)
    learned = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    trainable = Trainable(model, learned, adapters)
    if train.weights == "bf16":
        _round(trainable)
    return trainable


def check_trainable(model: PreTrainedModel, train: TrainConfig) -> tuple[set[str], list[str]]:
    """Names of the weights that `train.only` chooses, and the modules that have an adapter.

    Args:
        model: it needs no values.

    Raises:
        UserError: the model has not what is to learn, or cannot be trained in this way.
    """
    learning = set(chosen(train.only, parameters(model)))
    if train.gradient_checkpointing and not model.supports_gradient_checkpointing:
        raise UserError(
            f"train.gradient_checkpointing=true: {type(model).__name__} has none; use train.micro_batch, or a "
            "smaller batch"
        )
    return learning, targets(model, train, learning) if train.method == "lora" else []


def _round(trainable: Trainable) -> None:
    """Keeps the weights in fp32 beside the model, and gives it rounded ones. Adapters stay as they are."""
    for name, weight in trainable.model.named_parameters():
        if trainable.adapters and name in trainable.learned:
            continue
        if name not in trainable.learned:
            trainable.exact[name] = weight.detach().cpu()
            continue
        ours = nn.Parameter(weight.detach())
        trainable.learned[name] = trainable.exact[name] = ours
        weight.register_post_accumulate_grad_hook(_handing_over(ours))
    trainable.settle()


def _handing_over(ours: nn.Parameter) -> Callable[[Tensor], None]:
    """Adds up gradients in fp32 as they come, and frees the rounded ones."""

    def hand_over(weight: Tensor) -> None:
        assert weight.grad is not None
        gradient = weight.grad.float()
        ours.grad = gradient if ours.grad is None else ours.grad.add_(gradient)
        weight.grad = None

    return hand_over


def targets(model: PreTrainedModel, train: TrainConfig, learning: Collection[str]) -> list[str]:
    """The modules that have an adapter: those that are named, as far as `train.only` chooses their weights.

    Args:
        learning: names of the weights that `train.only` chooses.

    Raises:
        UserError: there are none, or one of them cannot have one.
    """
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)}
    count = Counter(id(weight) for module in model.modules() for weight in module.parameters(recurse=False))
    # Beside a weight that other modules have too, as a tied unembedding's, nothing can be merged.
    own = [name for name, module in linear.items() if count[id(module.weight)] == 1]
    kind = model.config.model_type
    if train.lora.targets is not None or not train.only:
        found: set[str] = set()
        for one in train.lora.targets or _usual(kind):
            its = {name for name in linear if fnmatchcase(name, one) or name.endswith(f".{one}")}
            if tied := its.difference(own):
                raise UserError(
                    f"train.lora.targets={one}: the weight of {min(tied)} is another module's too; leave it out"
                )
            if not its:
                raise UserError(f"train.lora.targets={one}: no linear module of this model; {_named(own)}")
            found |= its
        if not found:
            raise UserError(
                f"train.lora.targets: peft has no choice of its own for models of type {kind}; {_named(own)}"
            )
    else:
        head = model.get_output_embeddings()
        found = {name for name in own if linear[name] is not head}
    chosen_too = [name for name in own if name in found and f"{name}.weight" in learning]
    if not chosen_too:
        raise UserError(
            f"train.only={','.join(train.only)}: no module that has an adapter is among those (train.lora.targets); "
            f"{_named(own)}"
        )
    return chosen_too


def _usual(kind: str) -> Collection[str]:
    from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING

    known = NOPE_TARGETS if kind == "nope" else TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.get(kind)
    return known if isinstance(known, (list, tuple)) else ()


def _named(modules: Collection[str]) -> str:
    last = dict.fromkeys(name.rpartition(".")[2] for name in modules)
    return f"there are {', '.join(list(last)[:NAMED])}" if last else "there is none"


def _inject(model: PreTrainedModel, config: LoraConfig, names: list[str], seed: int) -> dict[str, Any]:
    """peft's layers in the place of modules; its adapters change nothing yet."""
    import peft

    # Alpha is a whole number to peft's type only.
    alpha: Any = config.alpha
    lora = peft.LoraConfig(r=config.rank, lora_alpha=alpha, lora_dropout=config.dropout, target_modules=names)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # It tells that it has seen how GPT-2's modules keep their weights.
        torch.default_generator.manual_seed(seed)
        try:
            peft.inject_adapter_in_model(lora, model, ADAPTER)
        except ValueError as error:
            raise UserError(f"train.method=lora: peft refuses this model ({str(error).splitlines()[0]})") from error
    return {name: model.get_submodule(name) for name in names}


@torch.no_grad()
def _factors(layer: Any) -> tuple[Tensor, Tensor]:
    """Of what an adapter adds to a weight as its module has it: GPT-2's are [d_in, d_out]."""
    down, up = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight * layer.scaling[ADAPTER]
    return (down.mT, up.mT) if isinstance(layer.get_base_layer(), Conv1D) else (up, down)
