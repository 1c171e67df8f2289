"""What cannot be examined in the models of a plan, and what is not trained as one may expect. Does not import torch, so
that `plan` can print it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from mi_sweeps.circuits.architectures import examined
from mi_sweeps.models.config_json import has_router_loss, model_type
from mi_sweeps.series.checkpoints import single
from mi_sweeps.sweeps.points import GridPoint

if TYPE_CHECKING:
    from mi_sweeps.config import SingleModel


def lines(points: Sequence[GridPoint], type_of: Callable[[SingleModel], str | None] = model_type) -> list[str]:
    """Returns a line for each model of which not everything can be examined, or which TransformerLens patches, and for
    each that is fine-tuned without its router's loss.

    Args:
        type_of: returns a model's `model_type`.

    Raises:
        UserError: one of them cannot be examined as requested.
    """
    found: dict[str, list[str | None]] = {}
    for point in points:
        # Keyed by plain values: most of thousands of points do not differ in these.
        key = json.dumps([point.values["model"], point.values["patching"]], sort_keys=True, default=str)
        if key not in found:
            config = point.config
            model = single(config)
            found[key] = [examined(model, config.patching, type_of(model))]
            if not point.is_series and has_router_loss(model):
                found[key].append(
                    f"model={model.name}: its config.json asks for a router's auxiliary loss (output_router_logits), "
                    "but only the cross-entropy is trained on"
                )
    return list(dict.fromkeys(line for lines in found.values() for line in lines if line))
