"""What is told before a sweep begins."""

from __future__ import annotations

from mi_sweeps.sweeps import preflight
from mi_sweeps.sweeps.grid import expand


def test_what_is_slow_is_told_once(small):
    cells = expand([*small, "launcher.device=cpu", "train.weights=bf16", "train.only=attention,mlp"])
    assert [line.split(":")[0] for line in preflight.check(cells) if "slow" in line] == ["train.weights=bf16"]
