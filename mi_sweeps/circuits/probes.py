"""Linear probes: how well an affine map of activations tells a number, on prompts that it was not fitted to.

A probe is ridge regression in closed form (Hoerl & Kennard 1970). All that it needs of its data is their second
moments, so tokens are counted in as they come, and none of them is kept. Sums are in 64 bits: activations may have
means that are many times larger than their spread.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Real
from torch import Tensor

RIDGE = 1e-4
"""The penalty on squared weights, in units of the mean variance of an activation's numbers: next to nothing where there
are many more tokens than numbers, and enough where there are not."""

Moments = Float[Tensor, "both both"]
"""Sum over tokens of the outer product of (x, 1, y) with itself; `both` is as wide as x, and 2."""


def moments(x: Float[Tensor, "token d_model"], y: Real[Tensor, " token"]) -> Moments:
    """Of some tokens; those of several batches are added."""
    rows = torch.cat([x, torch.ones_like(x[:, :1]), y[:, None].to(x.dtype)], dim=1).double()
    return rows.T @ rows


def fit(of: Moments) -> Float[Tensor, " both"]:
    """Weights, constant and -1: the product with (x, 1, y) is by how much y is told too large."""
    n = of[-2, -2]
    mean_x, mean_y = of[:-2, -2] / n, of[-1, -2] / n
    covariance = of[:-2, :-2] / n - mean_x[:, None] * mean_x
    penalty = (RIDGE * covariance.diagonal().mean()).clamp(min=torch.finfo(of.dtype).tiny)
    covariance.diagonal().add_(penalty)
    weights = torch.linalg.solve(covariance, of[:-2, -1] / n - mean_x * mean_y)
    return torch.cat([weights, (mean_y - mean_x @ weights)[None], -torch.ones_like(mean_y)[None]])


def r2(told: Float[Tensor, " both"], of: Moments) -> float:
    """1 - squared error / variance of y, both of these tokens. Below 0 where their mean would have told y better; NaN
    where y does not vary."""
    error = told @ of @ told
    spread = of[-1, -1] - of[-1, -2] ** 2 / of[-2, -2]
    return (1 - error / spread).item() if spread > 0 else torch.nan
