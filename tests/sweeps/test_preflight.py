"""The checks and notes before a sweep begins."""

from __future__ import annotations

import pytest

from mi_sweeps.errors import UserError
from mi_sweeps.sweeps import preflight
from mi_sweeps.sweeps.grid import expand


def test_slow_settings_are_reported_once(small):
    points = expand([*small, "launcher.device=cpu", "train.weights=bf16", "train.only=attention,mlp"])
    assert [line.split(":")[0] for line in preflight.check(points) if "slow" in line] == ["train.weights=bf16"]


@pytest.mark.parametrize(
    ("asked", "result"),
    [
        (["patching.circuits={given: [a9.h9]}"], "no node a9.h9 here"),
        (["patching.circuits=true", "patching.prompts=1"], "there is only one prompt"),
    ],
)
def test_circuits_that_cannot_be_judged_are_refused_before_the_fine_tune(small, asked, result):
    with pytest.raises(UserError, match=result):
        preflight.check(expand([*small, "output=unused", *asked]))


def test_the_same_prompts_are_described_once():
    lines = preflight.check(expand(["sweep=nope", "seed=0"]))  # Of one layer and of two.
    assert len(lines) == len(set(lines)) and "task=previous_token" in lines
