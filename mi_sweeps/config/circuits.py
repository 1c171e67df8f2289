"""The section `patching.circuits`: circuits of heads and MLPs."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from mi_sweeps.config.section import Index, Section, Text
from mi_sweeps.errors import UserError
from mi_sweeps.locations import local
from mi_sweeps.store import mib

Percent = Annotated[float, Field(gt=0, le=100)]


def _members(value: Any) -> Any:
    """Reads the nodes of a circuit from a file in the MIB track's format; other values are left as they are."""
    if not isinstance(value, str):
        return value
    try:
        found = mib.read(local(value))
    except UserError as error:
        raise ValueError(str(error)) from None
    inside = found.members or ()
    members = [node.name for node in found.graph.nodes if node.kind != "embed" and node.name in inside]
    if not members:
        raise ValueError("no head or MLP of that circuit is in_graph; give a circuit with members")
    return members


class CircuitsConfig(Section):
    """How circuits of nodes are found and judged (`mi_sweeps.circuits.circuits`)."""

    nodes: Literal["all", "heads"] = "all"
    """Whether heads and MLPs may be ablated, or only heads, with all MLPs kept."""
    ablation: Literal["mean", "overall", "corrupted"] = "mean"
    """What the nodes outside a circuit write: their mean by role over prompts of three different names; one mean over
    all tokens of those prompts; or their corrupted value."""
    sizes: tuple[Percent, ...] = (1, 2, 5, 10, 20, 50, 100)
    """Sizes of circuits, in percent of the nodes."""
    size: Percent = 20
    """Size of the circuit whose members are tested one by one, and which is judged at other checkpoints."""
    random: int = Field(default=200, ge=0)
    """Random sets to compare each circuit with."""
    matched: Literal["layer", "size"] = "layer"
    """Whether random sets have as many heads and MLPs in each layer as the circuit, or only as many nodes in total."""
    at: tuple[Index, ...] = ()
    """Examined checkpoints whose circuits are judged at each other."""
    given: Annotated[tuple[Text, ...] | None, BeforeValidator(_members)] = None
    """A circuit found elsewhere: its nodes, or a file in the MIB track's format. The nodes are stored."""
