"""A model in training (in full, in part, by an adapter, or in bf16) and the plain fp32 model of its checkpoints."""

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
"""peft's name for the only adapter."""

NOPE_TARGETS = ("query", "value")
"""The modules that get an adapter in our own architecture, as peft chooses them for others."""

NAMED = 8
"""How many module names an error lists."""


@dataclass
class Trainable:
    """A model in training.

    Inside a `plain` block it is the plain model of a checkpoint, in fp32. Outside, it is as a training step needs it:
    with adapters, or with rounded weights.
    """

    model: PreTrainedModel
    learned: dict[str, nn.Parameter]
    """The optimiser's parameters by name, in fp32. They are the model's own, unless those are rounded."""
    adapters: dict[str, Any] = field(default_factory=dict)
    """peft's layers, by the name of the module that each replaces."""
    exact: Tensors = field(default_factory=dict)
    """The fp32 values of rounded weights by name: on the model's device if they learn, else on the CPU."""

    @contextmanager
    def plain(self) -> Iterator[PreTrainedModel]:
        """Yields the plain model: inside the block its weights are those that a checkpoint stores, in fp32."""
        network = self.model.eval()
        with ExitStack() as after:
            after.callback(self.round)
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
    def round(self) -> None:
        """Rounds the weights that have changed in fp32; does nothing if the model trains in fp32."""
        names = parameters(self.model)
        for name, weight in self.exact.items():
            if names[name].dtype != torch.bfloat16:
                names[name].data = weight.detach().to(names[name].device, torch.bfloat16)
            elif name in self.learned:
                names[name].copy_(weight)

    def sizes(self) -> dict[str, Any]:
        """The number of parameters of the plain model and of those that learn; the modules with an adapter, if any."""
        learned = sum(weight.numel() for weight in self.learned.values())
        every = sum(weight.numel() for weight in self.model.parameters())
        if not self.adapters:
            return {"parameters": every, "learned": learned}
        return {"parameters": every - learned, "learned": learned, "adapters": list(self.adapters)}

    def weights_to_store(self, network: PreTrainedModel) -> Tensors:
        """The tensors that a checkpoint stores: the plain model's weights, or an adapter's factors.

        Args:
            network: the model that `plain` yields.
        """
        if not self.adapters:
            return parameters(network)
        return {
            f"{name}.weight.{side}": factor
            for name, layer in self.adapters.items()
            for side, factor in zip(("left", "right"), _factors(layer), strict=True)
        }


def prepare(model: PreTrainedModel, train: TrainConfig, seed: int) -> Trainable:
    """Prepares a plain model for training.

    Args:
        seed: of an adapter's initial weights. The caller's random state is left alone.

    Raises:
        UserError: the model lacks what should learn, or cannot be trained in this way.
    """
    learning, modules = check_trainable(model, train)
    if train.gradient_checkpointing:
        # The first name is that of newer versions of transformers.
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
        model.disable_input_require_grads()  # Only for reentrant checkpointing; here it would reach frozen layers.
    adapters = _inject(model, train.lora, modules, seed) if modules else {}
    for name, weight in parameters(model).items():
        weight.requires_grad_(weight.requires_grad if adapters else name in learning)
    learned = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    trainable = Trainable(model, learned, adapters)
    if train.weights == "bf16":
        _round(trainable)
    return trainable


def check_trainable(model: PreTrainedModel, train: TrainConfig) -> tuple[set[str], list[str]]:
    """The names of the weights that `train.only` chooses, and of the modules that get an adapter.

    Args:
        model: may be on the meta device, without values.

    Raises:
        UserError: the model lacks what should learn, or cannot be trained in this way.
    """
    learning = set(chosen(train.only, parameters(model)))
    if train.gradient_checkpointing and not model.supports_gradient_checkpointing:
        raise UserError(
            f"train.gradient_checkpointing=true: {type(model).__name__} does not support it; use train.micro_batch, or "
            "a smaller batch"
        )
    return learning, targets(model, train, learning) if train.method == "lora" else []


def _round(trainable: Trainable) -> None:
    """Rounds the model's weights to bf16 and keeps their fp32 values beside it. Adapters stay in fp32."""
    for name, weight in trainable.model.named_parameters():
        if trainable.adapters and name in trainable.learned:
            continue
        if name not in trainable.learned:
            trainable.exact[name] = weight.detach().cpu()
            continue
        ours = nn.Parameter(weight.detach())
        trainable.learned[name] = trainable.exact[name] = ours
        weight.register_post_accumulate_grad_hook(_gradient_to(ours))
    trainable.round()


def _gradient_to(ours: nn.Parameter) -> Callable[[Tensor], None]:
    """A hook that adds a rounded weight's gradient to its fp32 parameter's and frees it."""

    def move(weight: Tensor) -> None:
        assert weight.grad is not None
        gradient = weight.grad.float()
        ours.grad = gradient if ours.grad is None else ours.grad.add_(gradient)
        weight.grad = None

    return move


def targets(model: PreTrainedModel, train: TrainConfig, learning: Collection[str]) -> list[str]:
    """The names of the modules that get an adapter: those targeted whose weights `train.only` chooses.

    Args:
        learning: names of the weights that `train.only` chooses.

    Raises:
        UserError: there are none, or one of them cannot have an adapter.
    """
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)}
    count = Counter(id(weight) for module in model.modules() for weight in module.parameters(recurse=False))
    # An adapter cannot be merged into a weight that modules share, such as a tied unembedding.
    own = [name for name, module in linear.items() if count[id(module.weight)] == 1]
    kind = model.config.model_type
    if train.lora.targets is not None or not train.only:
        found: set[str] = set()
        for one in train.lora.targets or _usual(kind):
            its = {name for name in linear if fnmatchcase(name, one) or name.endswith(f".{one}")}
            if tied := its.difference(own):
                raise UserError(
                    f"train.lora.targets={one}: {min(tied)} shares its weight with another module; leave it out"
                )
            if not its:
                raise UserError(f"train.lora.targets={one}: matches no linear module of this model; {_named(own)}")
            found |= its
        if not found:
            raise UserError(f"train.lora.targets: peft has no default for models of type {kind}; {_named(own)}")
    else:
        head = model.get_output_embeddings()
        found = {name for name in own if linear[name] is not head}
    chosen_too = [name for name in own if name in found and f"{name}.weight" in learning]
    if not chosen_too:
        raise UserError(
            f"train.only={','.join(train.only)}: includes no module of train.lora.targets, so no adapter; {_named(own)}"
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
    """Replaces modules with peft's layers, whose adapters change nothing yet."""
    import peft

    # Only peft's type annotation requires an integer.
    alpha: Any = config.alpha
    lora = peft.LoraConfig(r=config.rank, lora_alpha=alpha, lora_dropout=config.dropout, target_modules=names)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft warns that it handles GPT-2's transposed weights.
        torch.default_generator.manual_seed(seed)
        try:
            peft.inject_adapter_in_model(lora, model, ADAPTER)
        except ValueError as error:
            raise UserError(f"train.method=lora: peft refuses this model ({str(error).splitlines()[0]})") from error
    return {name: model.get_submodule(name) for name in names}


@torch.no_grad()
def _factors(layer: Any) -> tuple[Tensor, Tensor]:
    """The two factors whose product an adapter adds to its module's weight, which in GPT-2 is [d_in, d_out]."""
    down, up = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight * layer.scaling[ADAPTER]
    return (down.mT, up.mT) if isinstance(layer.get_base_layer(), Conv1D) else (up, down)
