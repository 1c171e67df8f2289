"""Simulations with a planted truth: `python -m mi_sweeps.analysis.planted NAME`."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

from ..inference.verdicts import DELTA
from .designs import bootstrap_variance, interval, mean, of_seeds, ratio
from .measures import Answer, agreements
from .members import nogueira
from .moments import agreement_parts, correlation, moments
from .roles import Block, Signatures, match
from .stability import CUTOFF, stability

Gains = Float[np.ndarray, "run head prompt"]


def gains(
    random: np.random.Generator, *, runs: int = 5, heads: int = 16, prompts: int = 48, share: float = 1.0,
    size: float = 1.0, shared: float = 1.0, own: float = 1.0,
) -> Gains:  # fmt: skip
    """Simulated effects of heads: `share` of their variance is common to all runs, the rest differs between runs.

    Args:
        size: standard deviation of the effects over heads; 0: no effects.
        shared: noise of each head and prompt that all runs share, so that means over the same prompts are similar.
        own: noise of each head, prompt and run.
    """
    same, other = random.standard_normal(heads), random.standard_normal((runs, heads))
    effect = size * (np.sqrt(share) * same + np.sqrt(1 - share) * other)
    return np.asarray(
        effect[..., None]
        + shared * random.standard_normal((heads, prompts))
        + own * random.standard_normal((runs, heads, prompts))
    )


def coverage(share: float, worlds: int) -> tuple[Float[np.ndarray, " measure"], Float[np.ndarray, " world"]]:
    """How often the intervals of correlation and ICC hold the truth, and the correlations.

    The truth is of these heads and of any other runs: what they share has the variance that it has in its world.
    """
    random, design = np.random.default_rng(0), of_seeds(5)
    held, values = np.zeros(2), np.zeros(worlds)
    for world in range(worlds):
        same = random.standard_normal(16)
        effect = np.sqrt(share) * same + np.sqrt(1 - share) * random.standard_normal((5, 16))
        noise = random.standard_normal((16, 48)) + random.standard_normal((5, 16, 48))
        found = moments(effect[..., None] + noise)
        truth = share * same.var(ddof=1) / (share * same.var(ddof=1) + 1 - share)
        for at, statistic in enumerate((mean(correlation(found)), ratio(*agreement_parts(found)))):
            value, low, high = interval(statistic, design, 48, bootstrap_variance)
            held[at] += low <= truth <= high
            values[world] = values[world] if at else value
    return held / worlds, values


def agreement(worlds: int) -> Iterator[str]:
    """Coverage of the intervals of agreement, and the answers given."""
    for share in (1.0, 0.9, 0.5, 0.0):
        held, values = coverage(share, worlds)
        random = np.random.default_rng(1)
        answers = [
            next(
                row.answer
                for row in agreements(gains(random, share=share), of_seeds(5))
                if row.measure == "correlation"
            )
            for _ in range(worlds)
        ]
        said = ", ".join(f"{one.value} {answers.count(one) / worlds:.1%}" for one in Answer if one in answers)
        yield (
            f"{share:.0%} of the effects shared: correlation {values.mean():.3f} ± {values.std():.3f}; intervals hold "
            f"the truth in {held[0]:.1%} (correlation), {held[1]:.1%} (ICC); {said}"
        )


def no_effects(worlds: int) -> Iterator[str]:
    """The answers for heads without effects, on prompts that all runs share."""
    random, undefined, raw = np.random.default_rng(0), 0, []
    for _ in range(worlds):
        world = gains(random, size=0.0)
        raw.append(np.corrcoef(world.mean(axis=2))[np.triu_indices(5, 1)].mean())
        (correlation,) = (row for row in agreements(world, of_seeds(5)) if row.measure == "correlation")
        undefined += correlation.answer is Answer.UNDEFINED
    by = f"means over the same prompts correlate by {np.mean(raw):.2f}"
    yield f"no effects: undefined in {undefined / worlds:.1%}; {by}"


def signature(
    random: np.random.Generator, effects: Float[np.ndarray, "block head step"], noise: float = 0.02
) -> Signatures:
    """Signatures with independent noise in each half of the prompts."""
    _, heads, steps = effects.shape
    blocks: dict[Block, np.ndarray] = {
        (str(number),): of + noise * random.standard_normal((2, heads, steps)) for number, of in enumerate(effects)
    }
    return Signatures(tuple((head // 4, head % 4) for head in range(heads)), blocks)


def roles(worlds: int) -> Iterator[str]:
    """How often permuted heads are recovered, and unrelated ones matched."""
    random = np.random.default_rng(0)
    found, matched, chances = 0, 0, []
    for _ in range(worlds):
        effects = np.zeros((6, 16, 4))
        effects[:, :4] = random.uniform(-1, 1, (6, 4, 1)) * np.linspace(0.3, 1, 4)
        order = random.permutation(16)
        for pair in match(signature(random, effects), signature(random, effects[:, order])):
            layer, head = (-1, 0) if pair.partner is None else pair.partner
            found += pair.is_matched and order[layer * 4 + head] == pair.head[0] * 4 + pair.head[1]
        first, second = (random.uniform(-1, 1, (6, 16, 1)) * np.linspace(0.3, 1, 4) for _ in range(2))
        strangers = match(signature(random, first), signature(random, second))
        chances += [pair.p for pair in strangers]
        matched += any(pair.is_matched for pair in strangers)
    shares = ", ".join(f"{np.mean(np.array(chances) <= level):.1%} ≤ {level}" for level in (0.05, 0.25, 0.5, 0.75))
    yield f"4 heads with roles among 16, permuted: {found / (4 * worlds):.1%} matched with themselves"
    yield f"16 unrelated heads: any matched in {matched / worlds:.1%} of pairs of runs; p is {shares}"


def members(worlds: int) -> Iterator[str]:
    """Inclusion of planted members, and the number of false members compared with its bound."""
    for beside in (0.0, 0.03):
        random = np.random.default_rng(0)
        own, others, false, bound, tighter, phi = [], [], [], [], [], []
        for _ in range(worlds):
            effect = np.concatenate([np.full(4, 0.3), np.full(140, beside)])
            gap = 4 + 0.5 * random.standard_normal((1, 1, 48))
            gain = effect[:, None] * gap + 0.6 * random.standard_normal((1, 144, 48))
            found = stability(gain, np.broadcast_to(gap, gain.shape))
            own.append(found.inclusion[:4].mean())
            others.append(found.inclusion[4:].mean())
            false.append(found.stable[4:].sum())
            bound.append(found.false_members)
            tighter.append(found.false_members_unimodal)
            phi.append(found.over_prompts[0])
        yield (
            f"4 members of 0.3 and 140 heads of {beside} (a member is beyond {DELTA}): inclusion {np.mean(own):.3f} "
            f"and {np.mean(others):.3f}; false members on {CUTOFF:.0%} of halves {np.mean(false):.3f}, bounds "
            f"{np.mean(bound):.3f} and {np.mean(tighter):.3f} (unimodal); Φ of halves {np.mean(phi):.2f}"
        )


def stability_interval(worlds: int) -> Iterator[str]:
    """Coverage of the interval of Φ for independent sets."""
    random = np.random.default_rng(0)
    chance = np.concatenate([np.full(8, 0.8), np.full(56, 0.05)])
    size = chance.mean()
    truth = 1 - (chance * (1 - chance)).mean() / (size * (1 - size))
    for sets in (5, 20, 100):
        held = 0
        for _ in range(worlds):
            _, low, high = nogueira(random.random((sets, 64)) < chance)
            held += low <= truth <= high
        yield f"Φ = {truth:.2f}, {sets} sets: its interval holds it in {held / worlds:.1%}"
