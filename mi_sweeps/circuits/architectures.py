"""Lists the known architectures and what can be examined in each. A test checks every entry with a small random model,
at two checkpoints, against plain PyTorch hooks.

Does not import torch, so that `plan` can report it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mi_sweeps.circuits.families import FAMILIES
from mi_sweeps.config import ScratchConfig
from mi_sweeps.errors import UserError

if TYPE_CHECKING:
    from mi_sweeps.config import PatchingConfig, SingleModel, Site

FAST = "fast engine"
REFERENCE = "TransformerLens"

HEAD_SITES: tuple[Site, ...] = ("z", "q", "k", "v", "pattern")


@dataclass(frozen=True)
class Architecture:
    """What can be examined in models of one type."""

    engine: str
    without_sites: tuple[Site, ...] = ()
    """Sites that cannot be patched."""
    without_rows: tuple[str, ...] = ()
    """Kinds of attribution rows that cannot be computed."""
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
_NOT_WRAPPED = Architecture(REFERENCE, refused="TransformerLens exposes none of its activations by layer")

KNOWN: dict[str, Architecture] = {
    **dict.fromkeys(FAMILIES, Architecture(FAST)),
    **_each(
        "apertus arcee bitnet bloom codegen cohere cohere2 ernie4_5 ernie4_5_moe exaone4 falcon flex_olmo "
        "glm glm4 glm4_moe gpt_bigcode gpt_oss granitemoe hunyuan_v1_dense internlm3 "
        "iquestcoder jais2 minimax_m2 ministral3 mixtral mpt nemotron olmo olmoe phi3 "
        "qwen2_moe qwen3_moe seed_oss smollm3",
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
    **_each("bert", Architecture(REFERENCE, refused="its tokens see later ones")),
    **_each("llama4_text", Architecture(REFERENCE, refused="Hugging Face does not return its hidden states")),
    **_each("modernbert-decoder", Architecture(REFERENCE, refused="its logits are not a single unembedding")),
}
"""By Hugging Face's `model_type` of the text part. Any other is tried when a fine-tune begins."""


def examined(model: SingleModel, patching: PatchingConfig, kind: str | None) -> str | None:
    """One line on what cannot be examined in a model, and which engine patches it; None if there is nothing to say.

    Args:
        kind: its `model_type`; None if not known yet.

    Raises:
        UserError: none of the requested sites can be patched, or something requested needs the fast engine.
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
            f"{', '.join(patching.only_for_known_models)}: not available for models of type {kind}, only for {fast}; "
            "leave them out"
        )
    if known is None:
        return (
            f"model={model.name}: models of type {kind} are untested; "
            "whether they can be patched is checked before the first step of training"
        )
    left = [site for site in sites if site in known.without_sites]
    if sites and len(left) == len(sites):
        others = [site for site in ("resid_pre", "attn_out", "mlp_out", *HEAD_SITES) if site not in known.without_sites]
        raise UserError(f"patching.sites: models of type {kind} have none of these; choose from {', '.join(others)}")
    parts = [
        f"model={model.name}: {_who(known.engine, kind)}",
        *([f"without patches of {', '.join(left)}"] if left else []),
        *([f"without attribution by {', '.join(known.without_rows)}"] if known.without_rows else []),
    ]
    return ", ".join(parts)


def _who(engine: str, kind: str) -> str:
    if engine == FAST:
        return f"models of type {kind} are patched"
    return f"TransformerLens patches models of type {kind}, with one forward pass per site"


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
        cells = [
            " ".join(sorted(names)),
            f"refused: {known.refused}" if known.refused else known.engine,
            ", ".join(known.without_sites),
            ", ".join(known.without_rows),
            "the refusal" if known.refused else "everything" if known.engine == FAST else "some patches",
        ]
        lines.append(f"| {' | '.join(text or '·' for text in cells)} |")
    return "\n".join(lines)
