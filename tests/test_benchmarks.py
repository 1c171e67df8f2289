"""The benchmarks run on small models, their tables are complete, and they report a wrong engine."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mi_sweeps.analysis import frames
from mi_sweeps.circuits import ablated_sets
from mi_sweeps.circuits.fast import FastEngine
from mi_sweeps.config import Config
from mi_sweeps.jobs.finetune import finetune
from mi_sweeps.jobs.patch import patch
from mi_sweeps.store.folders import run_folder
from mi_sweeps.sweeps import manifest, plan
from mi_sweeps.sweeps.grid import expand

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
    assert len(rows(out, "TransformerLens, milliseconds per site")) == len(rows(out, "FLOPs")) == 3
    assert "Targets" not in out


def test_a_wrong_engine_fails(benchmark: Any, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    right = FastEngine.patch

    def wrong(self: FastEngine, *arguments: Any) -> Any:
        patched = right(self, *arguments)
        return replace(patched, sites={**patched.sites, "v": patched.sites["v"] + 1e-3})

    monkeypatch.setattr(FastEngine, "patch", wrong)
    assert benchmark.main(["--shapes", "tiny", "--repeats", "1", "--sample", "1"]) == 1
    assert "differs from TransformerLens by more than 0.0001: tiny, late and few; tiny" in capsys.readouterr().out


def test_edges_take_less_than_one_forward_each(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    edges = importlib.import_module("edges")
    assert edges.main(["--shapes", "tiny", "--repeats", "1"]) == 0
    names, *found = rows(capsys.readouterr().out, "All edges")
    # By hand: 12 into layer 0's heads and 5 into its MLP, 6 x 12 and 10 into layer 1's, 11 into the logits. The task's
    # prompts, "… and SUBJECT gave a book to", differ at the second subject, or two tokens before it.
    assert [row[:5] for row in found] == [
        ["tiny", "3 x 19", "second", "5", "110"],
        ["tiny", "3 x 19", "first", "7", "110"],
        ["tiny", "3 x 12", "late and few", "9", "110"],
        ["tiny", "3 x 12", "all differ", "12", "110"],
    ]
    assert all(float(row[names.index("times less")]) > 1 for row in found)
    assert edges.main(["--shapes", "tiny", "--repeats", "0", "--heads", "2"]) == 0
    flops = slice(5, 8)
    assert [row[flops] for row in rows(capsys.readouterr().out, "All edges")[1:]] == [row[flops] for row in found]


def test_sets_cost_little_more_than_the_nodes_that_they_keep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    circuits = importlib.import_module("circuits")
    sizes = {"n_layer": 4, "n_head": 4, "n_embd": 64, "vocab_size": 50, "n_positions": 16}
    case = importlib.import_module("cases").random_case("few", sizes, 2, 12, circuits.parse([]))
    pairs, nodes = case.pairs[circuits.LATE], ablated_sets.nodes_of(case.network)
    kept = torch.rand(40, len(nodes), generator=torch.Generator().manual_seed(0)) < 0.5
    counted = importlib.import_module("compare").count_flops
    # What is beside the sets: the clean run, and that of which the means are.
    none = counted(ablated_sets.ablate_sets, case.network, pairs, nodes, torch.ones_like(kept[:1]), None, 1 << 29)
    ours = counted(ablated_sets.ablate_sets, case.network, pairs, nodes, kept, None, 1 << 29) - none
    fewest = circuits.least(case.network, nodes, kept, circuits.FROM_END, 12) * len(pairs.clean)
    assert fewest < ours < 1.4 * fewest
    # One head of the last layer by hand: its keys and values in all columns, queries, scores, mean and output in one.
    one = torch.tensor([[node == (3, 2) for node in nodes]])
    assert circuits.least(case.network, nodes, one, 9, 12) == 2 * 64 * 16 * (9 + 9 + 1 + 1) + 2 * 2 * 12 * 16


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
    assert sum(float(point.partition("(")[2].rstrip("%)")) for point in row[2:6]) == pytest.approx(100, abs=0.3)


def test_products_in_place_are_counted(benchmark: Any) -> None:
    count_flops = importlib.import_module("compare").count_flops
    a, b = torch.ones(4, 5), torch.ones(5, 6)
    assert count_flops(lambda: torch.zeros(4, 6).addmm_(a, b)) == count_flops(lambda: a @ b) == 240


def test_smollm2_needs_its_folder(benchmark: Any) -> None:
    with pytest.raises(SystemExit):
        benchmark.parse(["--shapes", "smollm2"])
    assert "smollm2" not in benchmark.parse([]).shapes and "smollm2" in benchmark.parse(["--model", "dir"]).shapes


@pytest.fixture(scope="module")
def simulate() -> Any:
    """The simulator of many points' folders."""
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(FOLDER)
        yield importlib.import_module("simulate")


@pytest.fixture(scope="module")
def done(simulate: Any, small: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A point that was done in this process, which has torch already."""
    (point,) = expand([*small, f"output={tmp_path_factory.mktemp('sample')}"])
    run, job = plan.folders_of(point)
    finetune(point.config, run)
    patch(point.config, run, job)
    return simulate.Sample(run, job)


def test_simulated_points_are_what_they_say(simulate: Any, done: Any, small: tuple[str, ...], tmp_path: Path) -> None:
    points = expand([*small, "seed=range(0,100)", "corruption=first,second", f"output={tmp_path / 'outputs'}"])
    with ExitStack() as at_work:
        simulate.fill(points, done, at_work)
        runs, patches = plan.make(points).counts()
        assert runs == {"done": 93, "failed": 2, "running": 1, "to do": 4}
        assert patches == {"done": 184, "failed": 2, "to do": 14}
    manifest.add(points[0].output, "many", points, "")
    loaded = frames.load(points[0].output)
    assert set(loaded.patches["status"]) == {"done", "failed", "todo"}
    assert loaded.patching["run_id"].nunique() == loaded.metrics["run_id"].nunique() == 93


def test_scale(
    done: Any, small: tuple[str, ...], capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    scale = importlib.import_module("scale")
    monkeypatch.setattr(scale, "sample", lambda *_: done)
    monkeypatch.setattr(scale, "traced", lambda _: [])
    scale.main(["--points", "10", "--repeats", "1", "--set", *small])
    out = capsys.readouterr().out
    seconds = {row[0]: float(row[1].split(";")[0]) for row in rows(out, "Seconds; CPU-seconds")[1:]}
    assert {"plan: overrides to points", "`mi-sweeps status`", "frames: all tables", "`mi-sweeps report`"} <= set(
        seconds
    )
    memory = {row[0]: float(row[1]) for row in rows(out, "Memory, MB at most")[1:]}
    assert memory["`mi-sweeps status`"] < memory["`mi-sweeps report`"]
    assert rows(out, "On disk")[1][:4] == ["run", "9", "2", "2.59 in 3"]


def test_growth_is_relative_to_points(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    scale = importlib.import_module("scale")
    assert scale.growth({10: [1.0], 100: [5.0, 9.0, 1.0], 1000: [100.0]}) == "2.00"


def test_questions_are_counted_below_a_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    scale = importlib.import_module("scale")
    for job in ("finetune", "patch"):
        (tmp_path / f"{job}.strace").write_text(
            f'12 openat(AT_FDCWD</x>, "{tmp_path}/runs/a", O_RDONLY) = 3<{tmp_path}/runs/a>\n'
            f"12 fsync(3<{tmp_path}/runs/a>) = 0\n"
            '12 openat(AT_FDCWD</x>, "/usr/lib/x", O_RDONLY) = 3\n'
        )
    found = scale.questions(tmp_path, tmp_path / "runs")
    assert [row[0] for row in found] == ["finetune", "patch"]
    assert dict(zip(scale.CALLS, found[0][1:], strict=True)) == {call: "0" for call in scale.CALLS} | {
        "openat": "1",
        "fsync": "1",
    }


def test_runs_together_and_one_after_another(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    stacked = importlib.import_module("stacked")
    tiny = ("model.d_model=16", "task.length=8", "task.heldout=8", "train.steps=2", "checkpoint.steps=[]")
    monkeypatch.setattr(stacked, "MODELS", {"tiny": (*stacked.NOPE, *tiny)})
    options = ("--stacks", "2", "3", "--batches", "4", "--threads", "1", "--steps", "2", "--repeats", "2", "--whole")
    stacked.main(["--models", "tiny", *options])
    out = capsys.readouterr().out
    _, *found = rows(out, "A step of one run, 1 threads")
    assert [row[:3] for row in found] == [["tiny", "4", "2"], ["tiny", "4", "3"]]
    assert all(float(row[5].split()[0]) > 0 for row in found)
    assert len(rows(out, "A step of one run in a whole sweep")) == 2


def test_vmap_takes_the_same_steps(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, make_config: Callable[..., Config]
) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    stacked = importlib.import_module("stacked")
    tiny = (*stacked.NOPE, "schedule=constant", "model.d_model=16", "model.d_mlp=8", "task.length=8", "task.heldout=8")
    configs = [make_config(*tiny, f"seed={seed}") for seed in (0, 1)]
    runs = [stacked.begin(config, run_folder(config.output, str(config.seed))) for config in configs]
    other = stacked.Vmapped(runs)
    other(3)
    stacked.one_after_another(runs, 3)
    for place, run in enumerate(runs):
        for name, weight in run.model.named_parameters():
            assert torch.allclose(other.weights[name][place], weight, atol=1e-5), name
    monkeypatch.setattr(stacked, "MODELS", {"tiny": tiny, "mini": ()})
    options = ("--stacks", "2", "--batches", "4", "--threads", "1", "--steps", "2", "--repeats", "2", "--vmap")
    stacked.main(options)
    found = rows(capsys.readouterr().out, "A step of one run, 1 threads")
    assert "CPU ms vmap" in found[0] and [row[0] for row in found[1:]] == ["tiny"]


def test_memory_is_measured_beside_what_the_plan_says(monkeypatch, capsys, tmp_path):
    """Here in one process, whose memory is that of all tests before."""
    monkeypatch.syspath_prepend(FOLDER)
    memory = importlib.import_module("memory")
    monkeypatch.setattr(memory, "CASES", memory.CASES[:1])
    monkeypatch.setattr(memory, "apart", lambda stage, overrides: memory.measure(stage, *overrides))
    memory.main(["--shapes", "mini"])
    lines = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| mini")]
    assert [line[1:3] for line in lines] == [["finetune", "`train.method=full`"], ["patch", "`train.method=full`"]]
    for *_, found, estimated in lines:
        assert int(found.replace(",", "")) > 100
        assert 500 < int(estimated.rstrip("| ").replace(",", "")) < 1000


def test_what_a_run_spends(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, small: tuple[str, ...]
) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    run = importlib.import_module("run")
    monkeypatch.setattr(run, "RUN", ["run", *small, "corruption=first", "sweep.name=short"])
    run.main(["--repeats", "1"])
    out = capsys.readouterr().out
    alone, whole, ratio = (float(seconds) for _, seconds in rows(out, "Start")[1:])
    assert whole > 0 and ratio == pytest.approx(whole / alone, rel=0.05)
    training, evaluation, share = (float(seconds) for _, seconds in rows(out, "Evaluation")[1:])
    assert training > 0 and evaluation > 0 and share == pytest.approx(evaluation / training, rel=0.05)
