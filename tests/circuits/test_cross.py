"""The table of pieces of one checkpoint in another."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
from pydantic import ValidationError

from mi_sweeps.analysis.frames import load
from mi_sweeps.analysis.inference.shares import shares
from mi_sweeps.circuits import cross
from mi_sweeps.circuits.families import describe
from mi_sweeps.circuits.paired_runs import run_both
from mi_sweeps.circuits.view import View
from mi_sweeps.config.cross import CrossConfig, others
from mi_sweeps.jobs.execute import execute
from mi_sweeps.sweeps.grid import expand
from tests.circuits.test_transplants import another


@pytest.fixture(scope="module")
def found(make_model, make_short_pairs):
    """Of checkpoint 8, beside 0 and 4."""
    models = [make_model("gpt2")]
    models += [another(models[0], 0.3), another(models[0], 0.6)]
    networks = dict(zip((0, 4, 8), map(describe, models), strict=True))

    @contextmanager
    def at(step):
        yield networks[step]

    pairs = make_short_pairs("first")
    patching = SimpleNamespace(cross=CrossConfig(**{"with": [0, 4, 8]}, permutations=4))
    view = View(8, networks[8], pairs, None, patching, 1 << 20, (0, 4, 8), at)
    own = {step: run_both(network, pairs).clean_logit_diff.detach().numpy() for step, network in networks.items()}
    return cross.table(view).to_pandas(), own


@pytest.mark.slow
def test_both_ways_with_each_other_checkpoint_and_never_with_itself(found):
    table, own = found
    ways = set(zip(table["into_step"], table["source_step"], strict=True))
    assert ways == {(0, 8), (8, 0), (4, 8), (8, 4), (0, 0), (4, 4), (8, 8)}
    crossed = table[table["kind"] != "own"]
    for row in crossed.itertuples():
        assert row.ld_into == pytest.approx(own[row.into_step].mean(), abs=1e-5)
        assert row.ld_from == pytest.approx(own[row.source_step].mean(), abs=1e-5)
        assert row.ld_mixed == pytest.approx(np.mean(row.by_prompt), abs=1e-5)
        assert row.n == len(row.by_prompt) == 4
    shapley = crossed[crossed["kind"] == "shapley"]
    assert set(shapley["into_step"]) == {0, 4} and (shapley["standard_error"] >= 0).all()
    assert crossed[crossed["kind"] != "shapley"]["standard_error"].isna().all()
    parts = shapley[shapley["into_step"] == 0]
    assert (parts["ld_mixed"] - parts["ld_into"]).sum() == pytest.approx((own[8] - own[0]).mean(), abs=1e-4)


def test_what_each_checkpoint_has_alone_is_there_once_prompt_by_prompt(found):
    table, own = found
    alone = table[table["kind"] == "own"].set_index("into_step")
    assert sorted(alone.index) == [0, 4, 8]
    for step, values in own.items():
        np.testing.assert_allclose(alone.loc[step, "by_prompt"], values, atol=1e-5)


@pytest.mark.parametrize(
    ("given", "expected"),
    [("first", {0: (), 4: (0,), 8: (0,)}), ("previous", {0: (), 4: (0,), 8: (4,)}), ([8], {0: (8,), 8: ()})],
)
def test_which_others(given, expected):
    asked = CrossConfig(**{"with": given})
    assert {step: others(asked, step, (0, 4, 8)) for step in expected} == expected


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"permutations": 5}, "also used in reverse, so give an even number"),
        ({"with": []}, "name a step, first, or previous"),
        ({"with": [4, 4]}, "given twice"),
        ({"kinds": []}, "at least 1 item"),
        ({"kinds": ["weights", "weights"]}, "given twice"),
        ({"with": "last"}, "previous"),
    ],
)
def test_bad_settings(given, said):
    with pytest.raises(ValidationError, match=said):
        CrossConfig(**given)


@pytest.mark.slow
def test_a_sweep_says_what_the_parts_have_in_what_was_learned(small, tmp_path):
    given = [*small, f"output={tmp_path}", "patching=cross", "patching.prompts=6", "patching.cross.kinds=[shapley]"]
    assert not execute(expand([*given, "patching.steps=[0,4]", "patching.cross.permutations=4"])).failed
    table = shares(load(tmp_path))
    assert set(table["kind"]) == {"shapley"} and (table["into_step"] == 0).all() and (table["source_step"] == 4).all()
    assert table["gain"].sum() == pytest.approx(table["gap"].iloc[0], abs=1e-3)
    assert len(table) == 2 * 4 + 2  # of mini's layers
