"""Fixtures that every folder of tests uses."""

from __future__ import annotations

import gc
import os
import runpy
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

from mi_sweeps import libraries
from tests import shapes
from tests.hub import Hub, a_new_process

# What takes seconds to import is imported in the fixtures: pytest's main process hands out the tests, and needs none.
if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from mi_sweeps.config import Config
    from mi_sweeps.models.nope import NopeForCausalLM
    from mi_sweeps.tasks.pairs import Pairs

shapes.install("mi_sweeps.circuits")
libraries.quiet()
# For the processes that tests start, too: two threads each for a small model only wait for each other.
os.environ["OMP_NUM_THREADS"] = "1"

settings.register_profile("repeatable", derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
settings.load_profile("repeatable")

SMALL = (
    "task.prompts.train=24",
    "task.prompts.heldout=12",
    "task.prompts.two_name=4",
    "train.steps=4",
    "train.batch_size=8",
    "checkpoint.every=2",
    "checkpoint.steps=[]",
    "patching=heads",
    "patching.prompts=6",
    "patching.steps=[0,4]",
)
"""Overrides under which a point of `mini` takes about a second."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """File by file, so that what a file's tests share is made once; all of tests/cluster to one worker, as two clusters
    at once would be in each other's way."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "cluster" if nodeid.startswith("tests/cluster/") else nodeid.partition("::")[0]

    return Scheduling(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, Any, Any]:
    """The garbage collector leaves what was imported alone: it would go through a million objects again and again."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(10_000, 20, 50)
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the tests that wait longest first, so that no worker is left with them at the end."""
    items.sort(key=lambda item: not item.nodeid.startswith("tests/cluster/"))


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Whatever a test before has asked for: two workers with two threads each wait for each other on two cores."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture(scope="session")
def small() -> tuple[str, ...]:
    return SMALL


@pytest.fixture(scope="session")
def script_of_series() -> dict[str, Any]:
    """What examples/make_series.py defines."""
    return runpy.run_path(str(Path(__file__).parents[1] / "examples" / "make_series.py"))


@pytest.fixture(scope="session")
def checkpoints_of(script_of_series, mini_tokenizer) -> dict[int, PreTrainedModel]:
    """Its models by their steps. Read them, do not change them."""
    return dict(script_of_series["models"](len(mini_tokenizer)))


@pytest.fixture(scope="session")
def written(script_of_series, tmp_path_factory) -> Path:
    """What it writes. Read it, do not change it."""
    folder = tmp_path_factory.mktemp("series")
    script_of_series["write"](folder)
    return folder


@pytest.fixture
def make_config(tmp_path: Path) -> Callable[..., Config]:
    """The configuration of one point, with its results below `tmp_path`."""
    from mi_sweeps.sweeps.grid import expand

    def make(*overrides: str) -> Config:
        given = {override.partition("=")[0] for override in overrides}
        output = () if "output" in given else (f"output={tmp_path / 'outputs'}",)
        (point,) = expand([*output, *overrides])
        return point.config

    return make


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Any, str, str]]:
    """Runs a command; gives the exit code, what it printed and what it complained of."""
    from mi_sweeps import cli

    def run(*arguments: object) -> tuple[object, str, str]:
        monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as stopped:
            cli.main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return stopped.value.code, printed.out, printed.err

    return run


@pytest.fixture
def refuse(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that must fail with one line; gives the line."""
    from mi_sweeps import cli

    def run(*arguments: object, code: int = 2) -> str:
        with pytest.raises(SystemExit) as stopped:
            cli.main([str(argument) for argument in arguments])
        complaint = capsys.readouterr().err
        assert stopped.value.code == code
        assert complaint.startswith("error: ")
        assert complaint.count("\n") == 1, complaint
        return complaint

    return run


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, and no hub."""
    from huggingface_hub import constants, hf_api

    folder = tmp_path / "hub cache"
    endpoint = "http://127.0.0.1:9"
    for name, value in {"ENDPOINT": endpoint, "HF_HUB_CACHE": str(folder), "HF_HUB_OFFLINE": False}.items():
        monkeypatch.setattr(constants, name, value)
    # These keep the endpoint of the moment when they are made, and ask a dead one again for 45 seconds.
    monkeypatch.setattr(hf_api.api, "endpoint", endpoint)
    monkeypatch.setattr("transformers.utils.hub._hf_api", None)
    # For processes that a test starts; HF_TOKEN must be in no message.
    for name, value in {"HF_ENDPOINT": endpoint, "HF_HUB_CACHE": str(folder), "HF_TOKEN": "hf_secret"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setattr("mi_sweeps.models.hub.answers.PAUSE", 0.01)
    a_new_process()
    return folder


@pytest.fixture
def hub(hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub on this machine, without models and with an empty cache (`hub_cache`)."""
    from huggingface_hub import constants, hf_api

    hub = Hub()
    monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
    monkeypatch.setattr(hf_api.api, "endpoint", hub.endpoint)
    address = constants.HUGGINGFACE_CO_URL_TEMPLATE[constants.HUGGINGFACE_CO_URL_TEMPLATE.index("/{repo_id}") :]
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.endpoint + address)
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    yield hub
    hub.down()
    assert not hub.unknown


@pytest.fixture(scope="session")
def mini_tokenizer() -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    from mi_sweeps.models.mini import FOLDER

    return AutoTokenizer.from_pretrained(FOLDER)


@pytest.fixture(scope="session")
def mini_model() -> PreTrainedModel:
    """Shared by all tests: read it, do not change it."""
    import torch
    from transformers import AutoModelForCausalLM

    from mi_sweeps.models.mini import FOLDER

    return AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32).eval()


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, mini_model: PreTrainedModel) -> Path:
    """What Hugging Face's Trainer leaves of two runs of `mini`: `full/checkpoint-2`, `full/checkpoint-4`, and the same
    in `lora`. Without a tokenizer, as it does where it was given none. Shared by all tests: copy it to change it."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

    from mi_sweeps.models.mini import FOLDER

    folder = tmp_path_factory.mktemp("trained")
    lora: Any = {"r": 2, "target_modules": ["c_attn", "c_fc"], "fan_in_fan_out": True}
    tokens = torch.randint(mini_model.config.vocab_size, (8, 8), generator=torch.Generator().manual_seed(0))
    data: Any = [{"input_ids": row, "labels": row} for row in tokens]
    for name in ("full", "lora"):
        model = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32)
        if name == "lora":
            model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **lora))
        given = {"max_steps": 4, "save_steps": 2, "logging_steps": 1, "eval_strategy": "steps", "eval_steps": 2}
        quiet = {"report_to": "none", "use_cpu": True, "disable_tqdm": True, "log_level": "error"}
        arguments = TrainingArguments(
            output_dir=str(folder / name), per_device_train_batch_size=2, learning_rate=1e-2, **given, **quiet
        )
        Trainer(model=model, args=arguments, train_dataset=data, eval_dataset=data[:2]).train()
    return folder


GPT2_SIZES = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "initializer_range": 0.2}

LLAMA_SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
}

NEOX_SIZES = {key: value for key, value in LLAMA_SIZES.items() if key != "num_key_value_heads"}

GEMMA_SIZES = {
    **LLAMA_SIZES,
    "head_dim": 16,
    "query_pre_attn_scalar": 4,
    "layer_types": ["sliding_attention", "full_attention"],
}
MULTIPLIERS = {
    **{"residual_multiplier": 0.8, "embedding_multiplier": 2.0, "logits_scaling": 0.8, "attention_multiplier": 0.7},
}
CAPS = {"attn_logit_softcapping": 3.0, "final_logit_softcapping": 4.0}
"""So low that they matter."""

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", GPT2_SIZES),
    "llama": ("llama", LLAMA_SIZES),
    "qwen3": ("qwen3", {**LLAMA_SIZES, "head_dim": 8}),
}
"""One of each architecture: its type, as transformers has it, and its sizes."""

MORE_MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma2": ("gemma2", {**GEMMA_SIZES, **CAPS}),
    "gpt_neox": ("gpt_neox", NEOX_SIZES),
    "gpt2-scaled-by-layer": ("gpt2", {**GPT2_SIZES, "scale_attn_by_inverse_layer_idx": True}),
    "llama-biases": ("llama", {**LLAMA_SIZES, "attention_bias": True, "mlp_bias": True}),
    "mistral": ("mistral", {**LLAMA_SIZES, "num_key_value_heads": 1, "head_dim": 16}),
    "olmo2": ("olmo2", LLAMA_SIZES),
    "qwen2": ("qwen2", LLAMA_SIZES),
}
"""Their kin: biases, one key/value head, heads that are wider together than the residual stream. And families whose
blocks are put together in other ways."""

OTHER_MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma": ("gemma", {**LLAMA_SIZES, "head_dim": 8}),
    "gemma3": ("gemma3_text", GEMMA_SIZES),
    "granite": ("granite", {**LLAMA_SIZES, **MULTIPLIERS}),
    "phi": ("phi", LLAMA_SIZES),
    "stablelm": ("stablelm", {**LLAMA_SIZES, "use_qkv_bias": True}),
    "starcoder2": ("starcoder2", LLAMA_SIZES),
    "olmo3": ("olmo3", LLAMA_SIZES),
}
"""What differs little from one of those."""


@pytest.fixture(scope="session")
def model_types() -> set[str]:
    """Of all that `make_model` makes."""
    return {model_type for model_type, _ in (MODELS | MORE_MODELS | OTHER_MODELS).values()}


@pytest.fixture(scope="session")
def make_model(mini_tokenizer: PreTrainedTokenizerBase) -> Callable[..., PreTrainedModel]:
    """A new tiny model by its name, with random weights that are far from zero, biases too; the same each time."""

    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    def make(name: str, **options: Any) -> PreTrainedModel:
        torch.manual_seed(0)
        model_type, sizes = (MODELS | MORE_MODELS | OTHER_MODELS)[name]
        given = {"vocab_size": len(mini_tokenizer), "attn_implementation": "eager", **sizes, **options}
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **given)).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith("bias") or parameter.dim() == 1:
                    parameter.add_(0.3 * torch.randn_like(parameter))
        return model

    return make


@pytest.fixture(params=MODELS)
def random_model(request: pytest.FixtureRequest, make_model: Callable[..., PreTrainedModel]) -> PreTrainedModel:
    """A tiny model of each architecture."""
    return make_model(request.param)


@pytest.fixture(scope="module", params=[*MODELS, *(pytest.param(name, marks=pytest.mark.slow) for name in MORE_MODELS)])
def family(request: pytest.FixtureRequest) -> str:
    """The name of each architecture and of each of their kin, for `make_model`."""
    return request.param


@pytest.fixture(scope="session")
def make_test_pairs(mini_tokenizer: PreTrainedTokenizerBase) -> Callable[..., Pairs]:
    """Pairs of three-name prompts; of one template and so of one length, or of unequal lengths."""
    from mi_sweeps.tasks import ioi
    from mi_sweeps.tasks.data import balanced
    from mi_sweeps.tasks.pairs import make_pairs

    def make(corruption: str, *, one_length: bool = False, count: int = 6) -> Pairs:
        names = ioi.single_token_names(mini_tokenizer)
        prompts = ioi.splits(names, 3, {"train": 240}, seed=0)["train"]
        if one_length:
            prompts = [
                prompt for prompt in prompts if prompt.template.split("|")[1] == "went" and "," in prompt.template
            ]
            prompts = [prompt for prompt in prompts if "decided" not in prompt.template]
        return make_pairs(balanced(prompts, count), corruption, mini_tokenizer, names, prepend_bos=False)

    return make


@pytest.fixture(scope="session")
def make_nope() -> Callable[..., NopeForCausalLM]:
    """A new tiny model without positional embeddings, with random weights that are far from zero, biases too."""
    import torch

    from mi_sweeps.models.nope import NopeConfig, NopeForCausalLM

    def make(layers: int = 2, d_mlp: int | None = None, **sizes: Any) -> NopeForCausalLM:
        torch.manual_seed(0)
        given = {"vocab_size": 12, "hidden_size": 16, "num_attention_heads": 2, "head_dim": 8, **sizes}
        model = NopeForCausalLM(
            NopeConfig(num_hidden_layers=layers, intermediate_size=d_mlp, initializer_range=0.3, **given)
        ).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() == 1:
                    parameter.add_(0.3 * torch.randn_like(parameter))
        return model

    return make
