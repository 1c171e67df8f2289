"""Families read from what patch jobs leave on disk, against plain sums over the exported rows."""

from __future__ import annotations

import pandas as pd
import pytest

from mi_sweeps.analysis.folder import read
from mi_sweeps.analysis.frames import attribution_by_prompt, by_prompt, load
from mi_sweeps.analysis.inference import words
from mi_sweeps.analysis.inference.courses import courses
from mi_sweeps.analysis.inference.families import families, jobs, means
from mi_sweeps.analysis.inference.tables import COURSES, VERDICTS, courses_of, verdicts


def of_output(output, corruption="first", **how):
    frames = load(output)
    wanted = frames.patches[frames.patches["corruption"] == corruption]["patch_id"]
    return frames, jobs(read(output), frames.runs, wanted, **how)


def plain(values: pd.Series) -> dict[tuple, float]:
    """By keys in which what is missing is None."""
    return {tuple(None if pd.isna(part) else part for part in key): value for key, value in values.items()}


def test_estimates_are_those_of_the_rows_of_prompts(make_output):
    frames, found = of_output(make_output(seeds=(0, 1), by_prompt=True))
    rows = by_prompt(frames).query("corruption == 'first'")
    rows = rows.assign(gain=rows["patched"] - rows["corrupted"], gap=rows["clean"] - rows["corrupted"])
    keys = ["site", "step", "layer", "head", "position"]
    of_runs = rows.groupby(["run_id", *keys], dropna=False)[["gain", "gap"]].mean()
    expected = plain((of_runs["gain"] / of_runs["gap"]).groupby(level=keys, dropna=False).mean())
    n = plain(rows.groupby(keys, dropna=False)["prompt"].nunique())
    checked = 0
    for family in families(found):
        for step in family.steps:
            for place, at in zip(family.places, range(10**6)[family.at(step)], strict=False):
                key = (family.site, step, *place)
                assert family.estimate.n[at] == n[key]
                if family.estimate.has_gap[at]:
                    assert family.estimate.recovered[at] == pytest.approx(expected[key], abs=1e-5)
                    checked += 1
    assert checked > 300


def test_a_position_that_some_prompts_lack_counts_those_that_have_it(make_output):
    _, found = of_output(make_output(by_prompt=True))
    family = next(one for one in families(found) if one.site == "resid_pre")
    n = family.estimate.n[family.at(24)]
    assert dict(zip(family.places, n, strict=True))[0, None, "intro 1"] == 10 and n.max() == 12


def test_what_is_written_has_its_mean_and_an_interval(make_output):
    frames, found = of_output(make_output(seeds=(0, 1), by_prompt=True), attribution=True)
    rows = attribution_by_prompt(frames).query("corruption == 'first' and kind == 'layer' and step == 24")
    expected = plain(rows.groupby(["component", "layer"], dropna=False)["logit_diff"].mean())
    result = means(found, "layer")
    last = slice(-len(result.parts), None)
    for (component, layer, _), mean, low, high in zip(
        result.parts, result.mean[last], result.low[last], result.high[last], strict=True
    ):
        assert mean == pytest.approx(expected[component, layer], abs=1e-5)
        assert low < mean < high


def test_tables_that_do_not_tell_prompts_apart_decide_nothing_of_one_run(make_output):
    output = make_output(by_prompt=False)
    table = verdicts(load(output))
    assert set(table["verdict"]) <= {"undecided", "undefined"} and table["low"].isna().all()
    assert table["recovered"].notna().any()


def test_estimates_alone_decide_nothing_of_one_run(make_output):
    output = make_output(by_prompt=True, approximate=True, exact=False)
    assert set(verdicts(load(output))["verdict"]) <= {"undecided", "undefined"}


def test_the_tables_have_a_row_a_place_and_a_group(make_output):
    output = make_output(lrs=(1e-4, 3e-4), seeds=(0, 1), by_prompt=True)
    frames = load(output)
    table, courses = verdicts(frames), courses_of(frames)
    assert list(table) == list(VERDICTS) and list(courses) == list(COURSES)
    places = frames.patching.drop_duplicates(["site", "layer", "head", "position"])
    assert len(courses) == 2 * 2 * len(places) and len(table) == 4 * len(courses)
    assert set(table["runs"]) == {2} and set(table["setting"]) == {"lr 0.0001", "lr 0.0003"}
    last = table[(table["step"] == 24) & (table["site"] == "z")]
    assert {"matters", "small"} & set(last["verdict_these_runs"])
    # Less can be concluded for other seeds than for these runs.
    result = table[table["verdict"].isin(["matters", "small"])]
    assert len(result) <= table["verdict_these_runs"].isin(["matters", "small"]).sum()


def test_an_empty_output_has_empty_tables(make_output):
    output = make_output(corruptions=())
    assert not len(verdicts(load(output))) and list(verdicts(load(output))) == list(VERDICTS)
    assert isinstance(courses_of(load(output)), pd.DataFrame)


def test_a_step_that_one_seed_lacks_is_left_out_for_all(make_series):
    output = make_series(seeds=(1, 2), corruptions=("first",), by_prompt=True)
    frames, found = of_output(output)
    family = next(one for one in families(found) if one.site == "z")
    assert family.steps == (0, 8, 24) and family.lacking == (16,) and not family.stopped
    result = words.sentences(family, courses(family))
    assert "2 runs, without checkpoint 16, which not all of them have; for other prompts and other seeds" in result[-1]
    assert "8 heads" not in result[-1] and "16 heads × 3 checkpoints" in result[-1]
    # The other seed alone has all of them.
    (alone,) = [one for one in families(found[:1]) if one.site == "z"]
    assert alone.steps == (0, 8, 16, 24) and "without" not in words.scope(alone)


def test_a_series_that_begins_later_has_nothing_from_the_start(make_series):
    output = make_series(corruptions=("first",), steps=(40, 48, 56, 64), missing_steps={40: "gone"}, by_prompt=True)
    _, found = of_output(output)
    family = next(one for one in families(found) if one.site == "z")
    result = " ".join(words.sentences(family, courses(family)))
    assert "Mattered from checkpoint 48 on, the first that was examined: " in result and "from the start" not in result
    assert "without checkpoint 40, which it lacks" in result
