"""`mi-sweeps audit` as a user sees it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mi_sweeps import cli
from mi_sweeps.models.mini import FOLDER
from tests.hub import Hub
from tests.series.trajectories import CONSTANT, stored, trajectory

STEPS = [0, 1, 2, 4, 8, 16, 32, 64]
CONFIG = json.dumps({"model_type": "gpt2"}).encode()

Call = Callable[..., tuple[object, list[str], str]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    """Runs the command; gives its exit code, the lines it printed and what it complained of."""

    def run(*words: str) -> tuple[object, list[str], str]:
        with pytest.raises(SystemExit) as stopped:
            cli.main(["audit", "model=series", *words])
        printed = capsys.readouterr()
        return stopped.value.code, printed.out.splitlines(), printed.err

    return run


@pytest.fixture(scope="module")
def contents() -> dict[int, bytes]:
    """A clean series."""
    made = trajectory(np.random.default_rng(5), STEPS, "cosine")
    return {step: stored({**weights, **CONSTANT}) for step, weights in zip(STEPS, made, strict=True)}


def put(folder: Path, contents: dict[int, bytes]) -> str:
    for step, weights in contents.items():
        (folder / f"checkpoint-{step}").mkdir()
        (folder / f"checkpoint-{step}" / "config.json").write_bytes(CONFIG)
        (folder / f"checkpoint-{step}" / "model.safetensors").write_bytes(weights)
    return f"model.path='{folder}/checkpoint-{{step}}'"


def test_a_clean_series_of_folders(call: Call, tmp_path: Path, contents: dict[int, bytes]) -> None:
    before = sorted(tmp_path.rglob("*"))
    code, lines, complaints = call(put(tmp_path, contents), f"output={tmp_path / 'outputs'}")
    assert (code, complaints, lines[-1]) == (0, "", "8 of 8 checkpoints can be used")
    assert [line.split()[0] for line in lines[:-1]] == ["step", *map(str, STEPS)]
    assert not before and not (tmp_path / "outputs").exists()  # It writes nothing.


def test_faults_are_marked_and_listed_once(call: Call, tmp_path: Path, contents: dict[int, bytes]) -> None:
    where = put(tmp_path, {**contents, 1: contents[64], 4: contents[64]})
    code, lines, _ = call(where, "checkpoint.steps=[0,1,2,4,5,8,16,32,64]")
    assert code == 1
    assert [line.split()[0] for line in lines if line.endswith("  missing")] == ["1", "4", "5"]
    assert lines[-3:] == [
        "copy at 1, 4: its weights are the same at steps 1, 4 and 64; they belong to step 64",
        f"missing at 5: model.path={tmp_path}/checkpoint-{{step}}: nothing there for step 5",
        "6 of 9 checkpoints can be used",
    ]


def test_a_series_on_the_hub_without_a_download(call: Call, hub: Hub, contents: dict[int, bytes]) -> None:
    for step, weights in {**contents, 0: contents[32]}.items():
        hub.add("some/series", f"step{step}", {"config.json": CONFIG, "model.safetensors": weights})
    code, lines, complaints = call("model.hub=some/series", "model.revision='step{step}'")
    assert (code, complaints) == (1, "")
    assert lines[-2:] == [
        "copy at 0: its weights are the same at steps 0 and 32; they belong to step 32",
        "7 of 8 checkpoints can be used",
    ]
    hashes = [line.split()[3] for line in lines[1:9]]
    assert hashes[0] == hashes[6] and len(set(hashes)) == 7


def test_several_series_are_named(call: Call, hub: Hub, contents: dict[int, bytes]) -> None:
    for name, clean in {"some/series": True, "some/other": False}.items():
        for step in STEPS:
            weights = contents[step if step or clean else 32]
            hub.add(name, f"step{step}", {"config.json": CONFIG, "model.safetensors": weights})
    code, lines, _ = call("model.hub=some/series,some/other", "model.revision='step{step}'")
    assert code == 1
    assert [line for line in lines if line.startswith(("some/", "copy"))] == [
        "some/series",
        "some/other",
        "copy at 0: its weights are the same at steps 0 and 32; they belong to step 32",
    ]


def test_tokenizers_that_differ_matter_where_they_are_used(
    call: Call, tmp_path: Path, contents: dict[int, bytes]
) -> None:
    where = put(tmp_path, contents)
    for step in STEPS:
        vocabulary = {"model": {"vocab": {"a": step // 64}}}
        (tmp_path / f"checkpoint-{step}" / "tokenizer.json").write_text(json.dumps(vocabulary))
    code, lines, _ = call(where)
    assert code == 1
    assert lines[-2:] == [
        "tokenizer at 64: its tokenizer.json is not that of step 0",
        "7 of 8 checkpoints can be used",
    ]
    assert call(where, f"model.tokenizer={FOLDER}")[0] == 0


def test_a_note_says_what_was_not_looked_at(call: Call, tmp_path: Path, contents: dict[int, bytes]) -> None:
    where = put(tmp_path, contents)
    for step in STEPS:
        (tmp_path / f"checkpoint-{step}" / "model.safetensors").rename(
            tmp_path / f"checkpoint-{step}" / "pytorch_model.bin"
        )
    code, lines, _ = call(where)
    assert code == 0
    assert lines[-2:] == [
        "steps 0, 1, 2 and 5 more up to 64: only whole files were compared, because parts of them (such as .bin files) "
        "cannot be read",
        "8 of 8 checkpoints can be used",
    ]


def test_what_is_no_series(call: Call, tmp_path: Path) -> None:
    code, lines, complaint = call("model=mini")
    assert (code, lines) == (2, [])
    assert complaint.startswith("error: model=mini: ") and "model=series" in complaint and complaint.count("\n") == 1
    code, _, complaint = call(f"model.path='{tmp_path}/checkpoint-{{step}}'")
    assert code == 2 and "no checkpoint there" in complaint
