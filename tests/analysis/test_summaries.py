from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from mi_sweeps.analysis.summaries import band, first_step, recovered, with_approximate


def test_where_only_an_estimate_is_there_it_is_shown_and_called_so():
    patching = pd.DataFrame(
        {
            "site": ["z", "z", "v", "v"],
            "patched": [1.0, None, None, None],
            "approximate": [0.9, 0.5, 0.25, None],
        }
    )
    shown = with_approximate(patching)
    assert shown["site"].tolist() == ["z", "z (approximate)", "v (approximate)"]
    assert shown["patched"].tolist() == [1.0, 0.5, 0.25]
    assert patching["site"].tolist() == ["z", "z", "v", "v"]  # what was given is left as it was


def test_recovered_by_hand():
    patching = pd.DataFrame(
        {
            "patched": [-1.0, 0.5, 3.0, 0.2],
            "clean": [3.0, 3.0, 3.0, 0.00005],
            "corrupted": [-1.0, -1.0, -1.0, 0.0],
        }
    )
    values = recovered(patching).tolist()
    assert values[:3] == [0.0, 0.375, 1.0]
    assert math.isnan(values[3])  # clean - corrupted = 0.00005 logits, which may be rounding


def test_first_step_by_hand():
    rows = [
        *(("early", 0, 0.3), ("early", 8, 0.9), ("early", 16, 0.85), ("early", 24, 0.95)),
        *(("never", 0, 0.3), ("never", 8, 0.89)),
    ]
    metrics = pd.DataFrame(rows, columns=["run_id", "step", "value"]).assign(metric="win_rate", split="heldout")
    steps = first_step(metrics)
    assert steps["early"] == 8
    assert steps["never"] is pd.NA
    assert first_step(metrics, threshold=0.95)["early"] == 24


def test_first_step_at_a_share_in_32_bits():
    """216 of 240, as earlier versions have it; and the smallest distance that there is with 100,000 prompts."""
    rows = [("exact", 0.9), ("narrow", float(np.float32(216) / np.float32(240))), ("below", 0.89999)]
    metrics = pd.DataFrame(rows, columns=["run_id", "value"]).assign(step=8, metric="win_rate", split="heldout")
    assert first_step(metrics).dropna().to_dict() == {"exact": 8, "narrow": 8}


def test_first_step_of_another_metric():
    rows = [("win_rate", "heldout", 0, 0.9), ("accuracy", "heldout", 0, 0.1), ("accuracy", "heldout", 8, 0.5)]
    rows += [("accuracy", "train", 4, 0.8)]
    metrics = pd.DataFrame(rows, columns=["metric", "split", "step", "value"]).assign(run_id="one")
    assert first_step(metrics, 0.5, metric="accuracy").to_dict() == {"one": 8}
    assert first_step(metrics, 0.5, split="train", metric="accuracy").to_dict() == {"one": 4}


def test_band_by_hand():
    # Mean 2, standard deviation 1, n 3: 2 ± 4.302653 / √3. One value alone has no interval.
    values = pd.DataFrame({"lr": [1, 1, 1, 2], "value": [1.0, 2.0, 3.0, 5.0]})
    bands = band(values, ["lr"]).set_index("lr")
    assert bands.loc[1, "mean"] == 2
    assert bands.loc[1, "high"] == pytest.approx(2 + 4.302653 / math.sqrt(3))
    assert bands.loc[1, "low"] == pytest.approx(2 - 4.302653 / math.sqrt(3))
    assert bands["n"].tolist() == [3, 1]
    assert math.isnan(bands.loc[2, "low"])


def test_band_has_the_t_of_any_number_of_runs():
    values = pd.DataFrame({"all": 0, "value": [0.0, 1.0] * 30})
    (row,) = band(values, ["all"]).itertuples()
    assert (row.high - row.mean) / (values["value"].std() / math.sqrt(60)) == pytest.approx(2.0010, abs=5e-5)
