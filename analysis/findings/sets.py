"""Which circuit is faithful, and is it the same one at another checkpoint?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from ...counting import plural
from ..inference.words import number, range_of
from .finding import Finding


def circuits(table: pd.DataFrame) -> Iterator[Finding]:
    """Yield the smallest faithful circuit, or else the largest tried, at the last checkpoint of each setting and
    corruption, and the circuit of the first checkpoint judged at the last.

    Args:
        table: `faithfulness`.
    """
    for (setting, corruption, patching), rows in table.groupby(["setting", "corruption", "patching"], sort=False):
        last = rows[rows["step"] == rows["step"].max()]
        where = (str(setting), str(corruption), str(patching))
        own = last[(last["kind"] == "circuit") & (last["order"] == "absolute") & (last["size"] < 100)]
        own = own.sort_values("size")
        if len(own):
            fit = own[own["verdict"] == "faithful"]
            row = (fit if len(fit) else own[::-1]).iloc[0].to_dict()
            nodes = f"{row['nodes']:.0f} {plural('node', round(row['nodes']))} ({row['size']:g}%)"
            what = (
                f"the smallest circuit of those tried that is shown to be faithful has {nodes}"
                if len(fit)
                else f"no circuit of those tried is shown to be faithful; the largest has {nodes}"
            )
            verdict = str(row["verdict"])
            yield _finding(
                f"At checkpoint {row['step']} under the {corruption} corruption, {what}", row, where, verdict
            )
        given = last[(last["kind"] == "exchange") & (last["source_step"] < last["step"])].sort_values("source_step")
        if len(given):
            row = given.iloc[0].to_dict()
            said = f"The circuit of checkpoint {row['source_step']}, at checkpoint {row['step']}, is {row['verdict']}"
            yield _finding(f"{said} under the {corruption} corruption", row, where, str(row["verdict"]))


def _finding(said: str, row: dict[str, Any], where: tuple[str, str, str], verdict: str) -> Finding:
    """Add F and its percentile among random sets."""
    said += f": F {number(row['value'])}{range_of(row['low'], row['high'])}"
    if pd.notna(row["null_high"]):
        said += (
            f", where random sets of its size have {number(row['null_median'])} in the middle and "
            f"{number(row['null_high'])} at their 95th percentile"
        )
    several = row["runs"] > 1
    return Finding(
        "circuits", *where[:2], f"{said}.", verdict, float(row["value"]), float(row["low"]), float(row["high"]), "F",
        int(row["n"]), verdict == "undecided",
        "for other prompts and other seeds" if several else "for other prompts in this run", "faithfulness", where[2],
    )  # fmt: skip
