"""Do the seeds, the prompts and the base models agree?"""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from ..agreement.designs import ENOUGH
from ..inference.words import number, range_of
from .finding import Finding

SITE, MEASURE = "z", "correlation"
"""The measure: correlation of heads' gains, corrected for the noise of prompts."""

AXES = {
    "seed": "runs that differ in their seed",
    "prompts": "runs trained on different prompts",
    "base": "runs from different base models",
}

SAID = {
    "agree": "agree in how much each head carries",
    "disagree": "do not agree in how much each head carries",
    "cannot tell": "cannot be shown to agree or to disagree in how much each head carries",
}
"""Phrases by answer; identical runs, and runs whose heads do not differ, get no sentence."""


def seeds(table: pd.DataFrame) -> Iterator[Finding]:
    """Yield a finding for each axis, setting and corruption at the last checkpoint.

    Args:
        table: `agreement`.
    """
    own = table[(table["site"] == SITE) & (table["measure"] == MEASURE)]
    for (axis, setting, corruption, patching), rows in own.groupby(
        ["axis", "setting", "corruption", "patching"], sort=False
    ):
        last = rows.loc[rows["step"].idxmax()]
        if last["answer"] not in SAID:
            continue
        value = f"{number(last['of_ceiling'])}{range_of(last['of_ceiling_low'], last['of_ceiling_high'])}"
        said = (
            f"{last['runs']} {AXES[axis]} {SAID[last['answer']]} under the {corruption} corruption at checkpoint "
            f"{last['step']}: their gains correlate by {value}, corrected for the noise of prompts."
        )
        if last["answer"] == "cannot tell" and last["runs"] < ENOUGH and axis == "seed":
            said += f" An answer needs {ENOUGH} seeds."
        yield Finding(
            "seeds", str(setting), str(corruption), said, str(last["answer"]),
            float(last["of_ceiling"]), float(last["of_ceiling_low"]), float(last["of_ceiling_high"]), "correlation",
            int(last["prompts"]), last["answer"] == "cannot tell", str(last["scope"]), "agreement", str(patching),
        )  # fmt: skip
