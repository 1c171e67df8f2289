"""What this machine has, and what is missing."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = (
    "torch",
    "transformers",
    "transformer-lens",
    "datasets",
    "hydra-core",
    "submitit",
    "wandb",
    "pandas",
    "pyarrow",
)


def findings(output: Path) -> Iterator[tuple[str, str, str]]:
    """Yields what was checked, what was found, and what to do if something is missing (otherwise empty)."""
    yield "python", f"{platform.python_version()} on {platform.platform()}", ""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield "cpu", f"{cores} cores", ""
    for package in PACKAGES:
        try:
            yield package, version(package), ""
        except PackageNotFoundError:
            yield package, "missing", f"pip install {package}"
    yield from _devices()
    yield from _models()
    yield from _wandb()
    slurm = shutil.which("sbatch")
    yield "slurm", slurm or "no sbatch here", "" if slurm else "only needed on a cluster"
    yield _folder(output)


def _devices() -> Iterator[tuple[str, str, str]]:
    import torch

    if not torch.cuda.is_available():
        yield "device", f"cpu, {torch.get_num_threads()} threads", "no CUDA device; fine for small models"
    for index in range(torch.cuda.device_count()):
        found = torch.cuda.get_device_properties(index)
        yield f"cuda:{index}", f"{found.name}, {found.total_memory / 2**30:.0f} GiB", ""


def _models() -> Iterator[tuple[str, str, str]]:
    from mi_sweeps.models.mini import FOLDER

    if (FOLDER / "model.safetensors").is_file():
        yield "model=mini", "shipped", ""
    else:
        yield "model=mini", "missing", "python -m mi_sweeps.models.mini"
    from huggingface_hub import try_to_load_from_cache

    for name, hub in {"gpt2": "openai-community/gpt2", "smollm2": "HuggingFaceTB/SmolLM2-135M-Instruct"}.items():
        cached = isinstance(try_to_load_from_cache(hub, "config.json"), str)
        advice = "" if cached else "downloaded on first use; without the hub: python -m mi_sweeps.models.smollm2 DIR"
        yield f"model={name}", "in the hub cache" if cached else "not downloaded", advice
    for package, use in {
        "gguf": "only to make SmolLM2: mi-sweeps[smollm2]",
        "peft": "only for LoRA: mi-sweeps[peft]",
    }.items():
        there = importlib.util.find_spec(package) is not None
        yield package, version(package) if there else "not installed", "" if there else use


def _wandb() -> Iterator[tuple[str, str, str]]:
    key = bool(os.environ.get("WANDB_API_KEY")) or _netrc_has("api.wandb.ai")
    yield "wandb login", "yes" if key else "no", "" if key else "only for uploads to wandb: wandb login"


def _netrc_has(host: str) -> bool:
    try:
        return host in (Path.home() / ".netrc").read_text()
    except OSError:
        return False


def _folder(output: Path) -> tuple[str, str, str]:
    existing = next(path for path in (output.absolute(), *output.absolute().parents) if path.exists())
    free = f"{shutil.disk_usage(existing).free / 1e9:.0f} GB free"
    writable = os.access(existing, os.W_OK)
    advice = "" if writable else "not writable: choose another folder with output=DIR"
    return "output", f"{output.absolute()}, {free}", advice
