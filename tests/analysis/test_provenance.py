"""What the page knows about the origin of runs."""

from __future__ import annotations

import json

from mi_sweeps.analysis import folder
from mi_sweeps.analysis.frames import load
from mi_sweeps.analysis.provenance import audits, configurations, links


def change(run, **groups):
    file = run / "run.json"
    about = json.loads(file.read_text())
    about["config"] |= groups
    file.write_text(json.dumps(about))


def test_a_value_is_there_once_and_every_run_finds_its_own(make_output, folders):
    output = make_output(lrs=(1e-4, 2e-4), seeds=(0, 1), corruptions=())
    runs = output / "runs"
    change(runs / "run-0.0002-constant-1", optim={"lr": 2e-4, "weight_decay": 0.0, "betas": [0.9, 0.95]})
    folders.write_sweep(output, "more", [folders.point("absent", "absent-first", "first")])
    read = folder.read(output)
    result = configurations(read.runs)
    for number, run in enumerate(read.runs):
        if not run.config:
            assert all(of["of"][number] is None for of in result["differs"].values())
            continue
        own = {
            key: of["values"][of["of"][number]] for key, of in result["differs"].items() if of["of"][number] is not None
        }
        found = own | result["same"]
        assert (found["optim.lr"], found["seed"]) == (run.config["optim"]["lr"], run.config["seed"])
        assert found.get("optim.betas") == run.config["optim"].get("betas")
        assert found["versions.mi_sweeps"] == "0.1.0"
    assert sorted(result["differs"]) == ["optim.betas", "optim.lr", "seed"]
    assert result["differs"]["optim.lr"]["values"] == [1e-4, 2e-4]
    assert result["factors"] == ["optim.lr", "optim.betas"]


def test_keys_that_change_no_result_do_not_distinguish_settings(make_output):
    output = make_output(seeds=(0, 1, 2), corruptions=())
    for seed, sweep in enumerate(("demo", "grid", "late")):
        groups = {
            "sweep": {"name": sweep},
            "corruption": {"name": sweep},
            "launcher": {"workers": seed},
            "output": sweep,
        }
        change(output / "runs" / f"run-0.0001-constant-{seed}", **groups)
    assert set(load(output).runs["setting"]) == {"all"}
    assert configurations(folder.read(output).runs)["factors"] == []


def test_an_audit_appears_once_without_its_list_of_names(make_output):
    output = make_output(seeds=(0, 1, 2), corruptions=())
    runs = sorted((output / "runs").iterdir())
    for run in runs[:2]:
        (run / "audit.json").write_text(json.dumps({"names": ["Tom"], "splits": {"heldout": {"prompts": 8}}}))
    (runs[2] / "audit.json").write_text("{")  # half a file is no reason for no page
    assert audits(folder.read(output).runs) == [{"audit": {"splits": {"heldout": {"prompts": 8}}}, "runs": [0, 1]}]


def test_links_lead_from_where_the_page_lies_to_what_is_there(make_output, tmp_path):
    output = make_output(corruptions=())
    run = output / "runs" / "run-0.0001-constant-0"
    read = folder.read(output)
    assert links(read, output) == {"log": [None], "error": [None], "wandb": [None]}
    (run / "log.txt").touch()
    (run / "error.txt").touch()
    here = links(read, output)
    assert (here["log"], here["error"]) == ([f"./runs/{run.name}/log.txt"], [f"./runs/{run.name}/error.txt"])
    there = tmp_path / "a folder" / "pages"
    assert (there / links(read, there)["log"][0]).resolve() == run / "log.txt"


def test_wandb_is_linked_only_where_the_run_is_known_to_be(make_output, monkeypatch):
    monkeypatch.delenv("WANDB_BASE_URL", raising=False)
    output = make_output()
    run = output / "runs" / "run-0.0001-constant-0"

    def link():
        return links(folder.read(output), output)["wandb"][0]

    attempt = run / "patches" / f"{run.name}-first" / "wandb" / "offline-run-20260101_000000-x"
    attempt.mkdir(parents=True)
    (attempt / "run-x.wandb").touch()
    change(run, tracking={"mode": "offline", "project": "mi sweeps", "entity": "lab"})
    assert link() is None  # not uploaded
    (attempt / "run-x.wandb.synced").touch()
    (attempt / "run-x.wandb.uploading").touch()
    assert link() is None  # uploaded, but not seen to have arrived
    (attempt / "run-x.wandb.uploading").unlink()
    assert link() == f"https://wandb.ai/lab/mi%20sweeps/runs/{run.name}"
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org/")
    assert link() == f"https://wandb.example.org/lab/mi%20sweeps/runs/{run.name}"
    change(run, tracking={"mode": "offline", "project": "mi sweeps", "entity": None})
    assert link() is None  # whose it is, is not known
    change(run, tracking={"mode": "disabled", "project": "mi sweeps", "entity": "lab"})
    assert link() is None
    online = run / "wandb" / "run-20260101_000000-x"
    online.mkdir(parents=True)
    (online / "run-x.wandb").touch()
    change(run, tracking={"mode": "online", "project": "mi sweeps", "entity": "lab"})
    assert link() is not None
    (run / "wandb.json").write_text('{"url": "https://wandb.ai/me/p/runs/x"}')
    assert link() == "https://wandb.ai/me/p/runs/x", "as wandb said"
    (run / "wandb.json").write_text('{"url": "javascript:alert(1)"}')
    assert link().startswith("https://wandb.example.org/lab/")
