"""Saved views: real wandb-workspaces and a server on this machine that knows what they ask for, and nothing else.

That is the client protocol. How wandb.ai draws a view is not shown by these tests.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import dataclass, field

import pytest
import wandb
from filelock import FileLock

from mi_sweeps import cli
from mi_sweeps.jobs.execute import execute
from mi_sweeps.store.files import read_json
from mi_sweeps.sweeps import manifest
from mi_sweeps.sweeps.grid import expand
from mi_sweeps.tracking import dashboard

LOGIN = "somebody"


@dataclass
class Views:
    """What is saved on a server."""

    projects: set[tuple[str, str]] = field(default_factory=lambda: {("team", "mi-sweeps")})
    saved: dict[str, dict] = field(default_factory=dict)
    """What was sent last, by id."""
    made: int = 0

    # GraphQL operations, by name.

    def Viewer(self, given):
        return {"viewer": {"id": "u", "entity": LOGIN, "username": LOGIN, "email": "", "flags": "{}"}}

    def GetDefaultEntity(self, given):
        return {"viewer": {"id": "u", "entity": LOGIN}}

    def View(self, given):
        if (given["entityName"], given["name"]) not in self.projects:
            return {"project": None}
        found = [
            id
            for id, view in self.saved.items()
            if (view["entityName"], view["projectName"]) == (given["entityName"], given["name"])
            and (view["type"], view["name"]) == (given["viewType"], given["viewName"])
        ]
        return {"project": {"allViews": {"edges": [{"node": {"id": id}} for id in found]}}}

    def upsertView(self, given):
        keys = {"id", "entityName", "projectName", "type", "name", "displayName", "description", "spec"}
        assert given.keys() == keys and (given["entityName"], given["projectName"]) in self.projects
        assert given["id"] is None or given["id"] in self.saved
        if is_new := given["id"] is None:
            assert given["name"] not in {view["name"] for view in self.saved.values()}
            self.made += 1
        id = given["id"] or f"view{self.made}"
        self.saved[id] = {**given, "spec": json.loads(given["spec"])}
        return {"upsertView": {"view": {"id": id, "name": given["name"]}, "inserted": is_new}}


@pytest.fixture
def views(server):
    found = Views()
    operations = ("Viewer", "GetDefaultEntity", "View", "upsertView")
    server.OPERATIONS = (*server.OPERATIONS, *operations)
    for operation in operations:
        setattr(server, operation, getattr(found, operation))
    wandb.teardown()  # It would remember the server of an earlier test.
    yield found
    wandb.teardown()


@pytest.fixture(scope="module")
def computed(small, tmp_path_factory):
    """An output folder with a sweep `mine`, and what its runs are called."""
    output = tmp_path_factory.mktemp("dashboard") / "outputs"
    points = expand([*small, "seed=0,1", "sweep.name=mine", f"output={output}"])
    tracked = expand(
        [*small, "seed=0,1", "sweep.name=mine", "tracking=wandb", "tracking.entity=team", f"output={output}"]
    )
    assert not execute(points).failed
    manifest.add(output, "mine", tracked, "mi-sweeps run sweep.name=mine")
    return output, [point.run_id for point in points]


@pytest.fixture
def output(computed):
    folder, _ = computed
    (folder / "sweeps" / "mine" / "wandb.json").unlink(missing_ok=True)
    return folder


@pytest.fixture
def call(output, capsys, monkeypatch):
    """`mi-sweeps dashboard`; gives the exit code, what it printed and what it complained of."""
    monkeypatch.setenv("COLUMNS", "300")

    def run(*arguments):
        with pytest.raises(SystemExit) as stopped:
            cli.main(["dashboard", f"output={output}", *map(str, arguments)])
        printed = capsys.readouterr()
        return stopped.value.code, printed.out, printed.err

    return run


def test_a_second_call_updates_the_same_view(call, views, server, computed, output):
    code, printed, _ = call("mine")
    ((id, first),) = views.saved.items()
    url = f"{server.url}/team/mi-sweeps?nw={first['name'].removeprefix('nw-').removesuffix('-v')}"
    assert (code, printed) == (0, f"workspace made: {url}\n")
    known = read_json(output / "sweeps" / "mine" / "wandb.json")
    assert known == {f"{server.url}/team/mi-sweeps": {"workspace": {"name": first["name"], "id": id, "url": url}}}
    run_id = computed[1][1]
    code, printed, _ = call("mine", "--baseline", run_id)
    assert (code, printed) == (0, f"workspace updated: {url}\n")
    assert list(views.saved) == [id] and views.made == 1
    run_set, before = (view["spec"]["section"]["runSets"][0] for view in (views.saved[id], first))
    assert run_set["baselineRunId"] and "baselineRunId" not in before


def test_a_deleted_view_is_made_again(call, views):
    call("mine", "--report")
    workspace, report = views.saved
    del views.saved[workspace]
    code, printed, _ = call("mine", "--report")
    assert code == 0 and "workspace made: " in printed and "report updated: " in printed
    assert len(views.saved) == 2 and report in views.saved and views.made == 3


def test_a_report_is_a_view_of_its_own(call, views, server):
    code, printed, _ = call("mine", "--report")
    assert code == 0 and views.made == 2
    workspace, report = views.saved.values()
    assert (workspace["type"], report["type"]) == ("project-view", "runs")
    assert printed.splitlines()[1] == f"report made: {server.url}/team/mi-sweeps/reports/Sweep-mine--view2"
    text = json.dumps(report["spec"])
    assert "mi-sweeps run sweep.name=mine" in text and "2 runs with 2 seeds" in report["description"]


def test_runs_that_are_not_uploaded_are_reported(call, views, computed, output):
    file = output / "runs" / computed[1][0] / "wandb" / "offline-run-20260101_000000-id" / "run-id.wandb"
    file.parent.mkdir(parents=True)
    record = bytes(4) + (3).to_bytes(2, "little") + b"\1" + b"run"
    file.write_bytes(b":W&B\xe1\xbe\x00" + 2 * record)
    os.utime(file, (0, 0))
    _, printed, _ = call("mine")
    shutil.rmtree(file.parent)
    assert printed.splitlines()[1:] == [
        f"1 run is not uploaded yet; `mi-sweeps sync mine output={output}` uploads them"
    ]


def test_another_project_has_its_own_view(call, views):
    views.projects |= {("team", "other"), (LOGIN, "other")}
    for where in ((), ("--project", "other"), ("--project", "other", "--entity", LOGIN)):
        assert call("mine", *where)[0] == 0
    assert [(view["entityName"], view["projectName"]) for view in views.saved.values()] == [
        ("team", "mi-sweeps"),
        ("team", "other"),
        (LOGIN, "other"),
    ]


def test_without_an_entity_it_is_the_logins(small, call, views, output):
    manifest.add(output, "own", expand([*small, "sweep.name=own", "tracking=wandb", f"output={output}"]), "")
    views.projects.add((LOGIN, "mi-sweeps"))
    assert call("own")[0] == 0
    assert [view["entityName"] for view in views.saved.values()] == [LOGIN]


def test_what_is_saved_is_what_a_dry_run_shows(call, views, server, tmp_path):
    file = tmp_path / "spec.json"
    assert call("mine", "--dry-run", "--report", "--to", file)[0] == 0
    assert not server.calls and not views.saved
    call("mine", "--report")
    assert [view["spec"] for view in json.loads(file.read_text())] == [view["spec"] for view in views.saved.values()]


def test_dry_runs_need_no_login_and_are_the_same_bytes(call, monkeypatch):
    monkeypatch.setattr(wandb, "Api", None)
    code, printed, _ = call("mine", "--dry-run", "--report")
    assert code == 0 and [view["kind"] for view in json.loads(printed)] == ["workspace", "report"]
    assert call("mine", "--dry-run", "--report")[1] == printed


@pytest.mark.parametrize("operation", ["Viewer", "View", "upsertView"])
@pytest.mark.parametrize("how", [500, "time-out"])
@pytest.mark.slow
def test_a_server_in_trouble_is_one_line(call, views, server, output, monkeypatch, operation, how):
    call("mine")
    before = (output / "sweeps" / "mine" / "wandb.json").read_text(), dict(views.saved)
    monkeypatch.setattr(dashboard, "ANSWER_SECONDS", 1)

    def fault(request):
        if request.what != operation:
            return None
        if how == "time-out":
            time.sleep(2)
        return 500

    server.fault = fault
    code, printed, complaint = call("mine")
    assert (code, complaint) == (1, "")
    assert printed.startswith("not saved: ") and printed.count("\n") == 1
    assert ((output / "sweeps" / "mine" / "wandb.json").read_text(), views.saved) == before


def test_a_server_that_is_not_there(call, monkeypatch):
    monkeypatch.setattr(dashboard, "ANSWER_SECONDS", 1)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "local" + 35 * "0")
    wandb.teardown()
    code, printed, complaint = call("mine")
    assert (code, complaint) == (1, "") and printed.startswith("not saved: ") and printed.count("\n") == 1
    wandb.teardown()


def test_a_login_that_is_refused(call, views, server):
    server.fault = lambda request: 401
    code, _, complaint = call("mine")
    assert code == 2 and complaint.startswith("error: the login was refused") and complaint.count("\n") == 1


def test_nobody_is_logged_in(call, monkeypatch, tmp_path):
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    wandb.teardown()
    code, _, complaint = call("mine")
    assert code == 2 and "wandb login" in complaint and complaint.count("\n") == 1


def test_another_call_that_does_not_end_is_not_waited_for_for_ever(call, views, output, monkeypatch):
    monkeypatch.setattr(dashboard, "LOCK_SECONDS", 0.2)
    lock = output / "sweeps" / "mine" / "wandb.lock"
    with FileLock(lock):
        code, _, complaint = call("mine")
    assert (code, views.saved) == (2, {})
    assert complaint.startswith(f"error: {lock}: another `mi-sweeps dashboard`") and complaint.count("\n") == 1
    assert call("mine")[0] == 0


def test_an_upload_that_is_refused(call, views, server):
    server.fault = lambda request: 403 if request.what == "upsertView" else None
    code, printed, _ = call("mine")
    assert code == 1 and printed.startswith("not saved: wandb: ") and printed.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["mine", "--project", "nowhere"], "team/nowhere: no such project in wandb"),
        (["mine", "--project", "nowhere"], "`mi-sweeps sync mine output=OUTPUT` creates it"),
        (["mine", "--entity", "nobody"], "nobody/mi-sweeps: no such project in wandb"),
        (["yours"], "sweep 'yours': not in"),
        (["mine", "--baseline", "123"], "--baseline 123: not a run of sweep 'mine'"),
        (["mine", "--baseline", "123"], "`mi-sweeps status --points mine output=OUTPUT` lists them"),
        (["mine", "--to", "x.json"], "give --dry-run too"),
        (["untracked"], "sweep 'untracked': not mirrored to wandb"),
        (["untracked"], "`mi-sweeps track untracked output=OUTPUT` mirrors it"),
        (["planned"], "sweep 'planned': no run has an evaluated checkpoint yet"),
        (["planned"], "see `mi-sweeps status planned output=OUTPUT`"),
    ],
)
def test_bad_input_is_one_line(small, call, views, output, arguments, says):
    manifest.add(output, "untracked", expand([*small, f"output={output}"]), "")
    manifest.add(output, "planned", expand([*small, "seed=7", "tracking=wandb", f"output={output}"]), "")
    code, _, complaint = call(*arguments)
    assert code == 2 and says.replace("OUTPUT", str(output)) in complaint and complaint.count("\n") == 1
    assert not views.saved


def test_a_dry_run_with_a_baseline_needs_the_entity(small, call, output):
    manifest.add(output, "own", expand([*small, "sweep.name=own", "tracking=wandb", f"output={output}"]), "")
    code, _, complaint = call("own", "--dry-run", "--baseline", "123")
    assert code == 2 and "--entity" in complaint
