"""`mi-sweeps dashboard`: makes or updates the saved views of a sweep on a wandb server.

Which views are a sweep's is kept in its folder, by project. What wandb has under such a name is overwritten; where it
was deleted, the view is made anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from mi_sweeps.config import wandb_name
from mi_sweeps.errors import UserError
from mi_sweeps.hints import hint
from mi_sweeps.store.files import read_json, write_bytes, write_json
from mi_sweeps.sweeps import manifest
from mi_sweeps.tracking import logged_keys, service, sync, unmirrored

if TYPE_CHECKING:
    from rich.console import Console

    from mi_sweeps.tracking.panels import Band
    from mi_sweeps.tracking.views import View

ANSWER_SECONDS = 30.0
"""How long a server may take for one answer, wandb's own retries included."""

LOCK_SECONDS = 60.0
"""How long another call may hold a sweep's views: it asks the server twice."""

RETRIES = 2
"""How often wandb tries a request again within that time."""

# The library has this query too, but refuses to look at views that the app has changed since.
FIND = """
    query View($entityName: String, $name: String, $viewType: String, $viewName: String) {
        project(name: $name, entityName: $entityName) {
            allViews(viewType: $viewType, viewName: $viewName) {
                edges { node { id } }
            }
        }
    }
"""


@dataclass(frozen=True)
class Wanted:
    """What was asked for."""

    entity: str | None
    """The user or team; None: what the sweep's tracking says, or whose login it is."""
    project: str | None
    """None: what the sweep's tracking says."""
    baseline: str | None
    """Id of the run that the others are compared with."""
    band: Band
    report: bool
    """Whether a report is wanted beside the workspace."""


class Refused(Exception):
    """The server does not answer, or does not do what it was asked for; in one line."""

    def __init__(self, message: str, status: int | None) -> None:
        super().__init__(message)
        self.status = status
        """Of HTTP, if there was an answer."""


def dry_run(output: Path, sweep: str, wanted: Wanted) -> str:
    """The views as JSON; needs no login and no network, and is the same each time.

    Raises:
        UserError: the sweep was never run or never tracked; the baseline is not one of its runs.
    """
    from mi_sweeps.tracking import views

    project, entity = _place(output, sweep, wanted)
    if wanted.baseline and not entity:
        raise UserError("--baseline: in a dry run it needs --entity too, which is part of the run's id in wandb")
    return views.text(_views(output, sweep, wanted, entity or "", project))


def save(console: Console, output: Path, sweep: str, wanted: Wanted) -> int:
    """Makes or updates the views, and says where they are; the exit code is 1 if the server refuses.

    Raises:
        UserError: as for `dry_run`; nobody is logged in; there is no such entity or project.
    """
    unmirrored.refuse_if_off()
    project, entity = _place(output, sweep, wanted)
    logged_keys.read(output, sweep)  # Before anything is asked of a server.
    try:
        server = Server()
        entity = entity or server.default_entity
        for view in _views(output, sweep, wanted, entity, project):
            url, is_new = _save(server, output, sweep, view, entity, project)
            console.print(f"{view.kind} {'made' if is_new else 'updated'}: {url}", markup=False, soft_wrap=True)
    except Refused as error:
        console.print(f"not saved: {error}", markup=False, soft_wrap=True)
        return 1
    waiting = sum(bool(run.missing) for run in sync.look(output, [sweep]))
    if waiting:
        runs = f"{waiting} {'run is' if waiting == 1 else 'runs are'}"
        upload = hint("sync", sweep, output)
        console.print(f"{runs} not uploaded yet; `{upload}` does it", markup=False, soft_wrap=True)
    return 0


def write(file: Path, text: str) -> None:
    """Writes a dry run to a file."""
    write_bytes(file, text.encode())


def _place(output: Path, sweep: str, wanted: Wanted) -> tuple[str, str | None]:
    """The project, and the entity if any is named."""
    for key, given in (("project", wanted.project), ("entity", wanted.entity)):
        wandb_name(f"--{key}", given)
    asked = [entry.config["tracking"] for entry in manifest.load(output, sweep)]
    tracking = next((one for one in asked if one["mode"] != "disabled"), asked[0])
    asked_for = wanted.project or tracking["mode"] != "disabled"
    if not asked_for and not any(run.uploaded or run.missing for run in sync.look(output, [sweep])):
        raise UserError(
            f"sweep {sweep!r}: not mirrored to wandb; `{hint('track', sweep, output)}` does it, "
            "or say where its runs are with --project"
        )
    return wanted.project or tracking["project"], wanted.entity or tracking["entity"]


def _views(output: Path, sweep: str, wanted: Wanted, entity: str, project: str) -> list[View]:
    from mi_sweeps.tracking import views

    found = logged_keys.read(output, sweep)
    if wanted.baseline and wanted.baseline not in found.run_ids:
        raise UserError(
            f"--baseline {wanted.baseline}: no run of sweep {sweep!r} that has begun; "
            f"`{hint('status --points', sweep, output)}` lists them"
        )
    made = [views.workspace(found, entity, project, wanted.band, wanted.baseline)]
    return [*made, views.report(found, entity, project, wanted.band)] if wanted.report else made


class Server:
    """A wandb server that somebody is logged in to."""

    def __init__(self) -> None:
        import wandb

        service.bound()
        # wandb's process goes on with a request that is given up here, and the command would wait for it at its end.
        seconds = ANSWER_SECONDS / (1 + RETRIES)
        limits = wandb.Settings(x_graphql_retry_max=RETRIES, x_graphql_timeout_seconds=seconds)
        try:
            wandb.setup(settings=limits)
            self._api = wandb.Api(timeout=ANSWER_SECONDS)
        except wandb.errors.UsageError as error:
            raise UserError(f"wandb: {_line(error)}") from None
        except Exception as error:  # wandb raises many kinds.
            refused = self._refused(error)
            if refused.status in (401, 403):
                raise UserError(f"the login is refused: {refused}; `wandb login --relogin` makes another") from None
            raise refused from None

    @property
    def app(self) -> str:
        """The address of its pages, without a slash at the end."""
        from wandb_workspaces._graphql import get_app_url

        return str(get_app_url(self._api)).rstrip("/")

    @property
    def default_entity(self) -> str:
        """Whose login it is."""
        try:
            return str(self._api.default_entity)
        except Exception as error:  # As above.
            raise self._refused(error) from None

    def ask(self, query: str, variables: Mapping[str, Any]) -> dict[str, Any]:
        """The `data` of an answer."""
        from wandb_workspaces._graphql import execute_graphql

        try:
            return execute_graphql(self._api, query, variables)
        except Exception as error:  # As above.
            raise self._refused(error) from None

    @staticmethod
    def _refused(error: Exception) -> Refused:
        """With wandb's own words, unless they are about its own process."""
        response = getattr(error, "response", None) or getattr(error.__cause__, "response", None)
        status = getattr(response, "http_status", None) or None
        if "did not respond in time" in str(error):
            return Refused(f"the wandb server gave no good answer in {ANSWER_SECONDS:g} s", status)
        return Refused(f"wandb: {_line(error)}", status)


def _line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


@contextmanager
def _alone(file: Path) -> Iterator[None]:
    """Nobody else changes that file, or the views that it remembers, meanwhile."""
    lock = file.with_suffix(".lock")
    try:
        with FileLock(lock, timeout=LOCK_SECONDS):
            yield
    except Timeout:
        raise UserError(f"{lock}: another `mi-sweeps dashboard` is at work; wait until it has ended") from None


def _save(server: Server, output: Path, sweep: str, view: View, entity: str, project: str) -> tuple[str, bool]:
    """Where a view is to be seen, and whether it is a new one."""
    from wandb_workspaces.reports.v2 import gql

    file = output / "sweeps" / sweep / "wandb.json"
    place = f"{server.app}/{entity}/{project}"
    with _alone(file):
        saved = read_json(file) or {}
        known = saved.get(place, {}).get(view.kind)
        name = known["name"] if known else view.new_name()
        found = _find(server, view, entity, project, name, make=hint("sync", sweep, output))
        if known and not found:
            name = view.new_name()
        answer = server.ask(
            gql.upsert_view,
            {
                "id": found,
                "entityName": entity,
                "projectName": project,
                "type": view.type,
                "name": name,
                "displayName": view.title,
                "description": view.description,
                "spec": view.text,
            },
        )
        now = answer["upsertView"]["view"]
        url = view.url(place, now["name"], now["id"])
        entry = {"name": now["name"], "id": now["id"], "url": url}
        write_json(file, {**saved, place: {**saved.get(place, {}), view.kind: entry}})
    return url, found is None


def _find(server: Server, view: View, entity: str, project: str, name: str, make: str) -> str | None:
    """The id of the view with a name; None where it was never made, or was deleted.

    Args:
        make: the command that makes a project.
    """
    where = {"entityName": entity, "name": project, "viewType": view.type, "viewName": name}
    try:
        found = server.ask(FIND, where).get("project")
    except Refused as error:
        if error.status in (400, 403, 404):
            raise UserError(f"{entity}/{project}: {error}; give others with --entity and --project") from None
        raise
    if found is None:
        raise UserError(f"{entity}/{project}: no such project in wandb, or not for this login; `{make}` makes it")
    edges = found["allViews"]["edges"]
    return edges[0]["node"]["id"] if edges else None
