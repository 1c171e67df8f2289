"""Further measurements: which ones, when they are made, and what they may read."""

from __future__ import annotations

import pyarrow as pa
import pytest

import mi_sweeps as mi
from mi_sweeps.analysis import export, folder, measured
from mi_sweeps.circuits import measurements, tables
from mi_sweeps.circuits.paired_runs import run_both
from mi_sweeps.jobs.execute import execute
from mi_sweeps.store.files import read_json
from mi_sweeps.sweeps.grid import expand
from mi_sweeps.sweeps.plan import folders_of, make


@pytest.fixture
def made(monkeypatch):
    """A measurement in the place of `cross`: the clean logit difference here and at the first checkpoint. Returns the
    steps at which it was made."""
    steps = []

    def measure(view):
        steps.append(view.step)
        here = run_both(view.network, view.pairs).clean_logit_diff
        with view.another(view.steps[0]) as network:
            first = run_both(network, view.pairs).clean_logit_diff
        rows = [(view.step, "here", here), (view.steps[0], "first", first)]
        return pa.Table.from_pylist(
            [
                {"into_step": step, "source_step": step, "kind": "own", "component": name}
                | {"ld_mixed": values.mean().item(), "n": len(values), "by_prompt": values.tolist()}
                for step, name, values in rows
            ],
            tables.TABLES["cross"],
        )

    monkeypatch.setitem(measurements.MEASUREMENTS, "cross", measure)
    monkeypatch.setitem(export.EXPORTED, "cross", measured.columns("cross"))
    return steps


@pytest.mark.slow
def test_what_is_measured_is_a_table_of_its_own_and_a_deleted_one_alone_is_made_again(small, tmp_path, made):
    given = [*small, f"output={tmp_path}", "patching=cross", "patching.prompts=6"]
    (point,) = expand(given)
    assert not execute([point]).failed
    _, patch = folders_of(point)
    steps = patch.steps()
    assert made == steps
    frame = mi.open(tmp_path).measured("cross", by_prompt=True)
    assert frame.equals(measured.read(folder.read(tmp_path), "cross", lists=["by_prompt"]))
    here, first = (frame[frame["component"] == name].set_index("step")["ld_mixed"] for name in ("here", "first"))
    assert here[steps[0]] == pytest.approx(first[steps[0]], abs=1e-6)
    assert (first == first.iloc[0]).all() and here[steps[-1]] != pytest.approx(first.iloc[0], abs=1e-3)
    assert [one.mean() for one in frame["by_prompt"]] == pytest.approx(frame["ld_mixed"].tolist(), abs=1e-5)
    files = {file.name for file in export.export(tmp_path, tmp_path / "tables")}
    assert "cross.parquet" in files and "looks.parquet" not in files

    main = patch.table(steps[-1]).stat().st_mtime_ns
    patch.table(steps[-1], "cross").unlink()
    assert make([point]).to_do() == 1
    assert not execute([point]).failed
    assert made == [*steps, steps[-1]] and patch.table(steps[-1]).stat().st_mtime_ns == main
    assert make([point]).is_done
    assert (
        read_json(patch.path / "patch.json")["prompts"][0]["tokens"][0]
        in read_json(patch.path / "patch.json")["prompts"][0]["clean"]
    )


def test_true_requests_the_default_measurement(small):
    plain, asked, written = (
        expand([*small, "output=unused", *more])[0]
        for more in ([], ["patching.looks=true"], ["patching.looks={patterns: 4}"])
    )
    assert asked.patch_id == written.patch_id != plain.patch_id
    assert asked.tables == asked.config.patching.tables == ("looks", "scores", "patterns")
    assert plain.tables == ()
