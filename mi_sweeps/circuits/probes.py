"""Linear probes: how well an affine map of activations predicts a number, on prompts that it was not fitted to.

A probe is ridge regression in closed form (Hoerl & Kennard 1970). It needs only second moments of the data, so tokens
are accumulated and none is stored. Sums are in 64 bits, because the means of activations can be many times larger than
their spread.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Real
from torch import Tensor

RIDGE = 1e-4
"""The penalty on squared weights, relative to the mean variance of the activation's dimensions: negligible with many
more tokens than dimensions, and sufficient otherwise."""

Moments = Float[Tensor, "both both"]
"""Sum over tokens of the outer product of (x, 1, y) with itself; `both` is d_model + 2."""


def moments(x: Float[Tensor, "token d_model"], y: Real[Tensor, " token"]) -> Moments:
    """The moments of some tokens. Moments of several batches can be added."""
    rows = torch.cat([x, torch.ones_like(x[:, :1]), y[:, None].to(x.dtype)], dim=1).double()
    return rows.T @ rows


def fit(of: Moments) -> Float[Tensor, " both"]:
    """Fits a probe. Returns weights, constant and -1, so that the product with (x, 1, y) is prediction minus y."""
    n = of[-2, -2]
    mean_x, mean_y = of[:-2, -2] / n, of[-1, -2] / n
    covariance = of[:-2, :-2] / n - mean_x[:, None] * mean_x
    penalty = (RIDGE * covariance.diagonal().mean()).clamp(min=torch.finfo(of.dtype).tiny)
    covariance.diagonal().add_(penalty)
    weights = torch.linalg.solve(covariance, of[:-2, -1] / n - mean_x * mean_y)
    return torch.cat([weights, (mean_y - mean_x @ weights)[None], -torch.ones_like(mean_y)[None]])


def r2(probe: Float[Tensor, " both"], of: Moments) -> float:
    """1 - squared error / variance of y, over these tokens. Below 0 if the mean of y would predict better; NaN if y
    does not vary."""
    error = probe @ of @ probe
    spread = of[-1, -1] - of[-1, -2] ** 2 / of[-2, -2]
    return (1 - error / spread).item() if spread > 0 else torch.nan
