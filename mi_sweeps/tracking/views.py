"""A sweep's saved views in wandb: a workspace and a report, made of the same panels.

wandb-workspaces would give everything a random id. We set fixed ids, so that a sweep always gives the same bytes and an
update keeps each panel's identity.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws
from wandb_workspaces import expr
from wandb_workspaces.reports.v2.internal import _generate_name
from wandb_workspaces.workspaces.internal import _generate_view_name, _internal_name_to_url_query_str

from mi_sweeps.counting import counted
from mi_sweeps.tracking.logged_keys import SweepKeys
from mi_sweeps.tracking.panels import CHECKPOINT, FIRST_STEPS, Band, Part, bands, parts

MOST_LINES = 100
"""Most lines in a panel; more would be indistinguishable."""

MOST_IDS = 500
"""Most runs to select by id. Larger sweeps are selected by group, because each part of a report repeats the list."""

WIDTH, HEIGHT = 24, 8
"""Width of a report's grid and height of a panel, in wandb's units."""


@dataclass(frozen=True)
class View:
    """A saved view as wandb takes it."""

    kind: Literal["workspace", "report"]
    title: str
    description: str
    spec: dict[str, Any]

    @property
    def type(self) -> str:
        """wandb's word for the kind."""
        return {"workspace": "project-view", "report": "runs"}[self.kind]

    @property
    def text(self) -> str:
        """The specification as JSON."""
        return json.dumps(self.spec, ensure_ascii=False)

    def new_name(self) -> str:
        """Returns a unique name."""
        return _generate_view_name() if self.kind == "workspace" else _generate_name()

    def url(self, project: str, name: str, id: str) -> str:
        """Returns the view's address; `project` is the address of the project."""
        if self.kind == "workspace":
            return f"{project}?nw={_internal_name_to_url_query_str(name)}"
        return f"{project}/reports/{self.title.replace(' ', '-')}--{id}"


def workspace(contents: SweepKeys, entity: str, project: str, band: Band, baseline: str | None = None) -> View:
    """Makes a workspace of the sweep's runs, grouped by setting.

    Args:
        baseline: id of the run to compare the others with.
    """
    found = parts(contents, band)
    _identify("workspace", found)
    title = f"mi-sweeps {contents.sweep}"
    text = f"Sweep `{contents.sweep}`, {_runs(contents)}."
    text += "".join(f"\n\n**{part.name}.** {part.text}" for part in found if not part.detail)
    about = wr.MarkdownPanel(markdown=f"{text}\n\n`{contents.command}`")
    about._id = _name("workspace", "about")
    rates = [f"{split}/{contents.rate}" for split in contents.splits]
    heads = [f"{examined.corruption}/matter" for examined in contents.examined]
    seed = ("seed",) if contents.seeds else ()
    made = ws.Workspace(
        entity=entity,
        project=project,
        name=title,
        sections=[
            _section(Part("About", "", [about], columns=1), rows=1),
            *(_section(part) for part in found),
        ],
        settings=ws.WorkspaceSettings(x_axis=CHECKPOINT, max_runs=min(max(len(contents.run_ids), 10), MOST_LINES)),
        runset_settings=ws.RunsetSettings(
            filters=_of_sweep(contents),
            groupby=[expr.Config("setting")],
            order=[expr.Ordering(expr.Summary(rate), ascending=False) for rate in rates[:1]],
            pinned_columns=[
                "run:displayName",
                *(_column(key) for key in dict.fromkeys(("setting", *contents.settings, *contents.varied, *seed))),
                *(f"summary:{key}" for key in (*rates, FIRST_STEPS[contents.rate][0], *heads)),
            ],
            baseline_run=baseline,
        ),
    )
    made._internal_runset_id = _name("workspace", "runs")
    model = made._to_model()
    # Each panel sets its own grouping: with the table's grouping, panels could not show single runs.
    model.spec.section.settings.use_runs_table_grouping_in_panels = False
    return View("workspace", title, "", _plain(model.spec))


def report(contents: SweepKeys, entity: str, project: str, band: Band) -> View:
    """Makes a report of the sweep: its command, an explanation of the bands, and a grid of panels for each part."""
    found = [part for part in parts(contents, band) if not part.detail]
    _identify("report", found)
    title = f"Sweep {contents.sweep}"
    description = f"{_runs(contents)[0].upper()}{_runs(contents)[1:]}"
    blocks: list[Any] = [
        wr.P([f"{description}. Made by ", wr.InlineCode(contents.command), f". {bands(contents, band)}"]),
        wr.TableOfContents(),
    ]
    for part in found:
        # A run set without a project uses the report's.
        runs = wr.Runset(name=contents.sweep, filters=_of_sweep(contents))
        runs._id = _name("report", part.name)
        for at, panel in enumerate(part.panels):
            width = WIDTH // part.columns
            panel.layout = wr.Layout(x=at % part.columns * width, y=at // part.columns * HEIGHT, w=width, h=HEIGHT)
        blocks += [wr.H1(part.name), wr.P(part.text), wr.PanelGrid(runsets=[runs], panels=part.panels)]
    made = wr.Report(entity=entity, project=project, title=title, description=description, blocks=blocks, width="fluid")
    return View("report", title, description, _plain(made._to_model().spec))


def text(views: Iterable[View]) -> str:
    """Formats views as JSON, always the same."""
    return json.dumps([vars(view) for view in views], indent=1, ensure_ascii=False) + "\n"


def _of_sweep(contents: SweepKeys) -> expr.And:
    """Selects the sweep's runs by id. wandb's group has only those that no other sweep has mirrored since."""
    if len(contents.planned) > MOST_IDS:
        return expr.And(expr.Metric("Group") == contents.sweep)
    return expr.And(expr.Metric("ID").isin(list(contents.planned)))


def _section(part: Part, rows: int = 2) -> ws.Section:
    return ws.Section(
        name=part.name,
        panels=part.panels,
        is_open=not part.detail,
        layout_settings=ws.SectionLayoutSettings(columns=part.columns, rows=rows),
        panel_settings=ws.SectionPanelSettings(x_axis=CHECKPOINT),
    )


def _column(key: str) -> str:
    """Returns wandb's name for a column of its config, in which top-level keys have a `value`."""
    first, *below = key.split(".")
    return f"config:{'.'.join((first, 'value', *below))}"


def _runs(contents: SweepKeys) -> str:
    runs, seeds = len(contents.run_ids), len(contents.seeds)
    text = counted(runs, "run")
    return f"{text} with {counted(seeds, 'seed')}" if seeds else text


def _identify(view: str, found: Iterable[Part]) -> None:
    """Gives each panel a fixed id."""
    for part in found:
        for at, panel in enumerate(part.panels):
            panel._id = _name(view, part.name, str(at))


def _name(*words: str) -> str:
    return hashlib.sha256("/".join(words).encode()).hexdigest()[:12]


def _plain(spec: Any) -> dict[str, Any]:
    """Converts a specification to plain values, as the library does."""
    plain: dict[str, Any] = json.loads(spec.model_dump_json(by_alias=True, exclude_none=True))
    return plain
