"""Fits shapes to a curve over checkpoints: linear, exponential, power and logistic.

Every shape is level + change · f(u), where u is the time as a share of the run. Generalised least squares gives level
and change for each f, so only the one or two parameters of f are searched, on a grid. All candidates of all shapes are
fitted at once: after whitening and removing the level, candidate f reduces the sum of squares by (q_f · y)², with q_f
of length 1.

The noise of a mean over prompts has two parts: the covariance of that mean (`of_prompts`), and a variance that is the
same at every checkpoint, the wobble, for variation of the run itself that no shape describes. The wobble is chosen so
that the sum of squares of the best shape equals its degrees of freedom (the estimator of Paule & Mandel 1982, J. Res.
NBS 87, from meta-analysis).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np
from jaxtyping import Float, Int

from .estimates import ROUNDING, quantile

Curve = Float[np.ndarray, " checkpoint"]

SHAPES = ("linear", "exponential", "power", "logistic")
PARAMETERS = np.array([2, 3, 3, 4])
"""Number of parameters of each shape, including level and change."""
MOST = 4
SPAN = 2 * np.log(9.0)
"""Time from 10% to 90% of a logistic, in units of its scale."""
FACTORS = 3
"""Number of factors by which prompts differ: mostly how much their curves rise, and when."""
CLOSEST = 2000
"""Number of candidates kept until the wobble is known."""
COARSE = 0.08
"""Ratio of successive widths on the grid."""
FINE = 32
"""Number of widths and of middles added near the best fit."""
LONGEST = 3.0
"""Width of the slowest logistic as a share of the run; it is almost a line."""


@dataclass(frozen=True)
class Candidates:
    """All candidate shapes f at given checkpoints. Times are shares of the run."""

    shape: Int[np.ndarray, " candidate"]
    """Its number in SHAPES."""
    values: Float[np.ndarray, "candidate checkpoint"]
    steepness: Float[np.ndarray, " candidate"]
    """The largest slope over the mean slope, both within the run."""
    middle: Float[np.ndarray, " candidate"]
    """Time at which half of the change within the run is done."""
    start: Float[np.ndarray, " candidate"]
    """Time at which 10% is done."""
    width: Float[np.ndarray, " candidate"]
    """Time from 10% to 90% of that change."""


@dataclass(frozen=True)
class Fit:
    """The fit of every candidate to one curve."""

    candidates: Candidates
    squares: Float[np.ndarray, " candidate"]
    """Sums of squared residuals of the whitened curve."""
    covariance: Float[np.ndarray, "checkpoint checkpoint"]
    """Covariance of the curve's noise."""
    wobble: float
    """Standard deviation at each checkpoint that prompts do not account for, in the curve's own units."""
    whiten: Float[np.ndarray, "checkpoint checkpoint"]
    directions: Float[np.ndarray, "logistic checkpoint"]
    """q_f of each logistic on the grid, without those added near the best fit."""
    curve: Curve

    def best(self, among: np.ndarray | None = None) -> int:
        """The best-fitting of the chosen candidates."""
        return int(np.argmin(self.squares if among is None else np.where(among, self.squares, np.inf)))

    def fitted(self, candidate: int) -> Curve:
        """The curve of a candidate, with its level and change, at the checkpoints."""
        design = np.stack([np.ones(len(self.curve)), self.candidates.values[candidate]], axis=1)
        weighted = np.linalg.solve(self.covariance, design)
        return design @ np.linalg.solve(design.T @ weighted, weighted.T @ self.curve)

    def acceptable(self) -> np.ndarray:
        """The candidates that a likelihood ratio test does not reject; the range of a quantity over them is its 95%
        interval."""
        return self.squares <= self.squares.min() + _accepted(max(len(self.curve) - MOST, 1))

    def best_shape(self) -> str:
        """The shape with the best BIC."""
        shape = self.candidates.shape
        scores = [
            self.squares[shape == number].min() + PARAMETERS[number] * np.log(len(self.curve))
            for number in range(len(SHAPES))
        ]
        return SHAPES[int(np.argmin(scores))]


def fit(time: Curve, curve: Curve, covariance: Float[np.ndarray, "checkpoint checkpoint"]) -> Fit:
    """Fits all candidates.

    Args:
        time: of the checkpoints, ascending, on any clock.
        covariance: of the curve over prompts (`of_prompts`); zeros without values by prompt, so that all noise is
            wobble.
    """
    share = (time - time[0]) / (time[-1] - time[0])
    candidates = _candidates(tuple(share.tolist()))
    freedom = max(len(time) - MOST, 1)
    known = covariance + ROUNDING**2 * np.eye(len(time))

    whiten, directions = _whitened(candidates.values, known)
    squares = _squares(whiten @ curve, directions)
    wobble = 0.0
    if squares.min() > freedom:
        # Those that may be the best for some wobble.
        among = candidates.values[np.argsort(squares)[:CLOSEST]]
        low, high = 0.0, float(np.var(curve)) + ROUNDING**2
        for _ in range(20):  # on a logarithmic scale, down from the spread of the curve itself
            wobble = np.sqrt(max(low, 1e-8 * high) * high)
            whiten, directions = _whitened(among, known + wobble * np.eye(len(time)))
            is_more = _squares(whiten @ curve, directions).min() > freedom
            low, high = (wobble, high) if is_more else (low, wobble)
        wobble = high
        whiten, directions = _whitened(candidates.values, known + wobble * np.eye(len(time)))
        squares = _squares(whiten @ curve, directions)
    covariance = known + wobble * np.eye(len(time))
    coarse = directions[candidates.shape == SHAPES.index("logistic")]
    finer = _finer(candidates, squares <= squares.min() + 4 * _accepted(freedom), share)
    more = _whitened(finer.values, covariance)[1]
    candidates = Candidates(
        *(np.concatenate([getattr(one, name.name) for one in (candidates, finer)]) for name in fields(Candidates))
    )
    squares = np.concatenate([squares, _squares(whiten @ curve, more)])
    return Fit(candidates, squares, covariance, float(np.sqrt(wobble)), whiten, coarse, curve)


def steepness_of(fit: Fit, curves: Float[np.ndarray, "curve checkpoint"]) -> Float[np.ndarray, " curve"]:
    """The largest slope over the mean slope of the logistic that fits each curve best, given the noise of `fit`."""
    logistic = np.flatnonzero(fit.candidates.shape == SHAPES.index("logistic"))[: len(fit.directions)]
    whitened, directions = (curves @ fit.whiten.T).astype(np.float32), fit.directions.astype(np.float32)
    best, most = np.zeros(len(curves), int), np.full(len(curves), -1.0)
    for start in range(0, len(logistic), 4096):
        reduction = np.abs(directions[start : start + 4096] @ whitened.T)
        at = reduction.argmax(axis=0)
        top = reduction[at, np.arange(len(curves))]
        best, most = np.where(top > most, start + at, best), np.maximum(top, most)
    return fit.candidates.steepness[logistic[best]]


def of_prompts(values: Float[np.ndarray, "checkpoint prompt"]) -> Float[np.ndarray, "checkpoint checkpoint"]:
    """Covariance of a mean over prompts, after each prompt's own level is removed.

    Modelled by FACTORS factors and noise that is the same at every checkpoint (Tipping & Bishop 1999, J. R. Stat. Soc.
    B 61). There may be more checkpoints than prompts, and then the sample covariance makes intervals too narrow.
    """
    steps, n = values.shape
    deviations = values - values.mean(axis=0)
    deviations = deviations - deviations.mean(axis=1, keepdims=True)
    variances, vectors = np.linalg.eigh(deviations @ deviations.T / (n - 1))
    factors = min(FACTORS, n - 2, steps - 2)
    rest = max(variances[: steps - factors].sum() / (steps - 1 - factors), 0.0)  # the level is not a direction
    largest = vectors[:, steps - factors :]
    own = (largest * (variances[steps - factors :] - rest)) @ largest.T
    return (own + rest * np.eye(steps)) / n


def _whitened(
    values: Float[np.ndarray, "candidate checkpoint"], covariance: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The matrix that whitens the noise and removes the level, and each candidate's q_f."""
    variances, vectors = np.linalg.eigh(covariance)
    whiten = (vectors / np.sqrt(np.maximum(variances, 1e-12 * variances[-1]))) @ vectors.T
    level = whiten.sum(axis=1)
    level /= np.linalg.norm(level)
    whiten = whiten - np.outer(level, level @ whiten)
    directions = values @ whiten.T
    norm = np.linalg.norm(directions, axis=1, keepdims=True)
    return whiten, directions / np.where(norm > 0, norm, 1.0)


def _squares(whitened: Curve, directions: np.ndarray) -> np.ndarray:
    return float(whitened @ whitened) - (directions @ whitened) ** 2


def _accepted(freedom: int) -> float:
    """How far a candidate's sum of squares may exceed the smallest."""
    return float(quantile(freedom)) ** 2


def _finer(candidates: Candidates, near: np.ndarray, u: np.ndarray) -> Candidates:
    """Adds logistics near the best fit, between those of the grid."""
    own = near & (candidates.shape == SHAPES.index("logistic"))
    if not own.any():
        own = np.arange(len(near)) == np.flatnonzero(candidates.shape == SHAPES.index("logistic"))[0]
    middles, widths = candidates.middle[own], candidates.width[own]
    spare = max(0.02 * widths.max(), np.diff(u).max() / 20)
    c = np.linspace(max(middles.min() - spare, 0.0), min(middles.max() + spare, 1.0), FINE)
    w = np.geomspace(widths.min() / (1 + COARSE), min(widths.max() * (1 + COARSE), LONGEST), FINE)
    part = _logistics(u, np.repeat(c, FINE), np.tile(w, FINE))
    return Candidates(np.full(FINE * FINE, SHAPES.index("logistic")), *part)


@lru_cache(maxsize=8)
def _candidates(share: tuple[float, ...]) -> Candidates:
    u = np.array(share)
    parts = [_linear(u), _exponential(u), _power(u), _logistic(u)]
    shape = np.repeat(np.arange(len(SHAPES)), [len(part[0]) for part in parts])
    return Candidates(shape, *(np.concatenate(columns) for columns in zip(*parts, strict=True)))  # type: ignore[arg-type]


Part = tuple[np.ndarray, ...]
"""Values, steepness, middle, start and width of a shape's candidates."""


def _linear(u: np.ndarray) -> Part:
    return u[None], np.ones(1), np.full(1, 0.5), np.full(1, 0.1), np.full(1, 0.8)


def _exponential(u: np.ndarray) -> Part:
    """1 - exp(-u/τ): an approach for τ > 0, growth for τ < 0."""
    lasting = np.geomspace(min(0.2 * np.diff(u).min(), 0.01), 3.0, 160)
    rate = 1 / np.concatenate([lasting, -lasting[lasting > 0.02]])[:, None]
    whole = -np.expm1(-rate)

    def when(done: float) -> np.ndarray:
        return (-np.log1p(-done * whole) / rate)[:, 0]

    steepness = np.abs(rate * np.maximum(1.0, np.exp(-rate)) / whole)[:, 0]
    return -np.expm1(-rate * u) / whole, steepness, when(0.5), when(0.1), when(0.9) - when(0.1)


def _power(u: np.ndarray) -> Part:
    """u^p; p = 0.5 is a square root. For p < 1 the slope at the start is unbounded, so the mean slope up to the first
    checkpoint is used."""
    p = np.geomspace(0.1, 10.0, 121)[:, None]

    def when(done: float) -> np.ndarray:
        return (done ** (1 / p))[:, 0]

    steepness = np.maximum(p, (u[1] ** p) / u[1])[:, 0]
    return u**p, steepness, when(0.5), when(0.1), when(0.9) - when(0.1)


def _logistic(u: np.ndarray) -> Part:
    """1 / (1 + exp(-(u - c) / s)) with c within the run; its width is SPAN · s."""
    spacing = np.diff(u)
    middles, widths = [], []
    for width in np.geomspace(0.5 * spacing.min(), LONGEST, int(np.log(LONGEST / spacing.min() * 2) / COARSE)):
        # Middles so close that neighbours of this width are just distinguishable, but at most ten between two
        # checkpoints.
        pieces = np.clip(np.ceil(spacing / (0.02 * width)), 1 if width > 0.2 else 2, 10).astype(int)
        # For widths far above the spacing, fewer than one between two checkpoints.
        every = max(1, int(0.02 * width / spacing.max()))
        own = np.concatenate(
            [
                start + gap * (np.arange(count) + 0.5) / count
                for start, gap, count in zip(u, spacing, pieces, strict=False)
            ]
        )[::every]
        middles.append(own)
        widths.append(np.full(len(own), width))
    return _logistics(u, np.concatenate(middles), np.concatenate(widths))


def _logistics(u: np.ndarray, middle: np.ndarray, width: np.ndarray) -> Part:
    c, s = middle[:, None], width[:, None] / SPAN

    def value(at: np.ndarray | float) -> np.ndarray:
        return 1 / (1 + np.exp(-np.clip((at - c) / s, -500, 500)))

    first, last = value(0.0), value(1.0)

    def when(done: float) -> np.ndarray:
        reached = first + done * (last - first)
        return (c + s * np.log(reached / (1 - reached)))[:, 0]

    steepness = (1 / (4 * s) / (last - first))[:, 0]
    return (value(u) - first) / (last - first), steepness, when(0.5), when(0.1), when(0.9) - when(0.1)
