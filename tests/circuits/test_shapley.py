"""Shapley values of games with known ones."""

from __future__ import annotations

from itertools import permutations

import torch

from mi_sweeps.circuits.shapley import marginals, standard_error

WORTH = torch.tensor([[1.0, -2.0], [3.0, 0.5], [0.0, 4.0], [-1.0, 1.0]])
"""Of each part to each of two prompts."""


def additive(order):
    return torch.cat([torch.zeros(1, 2), WORTH[order].cumsum(dim=0)])


def together(order):
    """Parts 0 and 1 are worth 1 together and nothing alone; 2 is worth 1, and 1 more beside all others."""
    values = [torch.zeros(1)]
    for size in range(1, len(order) + 1):
        there = set(order[:size])
        values.append(torch.tensor([float({0, 1} <= there) + float(2 in there) + float(size == 4)]))
    return torch.stack(values)


def test_an_additive_game_is_exact_with_one_pair_of_orders():
    found = marginals(additive, 4, 2)
    assert found.shape == (1, 4, 2)
    assert torch.equal(found[0], WORTH.double())
    assert standard_error(found).isnan().all()  # of one pair nothing is known


def test_the_error_is_that_of_orders_and_shrinks_with_them():
    exact = torch.zeros(4)
    for order in permutations(range(4)):
        exact[list(order)] += together(order).diff(dim=0)[:, 0] / 24
    found = marginals(together, 4, 400)
    error = standard_error(found)
    # Part 2 has the same share of the last step as all, and is exact but for that; all within four errors.
    assert ((found.mean(dim=(0, 2)) - exact).abs() <= 4 * error + 1e-9).all()
    assert 0 < error.max() < standard_error(marginals(together, 4, 40)).max()
    assert torch.allclose(found.sum(dim=1), torch.tensor(3.0).double())


def test_the_orders_are_the_same_each_time():
    assert torch.equal(marginals(together, 4, 6), marginals(together, 4, 6))
