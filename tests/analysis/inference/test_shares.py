"""The share of each piece of one checkpoint in another, with intervals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mi_sweeps.analysis.folder import Patch
from mi_sweeps.analysis.inference.shares import of_table, rows

KEY = ("all", "cross", "first")


def planted(
    shares: dict[tuple[str, str, int | None], float], *, runs: int = 1, prompts: int = 48, gap: float = 4.0,
    noise: float = 0.3, error: float = 0.0, permutations: int = 8, seed: int = 0, lacking: int | None = None,
) -> list[pd.DataFrame]:  # fmt: skip
    """The rows of checkpoint 8 into 0, by kind, component and head of layer 1; `lacking`: a run without the last."""
    random = np.random.default_rng(seed)
    table, patches = [], []
    spread = random.standard_normal(prompts)
    for run in range(runs):
        into = 1.0 + random.standard_normal(prompts)
        gaps = gap + 0.5 * spread
        for step, values in ((0, into), (8, into + gaps)):
            table.append((f"p{run}", step, step, "own", "none", None, None, np.nan, values))
        for kind, component, head in list(shares)[: -1 if run == lacking else None]:
            mixed = into + shares[kind, component, head] * gaps + noise * random.standard_normal(prompts)
            of_orders = error if kind == "shapley" else np.nan
            table.append((f"p{run}", 0, 8, kind, component, 1, head, of_orders, mixed))
        about = {
            "prompts": [{"clean": f"prompt {number}"} for number in range(prompts)],
            "config": {"patching": {"cross": {"permutations": permutations}}},
        }
        patches.append(Patch(f"p{run}", f"r{run}", "first", Path("."), about, {}))
    names = [
        "patch_id",
        "into_step",
        "source_step",
        "kind",
        "component",
        "layer",
        "head",
        "standard_error",
        "by_prompt",
    ]
    frame = pd.DataFrame(table, columns=names).astype({"layer": "Int64", "head": "Int64"})
    return [rows(KEY, one) for one in of_table(frame, patches)]


def test_a_planted_share_is_in_its_interval_and_a_small_one_is_small():
    (found,) = planted({("activation", "head", 0): 0.5, ("activation", "head", 1): 0.0}, runs=3)
    one, other = found.to_dict("records")
    assert one["low"] < 0.5 < one["high"] and one["high"] - one["low"] < 0.1
    assert one["verdict"] == "matters" and other["verdict"] == "small"
    assert (one["into_step"], one["source_step"], one["layer"], one["head"]) == (0, 8, 1, 0)
    assert one["gap"] == pytest.approx(4.0, abs=0.3) and (one["n"], one["runs"]) == (48, 3)
    assert one["simultaneous_low"] < one["low"]


def test_where_two_checkpoints_have_the_same_logit_difference_a_share_is_undefined():
    (found,) = planted({("weights", "mlp", None): 0.5}, gap=0.0)
    assert found["verdict"].tolist() == ["undefined"] and found["share"].isna().all()


def test_kinds_are_families_of_their_own():
    found = planted({("activation", "head", 0): 0.5, ("weights", "head", 0): 0.1})
    assert [table["kind"].unique().tolist() for table in found] == [["activation"], ["weights"]]


def test_drawn_orders_widen_the_interval_of_a_shapley_value():
    few, none = (
        planted({("shapley", "attn", None): 0.2, ("shapley", "mlp", None): 0.8}, error=error, permutations=8)[0]
        for error in (0.4, 0.0)
    )
    # 0.4 logits of 4 is 0.1, by Student's t of three degrees of freedom and somewhat less for those of prompts.
    width = (few["high"] - few["low"]) / 2
    assert (width > 0.18).all() and (width < 0.4).all()
    assert ((none["high"] - none["low"]) / 2 < 0.05).all()
    assert few["verdict"].tolist() == ["undecided", "matters"] and none["verdict"].tolist() == ["matters", "matters"]
    assert np.allclose(few["share"], none["share"])


def test_only_what_all_runs_have_is_shared():
    (found,) = planted({("weights", "head", 0): 0.5, ("weights", "head", 1): 0.5}, runs=2, lacking=1)
    assert found["head"].tolist() == [0] and found["runs"].tolist() == [2]
