"""The ready-made series: their patterns and steps fit the published revisions."""

from __future__ import annotations

import pytest

from mi_sweeps.config import SeriesConfig
from mi_sweeps.store import hashes
from mi_sweeps.sweeps.grid import expand
from tests.hub import Hub, a_new_process

PYTHIA = [f"step{step}" for step in (0, *(2**n for n in range(10)), *range(1000, 143001, 1000))]
STANFORD = [
    f"checkpoint-{step}"
    for step in (*range(0, 100, 10), *range(100, 2000, 50), *range(2000, 20000, 100), *range(20000, 400001, 1000))
]
OLMO = [
    f"stage1-step{step}-tokens{-(-step * 2**21 // 10**9)}B"
    for step in (0, 300, 23100, *range(10000, 1900001, 10000), 1907359)
]

READY = {
    **{f"pythia-{size}": (f"EleutherAI/pythia-{size}", PYTHIA) for size in ("70m", "160m", "410m")},
    "pythia-160m-seeds": ("EleutherAI/pythia-160m-seed1", PYTHIA),
    "olmo2-1b": ("allenai/OLMo-2-0425-1B", [*OLMO, "stage2-ingredient1-step23852-tokens51B"]),
    **{
        f"gpt2-{run}": (f"stanford-crfm/{run}-gpt2-small-x{seed}", STANFORD)
        for run, seed in {"alias": 21, "battlestar": 49, "caprica": 81, "darkmatter": 343, "expanse": 777}.items()
    },
}


@pytest.mark.parametrize("name", READY)
def test_a_ready_series_is_found(hub: Hub, name: str, tmp_path) -> None:
    repo, revisions = READY[name]
    assert len(PYTHIA) == 154 and len(STANFORD) == 609
    files = {"config.json": b'{"model_type": "gpt_neox"}', "tokenizer.json": b"{}"}
    for revision in ["main", *revisions]:
        hub.add(repo, revision, {**files, "model.safetensors": revision.encode()})
    (point,) = expand([f"model={name}", "task=ioi2", f"output={tmp_path}"])
    model, steps = point.config.model, point.config.checkpoint_steps
    assert isinstance(model, SeriesConfig) and model.name == name
    assert 10 < len(steps) < 25 and steps == sorted(steps)
    from mi_sweeps.series import checkpoints

    series = checkpoints.of(point.config)
    assert not series.missing_steps and [one.step for one in series.checkpoints] == steps
    assert {one.name for one in series.checkpoints} <= set(revisions)
    # Only what is looked at is asked about.
    assert sum("/revision/" in one for one in hub.asked) == len(steps)


def test_ready_series_are_swept_over_and_so_are_seeds_of_one(hub: Hub, tmp_path) -> None:
    for repo in ("pythia-70m", "pythia-160m", "pythia-160m-seed1", "pythia-160m-seed2"):
        for revision in PYTHIA[:3]:
            content = f"{repo} {revision}".encode()
            hub.add(
                f"EleutherAI/{repo}",
                revision,
                {"config.json": b"{}", "tokenizer.json": b"{}", "model.safetensors": content},
            )
    for words in (["model=pythia-70m,pythia-160m"], ["model=pythia-160m-seeds", "seed=1,2"]):
        points = expand([*words, "checkpoint.steps=[0,1,2]", f"output={tmp_path}"])
        assert len({point.run_id for point in points}) == 2
        assert [point.config.checkpoint_steps for point in points] == [[0, 1, 2]] * 2


def test_what_a_run_has_remembered_is_not_asked_again(hub: Hub, tmp_path) -> None:
    files = {"config.json": b"{}", "tokenizer.json": b"{}"}
    for step in range(12):
        hub.add("org/lm", f"step{step}", {**files, "model.safetensors": b"%d" % step})
    given = ["model=series", "model.hub=org/lm", "model.revision=step{step}", f"output={tmp_path}"]
    (first,) = expand(given)
    assert sum("/revision/" in one for one in hub.asked) == 12
    hashes.keep(tmp_path)
    a_new_process()
    hub.asked.clear()
    (again,) = expand(given)
    assert again == first and hub.asked == ["GET /api/models/org/lm/refs"]


def test_a_revision_without_weights_is_a_gap(hub: Hub, tmp_path) -> None:
    whole = {"config.json": b"{}", "tokenizer.json": b"{}", "pytorch_model.bin": b"weights"}
    hub.add("org/lm", "step0", whole)
    hub.add("org/lm", "step8", {"config.json": b"{}", "README.md": b""})
    hub.add("org/lm", "step16", {"README.md": b""})
    from mi_sweeps.series import checkpoints

    given = ["model=series", "model.hub=org/lm", "model.revision=step{step}", f"output={tmp_path}"]
    (point,) = expand([*given, "checkpoint.steps=[0,8,16,24]"])
    assert dict(checkpoints.of(point.config).missing_steps) == {
        8: "org/lm@step8: no weights there",
        16: "org/lm@step16: no config.json there",
        24: "model.hub=org/lm model.revision=step{step}: nothing there for step 24",
    }
