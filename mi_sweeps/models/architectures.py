"""Which architectures are known, and what can be examined of each. A test holds every line of this against a small
random model, at two checkpoints, with hooks of PyTorch's own as the oracle.

Read without importing torch, so that `plan` can say it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mi_sweeps import models
from mi_sweeps.circuits.families import FAMILIES
from mi_sweeps.config import ScratchConfig
from mi_sweeps.errors import UserError
from mi_sweeps.series.checkpoints import single

if TYPE_CHECKING:
    from mi_sweeps.config import ModelConfig, PatchingConfig, SingleModel, Site
    from mi_sweeps.sweeps.points import GridPoint

FAST = "fast engine"
REFERENCE = "TransformerLens"

HEADS = ("summary", "classifier")
"""Keys of config.json that begin so are of heads that language models have not."""

HEAD_SITES: tuple[Site, ...] = ("z", "q", "k", "v", "pattern")


@dataclass(frozen=True)
class Architecture:
    """What can be examined of models of one type."""

    engine: str
    without_sites: tuple[Site, ...] = ()
    """Sites that cannot be patched."""
    without_rows: tuple[str, ...] = ()
    """Kinds of attribution rows that cannot be had."""
    refused: str | None = None
    """Why nothing can be trained or examined."""


def _each(types: str, architecture: Architecture) -> dict[str, Architecture]:
    return dict.fromkeys(types.split(), architecture)


_ALL_ROWS = ("lens", "layer", "head")
_NO_PATTERN = Architecture(REFERENCE, ("pattern",))
_LATENT = Architecture(REFERENCE, ("z", "q", "k", "v"), ("head",))
_CAPPED = Architecture(REFERENCE, (), _ALL_ROWS)
_MIXED = Architecture(REFERENCE, ("attn_out", *HEAD_SITES), _ALL_ROWS)
_RECURRENT = Architecture(REFERENCE, ("attn_out", "mlp_out", *HEAD_SITES), _ALL_ROWS)
_NOT_WRAPPED = Architecture(REFERENCE, refused="TransformerLens shows none of its activations by layer")

KNOWN: dict[str, Architecture] = {
    **dict.fromkeys(FAMILIES, Architecture(FAST)),
    **_each(
        "apertus arcee bitnet bloom codegen cohere cohere2 ernie4_5 ernie4_5_moe exaone4 falcon flex_olmo "
        "glm glm4 glm4_moe gpt_bigcode gpt_oss granitemoe hunyuan_v1_dense internlm3 "
        "iquestcoder jais2 minimax_m2 ministral3 mixtral mpt nemotron olmo olmoe phi3 "
        "qwen2_moe qwen3_moe seed_oss smollm3 starcoder2",
        Architecture(REFERENCE),
    ),
    **_each("afmoe gpt_neo gptj laguna opt xglm", _NO_PATTERN),
    **_each("deepseek_v2 deepseek_v3 glm4_moe_lite youtu", _LATENT),
    **_each("gemma2", Architecture(FAST, (), _ALL_ROWS)),
    **_each("openai-gpt vaultgemma", _CAPPED),
    **_each("gemma4_text nanochat", Architecture(REFERENCE, ("pattern",), _ALL_ROWS)),
    **_each("falcon_h1", Architecture(REFERENCE, (), ("layer", "head"))),
    **_each("jetmoe", Architecture(REFERENCE, HEAD_SITES, ("head",))),
    **_each("olmo_hybrid", Architecture(REFERENCE, HEAD_SITES, ("head",))),
    **_each("bamba jamba lfm2 lfm2_moe qwen3_5_moe_text qwen3_5_text qwen3_next", _MIXED),
    **_each("falcon_mamba mamba mamba2 nemotron_h recurrent_gemma rwkv zamba2", _RECURRENT),
    **_each("deepseek_v4 hrm_text", _NOT_WRAPPED),
    **_each("bert", Architecture(REFERENCE, refused="its tokens see those that follow them")),
    **_each("llama4_text", Architecture(REFERENCE, refused="Hugging Face gives no hidden states of it")),
    **_each("modernbert-decoder", Architecture(REFERENCE, refused="its logits are not one unembedding")),
}
"""By Hugging Face's `model_type` of the text part. Of others it is found out when a fine-tune begins."""


def model_type(model: SingleModel) -> str | None:
    """The type of a model, as far as its files here tell; None where they do not."""
    if isinstance(model, ScratchConfig):
        return "nope"
    values = _values(model)
    kind = values.get("text_config", values).get("model_type", values.get("model_type"))
    return kind if isinstance(kind, str) else None


def drops(model: SingleModel) -> bool:
    """Whether a model draws dropout in training, as far as its config.json states it."""
    values = {} if isinstance(model, ScratchConfig) else _values(model)
    values |= values.get("text_config", {})
    return any(
        "drop" in key and not key.startswith(HEADS) and isinstance(rate, float) and rate > 0
        for key, rate in values.items()
    )


def _values(model: ModelConfig) -> dict[str, Any]:
    """A model's config.json, or that of an adapter's base; empty where there is none that can be read."""
    try:
        values = json.loads(_config(models.base(model) or model))
    except (OSError, ValueError):
        return {}  # Whoever loads the model says what is wrong.
    return values if isinstance(values, dict) else {}


def _config(model: ModelConfig) -> bytes:
    if folder := models.folder(model):
        return (folder / "config.json").read_bytes()
    from mi_sweeps.models import hub

    assert model.hub is not None
    try:
        commit = hub.commit(model.hub, model.revision)
        file = hub.files(model.hub, commit).get("config.json")
        return hub.read(model.hub, commit, "config.json", 0, file.size) if file else b"{}"
    except hub.Unreachable:  # Its content may be known all the same, from before.
        return b"{}"


def examined(model: SingleModel, patching: PatchingConfig, kind: str | None) -> str | None:
    """One line on what cannot be examined of a model, and who patches it if not the fast engine.

    Args:
        kind: its `model_type`; None where it is not known yet.

    Raises:
        UserError: nothing of what was asked for, or not all that needs the fast engine.
    """
    if kind is None:
        return None
    sites = patching.sites
    if isinstance(model, ScratchConfig) and model.d_mlp is None and "mlp_out" in sites:
        raise UserError(f"patching.sites: model={model.name} has attention only (model.d_mlp=null); leave mlp_out out")
    known = KNOWN.get(kind)
    if known is not None and known.engine == FAST and not known.without_rows:
        return None
    if known is not None and known.refused:
        raise UserError(f"model={model.name}: models of type {kind} cannot be examined: {known.refused}")
    if patching.only_for_known_models and (known is None or known.engine != FAST):
        fast = ", ".join(name for name, one in KNOWN.items() if one.engine == FAST)
        raise UserError(
            f"{', '.join(patching.only_for_known_models)}: not for models of type {kind}; known are {fast}; leave "
            "them out"
        )
    if known is None:
        return (
            f"model={model.name}: models of type {kind} are not among those that are tested; "
            "whether they can be patched is found out before the first step of training"
        )
    left = [site for site in sites if site in known.without_sites]
    if sites and len(left) == len(sites):
        others = [site for site in ("resid_pre", "attn_out", "mlp_out", *HEAD_SITES) if site not in known.without_sites]
        raise UserError(f"patching.sites: models of type {kind} have none of them; there are: {', '.join(others)}")
    parts = [
        f"model={model.name}: {_who(known.engine, kind)}",
        *([f"without patches of {', '.join(left)}"] if left else []),
        *([f"without attribution by {', '.join(known.without_rows)}"] if known.without_rows else []),
    ]
    return ", ".join(parts)


def _who(engine: str, kind: str) -> str:
    if engine == FAST:
        return f"models of type {kind} are patched"
    return f"TransformerLens patches models of type {kind}, one forward a site"


def told(points: Sequence[GridPoint], kind_of: Callable[[SingleModel], str | None] = model_type) -> list[str]:
    """What there is to know of the models of a plan: a line each.

    Args:
        kind_of: a model's `model_type`.

    Raises:
        UserError: one of them cannot be examined as was asked for.
    """
    lines: dict[str, str | None] = {}
    for point in points:
        # By plain values: of thousands of points most differ in nothing that matters here.
        key = json.dumps([point.values["model"], point.values["patching"]], sort_keys=True, default=str)
        if key not in lines:
            config = point.config
            model = single(config)
            lines[key] = examined(model, config.patching, kind_of(model))
    return list(dict.fromkeys(line for line in lines.values() if line))


def table() -> str:
    """The table of docs/models.md."""
    rows: dict[Architecture, list[str]] = {}
    for name, known in KNOWN.items():
        rows.setdefault(known, []).append(name)
    lines = [
        "| `model_type` | who patches | cannot be patched | no attribution by | checked |",
        "|---|---|---|---|---|",
    ]
    for known, names in rows.items():
        told = [
            " ".join(sorted(names)),
            f"refused: {known.refused}" if known.refused else known.engine,
            ", ".join(known.without_sites),
            ", ".join(known.without_rows),
            "the refusal" if known.refused else "everything" if known.engine == FAST else "some patches",
        ]
        lines.append(f"| {' | '.join(point or '·' for point in told)} |")
    return "\n".join(lines)
