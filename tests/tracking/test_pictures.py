"""Heatmaps of heads, as arrays."""

from __future__ import annotations

import numpy as np
import pytest

from mi_sweeps.tracking.pictures import SIDE, heatmap

HEADS = [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_white_at_zero_red_at_one_blue_at_minus_one_grey_where_nothing_is_defined():
    image = heatmap(HEADS, {(0, 0): 0.0, (0, 1): 1.0, (1, 0): -1.0})
    white, red, blue, grey = image[[0, 0, -1, -1], [0, -1, 0, -1]].astype(int)
    assert white.min() > 240
    assert red[0] > red[2] + 50
    assert blue[2] > blue[0] + 50
    assert grey.max() == grey.min() < 240
    assert image.dtype == np.uint8


@pytest.mark.parametrize("layers, heads", [(4, 4), (12, 12), (48, 25)])
def test_every_head_is_a_square_and_large_models_fit(layers, heads):
    down, across, colours = heatmap([(layers - 1, heads - 1)], {}).shape
    assert (down / layers, colours) == (across / heads, 3)
    assert max(down, across) <= SIDE
