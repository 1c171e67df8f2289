"""What the tests of the page ask of it."""

from __future__ import annotations

import json
import re


def draw(page, plot):
    """Scroll to a picture and wait until it is drawn as the controls have it: pictures are drawn when they are near the
    window, and one that is drawn may push those below it away again."""
    page.locator(f"figure:has(#{plot})").scroll_into_view_if_needed()
    page.wait_for_function(
        """id => {
            const { figure, near, stale } = pictures.find(({ plot }) => plot.id === id) ?? {};
            if (figure && !near) figure.scrollIntoView({ block: "nearest" });
            return near && !stale;
        }""",
        arg=plot,
    )


def rows(page, table="#runs-table"):
    """The text of each row's cells by the heads of its columns."""
    page.wait_for_selector(f"{table} thead th", state="attached")
    heads = page.locator(f"{table} thead th").all_inner_texts()
    return [
        dict(zip(heads, row.locator("th, td").all_inner_texts(), strict=True))
        for row in page.locator(f"{table} tbody tr").all()
    ]


def numbers(text):
    return [float(number) for number in re.findall(r"[+-]?\d+\.?\d*(?:e-?\d+)?", text)]


def group_by(page, *keys):
    for key in keys:
        page.get_by_role("group", name="Group rows by").get_by_label(key, exact=True).check()


def draw_parallel(page):
    draw(page, "parallel-plot")
    page.wait_for_selector("#parallel-plot .main-svg")


def change(run_json, **groups):
    about = json.loads(run_json.read_text())
    for group, values in groups.items():
        about["config"][group] = about["config"].get(group, {}) | values
    run_json.write_text(json.dumps(about))
