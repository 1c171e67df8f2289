"""Attention patterns on the page: whose they are, which heads', and that they equal the stored ones."""

from __future__ import annotations

import base64
import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mi_sweeps.analysis import attention, looks, patterns, report
from mi_sweeps.analysis.conclusions import Conclusions, conclude
from mi_sweeps.analysis.frames import load
from mi_sweeps.analysis.report import write_report
from mi_sweeps.errors import UserError

NOTHING = Conclusions()


@pytest.fixture
def output(make_output, folders):
    """Two runs under both corruptions, with patterns of two prompts."""
    output = make_output(seeds=(0, 1), steps=(0, 8, 24), layers=4)
    folders.write_patterns(output)
    return output


def payload_of(output, room=1e9, damaged=None, concluded=NOTHING):
    """What the page has where nothing was concluded, or what was."""
    frames = load(output)
    return attention.payload(frames.output, frames, concluded, room, damaged)


def cells(found, job, side, prompt, step, head):
    """What the page has of one pattern."""
    one = found["jobs"][job]
    text = found["patterns"][one[side][prompt][one["steps"].index(step)]]
    laid = np.frombuffer(base64.b64decode(text), "uint8").reshape(len(one["heads"]), -1)
    return laid[one["heads"].index(head)] / 255


def test_the_page_has_the_patterns_that_were_kept(output, folders):
    found = payload_of(output)
    assert [(job["run"], job["corruption"], job["steps"]) for job in found["jobs"]] == [
        (run, corruption, [0, 8, 24]) for run in (0, 1) for corruption in ("first", "second")
    ]
    one = found["jobs"][1]
    head = next(head for head in one["heads"] if head.endswith(".1"))
    for side in ("clean", "corrupted"):
        for step in (0, 24):
            kept = folders.pattern(side, step, 1)
            assert cells(found, 1, side, 1, step, head) == pytest.approx(kept, abs=0.0025)
    prompt = one["prompts"][1]
    assert (prompt["number"], prompt["changed"]) == (1, [10])
    assert found["tokens"][prompt["corrupted"]][10] == " Tom"
    first = found["jobs"][0]
    assert first["heads"] == one["heads"] and first["clean"] == one["clean"]  # the same prompts, kept once
    assert found["note"] == ""


def test_heads_that_matter_come_first_and_the_page_says_which_they_are(make_output, folders):
    output = make_output(corruptions=("first",), steps=(0, 24), by_prompt=True)
    folders.write_patterns(output)
    frames = load(output)
    concluded = conclude(frames.output, frames)
    mattering = {
        f"{layer}.{head}"
        for one in concluded.families
        if one.family.site in patterns.OF_QUERIES
        for (layer, head, _), words in zip(one.family.places, one.family.grid(one.family.judged.words).T, strict=True)
        if "matters" in words
    }
    found = payload_of(output, concluded=concluded)["jobs"][0]
    assert 1 < len(mattering) < attention.MOST_HEADS
    assert (set(found["heads"]), found["which"]) == (
        mattering,
        f"the {len(mattering)} heads that matter at some checkpoint",
    )


def test_if_no_head_is_shown_to_matter_the_largest_are_shown_with_a_note(make_output, folders):
    output = make_output(corruptions=("first",), steps=(0, 1), by_prompt=True)  # nothing is learned yet
    folders.write_patterns(output)
    frames = load(output)
    one = payload_of(output, concluded=conclude(frames.output, frames))["jobs"][0]
    assert len(one["heads"]) == attention.MOST_HEADS and one["which"].startswith("none is shown to matter")


@pytest.mark.parametrize(
    ("room", "note"),
    [
        (230_000, "at 2 of the checkpoints"),
        (120_000, "of 1 prompt, at 2 of the checkpoints"),
        (45_000, "of 1 prompt, at 2 of the checkpoints, of 2 of 4 patch jobs"),
    ],
)
def test_in_less_room_there_is_less_and_the_page_says_so(output, room, note, monkeypatch):
    monkeypatch.setattr(attention, "LESS", ((4, None), (2, 2), (1, 2)))
    found = payload_of(output, room)
    assert f"patterns are shown {note};" in found["note"]
    assert len(json.dumps(found)) < room / 2
    assert found["jobs"][0]["steps"] == [0, 24] and found["jobs"][0]["of"] == 3


def test_where_there_is_no_room_the_page_says_that_there_are_patterns(output):
    found = payload_of(output, 1000)
    assert found["jobs"] == [] and "no patterns are shown" in found["note"]


def test_curves_of_attention_to_roles_are_those_of_the_exported_table(make_output, folders):
    output = make_output(seeds=(0, 1), corruptions=("first",), steps=(0, 8), layers=2, heads=2)
    folders.write_patterns(output, layers=2)
    folders.write_looks(output)
    frames = load(output)
    expected = pd.concat(looks.of_output(frames.output, frames.runs, frames.patches))
    (found,) = payload_of(output)["looks"]
    assert (found["n"], found["runs"], found["seeds"], found["steps"]) == (12, 2, True, [0, 8])
    assert len(found["rows"]) == 2 * 4 * 2
    for row in found["rows"]:
        layer, head = map(int, row["head"].split("."))
        same = expected.query("side == @row['side'] and key == @row['key'] and layer == @layer and head == @head")
        assert row["attention"] == pytest.approx(1000 * same["attention"], abs=0.51)
        assert row["low"] == pytest.approx(1000 * same["low"], abs=0.51)
        assert row["width"] == pytest.approx(1000 * (same["high"] - same["low"]), abs=0.51)
        assert row["uniform"] == pytest.approx(1000 * same["uniform"].iloc[0], abs=0.51)


def test_a_note_says_which_curves_are_left_out_for_lack_of_room(make_output, folders):
    output = make_output(corruptions=("first",), steps=(0, 8), layers=2, heads=2)
    folders.write_patterns(output, layers=2)
    folders.write_looks(output)
    found = payload_of(output, 10_000)
    assert found["looks"] == [] and "not on this page" in found["looks_note"]


def test_pages_without_patterns_have_no_word_of_them(make_output):
    text = write_report(make_output(corruptions=("first",))).read_text()
    assert '"attention":null' in text


WRONG = {
    "another number here": lambda table: table.set_column(
        4, "pattern", pa.array([[1.0]] * len(table), pa.list_(pa.float16()))
    ),
    "not every head once": lambda table: pa.concat_tables([table, table.slice(0, 1)]),
    "no patterns on the corrupted prompt": lambda table: table.filter(pa.compute.equal(table["side"], "clean")),
    "no tokens of prompt 7": lambda table: table.set_column(0, "prompt", pa.array([7] * len(table))),
    "without column pattern": lambda table: table.drop_columns(["pattern"]),
}


@pytest.mark.parametrize("words", WRONG)
def test_patterns_that_do_not_fit_their_tokens_are_refused_and_named(output, words):
    file = output / "runs" / "run-0.0001-constant-1" / "patches" / "run-0.0001-constant-1-first" / "tables"
    file = file / "000008.patterns.parquet"
    pq.write_table(WRONG[words](pq.read_table(file)), file)
    with pytest.raises(UserError, match=words):
        payload_of(output)
    damaged: list[str] = []
    steps = [job["steps"] for job in payload_of(output, damaged=damaged)["jobs"]]
    assert steps == [[0, 8, 24], [0, 8, 24], [0, 24], [0, 8, 24]]
    assert len(damaged) == 1 and str(file) in damaged[0]


def test_patterns_count_as_part_of_the_page(make_output, folders):
    output = make_output(corruptions=("first",), steps=(0, 8, 24), layers=2, heads=2, by_prompt=True)
    folders.write_patterns(output, layers=2)
    frames = load(output)
    full = report._data(frames.output, frames, 10_000_000, output, None)
    less = report._data(frames.output, frames, len(full) - 1, output, None)
    assert len(less) < len(full)
    assert json.loads(less)["attention"]["patterns"]
