"""`mi-sweeps dashboard`: makes or updates a sweep's saved views on a wandb server.

The names of a sweep's views are kept in its folder, by project. A view with that name is overwritten; if it was
deleted, a new one is made. wandb-workspaces builds the views, but is not used to save them: it waits without a limit,
cannot update a view that was changed in the app, and would give every panel a new id.
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
"""Time limit for one answer of the server, including wandb's own retries."""

LOCK_SECONDS = 60.0
"""How long to wait for another call, which asks the server twice."""

RETRIES = 2
"""wandb's own retries within that time."""

# The library's own query refuses views that were changed in the app.
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
class DashboardOptions:
    """The options of the command."""

    entity: str | None
    """The user or team; None means the sweep's own, or else the login's."""
    project: str | None
    """None means the sweep's own."""
    baseline: str | None
    """Id of the run to compare the others with."""
    band: Band
    report: bool
    """Whether to make a report besides the workspace."""


class Refused(Exception):
    """The server does not answer, or refuses; in one line."""

    def __init__(self, message: str, status: int | None) -> None:
        super().__init__(message)
        self.status = status
        """HTTP status, if there was an answer."""


def dry_run(output: Path, sweep: str, wanted: DashboardOptions) -> str:
    """Returns the views as JSON, always the same for the same sweep; needs no login and no network.

    Raises:
        UserError: the sweep was never run or never tracked, or the baseline is not one of its runs.
    """
    from mi_sweeps.tracking import views

    project, entity = _place(output, sweep, wanted)
    if wanted.baseline and not entity:
        raise UserError("--baseline: a dry run needs --entity too, because it is part of the run's id in wandb")
    return views.text(_views(output, sweep, wanted, entity or "", project))


def save(console: Console, output: Path, sweep: str, wanted: DashboardOptions) -> int:
    """Makes or updates the views and prints their addresses; the exit code is 1 if the server refuses.

    Raises:
        UserError: as for `dry_run`; or nobody is logged in, or there is no such entity or project.
    """
    unmirrored.refuse_if_off()
    project, entity = _place(output, sweep, wanted)
    logged_keys.read(output, sweep)  # Fails before the server is asked.
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
        console.print(f"{runs} not uploaded yet; `{upload}` uploads them", markup=False, soft_wrap=True)
    return 0


def write(file: Path, text: str) -> None:
    """Writes a dry run to a file."""
    write_bytes(file, text.encode())


def _place(output: Path, sweep: str, wanted: DashboardOptions) -> tuple[str, str | None]:
    """Returns the project, and the entity if one is named."""
    for key, given in (("project", wanted.project), ("entity", wanted.entity)):
        wandb_name(f"--{key}", given)
    asked = [entry.config["tracking"] for entry in manifest.load(output, sweep)]
    tracking = next((one for one in asked if one["mode"] != "disabled"), asked[0])
    asked_for = wanted.project or tracking["mode"] != "disabled"
    if not asked_for and not any(run.uploaded or run.missing for run in sync.look(output, [sweep])):
        raise UserError(
            f"sweep {sweep!r}: not mirrored to wandb; `{hint('track', sweep, output)}` mirrors it, "
            "or name its project with --project"
        )
    return wanted.project or tracking["project"], wanted.entity or tracking["entity"]


def _views(output: Path, sweep: str, wanted: DashboardOptions, entity: str, project: str) -> list[View]:
    from mi_sweeps.tracking import views

    found = logged_keys.read(output, sweep)
    if wanted.baseline and wanted.baseline not in found.run_ids:
        raise UserError(
            f"--baseline {wanted.baseline}: not a run of sweep {sweep!r} that has begun; "
            f"`{hint('status --points', sweep, output)}` lists them"
        )
    made = [views.workspace(found, entity, project, wanted.band, wanted.baseline)]
    return [*made, views.report(found, entity, project, wanted.band)] if wanted.report else made


class Server:
    """The wandb server of the current login."""

    def __init__(self) -> None:
        import wandb

        service.bound()
        # wandb's process continues a request that we give up, and the command would wait for it when it exits.
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
                raise UserError(f"the login was refused: {refused}; use `wandb login --relogin`") from None
            raise refused from None

    @property
    def app(self) -> str:
        """The address of its pages, without a slash at the end."""
        from wandb_workspaces._graphql import get_app_url

        return str(get_app_url(self._api)).rstrip("/")

    @property
    def default_entity(self) -> str:
        """The entity of the login."""
        try:
            return str(self._api.default_entity)
        except Exception as error:  # As above.
            raise self._refused(error) from None

    def ask(self, query: str, variables: Mapping[str, Any]) -> dict[str, Any]:
        """Sends a query; returns the `data` of the answer."""
        from wandb_workspaces._graphql import execute_graphql

        try:
            return execute_graphql(self._api, query, variables)
        except Exception as error:  # As above.
            raise self._refused(error) from None

    @staticmethod
    def _refused(error: Exception) -> Refused:
        """Quotes wandb's error, unless it is about wandb's own process."""
        response = getattr(error, "response", None) or getattr(error.__cause__, "response", None)
        status = getattr(response, "http_status", None) or None
        if "did not respond in time" in str(error):
            return Refused(f"the wandb server gave no valid answer within {ANSWER_SECONDS:g} s", status)
        return Refused(f"wandb: {_line(error)}", status)


def _line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


@contextmanager
def _alone(file: Path) -> Iterator[None]:
    """Keeps other processes from changing this file and the views in it."""
    lock = file.with_suffix(".lock")
    try:
        with FileLock(lock, timeout=LOCK_SECONDS):
            yield
    except Timeout:
        raise UserError(f"{lock}: another `mi-sweeps dashboard` is running; try again when it is done") from None


def _save(server: Server, output: Path, sweep: str, view: View, entity: str, project: str) -> tuple[str, bool]:
    """Saves a view; returns its address, and whether it is new."""
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
    """Returns the id of the view with a name; None if it was never made, or was deleted.

    Args:
        make: the command that creates the project.
    """
    where = {"entityName": entity, "name": project, "viewType": view.type, "viewName": name}
    try:
        found = server.ask(FIND, where).get("project")
    except Refused as error:
        if error.status in (400, 403, 404):
            raise UserError(f"{entity}/{project}: {error}; give others with --entity and --project") from None
        raise
    if found is None:
        raise UserError(f"{entity}/{project}: no such project in wandb, or no access to it; `{make}` creates it")
    edges = found["allViews"]["edges"]
    return edges[0]["node"]["id"] if edges else None
