"""Values of single prompts on the page: they equal the tables', and the page says what is left out."""

from __future__ import annotations

import base64

import numpy as np
import pytest

from mi_sweeps.analysis import prompt_values
from mi_sweeps.analysis.conclusions import conclude
from mi_sweeps.analysis.frames import by_prompt, load


def payload_of(output, room=1e9):
    frames = load(output)
    return prompt_values.payload(frames, conclude(frames.output, frames), room)


def rows(text, n, kind):
    """Packed rows as numbers; the reverse of what the page's code does."""
    size = np.dtype(kind).itemsize
    raw = np.frombuffer(base64.b64decode(text), "uint8").reshape(-1, 4 + n * size)
    whole = np.ascontiguousarray(raw[:, 4:]).view(kind).astype(float)
    whole[whole == np.iinfo(kind).min] = np.nan
    return whole * np.ascontiguousarray(raw[:, :4]).view("<f4")


@pytest.mark.slow
def test_the_page_has_the_values_of_the_tables(make_output, folders):
    output = make_output(seeds=(0, 1), layers=2, heads=2, steps=(0, 8, 24), by_prompt=True)
    folders.write_patterns(output, layers=2)
    found, frames = payload_of(output), load(output)
    table, ids = by_prompt(frames), list(frames.runs["run_id"])
    assert [(job["run"], job["corruption"]) for job in found["jobs"]] == [
        (run, corruption) for run in (0, 1) for corruption in ("first", "second")
    ]
    assert found["note"] == ""
    for job in found["jobs"]:
        own = table[(table["run_id"] == ids[job["run"]]) & (table["corruption"] == job["corruption"])]
        assert set(job["sites"]) == set(own["site"])
        for site in ("z", "resid_pre"):
            place = "head" if site == "z" else "position"
            of_site = own[own["site"] == site].assign(change=own["patched"] - own["corrupted"])
            expected = of_site.pivot(index=["layer", place, "step"], columns="prompt", values="change")
            shown = rows(job["sites"][site]["change"], job["n"], "int8").reshape(-1, 3, job["n"])
            assert len(shown) == expected.shape[0] // 3  # all places, for there is room
            for (layer, column), values in zip(job["sites"][site]["places"], shown, strict=True):
                kept = expected.loc[layer, column].to_numpy()
                assert values == pytest.approx(kept, abs=np.nanmax(np.abs(kept)) / 250, nan_ok=True)
        expected = own[own["site"] == "z"].pivot_table(index="step", columns="prompt", values="clean").to_numpy()
        assert rows(job["clean"], job["n"], "<i2") == pytest.approx(expected, abs=1e-4)
    first = found["texts"][found["prompts"][found["jobs"][0]["prompts"]][0]]
    assert first["tokens"]["corrupted"][8] == " Tom" and first["answer"] == "Tom"


def test_where_there_is_no_room_the_cells_that_matter_are_kept_and_the_page_says_so(make_output):
    frames = load(make_output(seeds=(0, 1), steps=(0, 24), layers=3, by_prompt=True))
    concluded = conclude(frames.output, frames)
    everything, less, nothing = (prompt_values.payload(frames, concluded, room) for room in (1e9, 16_000, 400))
    assert "it has values of single prompts of " in less["note"] and "those that matter or are largest" in less["note"]
    assert "no values of single prompts" in nothing["note"] and nothing["jobs"] == []
    kept = [job["sites"]["z"]["places"] for job in less["jobs"]]
    assert all(one == kept[0] for one in kept)  # of all seeds and corruptions, so that they compare
    assert len(kept[0]) < len(everything["jobs"][0]["sites"]["z"]["places"]) == 12
    of_setting = [one.family for one in concluded.families if len(one.runs) == 2]
    z = [family for family in of_setting if family.site == "z"]
    mattering = {(*place[:2],) for family in z for place, here in zip(
        family.places, family.grid(family.judged_here.matter()).any(axis=0), strict=True) if here}  # fmt: skip
    assert {tuple(place) for place in kept[0]} <= mattering and mattering


def test_tables_that_do_not_tell_prompts_apart_have_no_values(make_output):
    assert payload_of(make_output(layers=2, heads=2)) is None
