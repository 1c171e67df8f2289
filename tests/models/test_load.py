"""A model is what its files say: nothing that comes with it is run, left out or drawn anew."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from mi_sweeps.config import Config
from mi_sweeps.errors import UserError
from mi_sweeps.models.load import load_config, load_model, load_tokenizer
from mi_sweeps.models.mini import FOLDER

MakeConfig = Callable[..., Config]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return shutil.copytree(FOLDER, tmp_path / "model")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub's cache with `mini` in it, of which no more is known."""
    root = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(root))
    saved = root / "models--some--model" / "snapshots" / "0123456789abcdef0123456789abcdef01234567"
    shutil.copytree(FOLDER, saved)
    refs = root / "models--some--model" / "refs" / "main"
    refs.parent.mkdir()
    refs.write_text(saved.name)
    return saved


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


def test_an_adapter_in_the_hub_s_cache_is_not_left_out(make_config: MakeConfig, hub: Path) -> None:
    model = make_config("model=gpt2", "model.hub=some/model", "model.revision=null").model
    assert load_model(model)[0].config.n_layer == 4
    (hub / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match=r"model=gpt2: some/model: has a PEFT adapter"):
        load_model(model)


def test_an_adapter_on_the_hub_is_not_left_out(
    make_config: MakeConfig, hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(hub)
    there = SimpleNamespace(siblings=[SimpleNamespace(rfilename="adapter_config.json")])
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *_, **__: there)
    with pytest.raises(UserError, match=r"model=gpt2: some/model: has a PEFT adapter"):
        load_config(make_config("model=gpt2", "model.hub=some/model").model)


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


def test_it_is_told_where_a_known_architecture_is_computed_without_it(
    make_config: MakeConfig, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hostile(folder, tmp_path / "ran")
    with caplog.at_level(logging.WARNING):
        load_model(make_config("model=local", f"model.path={folder}").model)
    assert "code that comes with it is not run; it is computed as GPT2LMHeadModel" in caplog.text
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
    with pytest.raises(UserError, match="model_max_length of its tokenizer, or .* is no number; mend it"):
        load_tokenizer(config.model)
