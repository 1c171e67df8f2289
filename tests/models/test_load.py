"""A model is what its files say: none of its code runs, and no weight is left out or random."""

from __future__ import annotations

import json
import logging
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from mi_sweeps.config import Config, ModelConfig
from mi_sweeps.errors import UserError
from mi_sweeps.identity import run_id
from mi_sweeps.models.load import load_config, load_model, load_tokenizer
from mi_sweeps.models.mini import FOLDER
from tests.hub import Hub, cached

MakeConfig = Callable[..., Config]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return shutil.copytree(FOLDER, tmp_path / "model")


def test_what_is_drawn_while_a_model_is_made_is_the_seed_s(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[float] = []
    real = AutoModelForCausalLM.from_pretrained

    def draw(*given: Any, **options: Any) -> Any:
        drawn.append(torch.rand(1).item())
        return real(*given, **options)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", draw)
    for before, seed in ((1, 7), (2, 7), (2, 8)):
        torch.manual_seed(before)
        state = torch.get_rng_state()
        load_model(make_config().model, seed=seed)
        assert torch.equal(torch.get_rng_state(), state)
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize("known_by", ["hub", "cache"])
def test_an_adapter_beside_a_model_on_the_hub_is_not_left_out(hub: Hub, hub_cache: Path, known_by: str) -> None:
    files = {**whole(FOLDER), "adapter_config.json": b"{}", "adapter_model.safetensors": b""}
    if known_by == "hub":
        hub.add("some/model", "main", files)
    else:
        hub.down()
        cached(hub_cache, "some/model", files)
    model = ModelConfig(name="gpt2", hub="some/model", revision=None, path=None, prepend_bos=False)
    for load in (load_config, load_tokenizer, load_model):
        with pytest.raises(UserError, match=r"model=gpt2: some/model: has both a PEFT adapter .* and whole weights"):
            load(model)
    assert hub.downloads() == 0


def whole(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_model_of_the_hub_is_loaded_at_the_commit_that_it_is_known_by(
    make_config: MakeConfig, hub: Hub, mini_model: Any
) -> None:
    """Its branch may have moved since, and its cache may lack some of what it is known by."""
    commit = hub.add("some/model", "main", FOLDER)
    config = make_config("model=gpt2", "model.hub=some/model")
    known = run_id(config)
    hub.add("some/model", "main", {**whole(FOLDER), "model.safetensors": b"another"})
    model, _ = load_model(config.model)
    assert (
        run_id(config) == known == run_id(make_config("model=gpt2", "model.hub=some/model", f"model.revision={commit}"))
    )
    assert torch.equal(model.lm_head.weight, mini_model.lm_head.weight)
    assert hub.downloads() == 1
    hub.asked.clear()
    load_model(config.model)
    assert not any("/resolve/" in one or one.startswith("GET /cdn") for one in hub.asked)


def test_only_the_configuration_of_a_model_is_downloaded_where_no_more_is_needed(
    make_config: MakeConfig, hub: Hub
) -> None:
    hub.add("some/model", "main", FOLDER)
    config = make_config("model=gpt2", "model.hub=some/model").model
    assert load_config(config).n_layer == 4 and load_tokenizer(config) is not None
    assert hub.downloads() == 0


def test_pickled_weights_of_the_hub_are_loaded_and_nobody_is_asked_to_convert_them(
    make_config: MakeConfig, hub: Hub, tmp_path: Path, mini_model: Any
) -> None:
    files = whole(FOLDER)
    del files["model.safetensors"]
    torch.save(mini_model.state_dict(), tmp_path / "pytorch_model.bin")
    hub.add("some/model", "main", {**files, "pytorch_model.bin": (tmp_path / "pytorch_model.bin").read_bytes()})
    model, _ = load_model(make_config("model=gpt2", "model.hub=some/model").model)
    assert torch.equal(model.lm_head.weight, mini_model.lm_head.weight)
    assert not any(thread.name == "Thread-auto_conversion" for thread in threading.enumerate())


def test_weights_that_are_deleted_while_they_are_loaded_are_downloaded_again(
    make_config: MakeConfig, hub: Hub, hub_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("some/model", "main", FOLDER)
    real = AutoModelForCausalLM.from_pretrained
    times: list[int] = []

    def deleted(*given: Any, **options: Any) -> Any:
        times.append(1)
        if len(times) == 1:
            shutil.rmtree(hub_cache)
        return real(*given, **options)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", deleted)
    load_model(make_config("model=gpt2", "model.hub=some/model").model)
    assert len(times) == 2


def hostile(folder: Path, ran: Path, **config: object) -> None:
    """Gives a model code of its own."""
    own = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "auto_map": own, **config}))
    (folder / "own.py").write_text(f"open({str(ran)!r}, 'w')\n")


def test_a_model_s_own_code_is_never_run_nor_asked_about(
    make_config: MakeConfig, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    hostile(folder, tmp_path / "ran", model_type="own")
    with pytest.raises(UserError, match=r"needs Python code that comes with it .* never run; give a model"):
        load_model(make_config("model=local", f"model.path={folder}").model)
    assert not (tmp_path / "ran").exists()


def test_a_known_architecture_computed_without_it_is_reported(
    make_config: MakeConfig, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hostile(folder, tmp_path / "ran")
    with caplog.at_level(logging.WARNING):
        load_model(make_config("model=local", f"model.path={folder}").model)
    assert "code that comes with it is not run; it is loaded as GPT2LMHeadModel" in caplog.text
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("kind", "sizes", "attention"),
    [
        ("gptj", {"n_embd": 16, "n_layer": 1, "n_head": 2, "rotary_dim": 4, "n_positions": 64}, "eager"),
        ("gemma2", {"hidden_size": 16, "num_hidden_layers": 1, "head_dim": 8, "intermediate_size": 16}, "eager"),
        ("llama", {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 16}, "sdpa"),
    ],
)
def test_a_model_is_trained_with_attention_that_it_has(
    make_config: MakeConfig, mini_tokenizer: Any, tmp_path: Path, kind: str, sizes: dict[str, int], attention: str
) -> None:
    """GPT-J has no fused attention, and fused attention leaves Gemma 2's cap out."""
    heads = {} if kind == "gptj" else {"num_attention_heads": 2, "num_key_value_heads": 2}
    config = CONFIG_MAPPING[kind](vocab_size=len(mini_tokenizer), **sizes, **heads)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / kind)
    mini_tokenizer.save_pretrained(tmp_path / kind)
    model, _ = load_model(make_config("model=local", f"model.path={tmp_path / kind}").model)
    assert model.config._attn_implementation == attention


def test_a_tokenizer_whose_longest_text_is_no_number_is_refused(make_config: MakeConfig, folder: Path) -> None:
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "model_max_length": {"a": 1}}))
    config = make_config("model=local", f"model.path={folder}")
    with pytest.raises(UserError, match="model_max_length of its tokenizer, or .* is not a number; fix it"):
        load_tokenizer(config.model)
