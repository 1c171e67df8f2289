"""Untrusted checkpoints, tokenizers and model folders."""

from __future__ import annotations

import json
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from campaign.hostile_values import NUMBERS, spoilt
from campaign.scenarios import Fault


def checkpoints(chance: random.Random, place: Path) -> Callable[[], Any]:
    """Makes an untrusted file of weights: false shapes and offsets, other types, NaN, a pickle, nothing."""
    import pickle

    import torch

    from mi_sweeps.training.checkpoints import load_weights

    base = {"a": torch.ones(4, 3), "b": torch.ones(5)}
    header: dict[str, Any] = {"__metadata__": {"storage": chance.choice(["full", "full", "delta", "other"])}}
    data = bytearray()
    for name, one in base.items():
        kind, size = chance.choice([("F32", 4), ("F32", 4), ("F32", 4), ("BF16", 2), ("F64", 8), ("I64", 8)])
        begin = len(data)
        data += struct.pack("<f", chance.choice([1.0, 0.5, *map(float, NUMBERS[:7])])) * (one.numel() * size // 4)
        header[name] = {"dtype": kind, "shape": list(one.shape), "data_offsets": [begin, len(data)]}
    if chance.random() < 0.7:
        header = spoilt(header, chance)
    written = json.dumps(header).encode(errors="surrogatepass")
    length = len(written) if chance.random() < 0.9 else chance.choice([0, 1, 2**31, 2**63, 2**64 - 1])
    content = struct.pack("<Q", length) + written + bytes(data)
    if chance.random() < 0.1:
        content = chance.choice([b"", b"{}", pickle.dumps(base), pickle.dumps(_Bomb(place / "exploded")), content[:-3]])
    file = place / "000008.safetensors"
    file.write_bytes(content)

    def work() -> None:
        weights = {name: torch.zeros_like(one) for name, one in base.items()}
        try:
            load_weights(file, weights, base)
        finally:
            if (place / "exploded").exists():
                raise Fault("a pickle was executed")
        kinds = {one["dtype"] for name, one in header.items() if name != "__metadata__"}
        if not kinds <= {"F32", "BF16", "F64", "I64", "F16", "I32", "I16", "I8", "U8", "BOOL"}:
            raise Fault(f"{kinds}: taken")

    return work


class _Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = str(place)

    def __reduce__(self) -> Any:
        return open, (self.place, "w")


def tokenizers(chance: random.Random, place: Path) -> Callable[[], Any]:
    """Makes a model's folder with another tokenizer."""
    from mi_sweeps.models.load import load_tokenizer

    _copy_mini(place)
    file = place / chance.choice(["tokenizer.json", "tokenizer.json", "tokenizer_config.json", "config.json"])
    _spoil(file, chance)
    model = _model(place)

    def work() -> None:
        found = load_tokenizer(model)
        if found is None or not found("When Mary and John met")["input_ids"]:
            raise Fault("a tokenizer that gives nothing")

    return work


def models(chance: random.Random, place: Path) -> Callable[[], Any]:
    """Makes an untrusted model folder: a pickle for weights, false shapes, NaN, code of its own."""
    import pickle

    import torch
    from safetensors.torch import load_file, save_file

    from mi_sweeps.models.load import load_model

    _copy_mini(place)
    weights = place / "model.safetensors"
    how = chance.choice(["pickle", "zip", "bytes", "cut", "nan", "shape", "config", "code", "header"])
    if how == "pickle":
        weights.unlink()
        (place / "pytorch_model.bin").write_bytes(pickle.dumps(_Bomb(place / "exploded")))
    elif how == "zip":
        weights.unlink()
        torch.save({"a": _Bomb(place / "exploded")}, place / "pytorch_model.bin")
    elif how == "bytes":
        content = bytearray(weights.read_bytes())
        for _ in range(20):
            content[chance.randrange(min(len(content), 3000))] ^= chance.randrange(1, 256)
        weights.write_bytes(content)
    elif how == "cut":
        weights.write_bytes(weights.read_bytes()[: chance.randrange(weights.stat().st_size)])
    elif how in ("nan", "shape"):
        tensors = load_file(weights)
        name = chance.choice(sorted(tensors))
        bad = chance.choice([float("nan"), float("inf")])
        tensors[name] = torch.full_like(tensors[name], bad) if how == "nan" else tensors[name][:-1].contiguous()
        save_file(tensors, weights, {"format": "pt"})
    elif how == "code":
        about = json.loads((place / "config.json").read_text())
        about |= {"auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}, "model_type": "evil"}
        (place / "config.json").write_text(json.dumps(about))
        (place / "evil.py").write_text(
            f"open({str(place / 'exploded')!r}, 'w')\nclass Config: pass\nclass Model: pass\n"
        )
    elif how == "config":
        _spoil(place / "config.json", chance)
    else:
        content = weights.read_bytes()
        weights.write_bytes(struct.pack("<Q", chance.choice([0, 1, 2**31, 2**63])) + content[8:])
    (place / "how").write_text(how)
    model = _model(place)

    def work() -> None:
        try:
            network, _ = load_model(model)
        finally:
            if (place / "exploded").exists():
                raise Fault(f"{how}: code of the folder was executed")
        if how in ("pickle", "zip", "cut", "shape", "code", "header"):
            raise Fault(f"{how}: taken")
        if not all(torch.isfinite(one).all() for one in network.parameters()):
            raise Fault(f"{how}: weights that are not finite")

    return work


def _model(place: Path) -> Any:
    from mi_sweeps.config import ModelConfig

    return ModelConfig(name="local", hub=None, revision=None, path=str(place), prepend_bos=False)


def _copy_mini(place: Path) -> None:
    from mi_sweeps.models.mini import FOLDER

    for file in FOLDER.iterdir():
        shutil.copy(file, place / file.name)


def _spoil(file: Path, chance: random.Random) -> None:
    """Changes a value somewhere in a JSON file, or some bytes."""
    if chance.random() < 0.7:
        other = json.loads(file.read_text())
        for _ in range(chance.choice([1, 2, 4])):
            other = spoilt(other, chance)
        file.write_text(json.dumps(other), encoding="utf-8", errors="surrogatepass")
    else:
        content = bytearray(file.read_bytes())
        for _ in range(chance.choice([1, 5, 50])):
            content[chance.randrange(len(content))] = chance.randrange(256)
        file.write_bytes(content[: chance.choice([len(content), chance.randrange(len(content))])])
