"""What happens to every engine's results."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch

from mi_sweeps.analysis import heatmaps
from mi_sweeps.circuits.architectures import HEAD_SITES
from mi_sweeps.circuits.engine import POSITION_SITES, Patched, check_effects, correlations, prompt_rows, table_rows
from mi_sweeps.config import Site
from mi_sweeps.errors import UserError

NAN = float("nan")
EXACT = Patched(
    torch.tensor([3.0, 4.0, 5.0]),
    torch.tensor([1.0, 1.0, 2.0]),
    {
        "z": torch.tensor([[[1.0, 2.0, 2.0], [3.0, 4.0, 5.0]]]),
        "resid_pre": torch.tensor([[[1.5, NAN, 2.0], [3.0, 4.0, 5.0]]]),
    },
    ["scene -1", "end"],
)


def test_every_site_is_by_position_or_by_head_and_drawn_as_that():
    assert sorted(get_args(Site)) == sorted([*POSITION_SITES, *HEAD_SITES])
    assert (POSITION_SITES, HEAD_SITES) == (heatmaps.POSITION_SITES, heatmaps.HEAD_SITES)


def test_rows_are_means_over_the_prompts_that_have_the_site_and_keep_each():
    rows = table_rows(EXACT)
    assert [(row["site"], row["layer"], row["head"], row["position"]) for row in rows] == [
        ("z", 0, 0, None),
        ("z", 0, 1, None),
        ("resid_pre", 0, None, "scene -1"),
        ("resid_pre", 0, None, "end"),
    ]
    scene = rows[2]
    assert (scene["patched"], scene["clean"], scene["corrupted"], scene["n"]) == (1.75, 4.0, 1.5, 2)
    assert scene["by_prompt"] == [1.5, None, 2.0]
    assert "approximate" not in scene
    prompts = prompt_rows(EXACT.clean, EXACT.corrupted)
    assert [(row["prompt"], row["clean"], row["corrupted"]) for row in prompts] == [(0, 3, 1), (1, 4, 1), (2, 5, 2)]


def test_estimates_stand_beside_exact_values_and_never_in_their_place():
    estimates = replace(EXACT, sites={site: values + 1 for site, values in EXACT.sites.items()})
    both, alone = table_rows(EXACT, estimates), table_rows(None, estimates)
    assert both[2]["approximate"] == pytest.approx(both[2]["patched"] + 1)
    assert all(row["patched"] is None and row["by_prompt"] is None for row in alone)
    assert [row["approximate"] for row in alone] == [row["approximate"] for row in both]
    assert [row["n"] for row in alone] == [3, 3, 2, 3]


def test_correlations_are_pearson_s_over_the_sites_of_a_family():
    generator = torch.Generator().manual_seed(0)
    exact = replace(EXACT, sites={"z": torch.randn(2, 4, 3, generator=generator)})
    estimates = replace(EXACT, sites={"z": exact.sites["z"] + torch.randn(2, 4, 3, generator=generator)})
    effects = [(part.sites["z"] - EXACT.corrupted).mean(-1).flatten().numpy() for part in (exact, estimates)]
    assert correlations(exact, estimates) == {"z": pytest.approx(np.corrcoef(*effects)[0, 1], abs=1e-5)}
    assert correlations(exact, exact) == {"z": pytest.approx(1)}


def test_a_family_of_patches_that_does_nothing_is_an_error(make_test_pairs):
    pairs = make_test_pairs("first", count=6)
    check_effects(pairs, EXACT)
    idle = EXACT.corrupted.expand(1, 2, 3).clone()
    idle[0, 0, 1] = NAN
    with pytest.raises(UserError, match="no patch of mlp_out changes anything.*leave mlp_out out of patching.sites"):
        check_effects(pairs, replace(EXACT, sites={**EXACT.sites, "mlp_out": idle}))
    with pytest.raises(UserError, match="clean and corrupted prompts are the same"):
        check_effects(replace(pairs, corrupted=pairs.clean), EXACT)
