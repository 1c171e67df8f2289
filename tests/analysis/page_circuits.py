"""What the tests of the page's circuits ask of it, and the same from the tables."""

from __future__ import annotations

import re

import numpy as np

from mi_sweeps.analysis.frames import load
from mi_sweeps.analysis.inference import words
from mi_sweeps.analysis.inference.families import family, jobs
from mi_sweeps.analysis.summaries import recovered, with_approximate
from tests.analysis.pages import draw

HEAD = ["layer", "head"]


def choose(page, label, option):
    """Choose by label one of the controls of the circuits."""
    control(page, label).select_option(label=option)


def chosen(page, label):
    return control(page, label).evaluate("select => select.selectedOptions[0].textContent")


def control(page, label):
    return page.locator("#circuits label, #bar label", has_text=re.compile(f"^{label}")).locator("select")


def site_of(plot):
    return plot.removesuffix("-plot").replace("-approximate", " (approximate)")


def panels(page, plot):
    """The values of a site's heatmaps, by the panel's name."""
    draw(page, plot)
    values = "[...document.getElementById(id).data].filter((trace) => trace.coloraxis).map(({name, z}) => [name, z])"
    found = page.evaluate(f"id => {values}", plot)
    own = f"{site_of(plot)}, "  # where several sites are side by side
    several = any(name.startswith(own) for name, _ in found)
    return {name.removeprefix(own): np.array(z, dtype=float) for name, z in found if not several or own in name}


def marked(page, plot, panel=0):
    """The cells of a site's panel by their mark, as layer.head; "no gap": those that are grey."""
    draw(page, plot)
    found = page.evaluate(
        """([id, site, panel]) => {
            const {data, layout} = document.getElementById(id), maps = [...data].filter((trace) => trace.coloraxis);
            const several = maps.some(({name}) => name.startsWith(`${site}, `));
            const {yaxis} = maps.filter(({name}) => !several || name.startsWith(`${site}, `))[panel];
            const there = [...data].filter((trace) => trace.yaxis === yaxis && !trace.coloraxis);
            const grey = ({z}) => z.flatMap((row, y) => row.map((one, x) => [one, `${y}.${x}`]))
                .filter(([one]) => one === 1).map(([, cell]) => cell);
            const cell = (x, y) => `${Math.round(y)}.${Math.round(x)}`;
            const points = ({x, y}) => [...x].map((_, i) => cell(x[i], y[i]));
            const at = (dot) => cell(...dot.split("L")[0].split(",").map(Number));
            const dots = ({path}) => path.slice(1).split("M").map(at);
            const drawn = layout.shapes.filter(({yref, name}) => yref === yaxis && name && name !== "few");
            const traces = there.map((trace) => [trace.name, trace.z ? grey(trace) : points(trace)]);
            return [...traces, ...drawn.map((shape) => [shape.name, dots(shape)])];
        }""",
        [plot, site_of(plot), panel],
    )
    cells = {}
    for name, own in found:
        cells.setdefault(name, set()).update(own)
    return cells


def caption(page, plot):
    draw(page, plot)
    return page.locator(f"figure:has(#{plot}) figcaption").inner_text()


def z_rows(output):
    """Recovered by patching each head's output: one row a run, corruption, step and head."""
    rows = with_approximate(load(output).patching).query("site == 'z'")
    return rows.assign(recovered=recovered(rows), change=rows["patched"] - rows["corrupted"]).astype(
        {"layer": int, "head": int}
    )


def grid(rows, value="recovered", how="mean"):
    """Layer × head."""
    return rows.groupby(HEAD)[value].agg(how).unstack().to_numpy()


def jobs_of(output, corruption, *run_ids):
    """The patch jobs of some runs, or of all, with what they found prompt by prompt."""
    frames = load(output)
    patches = frames.patches.query("corruption == @corruption")
    patches = patches[patches["run_id"].isin(run_ids or frames.runs["run_id"])]
    return jobs(frames.output, frames.runs, patches["patch_id"], attribution=True)


def family_of(output, corruption, *run_ids, site="z"):
    """What inference finds of a site."""
    return family(site, jobs_of(output, corruption, *run_ids))


def verdicts(family, step, judged=None):
    """The verdict of each head at a checkpoint."""
    found = (judged or family.judged).words[family.at(step)]
    return {words.name(place): str(one) for place, one in zip(family.places, found, strict=True)}


def table(page):
    """The tables of heads by their caption: rows of text."""
    found = page.evaluate("""() => {
        const cells = (row) => [...row.cells].map((cell) => cell.textContent);
        const tables = [...document.querySelectorAll("#heads-tables table")];
        return tables.map((table) => [table.caption.textContent, [...table.tBodies[0].rows].map(cells)]);
    }""")
    return dict(found)


def numbers(text):
    return [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", text)]
