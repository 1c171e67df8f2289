"""What checks the shapes of tensors in all other tests does check them."""

from __future__ import annotations

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from tests.shapes import checked, once

calls: list[int] = []


@once(typechecker=checked)
def cut(
    values: Float[Tensor, "prompt d_model"], other: dict[str, Float[Tensor, " d_model"]] | None = None, *, end: int = 9
) -> Float[Tensor, "prompt d_model"]:
    calls.append(end)
    return values[:, :end]


@pytest.mark.parametrize(
    ("values", "other", "end"),
    [
        (torch.zeros(3, 2, 1), None, 9),
        (torch.zeros(3, 2, dtype=torch.int64), None, 9),
        (torch.zeros(3, 2), {"a": torch.zeros(3)}, 9),
        (torch.zeros(3, 2), None, 1),
    ],
)
def test_what_has_another_shape_is_refused_whatever_came_before(values, other, end):
    for _ in range(2):
        assert cut(torch.zeros(3, 2)).shape == (3, 2)
        assert cut(torch.zeros(3, 2), {"a": torch.zeros(2)}).shape == (3, 2)
        with pytest.raises(Exception, match="Type-check error"):
            cut(values, other=other, end=end)


def test_a_function_is_called_once_a_call():
    calls.clear()
    for _ in range(2):
        cut(torch.ones(4, 4), end=4)
    assert calls == [4, 4]


def test_the_engine_is_checked():
    from mi_sweeps.circuits.network import Linear

    with pytest.raises(Exception, match="Type-check error"):
        Linear(torch.zeros(2, 3, dtype=torch.int64), None)
    for _ in range(2):
        mapped = Linear(torch.zeros(2, 3), torch.zeros(3))
        with pytest.raises(Exception, match="Type-check error"):
            mapped(torch.zeros(4, 2), torch.Tensor.long)
