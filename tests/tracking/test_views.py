"""Saved views: each key that real wandb runs of a sweep have is in some panel."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
import wandb_workspaces.workspaces as ws
from hypothesis import given, settings
from hypothesis import strategies as st
from wandb_workspaces.workspaces.internal import View, WorkspaceViewspec

from mi_sweeps.jobs.execute import execute
from mi_sweeps.sweeps import manifest
from mi_sweeps.sweeps.grid import expand
from mi_sweeps.tracking import logged_keys, views
from mi_sweeps.tracking.logged_keys import CorruptionKeys, SweepKeys


@pytest.fixture(scope="module")
def output(small, tmp_path_factory):
    """A sweep with two learning rates and two corruptions, mirrored offline."""
    folder = tmp_path_factory.mktemp("views") / "outputs"
    grid = ("optim.lr=1e-4,3e-4", "corruption=first,second", "sweep.name=mine", "tracking=wandb", f"output={folder}")
    points = expand([*small, *grid])
    assert not execute(points).failed
    manifest.add(folder, "mine", points, "mi-sweeps run sweep.name=mine")
    return folder


def logged(output):
    """What the runs wrote: the keys of config, history and summary."""
    found = {"run": set(), "history": set(), "summary": set()}
    for file in output.glob("runs/**/offline-run-*/*.wandb"):
        command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
        inspected = subprocess.run(command, capture_output=True, text=True, check=True)
        for record in map(json.loads, inspected.stdout.splitlines()):
            kind = record["type"]
            if kind in found:
                items = {"run": lambda run: run["config"]["update"], "history": lambda row: row["item"]}
                names = items.get(kind, lambda summary: summary["update"])(record[kind])
                # Of a picture there are its size, its format and so on.
                found[kind] |= {re.sub(r"(/heads/\w+)\..*", r"\1", name) for name in names if name[0] != "_"}
    return found["run"], found["history"], found["summary"]


def panels(spec):
    if "section" in spec:
        return [panel for section in spec["section"]["panelBankConfig"]["sections"] for panel in section["panels"]]
    grids = [block for block in spec["blocks"] if block["type"] == "panel-grid"]
    return [panel for grid in grids for panel in grid["metadata"]["panelBankSectionConfig"]["panels"]]


def keys(spec):
    """The keys that panels name, and the expressions by which they find more."""
    named, found = set(), set()
    for config in (panel["config"] for panel in panels(spec)):
        named |= set(config.get("metrics", ())) | set(config.get("mediaKeys", ()))
        accessors = [column["accessor"] for column in config.get("columns", ())]
        named |= {one.removeprefix("summary:") for one in accessors if one.startswith("summary:")}
        found |= {config["metricRegex"]} if "metricRegex" in config else set()
    return named, found


@pytest.mark.slow
def test_panels_name_the_keys_that_runs_log(output):
    config, history, summary = logged(output)
    view = views.workspace(logged_keys.read(output, "mine"), "team", "project", "minmax")
    named, found = keys(view.spec)
    assert {key for key in history if not any(re.search(one, key) for one in found)} - named == {"checkpoint"}
    assert found and all(any(re.search(one, key) for key in history) for one in found)
    # No run of four steps wins 90%, so that none says when.
    assert named - {"first_step_90"} <= history
    assert {"first/recovered/z/2.1", "second/heads/z", "second/logit_diff/mlp_3", "heldout/win_rate"} <= history
    (runs,) = view.spec["section"]["runSets"]
    columns = {column.partition(":")[2].removesuffix(".value") for column in runs["runFeed"]["columnOrder"]}
    assert columns - {"displayName", "first_step_90"} <= config | summary
    groups = {panel["config"]["groupBy"] for panel in panels(view.spec) if "groupBy" in panel["config"]}
    assert groups == {"setting.value", "lr.value", "group"} and {"setting", "lr"} <= config


def test_a_workspace_is_of_the_sweeps_runs(output):
    found = logged_keys.read(output, "mine")
    view = views.workspace(found, "team", "project", "stderr", baseline=found.run_ids[0])
    (runs,) = view.spec["section"]["runSets"]
    (only,) = runs["filters"]["filters"]
    assert only["key"] == {"section": "run", "name": "name"}, "wandb's word for a run's id"
    assert (only["op"], sorted(only["value"])) == ("IN", sorted(found.run_ids))
    assert [group["name"] for group in runs["grouping"]] == ["setting.value"]
    assert {panel["config"].get("groupArea", "stderr") for panel in panels(view.spec)} == {"stderr"}
    model = View(entity="team", project="project", display_name="", name="", id="", spec=view.spec)
    assert ws.Workspace._from_model(model).runset_settings.baseline_run == found.run_ids[0]


def of_runs(spec):
    """The runs that a run set names."""
    (runs,) = spec["runSets"]
    nodes, named = [runs["filters"]], []
    while nodes:
        node = nodes.pop()
        nodes += node.get("filters") or ()
        named += node["value"] if node.get("op") == "IN" and node["key"]["name"] == "name" else ()
    return set(named)


def test_a_run_that_two_sweeps_share_is_in_the_views_of_both(output):
    """wandb has it in the group of one of them."""
    shared, own = (entry.point(output) for entry in manifest.load(output, "mine") if entry.corruption == "first")
    manifest.add(output, "grid", [shared], "")
    for sweep, runs in (("mine", {shared.run_id, own.run_id}), ("grid", {shared.run_id})):
        found = logged_keys.read(output, sweep)
        assert of_runs(views.workspace(found, "team", "project", "minmax").spec["section"]) == runs
        report = views.report(found, "team", "project", "minmax").spec
        assert all(of_runs(block["metadata"]) == runs for block in report["blocks"] if block["type"] == "panel-grid")


def test_a_run_that_has_not_begun_is_in_the_views_when_it_does(small, output):
    later = expand([*small, "seed=7", "sweep.name=more", "tracking=wandb", f"output={output}"])
    begun = [entry.point(output) for entry in manifest.load(output, "mine")]
    manifest.add(output, "more", [*begun, *later], "")
    found = logged_keys.read(output, "more")
    assert later[0].run_id not in found.run_ids
    assert later[0].run_id in of_runs(views.workspace(found, "team", "project", "minmax").spec["section"])


def test_a_sweep_of_too_many_runs_for_a_list_is_found_by_its_group(output, monkeypatch):
    monkeypatch.setattr(views, "MOST_IDS", 1)
    spec = views.workspace(logged_keys.read(output, "mine"), "team", "project", "minmax").spec
    (only,) = spec["section"]["runSets"][0]["filters"]["filters"]
    assert (only["key"]["name"], only["op"], only["value"]) == ("group", "=", "mine")


def test_corruptions_are_side_by_side(output):
    spec = views.workspace(logged_keys.read(output, "mine"), "team", "project", "minmax").spec
    sections = {section["name"]: section for section in spec["section"]["panelBankConfig"]["sections"]}
    for name in ("Corruptions side by side", "Heads"):
        titles = [panel["config"]["chartTitle"] for panel in sections[name]["panels"]]
        assert sections[name]["flowConfig"]["columnsPerPage"] == 2
        assert [title.replace("first", "second") for title in titles[::2]] == titles[1::2]
    assert "the win rate is the same under all" in sections["About"]["panels"][0]["config"]["value"]


def test_a_report_says_what_was_run_and_what_the_bands_are(output):
    found = logged_keys.read(output, "mine")
    view = views.report(found, "team", "project", "stddev")
    text = json.dumps(view.spec)
    assert "mi-sweeps run sweep.name=mine" in text and "one seed, so there is no band" in text
    assert view.description == "2 runs with 1 seed"
    grids = [block for block in view.spec["blocks"] if block["type"] == "panel-grid"]
    assert len(grids) > 1 and all(of_runs(grid["metadata"]) == set(found.run_ids) for grid in grids)
    named, _ = keys(view.spec)
    assert named < keys(views.workspace(found, "team", "project", "stddev").spec)[0]


def test_a_sweep_that_was_not_patched_yet_has_its_win_rates(small, tmp_path):
    output = tmp_path / "outputs"
    points = expand([*small, "sweep.name=mine", f"output={output}"])
    assert not execute(points).failed
    manifest.add(output, "mine", points, "")
    for table in output.glob("runs/*/patches/*/tables/*"):
        table.unlink()
    found = logged_keys.read(output, "mine")
    named, regexes = keys(views.workspace(found, "team", "project", "minmax").spec)
    assert not found.examined and not regexes
    assert "heldout/win_rate" in named and not [key for key in named if "/heads/" in key]


def test_a_task_with_an_accuracy_is_judged_by_it_and_shows_what_was_measured_of_its_model(tmp_path):
    output = tmp_path / "outputs"
    task = ("model=nope", "task=previous_token", "task.length=8", "task.heldout=12", "corruption=previous")
    few = ("train.steps=2", "checkpoint.steps=[]", "checkpoint.every=2", "patching=position", "patching.prompts=6")
    points = expand([*task, *few, "sweep.name=mine", "tracking=wandb", f"output={output}"])
    assert not execute(points).failed
    manifest.add(output, "mine", points, "")
    _, history, _ = logged(output)
    assert {"heldout/accuracy", "measures/position_r2/resid_pre_1", "measures/previous_token/1.3"} <= history
    view = views.workspace(logged_keys.read(output, "mine"), "team", "project", "minmax")
    named, found = keys(view.spec)
    assert {key for key in history if not any(re.search(one, key) for one in found)} - named == {"checkpoint"}
    assert {"heldout/accuracy", "first_step_50"} <= named and "first_step_90" not in named
    titles = [panel["config"].get("chartTitle") for panel in panels(view.spec)]
    assert {"heldout accuracy by setting (band over seeds)", "previous token"} <= set(titles)


def test_what_a_sweep_varies_has_a_panel_each(small, tmp_path):
    output = tmp_path / "outputs"
    points = expand([*small, "train.batch_size=4,8", "optim.lr=1e-4", f"output={output}"])
    assert not execute(points).failed
    manifest.add(output, "sweep", points, "")
    found = logged_keys.read(output, "sweep")
    assert found.varied == ("config.train.batch_size",)
    spec = views.workspace(found, "team", "project", "minmax").spec
    assert "config.value.train.batch_size" in {panel["config"].get("groupBy") for panel in panels(spec)}


NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,8}", fullmatch=True)


@st.composite
def sweeps(draw):
    layers = range(draw(st.integers(0, 5)))
    parts = draw(st.sets(st.sampled_from(("attn", "mlp"))))
    rate = draw(st.sampled_from(("win_rate", "accuracy")))
    return SweepKeys(
        sweep=draw(NAMES),
        command="mi-sweeps run",
        planned=("a", "b"),
        run_ids=("a",),
        seeds=tuple(range(draw(st.integers(0, 3)))),
        settings=draw(st.sampled_from(((), ("lr", "schedule")))),
        varied=tuple(draw(st.sets(st.sampled_from(("lr", "schedule", "model", "config.train.steps"))))),
        metrics=tuple(
            f"{split}/{metric}"
            for split in draw(st.sets(st.sampled_from(("train", "heldout", "two_name"))))
            for metric in (rate, *draw(st.sets(st.sampled_from(("loss", "logit_diff_first")))))
        ),
        examined=tuple(
            CorruptionKeys(
                corruption,
                tuple(f"{corruption}/logit_diff/{part}_{layer}" for layer in layers for part in sorted(parts)),
                tuple(draw(st.sets(st.sampled_from(("z", "v", "pattern", "q"))))),
            )
            for corruption in draw(st.lists(NAMES, max_size=3, unique=True))
        ),
        measures=tuple(draw(st.sets(st.sampled_from(("position_r2", "previous_token"))))),
    )


@settings(max_examples=25)
@given(sweeps())
def test_every_key_of_any_sweep_is_in_some_panel(sweep):
    view = views.workspace(sweep, "team", "project", "minmax")
    named, found = keys(view.spec)
    # Of a series nothing is known of how it was trained.
    made = [key for key in ("lr", "schedule") if key in {*sweep.settings, *sweep.varied}]
    shown = views.text([view])
    assert [
        key for key in ("lr", "schedule") if f'config:{key}.value"' in shown or f"config:{key}.value" in shown
    ] == made
    pictures = {one.heads(site) for one in sweep.examined for site in one.sites}
    keys_logged = {*sweep.metrics, *(key for one in sweep.examined for key in one.keys), *pictures}
    assert named - {"first_step_90", "first_step_50"} == keys_logged
    assert all(any(re.search(one, f"measures/{measure}/1.0") for one in found) for measure in sweep.measures)
    for saved in (view, views.report(sweep, "team", "project", "minmax")):
        ids = [panel["__id__"] for panel in panels(saved.spec)]
        assert len(set(ids)) == len(ids)
    read = WorkspaceViewspec.model_validate_json(view.text).model_dump_json(by_alias=True, exclude_none=True)
    assert json.loads(read) == view.spec
    assert views.text([view]) == views.text([views.workspace(sweep, "team", "project", "minmax")])
