"""Weights other than the files should hold are refused by name, before anything is computed."""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import GPT2ForSequenceClassification, GPT2Model, PreTrainedModel

from mi_sweeps.config import Config
from mi_sweeps.errors import UserError
from mi_sweeps.models.load import check_files, load_model
from mi_sweeps.models.mini import FOLDER

Tensors = dict[str, Tensor]
Load = Callable[[], PreTrainedModel]
MakeConfig = Callable[..., Config]


class Hostile:
    """Makes a file where it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.file,))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of `mini` to spoil."""
    return shutil.copytree(FOLDER, tmp_path / "model")


@pytest.fixture
def load(folder: Path, make_config: MakeConfig) -> Load:
    """Loads it as jobs do."""
    return lambda: load_model(make_config("model=local", f"model.path={folder}").model)[0]


@pytest.fixture
def refuse(folder: Path, make_config: MakeConfig) -> Callable[[], str]:
    """What is said before anything is computed; a job says the same."""

    def run() -> str:
        model = make_config("model=local", f"model.path={folder}").model
        with pytest.raises(UserError) as early:
            check_files(model)
        with pytest.raises(UserError) as late:
            load_model(model)
        assert str(early.value) == str(late.value)
        assert f"model.path={folder}: " in str(early.value)
        assert "\n" not in str(early.value)
        return str(early.value)

    return run


def rewrite(folder: Path, change: Callable[[Tensors], Mapping[str, Tensor]]) -> None:
    file = folder / "model.safetensors"
    kept = {name: tensor.clone() for name, tensor in change(load_file(file)).items()}
    save_file(kept, file, {"format": "pt"})


def shards(folder: Path, weights: Tensors) -> list[str]:
    """Puts weights into three pickles with an index, in place of the one file."""
    (folder / "model.safetensors").unlink()
    files = [f"pytorch_model-0000{number}-of-00003.bin" for number in (1, 2, 3)]
    place = {name: files[number % 3] for number, name in enumerate(weights)}
    for file in files:
        torch.save({name: weights[name] for name in weights if place[name] == file}, folder / file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": place}))
    return files


def configure(folder: Path, **values: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def rename(folder: Path, new: Callable[[str], str]) -> None:
    rewrite(folder, lambda weights: {new(name): tensor for name, tensor in weights.items()})


WRAPPED: dict[str, Callable[[str], str]] = {
    "module.": lambda name: f"module.{name}",
    "_orig_mod.": lambda name: f"_orig_mod.{name}",
    "_orig_mod., module.": lambda name: f"_orig_mod.module.{name}",
    "_forward_module., module.module.": lambda name: f"_forward_module.module.module.{name}",
    "model.": lambda name: f"model.{name}",
    "_orig_mod., model.": lambda name: f"model._orig_mod.{name}",
    # Layer by layer, and their parts, as FSDP and compiled layers have it.
    "_fsdp_wrapped_module.": lambda name: re.sub(
        r"(transformer\.|h\.\d+\.|attn\.)", r"\1_fsdp_wrapped_module.", f"_fsdp_wrapped_module.{name}"
    ),
    "_checkpoint_wrapped_module., _orig_mod.": lambda name: re.sub(
        r"(h\.\d+\.)", r"\1_orig_mod._checkpoint_wrapped_module.", name
    ),
}


@pytest.mark.parametrize("result", WRAPPED)
def test_what_a_wrapper_puts_before_names_is_taken_off_with_a_word(
    folder: Path, make_config: MakeConfig, mini_model: PreTrainedModel, caplog: pytest.LogCaptureFixture, result: str
) -> None:
    rename(folder, WRAPPED[result])
    model = make_config("model=local", f"model.path={folder}").model
    for read in (check_files, lambda model: same(load_model(model)[0], mini_model) or pytest.fail("other weights")):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            read(model)
        assert caplog.messages == [
            f"model.path={folder}: removed {result} from the names of its weights; the model was saved in a wrapper"
        ]


def test_a_wrapped_model_in_several_pickles(
    folder: Path, load: Load, mini_model: PreTrainedModel, make_config: MakeConfig
) -> None:
    shards(folder, {f"_orig_mod.{name}": tensor for name, tensor in load_file(folder / "model.safetensors").items()})
    check_files(make_config("model=local", f"model.path={folder}").model)
    assert same(load(), mini_model)


def test_a_weight_that_is_there_with_and_without_a_wrapper_s_name(folder: Path, refuse: Callable[[], str]) -> None:
    """As where a checkpoint was saved into the folder of another."""
    extra = {"_orig_mod.transformer.wpe.weight": torch.zeros(64, 64)}
    rewrite(folder, lambda weights: weights | extra)
    assert "its files have wpe.weight twice, with _orig_mod. before the name and without; save" in refuse()


def test_a_weight_that_two_wrappers_have(folder: Path, refuse: Callable[[], str]) -> None:
    rewrite(
        folder,
        lambda weights: {
            prefix + name: tensor for name, tensor in weights.items() for prefix in ("module.", "_orig_mod.")
        },
    )
    assert "twice, with _orig_mod., module. before the name" in refuse()


def test_a_model_beside_something_else_is_not_taken_for_lightning_s(folder: Path, refuse: Callable[[], str]) -> None:
    rename(folder, lambda name: f"model.{name}")
    rewrite(folder, lambda weights: weights | {"teacher.lm_head.weight": torch.zeros(2, 2)})
    assert "its files lack 53 of the model's weights" in refuse()


@pytest.mark.parametrize("prefix", ["net.", "policy.model."])
def test_other_names_of_a_wrapped_model(folder: Path, refuse: Callable[[], str], prefix: str) -> None:
    rename(folder, lambda name: prefix + name)
    assert f"the names of its weights begin with '{prefix}'" in refuse()


def test_names_of_a_wrapped_model_that_has_no_head(folder: Path, refuse: Callable[[], str]) -> None:
    rename(folder, lambda name: name.replace("transformer.", "net."))
    assert "the names of its weights begin with 'net.'" in refuse()


def test_a_wrapped_model_that_has_no_head(folder: Path, load: Load, mini_model: PreTrainedModel) -> None:
    rename(folder, lambda name: name.replace("transformer.", "module."))
    assert same(load(), mini_model)


def test_a_wrapped_model_that_lacks_a_weight(folder: Path, refuse: Callable[[], str]) -> None:
    rename(folder, lambda name: f"module.{name}")
    rewrite(folder, lambda weights: {name: weights[name] for name in weights if "h.2.ln_1.bias" not in name})
    assert "its files lack 1 of the model's weights (transformer.h.2.ln_1.bias)" in refuse()


def test_a_head_that_is_neither_there_nor_tied(folder: Path, refuse: Callable[[], str]) -> None:
    configure(folder, tie_word_embeddings=False)
    assert "its files lack 1 of the model's weights (lm_head.weight)" in refuse()


def test_an_embedding_that_is_not_there(folder: Path, refuse: Callable[[], str]) -> None:
    rewrite(folder, lambda weights: {name: weights[name] for name in weights if "wte" not in name})
    assert "(lm_head.weight, transformer.wte.weight)" in refuse()


def test_more_layers_than_weights(folder: Path, refuse: Callable[[], str]) -> None:
    configure(folder, n_layer=5)
    assert (
        "its files lack 12 of the model's weights (transformer.h.4.attn.c_attn.bias, "
        "transformer.h.4.attn.c_attn.weight, transformer.h.4.attn.c_proj.bias and 9 more)"
    ) in refuse()


def test_fewer_layers_than_weights(folder: Path, refuse: Callable[[], str]) -> None:
    configure(folder, n_layer=3)
    assert "weights that GPT2LMHeadModel does not use (transformer.h.3." in refuse()


def test_a_head_for_another_task(folder: Path, refuse: Callable[[], str], mini_model: PreTrainedModel) -> None:
    model = GPT2ForSequenceClassification(mini_model.config)
    model.transformer.load_state_dict(mini_model.transformer.state_dict())
    model.save_pretrained(folder)
    result = refuse()
    assert "1 weight that GPT2LMHeadModel does not use (score.weight)" in result
    assert "or load it with AutoModelForCausalLM and save that to drop them" in result


def test_other_sizes(folder: Path, refuse: Callable[[], str]) -> None:
    configure(folder, n_positions=32)
    assert "transformer.wpe.weight is 64 × 64 in its files but 32 × 64 by its config.json; " in refuse()


def test_a_file_of_some_that_is_not_there(folder: Path, refuse: Callable[[], str], mini_model: PreTrainedModel) -> None:
    (folder / "model.safetensors").unlink()
    mini_model.save_pretrained(folder, max_shard_size="200KB")
    (folder / "model-00002-of-00005.safetensors").unlink()
    assert "model-00002-of-00005.safetensors" in refuse()


def test_an_index_that_lacks_a_file(folder: Path, refuse: Callable[[], str], mini_model: PreTrainedModel) -> None:
    (folder / "model.safetensors").unlink()
    mini_model.save_pretrained(folder, max_shard_size="200KB")
    index = folder / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"] = {name: file for name, file in content["weight_map"].items() if "model-00005" not in file}
    index.write_text(json.dumps(content))
    assert "its files lack 5 of the model's weights (lm_head.weight, transformer.ln_f.bias" in refuse()


@pytest.mark.parametrize("content", [b"", b"\0" * 1000, b"version https://git-lfs.github.com/spec/v1\n"])
def test_a_file_that_holds_no_weights(folder: Path, refuse: Callable[[], str], content: bytes) -> None:
    (folder / "model.safetensors").write_bytes(content)
    assert "cannot be loaded" in refuse()


def test_a_pickle_that_would_run_something(folder: Path, tmp_path: Path, refuse: Callable[[], str]) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save({**weights, "other": Hostile(tmp_path / "ran")}, folder / "pytorch_model.bin")
    assert "cannot be loaded" in refuse()
    assert not (tmp_path / "ran").exists()


def test_a_weight_under_two_names(folder: Path, refuse: Callable[[], str]) -> None:
    """transformers takes one of them without a word."""
    rewrite(folder, lambda weights: weights | {"wpe.weight": torch.zeros(64, 64), "h.0.ln_1.bias": torch.ones(64)})
    assert "its files have transformer.h.0.ln_1.bias, transformer.wpe.weight more than once, and" in refuse()


def test_a_weight_in_two_files(folder: Path, refuse: Callable[[], str]) -> None:
    first, second, _ = shards(folder, load_file(folder / "model.safetensors"))
    weights = torch.load(folder / second)
    name = next(iter(weights))
    torch.save({**torch.load(folder / first), name: weights[name] * 2}, folder / first)
    assert f"its files have {name} more than once" in refuse()


def test_quantized_weights(folder: Path, refuse: Callable[[], str]) -> None:
    configure(folder, quantization_config={"quant_method": "fp8"})
    assert "its weights are quantized (quantization_config in config.json)" in refuse()


def same(model: PreTrainedModel, other: PreTrainedModel) -> bool:
    ours = dict(model.named_parameters())
    return all(torch.equal(ours[name], weight) for name, weight in other.named_parameters())


def test_constants_that_older_versions_saved_are_no_weights(
    folder: Path, load: Load, mini_model: PreTrainedModel
) -> None:
    """As in GPT-2 on the hub."""
    masks = {"transformer.h.0.attn.bias": torch.ones(1, 1, 64, 64).tril(), "transformer.h.0.attn.masked_bias": -1e4}
    rewrite(folder, lambda weights: weights | {name: torch.as_tensor(mask) for name, mask in masks.items()})
    assert same(load(), mini_model)


def test_a_model_that_was_saved_without_its_tied_head(folder: Path, load: Load, mini_model: PreTrainedModel) -> None:
    model = GPT2Model(mini_model.config)
    model.load_state_dict(mini_model.transformer.state_dict())
    model.save_pretrained(folder)
    assert same(load(), mini_model)


def test_a_pickle_of_tensors(folder: Path, load: Load, mini_model: PreTrainedModel) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(mini_model.state_dict(), folder / "pytorch_model.bin")
    assert same(load(), mini_model)


def test_several_pickles_of_tensors(folder: Path, load: Load, mini_model: PreTrainedModel) -> None:
    shards(folder, load_file(folder / "model.safetensors"))
    assert same(load(), mini_model)


@pytest.mark.parametrize("spoil", ["a file", "a name", "code"])
def test_several_pickles_that_do_not_hold_what_they_should(
    folder: Path, refuse: Callable[[], str], tmp_path: Path, spoil: str
) -> None:
    first, second, _ = shards(folder, load_file(folder / "model.safetensors"))
    if spoil == "a file":
        (folder / second).unlink()
        assert second in refuse()
    elif spoil == "a name":
        weights = torch.load(folder / first)
        gone = next(iter(weights))
        torch.save({name: weights[name] for name in weights if name != gone}, folder / first)
        assert f"its files lack 1 of the model's weights ({gone})" in refuse()
    else:
        torch.save({**torch.load(folder / second), "other": Hostile(tmp_path / "ran")}, folder / second)
        assert "cannot be loaded" in refuse()
        assert not (tmp_path / "ran").exists()


def test_several_files(folder: Path, load: Load, mini_model: PreTrainedModel) -> None:
    (folder / "model.safetensors").unlink()
    mini_model.save_pretrained(folder, max_shard_size="200KB")
    assert same(load(), mini_model)


def test_a_message_says_which_of_two_kinds_of_files_is_used(
    folder: Path, load: Load, mini_model: PreTrainedModel, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save({}, folder / "pytorch_model.bin")
    with caplog.at_level(logging.WARNING):
        assert same(load(), mini_model)
    assert "weights in model.safetensors and pytorch_model.bin; those of model.safetensors are used" in caplog.text


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_read_exactly(
    folder: Path, load: Load, mini_model: PreTrainedModel, dtype: torch.dtype
) -> None:
    rewrite(folder, lambda weights: {name: tensor.to(dtype) for name, tensor in weights.items()})
    configure(folder, dtype=str(dtype).removeprefix("torch."))
    model = load()
    for name, weight in mini_model.named_parameters():
        torch.testing.assert_close(model.get_parameter(name), weight.to(dtype).float(), atol=0, rtol=0)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite(folder: Path, load: Load, value: float) -> None:
    def spoil(weights: Tensors) -> Tensors:
        weights["transformer.h.1.mlp.c_fc.weight"][3, 5] = value
        return weights

    rewrite(folder, spoil)
    with pytest.raises(UserError, match=r"NaN or infinite numbers in 1 of its weights \(transformer.h.1.mlp.c_fc"):
        load()


def test_a_matrix_of_zeros_is_reported(folder: Path, load: Load, caplog: pytest.LogCaptureFixture) -> None:
    rewrite(folder, lambda weights: weights | {"transformer.wpe.weight": torch.zeros(64, 64)})
    with caplog.at_level(logging.WARNING):
        load()
    assert "transformer.wpe.weight is all zeros" in caplog.text
