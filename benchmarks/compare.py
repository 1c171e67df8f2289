"""Compares times and values of the engine with TransformerLens and nnsight: the same patches, in turns."""

from __future__ import annotations

import argparse
import copy
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, TypeVar

import pandas as pd
import torch
from cases import Case, Place
from printing import note, spread
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformer_lens import patching

from mi_sweeps.circuits.engine import POSITION_SITES, Patched
from mi_sweeps.config import Site
from mi_sweeps.tasks.pairs import Pairs

T = TypeVar("T")

LENS: dict[Site, Any] = {
    "resid_pre": patching.get_act_patch_resid_pre,
    "attn_out": patching.get_act_patch_attn_out,
    "mlp_out": patching.get_act_patch_mlp_out,
    "z": patching.get_act_patch_attn_head_out_all_pos,
    "v": patching.get_act_patch_attn_head_v_all_pos,
    "pattern": patching.get_act_patch_attn_head_pattern_all_pos,
}
UNCOUNTED: dict[Any, Callable[..., int]] = {
    torch.ops.aten.addmm_: lambda total, a, b, **_: 2 * a[0] * a[1] * b[1],
    torch.ops.aten.baddbmm_: lambda total, a, b, **_: 2 * a[0] * a[1] * a[2] * b[2],
    torch.ops.mkldnn._linear_pointwise: lambda x, weight, *_, **__: 2 * math.prod(x) * weight[0],
}
"""FLOPs of matrix products that PyTorch's counter does not cover, computed from the shapes of their arguments."""


@dataclass(frozen=True)
class Comparison:
    """One kind of prompts on one model; lists have one value per repetition."""

    name: str
    kind: str
    prompts: str
    n_sites: dict[Site, int]
    sampled: int
    """Sites that TransformerLens patches in a repetition."""
    engine: list[float]
    lens: dict[Site, list[float]]
    """Seconds per site."""
    rates: list[float]
    """FLOPs per second of a large matrix product."""
    flops: int
    lens_flops: int
    difference: float
    """Largest difference at a sampled site, in logits."""
    effect: float
    """Largest effect of a sampled patch, in logits."""

    @property
    def sites(self) -> int:
        """FLOPs of all families together."""
        return sum(self.n_sites.values())

    @property
    def lens_all(self) -> list[float]:
        """Seconds for all sites."""
        return [
            sum(self.n_sites[site] * seconds[turn] for site, seconds in self.lens.items())
            for turn in range(len(self.engine))
        ]

    @property
    def ratios(self) -> list[float]:
        """The ratio of TransformerLens's seconds to the engine's."""
        return [theirs / ours for theirs, ours in zip(self.lens_all, self.engine, strict=True)]

    @property
    def shares(self) -> list[float]:
        """The engine's rate as a share of that of large matrix products."""
        return [self.flops / seconds / rate for seconds, rate in zip(self.engine, self.rates, strict=True)]


def now(device: torch.device) -> float:
    """Returns CPU-seconds of this process, or wall-clock seconds for a GPU."""
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def timed(device: torch.device, work: Callable[..., T], *arguments: Any, **named: Any) -> tuple[float, T]:
    """Times some work; returns the seconds and the result."""
    begun = now(device)
    result = work(*arguments, **named)
    return now(device) - begun, result


def count_flops(work: Callable[..., object], *arguments: Any) -> int:
    """FLOPs of all matrix products."""
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=UNCOUNTED) as counter:
        work(*arguments)
    return counter.get_total_flops()


def gemm_rate(case: Case) -> float:
    """Measures FLOPs per second, over enough products to take a few tenths of a second."""
    device = case.model.device
    weight = torch.randn(case.network.blocks[0].mlp.up.weight.shape, device=device)
    x = torch.randn(2048, len(weight), device=device)
    flops = 2 * x.numel() * weight.shape[1]
    calls = min(200, max(5, int(3e10 / flops)))
    return flops / median([timed(device, torch.mm, x, weight)[0] for _ in range(calls + 2)][2:])


@torch.no_grad()
def compare(case: Case, bridge: Any, kind: str, options: argparse.Namespace) -> Comparison:
    """Runs the engine and TransformerLens in turns."""
    pairs = case.pairs[kind]
    _, cache = bridge.run_with_cache(pairs.clean.tokens)
    flops = count_flops(case.engine.patch, pairs, case.patching)
    lens_flops = count_flops(bridge, pairs.corrupted.tokens)
    for site in LENS:
        lens_patch(bridge, pairs, cache, site, [(0, 0)])  # to warm up
    engine, rates = [], []
    values: list[tuple[float, float]] = []
    lens: dict[Site, list[float]] = {site: [] for site in LENS}
    for turn in range(options.repeats):
        before = gemm_rate(case)
        seconds, patched = timed(options.device, case.engine.patch, pairs, case.patching)
        engine.append(seconds)
        rates.append((before + gemm_rate(case)) / 2)
        for site in LENS:
            chosen = case.sample(site, turn, options.sample)
            seconds, theirs = timed(options.device, lens_patch, bridge, pairs, cache, site, chosen)
            lens[site].append(seconds / len(chosen))
            values += side_by_side(patched, pairs, site, chosen, theirs)
        note(f"{case.name}, {kind}, repetition {turn + 1} of {options.repeats}: engine {engine[-1]:.2f} s")
    n_sites = {site: case.n_sites(site) for site in LENS}
    lengths = sorted({int(end) + 1 for end in pairs.clean.end})
    prompts = f"{len(pairs.clean)} x {'–'.join(map(str, dict.fromkeys([lengths[0], lengths[-1]])))}"
    sampled = sum(len(case.sample(site, 0, options.sample)) for site in LENS)
    total = lens_flops * sum(n_sites.values())
    return Comparison(case.name, kind, prompts, n_sites, sampled, engine, lens, rates, flops, total, *largest(values))


def lens_patch(bridge: Any, pairs: Pairs, cache: Any, site: Site, chosen: Sequence[Place]) -> Tensor:
    """Patches some sites with TransformerLens's own function; returns the logit difference of each site and prompt."""
    return LENS[site](
        bridge,
        pairs.corrupted.tokens,
        cache,
        lambda logits: pairs.logit_diff(pairs.at_end(logits)),
        index_axis_names=None,
        index_df=pd.DataFrame(chosen, columns=["layer", "place"]),
        reduce="none",
    ).values


def side_by_side(
    patched: Patched, pairs: Pairs, site: Site, chosen: Sequence[Place], theirs: Tensor
) -> Iterator[tuple[float, float]]:
    """Returns the difference from the engine and the effect of the patch, for each sampled site and prompt with it."""
    for (layer, place), values in zip(chosen, theirs.tolist(), strict=True):
        for prompt, (value, roles) in enumerate(zip(values, pairs.clean.roles, strict=True)):
            if site in POSITION_SITES and place >= len(roles):
                continue
            index = patched.roles.index(roles[place]) if site in POSITION_SITES else place
            yield (
                abs(patched.sites[site][layer, index, prompt].item() - value),
                abs(patched.corrupted[prompt].item() - value),
            )


def largest(values: Iterable[tuple[float, float]]) -> tuple[float, float]:
    """The largest absolute value of each array; NaN if one is NaN."""
    difference, effect = torch.tensor([*values]).amax(dim=0).tolist()
    return difference, effect


@torch.no_grad()
def nnsight_rows(case: Case, options: argparse.Namespace) -> list[list[str]]:
    """Patches resid_pre with the engine and with nnsight, in turns."""
    from nnsight import NNsight

    model = copy.deepcopy(case.model)  # TransformerLens will rename modules of the other
    traced = NNsight(model)
    blocks = traced.transformer.h if hasattr(model, "transformer") else traced.model.layers

    def one(tokens: Tensor, clean: Sequence[Tensor], layer: int, place: int) -> Tensor:
        with traced.trace(tokens):
            blocks[layer].input[:, place] = clean[layer][:, place]
            logits = traced.output.logits.save()
        return logits

    rows = []
    only = case.patching.model_copy(update={"sites": ("resid_pre",)})
    for kind, pairs in case.pairs.items():
        clean = model(pairs.clean.tokens, output_hidden_states=True).hidden_states
        one(pairs.corrupted.tokens, clean, 0, 0)
        ours, theirs = [], []
        values: list[tuple[float, float]] = []
        for turn in range(options.repeats):
            seconds, patched = timed(options.device, case.engine.patch, pairs, only)
            ours.append(seconds)
            chosen = case.sample("resid_pre", turn, options.sample)
            found = [timed(options.device, one, pairs.corrupted.tokens, clean, *place) for place in chosen]
            theirs.append(case.n_sites("resid_pre") * sum(seconds for seconds, _ in found) / len(found))
            logit_diffs = torch.stack([pairs.logit_diff(pairs.at_end(logits)) for _, logits in found])
            values += side_by_side(patched, pairs, "resid_pre", chosen, logit_diffs)
            note(f"{case.name}, {kind}, nnsight, repetition {turn + 1} of {options.repeats}")
        ratio = median(t / o for t, o in zip(theirs, ours, strict=True))
        difference = f"{largest(values)[0]:.0e}"
        rows.append(
            [case.name, kind, str(case.n_sites("resid_pre")), spread(theirs), spread(ours), f"{ratio:.1f}", difference]
        )
    return rows
