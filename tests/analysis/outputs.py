"""A synthetic output folder: what a sweep leaves on disk, made of formulas instead of fine-tunes."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from mi_sweeps.circuits.tables import TABLES

POSITIONS = (
    "intro 1",
    "name 1",
    "name 2",
    "and",
    "name 3",
    "subject 1",
    "and 2",
    "subject 2",
    "action -1",
    "end",
)


SLOT = {"first": POSITIONS.index("subject 1"), "second": POSITIONS.index("subject 2")}


PROMPTS = 12


HOSTILE = "</script><img src=x onerror=\"document.title='pwned'\"> & {{js}}"


def write_json(file: Path, content: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))


def write_run(
    output: Path, run_id: str, *, lr: float = 1e-4, schedule: str = "constant", seed: int = 0,
    state: str = "done", error: str | None = None, steps: Iterable[int] = (0, 8, 16, 24), diverged: int | None = None,
) -> None:  # fmt: skip
    """A run folder whose held-out win rate follows a logistic curve, sooner for a larger learning rate."""
    folder = output / "runs" / run_id
    config = {
        "model": {"name": "mini", "layers": 4},
        "task": {"name": "ioi3"},
        "optim": {"lr": lr, "weight_decay": 0.0},
        "schedule": {"name": schedule},
        "train": {"steps": max(steps), "batch_size": 16},
        "seed": seed,
    }
    write_json(folder / "run.json", {"run_id": run_id, "config": config, "versions": {"mi_sweeps": "0.1.0"}})
    status = {"state": state, "attempts": 1, "seconds": 61.5, "host": "node1", "error": error, "diverged": diverged}
    write_json(folder / "status.json", status)
    rows = []
    for step in steps:
        learned = _learned(step, lr, seed)
        for split, n, best in (("train", 240, 0.98), ("heldout", 120, 0.96), ("two_name", 60, 0.9)):
            rate = round(n * (0.3 + (best - 0.3) * learned)) / n
            low, high = wilson(rate, n)
            values = {
                "loss": 2 - 1.9 * learned,
                "win_rate": rate,
                "win_rate_low": low,
                "win_rate_high": high,
                "logit_diff_first": 0.3 + 3 * learned,
                "logit_diff_second": 0.1 + 2.5 * learned,
            }
            rows += [(step, split, metric, value, n) for metric, value in values.items()]
    pd.DataFrame(rows, columns=["step", "split", "metric", "value", "n"]).to_parquet(folder / "metrics.parquet")


def write_series(
    output: Path, run_id: str, *, seed: int | None = None, missing_steps: dict[int, str] | None = None,
    steps: Iterable[int] = (0, 8, 16, 24), state: str = "done",
) -> list[int]:  # fmt: skip
    """A run folder of checkpoints that somebody else trained; returns the steps with a checkpoint."""
    missing_steps = missing_steps or {}
    reached = [step for step in steps if step not in missing_steps]
    write_run(output, run_id, seed=seed or 0, steps=reached, state=state)
    folder = output / "runs" / run_id
    about, status = (json.loads((folder / name).read_text()) for name in ("run.json", "status.json"))
    model = {
        "name": "series",
        "hub": None,
        "revision": None,
        "path": "/their/run{seed}/checkpoint-{step}",
        "keep": True,
    }
    about["config"] = {
        "model": model, "task": {"name": "ioi3"}, "checkpoint": {"steps": list(steps)},
        **({} if seed is None else {"seed": seed}),
    }  # fmt: skip
    write_json(folder / "run.json", about)
    write_json(folder / "status.json", status | {"missing_steps": sorted(missing_steps)})
    checkpoints = [{"step": step, "name": f"/their/run/checkpoint-{step}", "revision": None} for step in reached]
    listed = [{"step": step, "reason": reason} for step, reason in missing_steps.items()]
    write_json(folder / "series.json", {"checkpoints": checkpoints, "missing_steps": listed})
    return reached


def turn(output: Path, run_id: str) -> None:
    """Has a run unlearn what it learned: its last checkpoint is the first, and the other way round."""
    file = output / "runs" / run_id / "metrics.parquet"
    rows = pd.read_parquet(file)
    rows.assign(step=rows["step"].max() - rows["step"]).to_parquet(file)


def write_patch(
    output: Path, run_id: str, patch_id: str, corruption: str = "first", *, state: str = "done",
    error: str | None = None, steps: Iterable[int] = (0, 8, 16, 24), lr: float = 1e-4, seed: int = 0,
    layers: int = 4, heads: int = 4, prompt: str = "After Mary, John and Tom left, Mary and John gave it to",
    name: str = "full", by_prompt: bool = False, exact: bool = True, approximate: bool = False, paths: bool = False,
    measures: bool = False,
) -> None:  # fmt: skip
    """A patch job's folder, in which the heads of the later layers grow with the win rate.

    Without the last five its tables are as those of old: without the columns that came later.
    """
    folder = output / "runs" / run_id / "patches" / patch_id
    about = {
        "patch_id": patch_id,
        "run_id": run_id,
        "corruption": corruption,
        "config": {"patching": {"name": name, "prompts": PROMPTS}},
        "prompts": [{"clean": prompt, "corrupted": prompt + "?", "answer": "Tom", "subjects": ["Mary", "John"]}]
        * PROMPTS,
    }
    write_json(folder / "patch.json", about)
    write_json(folder / "status.json", {"state": state, "attempts": 1, "seconds": 9.0, "error": error})
    (folder / "tables").mkdir()
    for step in steps:
        rows = _rows(_learned(step, lr, seed), corruption, seed, layers, heads)
        if paths:
            rows += _path_rows(rows, seed, layers, heads)
        if measures:
            rows += _measure_rows(_learned(step, lr, seed), layers, heads)
        if by_prompt:
            _tell_prompts(rows, seed)
        if approximate:
            _estimate(rows)
        if not exact:
            for row in rows:
                row |= {"patched": None, "by_prompt": None} if row["kind"] == "patch" else {}
        pq.write_table(_table(rows), folder / "tables" / f"{step:06d}.parquet")


TOKENS = ("<bos>", "After", *(f" {word}" for word in "Mary , John and Tom left Mary and John gave it to".split()))


CHANGED = {"first": 8, "second": 10}


def write_patterns(output: Path, tokens: tuple[str, ...] = TOKENS, prompts: int = 2, layers: int = 4) -> None:
    """Adds attention patterns of four heads a layer to every patch job of an output folder."""
    for file in output.glob("runs/*/patches/*/patch.json"):
        about = json.loads(file.read_text())
        changed = CHANGED.get(about["corruption"], 8)
        corrupted = [*tokens[:changed], " Tom", *tokens[changed + 1 :]]
        for prompt in about["prompts"][:prompts]:
            prompt |= {"tokens": list(tokens), "corrupted_tokens": corrupted}
        write_json(file, about)
        for table in file.parent.glob("tables/*.parquet"):
            if not table.stem.isdigit():
                continue
            step = int(table.stem)
            rows = [
                {"prompt": prompt, "side": side, "layer": layer, "head": head}
                | {"pattern": pattern(side, step, head, len(tokens))}
                for prompt in range(prompts) for side in ("clean", "corrupted")
                for layer in range(layers) for head in range(4)
            ]  # fmt: skip
            types = [("prompt", pa.int64()), ("side", pa.string()), ("layer", pa.int64()), ("head", pa.int64())]
            schema = pa.schema([*types, ("pattern", pa.list_(pa.float16()))])
            pq.write_table(pa.Table.from_pylist(rows, schema), table.with_suffix(".patterns.parquet"))


def pattern(side: str, step: int, head: int, size: int = len(TOKENS)) -> np.ndarray:
    """Every token looks at all alike; but the last of head 1, if clean, at the first subject, the more the later."""
    square = np.tril(1 / np.arange(1, size + 1)[:, None] * np.ones((size, size)))
    if head == 1:
        learned = 0.8 * _learned(step, 1e-4, 0) * (side == "clean")
        square[-1] *= 1 - learned
        square[-1, CHANGED["first"]] += learned
    return square[np.tril_indices(size)].astype("float16")


def write_looks(output: Path, layers: int = 2, heads: int = 2) -> None:
    """Adds to every patch job how much each head looks from the end at two roles, prompt by prompt."""
    for file in output.glob("runs/*/patches/*/tables/*.parquet"):
        if not file.stem.isdigit():
            continue
        random = np.random.default_rng([int(file.stem), len(file.parent.parent.name), ord(file.parent.parent.name[-8])])
        rows = []
        for side in ("clean", "corrupted"):
            for layer, head in np.ndindex(layers, heads):
                share = random.uniform(0.3, 0.6, PROMPTS).astype("float32")
                for key, uniform, paid in (("subject 1", 0.1, share), ("other", 0.9, 1 - share)):
                    where = {"side": side, "layer": layer, "head": head, "query": "end", "key": key}
                    values = {"attention": float(paid.mean()), "value_weighted": None, "uniform": uniform}
                    lists = {"by_prompt": paid, "uniform_by_prompt": np.full(PROMPTS, uniform, "float32")}
                    rows.append(where | values | lists | {"n": PROMPTS})
        table = pa.Table.from_pylist(rows, TABLES["looks"])
        pq.write_table(table, file.with_suffix(".looks.parquet"))


def write_sweep(output: Path, name: str, points: list[dict[str, Any]]) -> None:
    about = {"name": name, "command": f"mi-sweeps run sweep={name}", "points": points}
    write_json(output / "sweeps" / name / "sweep.json", about)


def point(run_id: str, patch_id: str, corruption: str, **overrides: str) -> dict[str, Any]:
    return {"run_id": run_id, "patch_id": patch_id, "corruption": corruption, "overrides": overrides}


def wilson(rate: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """The 95% Wilson interval of a share of n."""
    middle = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    return middle - half, middle + half


def _learned(step: int, lr: float, seed: int) -> float:
    """0 before training to 1 after it."""
    return 1 / (1 + math.exp(4.5 - step * (lr / 1e-4) * (1 + 0.1 * ((seed * 7) % 5 - 2)) / 3)) if step else 0.0


def _rows(learned: float, corruption: str, seed: int, layers: int, heads: int) -> list[dict[str, Any]]:
    random = np.random.default_rng([seed, layers, heads, len(corruption)])
    clean, corrupted = 0.04 + 3.2 * learned, -2.4 * learned
    slot = SLOT.get(corruption, SLOT["first"])
    rows: list[dict[str, Any]] = []

    def patch(site: str, effect: float, **where: Any) -> None:
        patched = corrupted + effect * (clean - corrupted)
        rows.append({"kind": "patch", "site": site, "patched": patched, "clean": clean, "corrupted": corrupted} | where)

    for layer in range(layers):
        late = (layer + 1) / layers
        for mark, component in enumerate(("resid_pre", "resid_mid", "resid_post")):
            so_far = clean * ((layer + mark / 2) / layers) ** 3
            rows.append({"kind": "lens", "component": component, "layer": layer, "logit_diff": so_far})
        for component in ("attn", "mlp"):
            part = clean * random.normal(late if component == "attn" else 0, 0.2)
            rows.append({"kind": "layer", "component": component, "layer": layer, "logit_diff": part})
        for place, position in enumerate(POSITIONS):
            at_slot, at_end = place == slot, place == len(POSITIONS) - 1
            reached = 1 - late if at_slot else late if at_end else 0
            patch("resid_pre", reached if place >= slot else 0, layer=layer, position=position)
            patch("attn_out", late * learned * 0.7 if at_end else 0, layer=layer, position=position)
            patch("mlp_out", 0.1 * random.normal() if at_slot or at_end else 0, layer=layer, position=position)
        for head in range(heads):
            strength = learned * random.normal(0.15, 0.25) * late
            rows.append({"kind": "head", "component": "head", "layer": layer, "head": head, "logit_diff": strength})
            for site, share in (("z", 1.0), ("q", 0.2), ("k", 0.1), ("v", 0.6), ("pattern", 0.3)):
                patch(site, share * strength, layer=layer, head=head)
    for component, value in (("embed", 0.05), ("bias", -0.02)):
        rows.append({"kind": "layer", "component": component, "logit_diff": value})
    return [row | {"n": PROMPTS} for row in rows]


def _path_rows(rows: list[dict[str, Any]], seed: int, layers: int, heads: int) -> list[dict[str, Any]]:
    """Every head to the queries, keys and values of each later head, and to the logits; one path in ten carries
    something."""
    random = np.random.default_rng([seed, 1])
    whole = next(row for row in rows if row["kind"] == "patch")
    clean, corrupted = whole["clean"], whole["corrupted"]
    edges = [
        (site, source, one, layer, other)
        for site in ("q", "k", "v")
        for source in range(layers) for layer in range(source + 1, layers)
        for one in range(heads) for other in range(heads if site == "q" else max(1, heads // 2))
    ]  # fmt: skip
    edges += [("logits", source, one, None, None) for source in range(layers) for one in range(heads)]
    return [
        {
            "kind": "path", "site": site, "source_layer": source, "source_head": one, "layer": layer, "head": other,
            "patched": corrupted + (random.normal(0.2, 0.2) if random.random() < 0.1 else 0.0) * (clean - corrupted),
            "clean": clean, "corrupted": corrupted, "n": PROMPTS,
        }
        for site, source, one, layer, other in edges
    ]  # fmt: skip


def _measure_rows(learned: float, layers: int, heads: int) -> list[dict[str, Any]]:
    """Head 0 of the first layer comes to look back; what it is worth grows with it."""
    rows: list[dict[str, Any]] = [{"measure": "ablated_loss", "component": "none", "value": 2 - 1.9 * learned, "n": 60}]
    for layer in range(layers):
        for name in ("resid_pre", "attn_out"):
            value = learned * (layer + (name == "attn_out")) / layers
            rows.append({"measure": "position_r2", "component": name, "layer": layer, "value": value, "n": 90})
        for head in range(heads):
            looks_back = learned if (layer, head) == (0, 0) else 0.1
            at = {"component": "head", "layer": layer, "head": head}
            rows.append({"measure": "previous_token", **at, "value": looks_back, "n": 180})
            rows.append({"measure": "ablated_loss", **at, "value": 2 - 1.9 * learned * (1 - looks_back), "n": 60})
    return [{"kind": "measure", **row} for row in rows]


def _tell_prompts(rows: list[dict[str, Any]], seed: int) -> None:
    """Adds what each prompt has, whose means are the rows' values; the last two prompts have no `intro 1`."""
    random = np.random.default_rng([seed, 2])
    whole = next(row for row in rows if row["kind"] == "patch")
    clean = whole["clean"] + random.normal(0, 0.6, PROMPTS)
    corrupted = whole["corrupted"] + random.normal(0, 0.6, PROMPTS)
    for row in rows:
        if row["kind"] in ("lens", "layer", "head"):
            of_prompts = (row["logit_diff"] + random.normal(0, 0.3, PROMPTS)).astype("float32")
            row |= {"by_prompt": of_prompts.tolist(), "logit_diff": float(of_prompts.astype("float64").mean())}
        if row["kind"] not in ("patch", "path"):
            continue
        room = row["clean"] - row["corrupted"]
        effect = (row["patched"] - row["corrupted"]) / room if room else 0.0
        effects = effect * (1 + 0.3 * random.normal(size=PROMPTS))
        patched = (corrupted + effects * (clean - corrupted)).astype("float32")
        there = slice(0, PROMPTS - 2) if row.get("position") == "intro 1" else slice(0, PROMPTS)
        row |= {
            "by_prompt": [float(value) if index < there.stop else None for index, value in enumerate(patched)],
            **{"patched": float(patched[there].astype("float64").mean()), "n": there.stop},
            **{"clean": float(clean[there].mean()), "corrupted": float(corrupted[there].mean())},
        }
    rows += [
        {"kind": "prompt", "prompt": index, "clean": float(clean[index]), "corrupted": float(corrupted[index]), "n": 1}
        for index in range(PROMPTS)
    ]


def _estimate(rows: list[dict[str, Any]]) -> None:
    """Adds estimates: worse for sites that are read late, as a site's name has it."""
    for row in rows:
        if row["kind"] == "patch":
            random = np.random.default_rng(zlib.crc32(repr(sorted(row.items(), key=str)).encode()))
            change = row["patched"] - row["corrupted"]
            noise = 0.05 if row["site"] in ("z", "v") else 0.4
            row["approximate"] = row["corrupted"] + 0.8 * change + noise * random.normal()


def _table(rows: list[dict[str, Any]]) -> pa.Table:
    """The rows with the columns that any of them has, of the types that a patch job writes."""
    types = {name: pa.int64() for name in ("layer", "head", "source_layer", "source_head", "prompt", "n")}
    types |= {name: pa.string() for name in ("kind", "site", "measure", "component", "position")}
    types["by_prompt"] = pa.list_(pa.float32())
    names = list(dict.fromkeys(name for row in rows for name in row))
    return pa.Table.from_pylist(rows, pa.schema([(name, types.get(name, pa.float64())) for name in names]))
