"""A small copy of the figures' font, for PDF.

To embed a few letters, matplotlib reads the whole font. The 6000 glyphs of DejaVu take as long as the rest of a PDF.
"""

from __future__ import annotations

import atexit
import shutil
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from fontTools import subset
from matplotlib.font_manager import FontProperties, findfont, fontManager

LETTERS = frozenset(
    (*range(0x20, 0x180), *range(0x370, 0x400), *range(0x2000, 0x2070), *range(0x2190, 0x2300), *range(0x25A0, 0x2600))
)
"""Latin and Greek letters, punctuation, arrows, mathematical signs and shapes."""

FAMILY = "DejaVu Sans"
NAMES_OF_FAMILY = (1, 16)
"""Ids of the family's name in a font's table of names."""


@cache
def small() -> str:
    """Make the small font, regular and bold, and register it with matplotlib; return its family."""
    folder = mkdtemp(prefix="mi-sweeps-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    name = f"mi-sweeps {FAMILY}"
    for weight in ("normal", "bold"):
        file = Path(folder) / f"{weight}.ttf"
        _cut(findfont(FontProperties(family=FAMILY, weight=weight)), file, name)
        fontManager.addfont(file)
    return name


def has(texts: Iterable[str]) -> bool:
    """Whether the small font has every letter of these texts."""
    return all(ord(letter) in LETTERS for text in texts for letter in text if letter != "\n")


def _cut(whole: str, file: Path, name: str) -> None:
    options = subset.Options(glyph_names=True, legacy_kern=True)
    # `kern` is enough to space pairs of letters. The other tables that shape text take longer to cut than all letters.
    options.drop_tables += ["FFTM", "MATH", "GSUB", "GPOS", "GDEF"]
    cut = subset.Subsetter(options)
    cut.populate(unicodes=LETTERS)
    with subset.load_font(whole, options) as font:
        cut.subset(font)
        for record in font["name"].names:
            if record.nameID in NAMES_OF_FAMILY:
                record.string = name
        font.save(file)
