"""Folders as trainers write them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerBase

from mi_sweeps.config import Config, ModelConfig
from mi_sweeps.errors import UserError
from mi_sweeps.identity import data_fingerprint, run_id
from mi_sweeps.models import spells_otherwise
from mi_sweeps.models.load import check_files, load_model, load_tokenizer
from mi_sweeps.models.mini import FOLDER
from tests.hub import cached

MakeConfig = Callable[..., Config]


@pytest.fixture
def checkpoint(trained: Path, tmp_path: Path) -> Path:
    """The end of a trainer's run, to change."""
    return shutil.copytree(trained / "full" / "checkpoint-4", tmp_path / "checkpoint-4")


@pytest.fixture
def tokenizer(tmp_path: Path, mini_tokenizer: PreTrainedTokenizerBase) -> Path:
    """A folder with a tokenizer and nothing else."""
    mini_tokenizer.save_pretrained(tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


def of(path: Path | None, **keys: Any) -> ModelConfig:
    return ModelConfig(**{"name": "local", "hub": None, "revision": None, "path": path, "prepend_bos": False, **keys})


def test_a_trainer_s_checkpoint(checkpoint: Path, tokenizer: Path) -> None:
    model = of(checkpoint, tokenizer=str(tokenizer))
    check_files(model)
    network, found = load_model(model)
    weights = load_file(checkpoint / "model.safetensors")
    for name, weight in network.named_parameters():
        assert torch.equal(weight, weights[name])
    assert found is not None and found("John gave").input_ids == load_tokenizer(of(FOLDER))("John gave").input_ids


@pytest.mark.parametrize(
    ("there", "said"),
    [
        ("", "no weights there (model.safetensors or pytorch_model.bin)"),
        ("pytorch_model_fsdp.bin", "FSDP saved them in one file: rename it pytorch_model.bin"),
        ("pytorch_model_fsdp_0/__0_0.distcp", "FSDP saved them in parts: merge these with `accelerate merge-weights`"),
        (
            "global_step4/mp_rank_00_model_states.pt",
            "DeepSpeed saved them in parts: merge these with its zero_to_fp32",
        ),
    ],
)
def test_weights_that_are_not_put_together(checkpoint: Path, tokenizer: Path, there: str, said: str) -> None:
    (checkpoint / "model.safetensors").unlink()
    if there:
        (checkpoint / there).parent.mkdir(exist_ok=True)
        (checkpoint / there).write_bytes(b"weights")
    for read in (check_files, load_model):
        with pytest.raises(UserError, match=rf"model.path={checkpoint}: no weights there .*") as complaint:
            read(of(checkpoint, tokenizer=str(tokenizer)))
        assert said in str(complaint.value)


def test_a_checkpoint_without_a_tokenizer_names_the_key(checkpoint: Path) -> None:
    with pytest.raises(
        UserError, match=rf"model.path={checkpoint}: no tokenizer there; give .* model.tokenizer=DIR or"
    ):
        load_model(of(checkpoint))


def test_a_tokenizer_comes_before_the_model_s_own(tokenizer: Path) -> None:
    file = tokenizer / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model_max_length": 7}))
    for model in (of(FOLDER, tokenizer=str(tokenizer)), of(None, tokenizer=str(tokenizer))):
        found = load_tokenizer(model)
        assert found is not None and found.model_max_length == 7


@pytest.mark.parametrize("beside_a_model", [False, True])
def test_a_tokenizer_in_the_hub_s_cache(
    checkpoint: Path, tokenizer: Path, hub_cache: Path, beside_a_model: bool
) -> None:
    cached(hub_cache, "some/model", FOLDER if beside_a_model else tokenizer)
    found = load_tokenizer(of(checkpoint, tokenizer="some/model"))
    assert found is not None and len(found) == len(load_tokenizer(of(FOLDER)) or ())


@pytest.mark.parametrize("name", ["not/there", "/not/there", "empty"])
def test_a_tokenizer_that_is_not_there(
    checkpoint: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, hub_cache: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    model = of(checkpoint, tokenizer=name)
    with pytest.raises(UserError) as said:
        load_tokenizer(model)
    assert (model.tokenizer or "") in str(said.value)
    assert "\n" not in str(said.value)


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(
    checkpoint: Path, tokenizer: Path, mini_tokenizer: PreTrainedTokenizerBase
) -> None:
    file = tokenizer / "tokenizer.json"
    content = json.loads(file.read_text())
    more = {**content["added_tokens"][0], "id": len(mini_tokenizer), "content": "<more>"}
    file.write_text(json.dumps({**content, "added_tokens": [*content["added_tokens"], more]}))
    with pytest.raises(UserError, match=r"the tokenizer has 168 tokens and the embedding 167 rows"):
        load_tokenizer(of(checkpoint, tokenizer=str(tokenizer)))


def test_a_tokenizer_is_part_of_what_the_prompts_are(
    make_config: MakeConfig, checkpoint: Path, tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def identity(*keys: str) -> str:
        return data_fingerprint(make_config("model=local", f"model.path={checkpoint}", *keys))

    given = identity(f"model.tokenizer={tokenizer}")
    assert given != identity()
    # By content, wherever it lies, and without what a model beside it has.
    copy = shutil.copytree(tokenizer, tmp_path / "copy")
    shutil.copy(FOLDER / "config.json", copy)
    monkeypatch.chdir(tmp_path)
    assert identity("model.tokenizer=copy") == given
    file = copy / "tokenizer.json"
    file.write_text(file.read_text().replace("John", "Juan"))
    assert identity("model.tokenizer=copy") != given


def test_so_is_one_on_the_hub_without_the_model_there(
    make_config: MakeConfig, checkpoint: Path, tmp_path: Path, hub_cache: Path
) -> None:
    other = shutil.copytree(FOLDER, tmp_path / "other")

    def identity(name: str) -> str:
        cached(hub_cache, name, other)
        return data_fingerprint(make_config("model=local", f"model.path={checkpoint}", f"model.tokenizer={name}"))

    first = identity("some/first")
    (other / "model.safetensors").write_bytes(b"other weights")
    assert identity("some/second") == first
    (other / "tokenizer.json").write_text((other / "tokenizer.json").read_text().replace("John", "Juan"))
    assert identity("some/third") != first


def test_how_a_given_tokenizer_spells_counts(checkpoint: Path, tokenizer: Path) -> None:
    assert not spells_otherwise(of(checkpoint, tokenizer=str(tokenizer)))
    file = tokenizer / "tokenizer.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"normalizer": {"type": "Lowercase"}}))
    assert spells_otherwise(of(checkpoint, tokenizer=str(tokenizer)))


def test_what_a_trainer_keeps_for_itself_is_no_part_of_the_model(make_config: MakeConfig, checkpoint: Path) -> None:
    def identity() -> str:
        return run_id(make_config("model=local", f"model.path={checkpoint}"))

    before = identity()
    for name in ("training_args.bin", "trainer_state.json", "optimizer.pt", "scheduler.pt", "rng_state.pth"):
        (checkpoint / name).unlink()
    assert identity() == before
    for name in ("optimizer.bin", "optimizer_1.bin", "scheduler.bin", "all_results.json", "training_args.bin"):
        (checkpoint / name).write_bytes(b"of this run")
    assert identity() == before
    for name in ("tokenizer.json", "pytorch_model.bin", "vocab.json"):
        (checkpoint / name).write_bytes(b"{}")
        assert identity() != before
        (checkpoint / name).unlink()
