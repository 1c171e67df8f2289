"""Output folders made of formulas, and their pages in a browser."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from mi_sweeps.analysis.report import write_report
from mi_sweeps.store.files import write_bytes
from tests.analysis.outputs import (
    HOSTILE,
    pattern,
    point,
    turn,
    write_json,
    write_looks,
    write_patch,
    write_patterns,
    write_run,
    write_series,
    write_sweep,
)
from tests.analysis.pages import draw


@pytest.fixture
def folders() -> SimpleNamespace:
    """The writers of single folders."""
    return SimpleNamespace(
        write_run=write_run,
        write_series=write_series,
        turn=turn,
        write_patch=write_patch,
        write_sweep=write_sweep,
        write_patterns=write_patterns,
        write_looks=write_looks,
        pattern=pattern,
        point=point,
        hostile=HOSTILE,
    )


@pytest.fixture
def make_output(tmp_path: Path) -> Callable[..., Path]:
    """Makes a folder of one sweep: learning rates × schedules × seeds × corruptions.

    Run ids tell their setting ("run-0.0001-constant-0"), and the patch job's id its corruption besides.
    """

    def make(
        lrs: Iterable[float] = (1e-4,), schedules: Iterable[str] = ("constant",), seeds: Iterable[int] = (0,),
        corruptions: Iterable[str] = ("first", "second"), sweep: str = "demo", **settings: Any,
    ) -> Path:  # fmt: skip
        output = tmp_path / "outputs"
        points = []
        for lr in lrs:
            for schedule in schedules:
                for seed in seeds:
                    run_id = f"run-{lr:g}-{schedule}-{seed}"
                    run = {key: value for key, value in settings.items() if key == "steps"}
                    write_run(output, run_id, lr=lr, schedule=schedule, seed=seed, **run)
                    for corruption in corruptions:
                        patch_id = f"{run_id}-{corruption}"
                        write_patch(output, run_id, patch_id, corruption, lr=lr, seed=seed, **settings)
                        overrides = {"optim.lr": f"{lr:g}", "schedule": schedule, "seed": str(seed)}
                        points.append(point(run_id, patch_id, corruption, **overrides))
        write_sweep(output, sweep, points)
        return output

    return make


NOT_THERE = "/their/run/checkpoint-16: not there"


@pytest.fixture
def make_series(tmp_path: Path) -> Callable[..., Path]:
    """Makes a folder of one sweep, or adds to it: a series, or one for each of some seeds, of which the last has a gap
    at 16. Ids as of `make_output`: "series", "series-1"."""

    def make(
        seeds: Iterable[int | None] = (None,), corruptions: Iterable[str] = ("first", "second"),
        missing_steps: dict[int, str] | None = None, sweep: str = "theirs", **settings: Any,
    ) -> Path:  # fmt: skip
        output = tmp_path / "outputs"
        points = []
        steps = settings.pop("steps", (0, 8, 16, 24))
        for seed in seeds:
            run_id = "series" if seed is None else f"series-{seed}"
            missing = ({16: NOT_THERE} if missing_steps is None else missing_steps) if seed == list(seeds)[-1] else {}
            reached = write_series(output, run_id, seed=seed, missing_steps=missing, steps=steps)
            for corruption in corruptions:
                patch_id = f"{run_id}-{corruption}"
                write_patch(output, run_id, patch_id, corruption, steps=reached, seed=seed or 0, **settings)
                points.append(point(run_id, patch_id, corruption, **({} if seed is None else {"seed": str(seed)})))
        write_sweep(output, sweep, points)
        return output

    return make


@pytest.fixture
def hostile_output(make_output: Callable[..., Path], folders: SimpleNamespace) -> Path:
    """Two seeds, a failed run and a point to do, with hostile text wherever users may write.

    Patch jobs have all that they can have, and one has estimates only.
    """
    output = make_output(seeds=(0, 1), by_prompt=True, approximate=True, paths=True)
    run_id = "run-0.0001-constant-0"
    folders.write_patch(output, run_id, "estimates", "both", approximate=True, exact=False)
    folders.write_run(output, "bad<b>", schedule=HOSTILE, state="failed", error=HOSTILE)
    folders.write_patch(output, "bad<b>", "bad-first", "first", prompt=HOSTILE)
    folders.write_sweep(output, "later<i>", [folders.point("absent", "absent-first", "first", schedule=HOSTILE)])
    return output


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """`write_report`, once for all folders, tests and workers where the same files lie: it takes seconds."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def report(output: Path) -> Path:
        page = output / "report.html"
        there = [file for file in sorted(output.rglob("*")) if file.is_file() and file != page]
        result = [[output.name], *([str(file.relative_to(output)), file.read_bytes()] for file in there)]
        kept = shared / f"report-{hashlib.sha256(repr(result).encode()).hexdigest()}.html"
        if not kept.exists():
            write_bytes(kept, write_report(output).read_bytes())
        shutil.copyfile(kept, page)
        return page

    return report


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


SWITCHES = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless Chromium."""
    if CHROMIUM is None:
        pytest.skip("needs Chromium to open the page")
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs Playwright to open the page")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=SWITCHES)
        yield opened
        opened.close()


class Tab:
    """A tab of the browser, with what its pages reported: errors, and requests for anything but files."""

    def __init__(self, browser: Any) -> None:
        self.problems: list[str] = []
        self.page = browser.new_context(accept_downloads=True).new_page()
        self.page.set_default_timeout(30_000)  # of a busy machine
        self.page.on("pageerror", lambda error: self.problems.append(f"error: {error}"))
        self.page.on("console", lambda result: self.problems.append(result.text) if result.type == "error" else None)
        local = ("file:", "data:", "blob:", "about:")
        self.page.on("request", lambda asked: None if asked.url.startswith(local) else self.problems.append(asked.url))

    def open(self, address: str, width: int, height: int, dark: bool) -> Any:
        self.page.set_viewport_size({"width": width, "height": height})
        self.page.emulate_media(color_scheme="dark" if dark else "light", media="screen")
        self.page.mouse.move(0, 0)
        self.page.goto(address)
        return self.page

    def leave(self) -> list[str]:
        self.page.goto("about:blank")
        problems, self.problems[:] = list(self.problems), []
        return problems


@pytest.fixture(scope="session")
def tabs() -> dict[bool, list[Tab]]:
    """Shared by all tests, by whether pictures out of sight are drawn."""
    return {False: [], True: []}


@pytest.fixture(scope="session")
def addresses(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of links to the folders of pages. A tab compiles Plotly's code once for an address, not once for a page:
    the next page there opens in a third of the time."""
    return tmp_path_factory.mktemp("pages")


@pytest.fixture
def open_page(browser: Any, tabs: dict[bool, list[Tab]], addresses: Path) -> Iterator[Callable[..., Any]]:
    """Opens a file as a Playwright page: `open_page(file, width=375, dark=True)`.

    The test fails at its end if a page reported an error or asked for anything but files. Pictures out of sight are
    left undrawn, which takes longer than most tests; not so with `whole`. With `alone` the page has its own address,
    in a tab without a history.
    """
    shared: dict[bool, list[Tab]] = {False: [], True: []}
    own: list[Tab] = []

    def open_file(
        file: Path, width: int = 1280, height: int = 900, dark: bool = False, hash: str = "", whole: bool = False,
        alone: bool = False,
    ) -> Any:  # fmt: skip
        if alone:
            own.append(tab := Tab(browser))
            return tab.open(file.as_uri() + hash, width, height, dark)
        at = len(shared[whole])
        if at == len(tabs[whole]):
            tabs[whole].append(Tab(browser))
            if not whole:
                tabs[whole][at].page.add_init_script("window.requestIdleCallback = () => 0")
        shared[whole].append(tab := tabs[whole][at])
        link = addresses / f"{whole}-{at}"
        link.unlink(missing_ok=True)
        link.symlink_to(file.parent)
        return tab.open((link / file.name).as_uri() + hash, width, height, dark)

    yield open_file
    problems = [problem for tab in (*shared[False], *shared[True], *own) for problem in tab.leave()]
    for tab in own:
        tab.page.context.close()
    assert problems == []


@pytest.fixture
def sweep(make_output):
    """Two learning rates, two schedules, three seeds; no circuits."""
    return make_output(lrs=(5e-5, 1e-4), schedules=("constant", "cosine"), seeds=(0, 1, 2), corruptions=())


@pytest.fixture
def opened(open_page, report):
    """Opens the page of an output folder, once its curves are there."""

    def opened(output, **how):
        page = open_page(report(output), **how)
        draw(page, "curves-plot")
        page.wait_for_selector("#curves-plot .main-svg, #curves-plot.empty", state="attached")
        return page

    return opened


@pytest.fixture
def measured_circuit(make_output: Callable[..., Path]) -> Callable[..., Any]:
    """An output folder in one checkpoint of which a known circuit was measured, and where its tables are."""
    from mi_sweeps.analysis import folder
    from mi_sweeps.circuits import circuits, edges
    from mi_sweeps.circuits.engine import prompt_rows
    from mi_sweeps.circuits.examine import TABLE
    from mi_sweeps.circuits.fast import MEMORY
    from mi_sweeps.circuits.paired_runs import run_both
    from mi_sweeps.circuits.view import View
    from mi_sweeps.config.circuits import CircuitsConfig
    from mi_sweeps.config.edges import EdgesConfig
    from mi_sweeps.store.files import write_table
    from mi_sweeps.sweeps.grid import expand
    from tests.circuits.known import known

    output = make_output()
    patch = next(patch for run in folder.read(output).runs for patch in run.patches)
    truth = known()
    (point,) = expand(["output=unused"])
    runs = run_both(truth.network, truth.pairs)
    alone = prompt_rows(runs.clean_logit_diff, runs.corrupted_logit_diff)
    about = patch.about | {"prompts": [{"clean": f"prompt {at}"} for at in range(len(alone))]}
    patch.about.update(about)

    def measure(prompts: bool = False, **options: Any) -> Any:
        """`prompts`: with the prompts themselves, and what clean and corrupted ones have alone."""
        if prompts:
            write_json(patch.path / "patch.json", about)
            write_table(patch.table(8), pa.Table.from_pylist(alone, TABLE))
        asked = {"edges": EdgesConfig(**options), "circuits": CircuitsConfig(ablation="corrupted", random=0)}
        patching = point.config.patching.model_copy(update=asked)
        view = View(8, truth.network, truth.pairs, None, patching, MEMORY, (8,), None)
        write_table(patch.table(8, "edges"), edges.table(view))
        write_table(patch.table(8, "circuits"), circuits.table(view))
        return output, patch

    return measure
