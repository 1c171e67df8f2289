"""Sets of heads and MLPs."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from mi_sweeps.circuits import mib
from mi_sweeps.config.section import Index, Section, Text
from mi_sweeps.errors import UserError
from mi_sweeps.locations import local

Percent = Annotated[float, Field(gt=0, le=100)]


def _members(value: Any) -> Any:
    """The nodes of a circuit in a file of the MIB track's form; what is no path stays as it is."""
    if not isinstance(value, str):
        return value
    try:
        found = mib.read(local(value))
    except UserError as error:
        raise ValueError(str(error)) from None
    inside = found.members or ()
    members = [node.name for node in found.graph.nodes if node.kind != "embed" and node.name in inside]
    if not members:
        raise ValueError("no head or MLP of that circuit is in_graph; give one with members")
    return members


class CircuitsConfig(Section):
    """Circuits of nodes, found and judged (`mi_sweeps.circuits.circuits`)."""

    nodes: Literal["all", "heads"] = "all"
    """What may be ablated: heads and MLPs, or heads alone, and MLPs are always kept."""
    ablation: Literal["mean", "overall", "corrupted"] = "mean"
    """What everything outside a circuit writes: its mean by role over prompts of three different names; one mean over
    all tokens of those prompts; or its corrupted value."""
    sizes: tuple[Percent, ...] = (1, 2, 5, 10, 20, 50, 100)
    """Percent of the nodes that are kept."""
    size: Percent = 20
    """Of the circuit whose members are looked at one by one, and that is judged at other checkpoints."""
    random: int = Field(default=200, ge=0)
    """Random sets for each circuit that is compared with them."""
    matched: Literal["layer", "size"] = "layer"
    """Whether they have as many heads and as many MLPs in each layer as the circuit, or as many nodes in all."""
    at: tuple[Index, ...] = ()
    """Checkpoints, among those that are examined: the circuit of each is judged at each of them."""
    given: Annotated[tuple[Text, ...] | None, BeforeValidator(_members)] = None
    """A circuit that was found elsewhere: its nodes, or a file of the MIB track's form that has them. What is stored is
    the nodes."""
