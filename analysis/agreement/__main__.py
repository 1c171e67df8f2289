"""Prints how well the runs of a folder agree: `python -m mi_sweeps.analysis.agreement OUTPUT [SWEEP ...]`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from ...errors import UserError
from ..frames import load
from .tables import of_frames

SITE = "z"
"""The site whose lines are printed; the tables have the others."""


def lines(tables: dict[str, pd.DataFrame]) -> Iterator[str]:
    """Yields one line per result, for heads' outputs."""
    agreement = tables["agreement"]
    for row in agreement[(agreement["site"] == SITE) & (agreement["measure"] == "correlation")].itertuples():
        value = f"{row.value:.2f} [{row.low:.2f}, {row.high:.2f}]" if row.value == row.value else "not defined"
        runs = f"{row.runs} runs, {row.prompts} prompts; for other prompts and {row.scope}"
        yield f"{row.axis}, {row.setting}, {row.corruption}, checkpoint {row.step}: {row.answer}, r = {value} ({runs})"
    subjects = tables["subjects"]
    keys = ["setting", "first", "second", "step", "answer"]
    for (setting, first, second, step, said), rows in subjects[subjects["site"] == SITE].groupby(keys, sort=False):
        own = rows[(rows["verdict_first"] == "matters") | (rows["verdict_second"] == "matters")]
        heads = "; ".join(
            f"{row.layer}.{row.head} {row.comparison} ({row.difference:+.2f} [{row.low:+.2f}, {row.high:+.2f}])"
            for row in own.itertuples()
        )
        yield f"{setting}, {first} and {second}, checkpoint {step}: {said}{': ' if heads else ''}{heads}"
    for row in tables["roles"].itertuples():
        partner = "none" if pd.isna(row.layer_b) else f"{row.layer_b}.{row.head_b}"
        said = "matched" if row.matched else "not matched"
        alike = f"similarity {row.similarity:.2f}, p {row.p:.3f}"
        yield f"{row.axis}, {row.layer_a}.{row.head_a} of {row.run_a}, {partner} of {row.run_b}: {said} ({alike})"
    inclusion = tables["inclusion"]
    member = inclusion[(inclusion["site"] == SITE) & (inclusion["inclusion"] > 0.05)]
    stability = tables["stability"]
    for row in stability[stability["site"] == SITE].itertuples():
        same = (
            (member["setting"] == row.setting) & (member["corruption"] == row.corruption) & (member["step"] == row.step)
        )
        own = member[same].sort_values("inclusion", ascending=False)
        heads = ", ".join(f"{one.layer}.{one.head} {one.inclusion:.2f}" for one in own.itertuples())
        end = (
            f" [{row.phi_low_prompts:.2f}, {row.phi_high_prompts:.2f}]"
            if row.phi_low_prompts == row.phi_low_prompts
            else ""
        )
        yield (
            f"{row.setting}, {row.corruption}, checkpoint {row.step}: included {heads or 'none'}; Φ over prompts "
            f"{row.phi_prompts:.2f}{end}, over runs {row.phi_runs:.2f}; at most {row.false_members:.2f} false members"
        )


def main(arguments: Sequence[str]) -> int:
    """Prints the lines; returns the exit code: 0 done, 1 something cannot be read, 2 bad input."""
    damaged: list[str] = []
    try:
        if not arguments:
            raise UserError("no folder of results; give one, and sweeps in it to compare only these")
        for line in lines(of_frames(load(Path(arguments[0]), list(arguments[1:]) or None, damaged=damaged), damaged)):
            print(line)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for damage in damaged:
        print(f"warning: {damage}", file=sys.stderr)
    return 1 if damaged else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
