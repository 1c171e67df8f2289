"""The benchmark runs on models that take no time, its tables are whole, and it says when the engine is wrong."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mi_sweeps.circuits.fast import FastEngine

FOLDER = Path(__file__).parents[1] / "benchmarks"
TINY = {"n_head": 2, "n_embd": 16, "vocab_size": 50, "n_positions": 16}


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script as a module."""
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("patching")


def rows(text: str, title: str) -> list[list[str]]:
    """The table under a title: the names of its columns, and its rows."""
    lines = text.partition(f"### {title}")[2].partition("###")[0].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    assert cells[1] == ["---"] * len(cells[0]) and {len(row) for row in cells} == {len(cells[0])}
    return [cells[0], *cells[2:]]


def test_tables_and_agreement(benchmark: Any, capsys: pytest.CaptureFixture) -> None:
    assert benchmark.main(["--shapes", "tiny", "--repeats", "2", "--sample", "1"]) == 0
    out = capsys.readouterr().out
    names, *found = rows(out, "Seconds for all sites")
    # 2 layers of 3 x 12 positions and 3 x 2 heads; ten sites of each family, or the four that there are.
    assert [row[:4] for row in found] == [
        ["tiny", "3 x 12", kind, "84 (42)"] for kind in ("late and few", "all differ")
    ]
    assert all(float(row[names.index("largest difference (largest effect)")].split()[0]) < 1e-5 for row in found)
    assert len(rows(out, "TransformerLens, milliseconds a site")) == len(rows(out, "FLOPs")) == 3
    assert "Targets" not in out


def test_a_wrong_engine_fails(benchmark: Any, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    right = FastEngine.patch

    def wrong(self: FastEngine, *arguments: Any) -> Any:
        patched = right(self, *arguments)
        return replace(patched, sites={**patched.sites, "v": patched.sites["v"] + 1e-3})

    monkeypatch.setattr(FastEngine, "patch", wrong)
    assert benchmark.main(["--shapes", "tiny", "--repeats", "1", "--sample", "1"]) == 1
    assert "differs from TransformerLens by more than 0.0001: tiny, late and few; tiny" in capsys.readouterr().out


def test_growth(benchmark: Any) -> None:
    axes = {"prompts": (1, 3), "positions": (10, 15), "layers": (1, 2)}
    found = benchmark.growth(TINY, axes, benchmark.parse(["--repeats", "1"]))
    assert [row[:2] for row in found] == [[axis, str(value)] for axis, values in axes.items() for value in values]
    # One layer has 3 x 10 or 3 x 15 positions and 3 x 2 heads.
    assert [row[2] for row in found] == ["1.00", "3.00", "1.00", f"{51 / 36:.2f}", "1.00", "2.00"]
    assert [row[3] for row in found] == ["1.00", "3.00", "1.00", f"{51 * 15 / (36 * 10):.2f}", "1.00", "4.00"]


def test_overhead_of_a_patch_job(benchmark: Any) -> None:
    few = ["task.prompts.heldout=12", "task.prompts.two_name=4", "train.steps=1", "checkpoint.steps=[]"]
    row, share = benchmark.overhead("mini", benchmark.parse([]), *few)
    assert row[:2] == ["mini", "2"] and share > 0
    assert sum(float(cell.partition("(")[2].rstrip("%)")) for cell in row[2:6]) == pytest.approx(100, abs=0.3)


def test_products_in_place_are_counted(benchmark: Any) -> None:
    count_flops = importlib.import_module("compare").count_flops
    a, b = torch.ones(4, 5), torch.ones(5, 6)
    assert count_flops(lambda: torch.zeros(4, 6).addmm_(a, b)) == count_flops(lambda: a @ b) == 240


def test_smollm2_needs_its_folder(benchmark: Any) -> None:
    with pytest.raises(SystemExit):
        benchmark.parse(["--shapes", "smollm2"])
    assert "smollm2" not in benchmark.parse([]).shapes and "smollm2" in benchmark.parse(["--model", "dir"]).shapes
