"""The page in a real browser: what a reader sees and does there."""

from __future__ import annotations

import json
import re
from urllib.parse import unquote

import pytest

from mi_sweeps.analysis.report import write_report
from tests.analysis.pages import draw, draw_parallel, group_by, rows


@pytest.mark.slow
def test_the_view_survives_a_reload(sweep, opened):
    page = opened(sweep)
    page.fill("#filter", "seed!=2")
    group_by(page, "schedule")
    page.locator("#runs-controls").get_by_label("Baseline").select_option(label="schedule cosine")
    page.locator("#curves-controls").get_by_label("Metric").select_option("loss")
    page.locator("#curves-controls").get_by_label("step", exact=True).check()
    before = rows(page)
    page.reload()
    draw(page, "curves-plot")
    assert rows(page) == before and len(before) == 2
    assert page.locator("#filter").input_value() == "seed!=2"
    assert page.locator("#curves figcaption").inner_text().startswith("Loss on held-out prompts")
    assert "loss" in unquote(page.url)


@pytest.mark.slow
def test_links_within_the_page_leave_the_view_in_the_address(hostile_output, open_page, report):
    page = open_page(report(hostile_output))
    page.fill("#filter", "seed=0")
    before = page.evaluate("location.href")
    page.locator("a.skip").first.focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "findings"
    assert page.locator("#findings-title").bounding_box()["y"] < 400
    page.locator("#trust a[href='#top']").click()
    assert page.evaluate("document.activeElement.id") == "top"
    assert page.evaluate("scrollY") < 100
    assert page.evaluate("location.href") == before and "seed" in before


@pytest.mark.parametrize(
    "hash",
    [
        "#curves",
        "#view=%7B",
        "#view=null",
        '#view={"circuits":{"unit":"run_id:gone","left":7,"patching":"x","at":-1,"over":null},"heads":{"k":"5","site":{}}}',
        '#view={"filter":3,"interval":"bootstrap","group":["x","seed"],"columns":[null],"sort":{"key":"__proto__"},"curves":{"metric":"toString"}}',
        '#view={"group":"lr","baseline":"gone","chosen":[{}],"curves":{"metric":"loss","split":"<b>","by":7,"thresholds":{"loss":"a"}}}',
    ],
)
@pytest.mark.slow
def test_an_address_that_is_wrong_does_no_harm(sweep, opened, hash):
    page = opened(sweep, hash=hash)
    assert page.locator("#runs-table tbody tr").count() in (12, 3)
    assert page.locator("#curves figcaption b").inner_text() != ""
    assert page.evaluate("state.interval") == "student"


@pytest.mark.slow
def test_the_log_of_a_run_is_a_click_away(sweep, opened, tmp_path, open_page):
    (sweep / "runs" / "run-0.0001-cosine-1" / "log.txt").write_text("it went well")
    links = opened(sweep).locator("#runs-table a")
    assert links.count() == 1  # others have no log
    elsewhere = open_page(write_report(sweep, to=tmp_path / "far" / "away" / "page.html"), alone=True)
    elsewhere.locator("#runs-table a").click()
    assert elsewhere.inner_text("body") == "it went well"


@pytest.mark.slow
def test_the_audit_of_the_prompts_is_shown_once(sweep, opened):
    audit = {
        "names": ["Tom"],
        "splits": {"heldout": {"prompts": 240, "most_frequent_answer": {"answer": "<b>Tom", "share": 0.0417}}},
        "overlap": {"heldout": {"same_text": 3, "same_name_set": 5}},
        "notes": ["two_name: 3 prompts from rows of two names, 5 generated"],
        "slot_rules": {"listed place": 0.3333},
        **{"rows": 10, "kept": 8, "dropped": {"no answer": [3, 7]}},
    }
    runs = sorted((sweep / "runs").iterdir())
    for run in runs[:-1]:
        (run / "audit.json").write_text(json.dumps(audit))
    (runs[-1] / "audit.json").write_text(json.dumps({**audit, "slot_rules": {"listed place": 0.5}}))
    page = opened(sweep)
    assert page.locator("#trust-audits h3").all_inner_texts()[0] == "Prompts of 11 runs"
    assert page.locator("#trust-audits h3").count() == 2
    page.locator("#trust-audits summary", has_text="which runs").click()
    assert page.locator("#trust-audits details").inner_text().count("run-") == 11
    (row,) = rows(page, "#trust-audits > div:first-child table")
    assert row["most frequent answer"] == "<b>Tom 4.17%"
    assert (row["text also in train"], row["name set also in train"]) == ("3", "5")
    result = page.locator("#trust").inner_text()
    assert (
        "listed place 33.3%" in result
        and "3 prompts from rows of two names" in result
        and "no answer: 2 (row 3, 7)" in result
    )
    assert "12 of 12 runs" in result and "mi_sweeps 0.1.0" in result


@pytest.mark.slow
def test_hostile_text_is_shown_and_never_run(hostile_output, opened, folders):
    page = opened(hostile_output, height=16000)
    draw_parallel(page)
    page.get_by_role("button", name="fold seeds").click()
    assert len(rows(page)) == 2  # what failed and what is to do have one schedule
    page.fill("#filter", "bad")
    assert page.locator("#runs-count").inner_text() == "1 of 4 runs in 1 group"
    for box in page.locator("#runs-table input").all():
        box.check()
    page.locator("#columns-count").click()
    assert folders.hostile in page.locator("#top").inner_text()
    assert folders.hostile in page.locator("#runs-table").inner_text()
    assert page.locator("img").count() == 0
    assert page.title() == "mi-sweeps: demo, later<i>"


@pytest.mark.slow
def test_what_is_pressed_stays_in_place_until_it_is_released(make_output, opened):
    """Or a slow click would miss: pictures that have come near push away what is below them."""
    page = opened(make_output(seeds=(0, 1)))
    box = page.get_by_role("group", name="Group rows by").get_by_label("seed", exact=True)
    page.evaluate("watcher.disconnect()")  # near ones are result by hand
    box.scroll_into_view_if_needed()
    at = box.bounding_box()
    page.mouse.move(at["x"] + at["width"] / 2, at["y"] + at["height"] / 2)
    page.mouse.down()
    page.evaluate("pictures.forEach(({ figure }) => watcher.observe(figure))")
    page.wait_for_function("() => pictures.some(({ near, stale }) => near && stale)")
    assert box.bounding_box() == at
    page.mouse.up()
    assert page.evaluate("state.group") == ["seed"]
    page.wait_for_function("() => pictures.every(({ near, stale }) => !near || !stale)")


@pytest.mark.slow
def test_one_run_and_none(make_output, opened, tmp_path):
    page = opened(make_output())
    assert len(rows(page)) == 1
    assert page.locator("#differences-table tr").count() == 0
    assert "Wilson" in page.locator("#curves figcaption").inner_text()
    (tmp_path / "empty").mkdir()
    page = opened(tmp_path / "empty")
    assert page.locator("#runs-count").inner_text() == "0 of 0 runs"


@pytest.mark.slow
def test_on_a_phone_nothing_is_wider_than_the_page(hostile_output, opened):
    page = opened(hostile_output, width=375, height=6000)
    draw_parallel(page)
    for summary in page.locator("summary:visible").all():
        summary.click()
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate("document.documentElement.scrollWidth") <= 375


@pytest.mark.slow
def test_the_slider_moves_all_panels(hostile_output, opened):
    page = opened(hostile_output, height=16000)
    page.wait_for_selector("#resid_pre-plot .main-svg")
    shown = "ids => ids.map(id => JSON.stringify([...document.getElementById(id).data].map(trace => trace.z)))"
    before = page.evaluate(shown, ["z-plot", "resid_pre-plot"])
    page.locator("#checkpoint").fill("1")
    changed = f"before => ({shown})(['z-plot', 'resid_pre-plot']).every((now, i) => now !== before[i])"
    page.wait_for_function(changed, arg=before)  # Plotly follows when the slider rests
    assert page.locator("#checkpoint-text").inner_text() == "checkpoint 8 (2 of 4)"
    result = page.locator("figure:has(#z-plot) figcaption").inner_text()
    assert re.search(r"approximate against exact: r -?0\.\d{3} to -?0\.\d{3}, n 16", result)
    drawn = page.evaluate("[...document.querySelectorAll('.plot.js-plotly-plot')].map(plot => plot.id)")
    assert set(drawn) >= {
        *("curves-plot", "lens-plot", "layer-plot", "z-plot", "q-plot"),
        *("resid_pre-plot", "attn_out-plot", "mlp_out-plot"),
    }
    page.locator("#bar").get_by_label("Corruption").select_option("both")
    panels = "[...document.getElementById('z-approximate-plot').data].filter(({coloraxis}) => coloraxis).length"
    assert page.evaluate(panels) == 3  # z, v and pattern
