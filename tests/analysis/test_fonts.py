"""A PDF's letters come from a small font, or from the whole one if it lacks them."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.font_manager import FontProperties

from mi_sweeps.analysis import fonts, plotting
from mi_sweeps.analysis.gallery import _save


def embedded(title, folder):
    """The fonts of a picture's PDF, without what tells their parts apart."""
    with plotting.grid(1, 1, title, plotting.Source(("run",), (12,))) as (picture, _):
        pass
    pdf = _save(picture, folder / "a.pdf", "pdf").read_bytes()
    assert b"/Type3" not in pdf
    return sorted(name.decode() for name in re.findall(rb"/FontName /[A-Z]{6}\+(\S+)", pdf))


@pytest.mark.filterwarnings("error:Glyph")  # of letters that are missing
def test_letters_that_the_small_font_lacks_come_from_the_whole_one(tmp_path):
    assert embedded("Zz − ●", tmp_path) == ["DejaVuSans", *["DejaVuSans-Bold"] * 2]
    assert embedded("Zz − ● Ж", tmp_path) == ["DejaVuSans", *["DejaVuSans-Bold"] * 2]
    assert fonts.has(["Zz\n− ●"]) and not fonts.has(["Zz", "Ж"])


def test_text_is_as_wide_in_both():
    renderer = RendererAgg(100, 100, 2000)
    for weight in ("normal", "bold"):
        for text in ("aA0−●·→αéβ×“≤≥", "lr 3e-05, schedule constant", "held-out win rate 91%"):
            widths = {
                renderer.get_text_width_height_descent(text, FontProperties(family=name, weight=weight), False)[0]
                for name in (fonts.small(), fonts.FAMILY)
            }
            assert len(widths) == 1, text


def test_the_small_font_is_gone_at_the_end(tmp_path):
    code = "from mi_sweeps.analysis import fonts; fonts.small(); import os; print(os.listdir(os.environ['TMPDIR']))"
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "mi-sweeps-" in ended.stdout and not list(tmp_path.glob("mi-sweeps-*"))
