"""An adapter is merged into its base model, or refused; never left out."""

from __future__ import annotations

import json
import logging
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import (
    IA3Config,
    LNTuningConfig,
    LoraConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptTuningConfig,
    get_peft_model,
)
from peft.tuners.tuners_utils import BaseTuner
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from mi_sweeps.config import Config, ModelConfig
from mi_sweeps.errors import UserError
from mi_sweeps.identity import data_fingerprint, patch_id, run_id
from mi_sweeps.models import base
from mi_sweeps.models.config_json import model_type
from mi_sweeps.models.load import check_files, load_config, load_model, load_tokenizer
from mi_sweeps.models.mini import FOLDER
from tests.hub import Hub

MakeConfig = Callable[..., Config]

LORA: dict[str, Any] = {"task_type": "CAUSAL_LM", "r": 2, "init_lora_weights": False}


@pytest.fixture
def adapter(trained: Path, tmp_path: Path) -> Path:
    """The end of a trainer's run with LoRA, to change."""
    return shutil.copytree(trained / "lora" / "checkpoint-4", tmp_path / "run" / "checkpoint-4")


def of(path: Path, **keys: Any) -> ModelConfig:
    return ModelConfig(name="local", hub=None, revision=None, path=path, prepend_bos=False, **keys)


def refuse(path: Path, early: bool = True, **keys: str) -> str:
    """What is said when it is loaded; `early`: and before anything is computed."""
    with pytest.raises(UserError) as said:
        load_model(of(path, **keys))
    if early:
        with pytest.raises(UserError) as before:
            check_files(of(path, **keys))
        assert str(before.value) == str(said.value)
    assert str(said.value).startswith(f"model.path={path}: ")
    assert "\n" not in str(said.value)
    return str(said.value)


def save(config: Any, path: Path, base: str | Path = FOLDER) -> PeftModel:
    """A new adapter of a base model in a folder, with random weights."""
    torch.manual_seed(1)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(path)
    return model


def rewrite(path: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    save_file(change(load_file(path / "adapter_model.safetensors")), path / "adapter_model.safetensors")


def configure(path: Path, **values: Any) -> None:
    file = path / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model(input_ids=torch.arange(20, 40)[None]).logits


def by_hand(adapter: Path) -> dict[str, Tensor]:
    """What a merged Conv1D of GPT-2 is: W + (alpha / r) (B A)ᵀ."""
    config = json.loads((adapter / "adapter_config.json").read_text())
    weights = load_file(adapter / "adapter_model.safetensors")
    base = load_file(FOLDER / "model.safetensors")
    for name, down in weights.items():
        if ".lora_A." in name:
            up = weights[name.replace(".lora_A.", ".lora_B.")]
            target = name.removeprefix("base_model.model.").replace(".lora_A.", ".")
            base[target] = base[target] + config["lora_alpha"] / config["r"] * (up @ down).T
    return base


@pytest.mark.parametrize("pickled", [False, True])
def test_a_trainer_s_adapter_is_merged_into_its_base(adapter: Path, mini_model: PreTrainedModel, pickled: bool) -> None:
    expected = by_hand(adapter)
    if pickled:
        torch.save(load_file(adapter / "adapter_model.safetensors"), adapter / "adapter_model.bin")
        (adapter / "adapter_model.safetensors").unlink()
    check_files(of(adapter))
    model, tokenizer = load_model(of(adapter))
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight.detach(), expected[name], atol=1e-6, rtol=1e-5)
        assert weight.requires_grad and weight.dtype == torch.float32
    assert type(model) is type(mini_model)
    assert not torch.allclose(logits(model), logits(mini_model), atol=0.1)
    assert tokenizer is not None and len(tokenizer) == model.config.vocab_size
    assert load_config(of(adapter)).n_layer == 4
    assert model_type(of(adapter)) == "gpt2"


KINDS: dict[str, Any] = {
    "all linear layers": LoraConfig(target_modules="all-linear", **LORA),
    "rank-stabilised, ranks of their own": LoraConfig(
        target_modules=["c_attn", "c_fc"], use_rslora=True, rank_pattern={"c_fc": 4}, bias="all", **LORA
    ),
    "DoRA": LoraConfig(target_modules=["c_attn"], use_dora=True, **LORA),
    "a module beside": LoraConfig(target_modules=["c_attn"], modules_to_save=["ln_f", "wpe"], **LORA),
    "IA3": IA3Config(
        target_modules=["c_attn", "mlp.c_proj"], feedforward_modules=["mlp.c_proj"], task_type="CAUSAL_LM"
    ),
    "layer norms": LNTuningConfig(target_modules=["ln_1", "ln_2"], task_type="CAUSAL_LM"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_merged_computes_what_the_adapter_does(tmp_path: Path, kind: str) -> None:
    expected = logits(save(KINDS[kind], tmp_path / "adapter"))
    check_files(of(tmp_path / "adapter"))
    model, _ = load_model(of(tmp_path / "adapter"))
    torch.testing.assert_close(logits(model), expected, atol=1e-4, rtol=1e-4)
    assert all(weight.requires_grad for weight in model.parameters())
    assert not any(isinstance(module, BaseTuner) or "lora" in name for name, module in model.named_modules())


def test_the_adapter_of_a_llama(
    tmp_path: Path,
    make_model: Callable[..., PreTrainedModel],
    mini_tokenizer: PreTrainedTokenizerBase,
) -> None:
    make_model("llama").to(torch.bfloat16).save_pretrained(tmp_path / "base")
    mini_tokenizer.save_pretrained(tmp_path / "base")
    config = LoraConfig(target_modules=["q_proj", "v_proj", "down_proj"], **LORA)
    expected = logits(save(config, tmp_path / "adapter", tmp_path / "base"))
    torch.testing.assert_close(logits(load_model(of(tmp_path / "adapter"))[0]), expected, atol=1e-4, rtol=1e-4)


def test_an_output_layer_that_shares_its_weights_is_refused(tmp_path: Path) -> None:
    """peft merges it into the embedding too."""
    save(LoraConfig(target_modules=["lm_head"], **LORA), tmp_path / "adapter")
    assert "merge it where it was trained" in refuse(tmp_path / "adapter", early=False)


def test_an_output_layer_of_its_own_is_refused_where_the_base_has_none(tmp_path: Path) -> None:
    save(LoraConfig(target_modules=["c_attn"], modules_to_save=["lm_head"], **LORA), tmp_path / "adapter")
    assert "its adapter adds or reshapes lm_head.weight" in refuse(tmp_path / "adapter", early=False)


def test_more_tokens_than_the_base_has_are_refused(tmp_path: Path, mini_tokenizer: PreTrainedTokenizerBase) -> None:
    base = AutoModelForCausalLM.from_pretrained(FOLDER)
    base.resize_token_embeddings(len(mini_tokenizer) + 1)
    model = get_peft_model(base, LoraConfig(target_modules=["c_attn"], modules_to_save=["wte"], **LORA))
    model.save_pretrained(tmp_path / "adapter")
    assert "cannot be applied to its base model (RuntimeError: " in refuse(tmp_path / "adapter")
    assert "size mismatch for base_model.model.transformer.wte" in refuse(tmp_path / "adapter")


@pytest.mark.parametrize("begun", ["pissa", "olora"])
def test_an_adapter_that_changes_its_base_first_is_refused(tmp_path: Path, begun: str) -> None:
    """PiSSA takes the base's largest components out, and another machine may find others."""
    config = LoraConfig(target_modules=["c_attn"], **{**LORA, "init_lora_weights": begun})
    save(config, tmp_path / "adapter")
    assert "changes the base model's own weights at initialisation (init_lora" in refuse(
        tmp_path / "adapter", early=False
    )


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2), "is of type PROMPT_TUNING for CAUSAL_LM"),
        (PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2), "is of type PREFIX_TUNING for CAUSAL_LM"),
        (LoraConfig(target_modules=["c_attn"], **{**LORA, "task_type": "SEQ_CLS"}), "is of type LORA for SEQ_CLS"),
        (LoraConfig(target_modules=["c_attn"], layer_replication=[(0, 4), (2, 4)], **LORA), "has layer_replication"),
        (LoraConfig(target_modules=["c_attn"], alora_invocation_tokens=[5], **LORA), "does not support merging"),
    ],
)
def test_kinds_that_cannot_be_merged_are_refused(tmp_path: Path, config: Any, said: str) -> None:
    config.save_pretrained(tmp_path / "adapter")
    configure(tmp_path / "adapter", base_model_name_or_path=str(FOLDER))
    if "merging" in said:
        save(config, tmp_path / "adapter")
    else:
        save_file({"x": torch.zeros(1)}, tmp_path / "adapter" / "adapter_model.safetensors")
    result = refuse(tmp_path / "adapter", early="merging" not in said)
    assert said in result
    assert "merge it where it was trained (merge_and_unload of peft)" in result


def test_a_module_that_an_adapter_names_is_never_imported(adapter: Path, tmp_path: Path) -> None:
    configure(adapter, megatron_config={"a": 1}, megatron_core="antigravity")
    assert "its adapter has megatron_config; merge it" in refuse(adapter)
    assert "antigravity" not in sys.modules


def test_an_adapter_that_lacks_weights_is_refused(adapter: Path) -> None:
    """peft leaves such a layer as it is in the base, with a warning."""
    rewrite(adapter, lambda weights: {name: weights[name] for name in weights if "h.1.attn" not in name})
    assert (
        "its adapter lacks 2 weights (base_model.model.transformer.h.1.attn.c_attn.lora_A.default.weight, "
        in refuse(adapter)
    )


def test_an_adapter_that_lacks_a_bias_is_refused(tmp_path: Path) -> None:
    """Those lie in the base model, so peft does not miss them."""
    save(LoraConfig(target_modules=["c_attn"], bias="all", **LORA), tmp_path / "adapter")
    rewrite(tmp_path / "adapter", lambda weights: {name: weights[name] for name in weights if "h.2.ln_1" not in name})
    assert "its adapter lacks 1 weight (base_model.model.transformer.h.2.ln_1.bias)" in refuse(tmp_path / "adapter")


def test_an_adapter_of_another_model_is_refused(adapter: Path) -> None:
    """peft leaves weights out that it has no place for, without a word."""
    rewrite(adapter, lambda weights: {name.replace(".h.3.", ".h.9."): weights[name] for name in weights})
    result = refuse(adapter)
    assert "its adapter lacks 4 weights (" in result
    assert "and has 4 weights (base_model.model.transformer.h.9." in result
    assert "or give its base as model.base" in result


def test_an_adapter_that_is_not_finite_is_refused(adapter: Path) -> None:
    rewrite(adapter, lambda weights: {name: weight / 0 for name, weight in weights.items()})
    assert "NaN or infinite numbers in 16 weights (base_model.model." in refuse(adapter)


def test_what_this_peft_does_not_know_is_not_left_out(adapter: Path) -> None:
    configure(adapter, use_something_new=False)
    check_files(of(adapter))
    configure(adapter, use_something_new=True)
    assert "has use_something_new, which this version of peft does not know; install a newer one" in refuse(adapter)


def test_names_of_a_compiled_model_in_an_adapter(adapter: Path, caplog: pytest.LogCaptureFixture) -> None:
    expected = logits(load_model(of(adapter))[0])
    rewrite(
        adapter,
        lambda weights: {name.replace("model.model.", "model.model._orig_mod."): weights[name] for name in weights},
    )
    with caplog.at_level(logging.WARNING):
        assert torch.equal(logits(load_model(of(adapter))[0]), expected)
    assert "removed a wrapper's prefix from the names of its adapter's weights" in caplog.text


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"base_model_name_or_path": ""}'])
def test_an_adapter_that_does_not_say_of_what_it_is(adapter: Path, content: str) -> None:
    (adapter / "adapter_config.json").write_text(content)
    assert "its adapter_config.json names no base model; give model.base=DIR or a name" in refuse(adapter)


def test_a_broken_configuration_is_one_line(adapter: Path) -> None:
    (adapter / "adapter_config.json").write_text("{")
    assert "its adapter cannot be applied to its base model (JSONDecodeError" in refuse(adapter, base=str(FOLDER))


def test_an_adapter_without_its_weights(adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (adapter / "adapter_model.safetensors").unlink()
    assert "no weights there (adapter_model.safetensors or adapter_model.bin); give" in refuse(adapter)


def test_an_adapter_s_pickle_runs_nothing(adapter: Path, tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    (adapter / "adapter_model.safetensors").unlink()
    torch.save({"x": Hostile()}, adapter / "adapter_model.bin")
    assert "cannot be applied to its base model (UnpicklingError: " in refuse(adapter)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("whole", ["model.safetensors", "pytorch_model.bin"])
def test_an_adapter_beside_whole_weights_is_refused(adapter: Path, whole: str) -> None:
    shutil.copy(FOLDER / "config.json", adapter)
    (adapter / whole).write_bytes(b"")
    assert f"a PEFT adapter (adapter_config.json) and whole weights ({whole})" in refuse(adapter)


def test_without_peft_the_error_says_what_to_install(adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    assert "a PEFT adapter, which needs peft; pip install 'mi-sweeps[peft]'" in refuse(adapter)


def test_where_the_base_is(adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`model.base` before what the adapter names, and a relative folder from any of the folders above."""
    expected = logits(load_model(of(adapter))[0])
    configure(adapter, base_model_name_or_path="/is/not/here")
    monkeypatch.chdir(FOLDER.parent)
    assert torch.equal(logits(load_model(of(adapter, base=FOLDER.name))[0]), expected)
    configure(adapter, base_model_name_or_path="models/base")
    shutil.copytree(FOLDER, tmp_path / "models" / "base")
    assert torch.equal(logits(load_model(of(adapter))[0]), expected)


@pytest.mark.parametrize("name", ["/is/not/here", "../base", "a/b/c", "~/is/not/here"])
def test_a_base_that_is_not_here(adapter: Path, name: str) -> None:
    configure(adapter, base_model_name_or_path=name)
    assert f"its base model {name} is not here; give model.base=DIR, or its name on the hub" in refuse(adapter)


def test_errors_of_the_base_name_the_base(adapter: Path, tmp_path: Path) -> None:
    base = shutil.copytree(FOLDER, tmp_path / "base")
    (base / "model.safetensors").write_bytes(b"")
    result = refuse(adapter, base=str(base))
    assert f"its base model (model.base=DIR gives another): model.path={base}: cannot be loaded" in result
    shutil.copytree(adapter, tmp_path / "second")
    assert "is an adapter too; merge that" in refuse(tmp_path / "second", base=str(adapter))


def test_a_base_without_an_adapter_is_refused() -> None:
    with pytest.raises(
        UserError, match=rf"model.base={FOLDER}: model.path={FOLDER} is not a PEFT adapter; leave model.base out"
    ):
        load_model(of(FOLDER, base=str(FOLDER)))


@pytest.mark.parametrize("own_tokenizer", [False, True])
def test_an_adapter_on_the_hub_and_its_base_there(
    adapter: Path, hub: Hub, own_tokenizer: bool, mini_tokenizer: PreTrainedTokenizerBase
) -> None:
    expected = logits(load_model(of(adapter))[0])
    configure(adapter, base_model_name_or_path="some/base", revision="v1")
    if own_tokenizer:
        mini_tokenizer.save_pretrained(adapter)
    hub.add("some/base", "v1", FOLDER, kind="tags")
    hub.add("some/adapter", "main", adapter)
    model = ModelConfig(name="some", hub="some/adapter", revision=None, path=None, prepend_bos=False)
    below = base(model)
    assert below is not None and (below.hub, below.revision) == ("some/base", "v1")
    assert hub.downloads() == 0
    for _ in "once", "from the cache":
        network, tokenizer = load_model(model)
        assert torch.equal(logits(network), expected)
        assert tokenizer is not None and len(tokenizer) == len(mini_tokenizer)
        hub.down()


def test_an_adapter_on_the_hub_is_known_by_its_base_too(adapter: Path, make_config: MakeConfig, hub: Hub) -> None:
    files = {file.name: file.read_bytes() for file in FOLDER.iterdir()}
    hub.add("some/adapter", "main", adapter)
    hub.add("some/base", "main", files)
    hub.add("some/copy", "main", files)
    hub.add("some/other", "main", {**files, "model.safetensors": b"other weights"})

    def identity(base: str) -> str:
        return run_id(make_config("model=gpt2", "model.hub=some/adapter", "model.revision=null", f"model.base={base}"))

    assert identity("some/base") == identity("some/copy") != identity("some/other")
    assert hub.downloads() == 0


def test_an_adapter_of_itself_on_the_hub(adapter: Path, hub: Hub) -> None:
    configure(adapter, base_model_name_or_path="some/adapter")
    hub.add("some/adapter", "main", adapter)
    model = ModelConfig(name="some", hub="some/adapter", revision=None, path=None, prepend_bos=False)
    with pytest.raises(
        UserError, match="model=some: some/adapter: its base, model=some: some/adapter, is an adapter too"
    ):
        load_model(model)


def test_the_tokenizer_is_the_adapter_s_where_it_has_one(
    adapter: Path, mini_tokenizer: PreTrainedTokenizerBase
) -> None:
    own = load_tokenizer(of(adapter))
    assert own is not None and own.pad_token != "</end>"
    mini_tokenizer.save_pretrained(adapter)
    file = adapter / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model_max_length": 7}))
    own = load_tokenizer(of(adapter))
    assert own is not None and own.model_max_length == 7


def test_an_adapter_is_what_it_is_and_what_its_base_is(
    adapter: Path, make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ids(path: Path, base: Path) -> tuple[str, str]:
        config = make_config("model=local", f"model.path={path}", f"model.base={base}")
        return run_id(config), data_fingerprint(config)

    before = ids(adapter, FOLDER)
    moved = shutil.copytree(FOLDER, tmp_path / "moved")
    assert ids(shutil.copytree(adapter, tmp_path / "copy"), moved) == before
    (adapter / "training_args.bin").unlink()
    assert ids(adapter, FOLDER) == before
    rewrite(adapter, lambda weights: {name: weight * 2 for name, weight in weights.items()})
    assert ids(adapter, FOLDER) != before
    save_file({"other": torch.zeros(1)}, moved / "model.safetensors")
    assert ids(tmp_path / "copy", moved) != before
    # Of the base's type, and not of a folder without a config.json.
    wrapped = "mi_sweeps.identity.HashedContents.wrapped_once"
    config = make_config("model=local", f"model.path={tmp_path / 'copy'}")
    found = patch_id(config)
    monkeypatch.setattr(wrapped, lambda *_: False)
    assert patch_id(config) == found
