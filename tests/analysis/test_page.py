"""The page in a real browser: what a reader sees and does there."""

from __future__ import annotations

from mi_sweeps.analysis.report import write_report


def test_the_page_opens_and_draws(make_output, open_page):
    page = open_page(write_report(make_output()))
    page.wait_for_selector("#curves-plot .main-svg")
    assert page.locator("#runs-table tbody tr").count() == 1
