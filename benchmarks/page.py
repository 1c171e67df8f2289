"""Measures the report's page: its size, its loading time, and the time of a step of the slider.

The sweeps are those of `scale.py`: one point is computed, and its files serve for all others; `--runs` counts
fine-tunes. Each page is opened `--repeats` times in a new headless Chromium without a GPU, from a local file.

- *First screen* is the browser's first contentful paint; *ready*, when every picture in or near the window is drawn;
  *whole*, when the others are too, which are drawn while the browser is idle. Milliseconds from the start of
  navigation.
- A *step* lasts from a change of the slider to the next frame, with the pictures in the window drawn; at the top of the
  page, and with a heatmap in the window. Median and 95th percentile over all steps, forwards and back.

`python benchmarks/page.py --help` lists the options; benchmarks/README.md has results.
"""
# ruff: noqa: T201

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

import numpy as np
from playwright.sync_api import Browser, sync_playwright
from printing import note, processor, spread, table
from scale import Sweep
from simulate import fill, sample

from mi_sweeps.analysis.report import write_report
from mi_sweeps.sweeps.grid import expand

SWITCHES = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
SIZE = {"width": 1280, "height": 900}
TIME_LIMIT = 120_000
"""Time limit for a page in milliseconds."""

NEAR = "pictures.length > 0 && pictures.every(({ near, stale }) => !near || !stale)"
WHOLE = "() => pictures.every(({ plot, stale }) => !stale || !plot.offsetWidth)"

PAINTED = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? NaN"

WATCH = """() => {
    const look = () => {
        let there = false;
        try { there = document.readyState !== "loading" && %s; } catch { /* not yet made */ }
        if (there) window.readyAt = performance.now(); else requestAnimationFrame(look);
    };
    requestAnimationFrame(look);
}"""

STEPS = """async () => {
    const frame = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
    const order = shownSteps().map((_, i) => i), taken = [];
    for (const at of [...order, ...order.toReversed()]) {
        await frame();
        const from = performance.now();
        goTo(at);
        await frame();
        taken.push(performance.now() - from);
    }
    return taken;
}"""


@dataclass
class Seen:
    """Measurements of one page, over all repeats."""

    size: int
    written: float
    """Seconds."""
    paint: list[float] = field(default_factory=list)
    ready: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    top: list[float] = field(default_factory=list)
    heatmap: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def look(browser: Browser, file: Path, seen: Seen) -> None:
    """Opens a page once and moves its slider."""
    context = browser.new_context(viewport=SIZE)  # type: ignore[arg-type]
    page = context.new_page()
    page.set_default_timeout(TIME_LIMIT)
    page.on("pageerror", lambda error: seen.errors.append(str(error)))
    page.on("console", lambda message: seen.errors.append(message.text) if message.type == "error" else None)
    page.add_init_script(f"({WATCH % NEAR})()")
    page.goto(file.as_uri())
    page.wait_for_function("() => window.readyAt")
    seen.paint.append(page.evaluate(PAINTED))
    seen.ready.append(page.evaluate("window.readyAt"))
    page.wait_for_function(WHOLE)
    seen.whole.append(page.evaluate("performance.now()"))
    seen.top += page.evaluate(STEPS)
    page.evaluate("document.getElementById('z-plot').scrollIntoView({ block: 'center' })")
    page.wait_for_function(f"() => {NEAR}")
    seen.heatmap += page.evaluate(STEPS)
    context.close()


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description="Measures the report's page.")
    parser.add_argument("--runs", type=int, nargs="+", default=[10, 100], help="fine-tunes, multiples of 5")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="further overrides of the sweep")
    parser.add_argument("--chromium", default=shutil.which("chromium"), help="the program; default: Playwright's own")
    return parser.parse_args(arguments)


def percentiles(values: Sequence[float]) -> str:
    """Median, and the 95th percentile."""
    return " / ".join(f"{value:.0f}" for value in np.percentile(values, (50, 95)))


def main(arguments: Sequence[str]) -> None:
    """Measures and prints."""
    options = parse(arguments)
    rows = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        playwright = stack.enter_context(sync_playwright())
        browser = playwright.chromium.launch(executable_path=options.chromium, args=SWITCHES)
        print(
            f"{processor()}; Chromium {browser.version}, Playwright {version('playwright')}; "
            f"{datetime.now(timezone.utc):%Y-%m-%d}; load {os.getloadavg()[0]:.1f} at the start."
        )
        made = sample(folder / "sample", options.set)
        for count in options.runs:
            sweep = Sweep(2 * count, folder, tuple(options.set))
            with ExitStack() as at_work:
                fill(expand(sweep.overrides), made, at_work)
                note(f"{count} runs simulated")
                began = time.perf_counter()
                file = write_report(sweep.output)
                seen = Seen(file.stat().st_size, time.perf_counter() - began)
            note(f"page of {count} runs written")
            for _ in range(options.repeats):
                look(browser, file, seen)
            times = [spread(values) for values in (seen.paint, seen.ready, seen.whole)]
            steps = [percentiles(seen.top), percentiles(seen.heatmap)]
            rows.append([str(count), f"{seen.size / 1e6:.1f}", *times, *steps, str(len(seen.errors))])
            note(f"page of {count} runs read: {', '.join(rows[-1][1:])}")
            for error in dict.fromkeys(seen.errors):
                note(f"error on the page: {error}")
            shutil.rmtree(sweep.output)
        browser.close()
    table(
        f"The page in Chromium: milliseconds, of {options.repeats} loads; load {os.getloadavg()[0]:.1f} at the end",
        "runs | MB | first screen | ready | whole | a step, at the top (median / 95%) | at a heatmap | console errors",
        rows,
    )


if __name__ == "__main__":
    main(sys.argv[1:])
