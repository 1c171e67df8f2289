"""How many prompts and seeds detect how large an effect: `python -m mi_sweeps.analysis.power OUTPUT [SWEEP ...]`.

A small finished sweep, the pilot, shows how much prompts and seeds vary, and so how wide intervals will be with more or
fewer of them. Intervals are those of `inference`, except that prompts vary alike in all seeds, which is conservative.
Critical values for all places at once are the median over samples of the pilot's prompts. The standard deviations are
estimates too: with 96 prompts to about 7% (one standard error), with three seeds to about half.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from rich.console import Console
from rich.table import Table
from scipy import optimize, stats

from ..counting import counted
from ..errors import UserError
from . import folder
from .inference.estimates import LEVEL
from .inference.estimates import criticals as of_one_place
from .inference.verdicts import DELTA, critical_values, seed_part
from .pilots import SHARE, Gap, Pilot, Spread, pilots

PROMPTS = (12, 24, 48, 96, 240)
SEEDS = (1, 2, 3, 5, 8)
CHANGES = (0.02, 0.04, 0.08)
"""Changes of a win rate."""
POWER = 0.8
"""Chance of detecting an effect."""
SAMPLES = 9
"""Of a pilot's prompts, for each number of prompts."""
LISTED = 12
"""Heads to list at most: those that vary most."""


@dataclass(frozen=True)
class Precision:
    """Precision with a number of prompts and seeds, in units of recovered. NaN where one seed says nothing about
    others."""

    n: int
    seeds: int
    of_prompts: float
    """Half of the 95% interval for other prompts in these runs."""
    of_both: float
    """The same for other seeds too."""
    of_all: float
    """The same at all places at once; with one seed, for other prompts only."""
    detectable: float
    """Smallest recovered that is shown to exceed DELTA, at all places at once, with probability POWER."""


def precision(prompts: float, seeds: float, n: int, runs: int, critical: float) -> Precision:
    """Compute the width of intervals.

    Args:
        prompts: standard deviation over prompts.
        seeds: standard deviation between seeds; NaN if unknown.
        n: number of prompts.
        runs: number of seeds.
        critical: simultaneous critical value of all places that are judged together (`of_pilot`, `of_places`).
    """
    of_prompts, of_seeds = np.array([prompts**2 / n]), np.array([seeds**2 / runs if runs > 1 else np.nan])
    freedom = np.array([runs - 1.0])
    both_known = bool(np.isfinite(of_seeds[0]))
    alone = float(stats.t.ppf(0.5 + LEVEL / 2, n - 1) * math.sqrt(of_prompts[0]))
    over_prompts, over_seeds, _ = of_one_place(of_prompts, np.array([n]), of_seeds, freedom)
    both = math.sqrt(over_prompts[0] ** 2 * of_prompts[0] + over_seeds[0] ** 2 * of_seeds[0]) if both_known else np.nan
    extra = float(seed_part(of_seeds, freedom, np.zeros(1, int), critical)[0]) if both_known else 0.0
    all_places = math.sqrt(critical**2 * of_prompts[0] + extra)
    known = np.nan_to_num(of_seeds[0])
    error = math.sqrt(of_prompts[0] + known)
    # Satterthwaite's degrees of freedom.
    own = error**4 / (of_prompts[0] ** 2 / (n - 1) + known**2 / max(runs - 1, 1)) if error else math.inf
    detectable = DELTA + (noncentrality(all_places / error, own) * error if error else 0.0)
    return Precision(n, runs, alone, both, all_places, detectable)


def of_pilot(influence: Float[np.ndarray, "place prompt"], place: int, n: int) -> float:
    """The simultaneous critical value of one place with n prompts like those of a pilot."""
    random = np.random.default_rng(n)
    samples = (influence[:, random.integers(0, influence.shape[1], n)] for _ in range(SAMPLES))
    return float(np.median([_critical(rows)[place] for rows in samples]))


def of_places(places: int, n: int) -> float:
    """The simultaneous critical value of unrelated places with n prompts, whose effects are normal."""
    return float(np.median(_critical(np.random.default_rng(n).standard_normal((places, n)))))


def _critical(rows: Float[np.ndarray, "place prompt"]) -> Float[np.ndarray, " place"]:
    return critical_values(rows - rows.mean(axis=1, keepdims=True), np.full(len(rows), rows.shape[1]))


def noncentrality(critical: float, freedom: float) -> float:
    """Effect in standard errors at which a t-test with this critical value rejects with probability POWER."""
    if math.isinf(critical):
        return math.inf
    return float(
        optimize.brentq(lambda far: stats.nct.sf(critical, freedom, far) - POWER, 0.0, 10.0 + 3.0 * critical, xtol=1e-6)
    )


def needed_for_change(change: float, share: float) -> int:
    """Prompts with which McNemar's test detects a change of a win rate with probability POWER.

    Connor (1987, Biometrics 43). The share of changed prompts is at least the change.

    Args:
        change: of the win rate, 0.02 for two points.
        share: of prompts won at only one of the two checkpoints.
    """
    share = max(share, change)
    tail, power = stats.norm.ppf(0.5 + LEVEL / 2), stats.norm.ppf(POWER)
    return math.ceil(((tail * math.sqrt(share) + power * math.sqrt(share - change**2)) / change) ** 2)


def tables(pilot: Pilot, head: str | None = None) -> Iterator[Table | str]:
    """Yield a pilot's results as tables and lines.

    Raises:
        UserError: it has no such head.
    """
    seeds = counted(pilot.runs, "seed")
    yield f"{pilot.name}: {seeds}, {pilot.n} prompts, {pilot.places} places (heads x checkpoints)\n"
    if next(gap for gap in pilot.gaps if gap.step == pilot.step).needed is None:
        yield f"Clean and corrupted prompts do not differ measurably at checkpoint {pilot.step}; nothing to recover.\n"
    else:
        by_size = sorted(pilot.spreads, key=lambda one: -_size(one))
        named = [one for one in by_size if head in (None, one.name)]
        if not named:
            raise UserError(f"--head={head}: no such head; there are {', '.join(one.name for one in pilot.spreads)}")
        yield f"Standard deviation of recovered, checkpoint {pilot.step}"
        table = _table("head", "recovered", "over prompts", "between seeds")
        for one in by_size[:LISTED]:
            table.add_row(one.name, *map(_number, (one.recovered, one.prompts, one.seeds)))
        medians = np.median([(one.prompts, one.seeds) for one in by_size], axis=0)
        table.add_row(f"median of {len(by_size)}", "", *map(_number, medians))
        yield table
        yield ""
        what = f"head {named[0].name}" + ("" if head else ", which varies most")
        place = pilot.at + pilot.spreads.index(named[0])
        criticals = [of_pilot(pilot.influence, place, n) for n in PROMPTS]
        yield from of_heads(named[0].prompts, named[0].seeds, pilot.places, criticals, what)
    yield from of_gaps(pilot.gaps)
    if pilot.flips:
        shares = np.array(list(pilot.flips.values()))
        before, after = max(pilot.flips, key=lambda pair: pilot.flips[pair])
        largest = {f"{before} to {after}": pilot.flips[before, after]}
        yield from of_changes({"median": float(np.median(shares))} | largest)
        yield (
            "changed: prompts with the answer's logit above the subject's at only one of two adjacent checkpoints;\n"
            "if the win rate changes by more than this share, the share is that change\n"
        )


def of_heads(prompts: float, seeds: float, places: int, criticals: Sequence[float], what: str) -> Iterator[Table | str]:
    """Yield half-widths for prompts × seeds.

    Args:
        criticals: simultaneous critical values of all places, for each of PROMPTS.
    """
    yield f"Half of the 95% interval of recovered: {what}"
    table = _table("prompts", "seeds", "prompts alone", "and seeds", f"{places} places at once", "detectable")
    for n, critical in zip(PROMPTS, criticals, strict=True):
        for runs in SEEDS if math.isfinite(seeds) else SEEDS[:1]:
            one = precision(prompts, seeds, n, runs, critical)
            table.add_row(str(n), str(runs), *map(_number, (one.of_prompts, one.of_both, one.of_all, one.detectable)))
    yield table
    yield (
        f"detectable: the smallest recovered that gets the verdict `matters` with a chance of {POWER:.0%}\n"
        "one seed: for other prompts in that run, not for other seeds\n"
    )


def of_gaps(gaps: Sequence[Gap]) -> Iterator[Table | str]:
    """Yield how many prompts a gap needs."""
    yield f"Prompts for a gap (clean - corrupted, logits) with a standard error of {SHARE:.0%}"
    table = _table("checkpoint", "gap", "sd over prompts", "prompts", "95% interval")
    for gap in gaps:
        needed = (
            ("no measurable gap",) if gap.needed is None else (str(gap.needed[0]), f"{gap.needed[1]}-{gap.needed[2]}")
        )
        table.add_row("" if gap.step is None else str(gap.step), _number(gap.mean), _number(gap.deviation), *needed)
    yield table
    yield ""


def of_changes(shares: dict[str, float]) -> Iterator[Table | str]:
    """Yield how many prompts a change of a win rate needs, for some shares of changed prompts."""
    yield f"Prompts that detect a change of a win rate with a chance of {POWER:.0%} (McNemar's test)"
    table = _table("checkpoints", "changed", *(f"{100 * change:.0f} points" for change in CHANGES))
    for what, share in shares.items():
        table.add_row(what, f"{share:.1%}", *(str(needed_for_change(change, share)) for change in CHANGES))
    yield table


def _size(one: Spread) -> float:
    """Variance of a head's estimate from 48 prompts and three seeds."""
    return float(one.prompts**2 / 48 + np.nan_to_num(one.seeds) ** 2 / 3)


def _number(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "-"


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m mi_sweeps.analysis.power",
        description="How many prompts and seeds detect how large an effect: from a small finished sweep, or from "
        "standard deviations.",
    )
    parser.add_argument("output", nargs="?", type=Path, help="folder of results with patched heads")
    parser.add_argument("sweeps", nargs="*", metavar="sweep", help="sweeps in it (default: all)")
    parser.add_argument("--site", choices=("z", "q", "k", "v", "pattern"), default="z", help="of heads (default: z)")
    parser.add_argument("--step", type=int, help="checkpoint of the heads (default: the last)")
    parser.add_argument("--head", help="layer.head to compute intervals for (default: the one that varies most)")
    given = parser.add_argument_group("without a folder")
    given.add_argument("--prompt-sd", type=_positive, help="standard deviation of a head's recovered over prompts")
    given.add_argument("--seed-sd", type=_positive, help="and between seeds")
    given.add_argument("--places", type=_count, default=1, help="heads × checkpoints judged together (default: 1)")
    given.add_argument("--gap", type=float, help="clean − corrupted, in logits")
    given.add_argument("--gap-sd", type=_positive, help="its standard deviation over prompts")
    given.add_argument("--discordant", type=_share, help="share of prompts won at only one of two checkpoints")
    options = parser.parse_args(arguments)
    given_alone = [
        name for name in ("prompt_sd", "seed_sd", "gap", "gap_sd", "discordant") if getattr(options, name) is not None
    ]
    if options.output is not None and (given_alone or options.places != 1):
        name = (given_alone or ["places"])[0].replace("_", "-")
        raise UserError(f"--{name}: that is estimated from {options.output}; give it without a folder")
    if options.output is None:
        if not given_alone:
            raise UserError("no folder of results; give one, or --prompt-sd, --gap and --gap-sd, or --discordant")
        if (options.gap is None) != (options.gap_sd is None) or options.gap == 0:
            raise UserError("--gap and --gap-sd: give both, and a gap that is not 0")
        if options.seed_sd is not None and options.prompt_sd is None:
            raise UserError("--seed-sd: give --prompt-sd too")
    return options


def _positive(text: str) -> float:
    value = float(text)
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"{text}: not a number above 0")
    return value


def _share(text: str) -> float:
    value = _positive(text)
    if value > 1:
        raise argparse.ArgumentTypeError(f"{text}: not a share; 10% is 0.1")
    return value


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: not a positive number")
    return int(text)


def _parts(options: argparse.Namespace, damaged: list[str]) -> Iterator[Table | str]:
    if options.output is not None:
        for pilot in pilots(folder.read(options.output, options.sweeps, damaged), options.site, options.step, damaged):
            yield from tables(pilot, options.head)
        return
    if options.prompt_sd is not None:
        seeds = math.nan if options.seed_sd is None else options.seed_sd
        what = f"standard deviations {options.prompt_sd:g} and {_number(seeds)}"
        criticals = [of_places(options.places, n) for n in PROMPTS]
        yield from of_heads(options.prompt_sd, seeds, options.places, criticals, what)
    if options.gap is not None:
        yield from of_gaps([Gap(None, options.gap, options.gap_sd, 10**9)])
    if options.discordant is not None:
        yield from of_changes({"given": options.discordant})


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables; return the exit code: 0 done, 1 something cannot be read, 2 bad input."""
    damaged: list[str] = []
    try:
        options = _options(arguments)
        parts = list(_parts(options, damaged))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 2
    console = Console(highlight=False, markup=False, emoji=False)
    for part in parts:
        console.print(part, soft_wrap=isinstance(part, str))
    for damage in damaged:
        print(f"warning: {damage}", file=sys.stderr)  # noqa: T201
    return 1 if damaged else 0


if __name__ == "__main__":
    sys.exit(main())
