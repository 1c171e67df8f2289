"""Damaged and misleading input files: prompts, and the JSON files of an output folder."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from campaign import sweep
from campaign.hostile_values import NASTY, spoilt
from campaign.scenarios import Fault

NAMES = [
    *("Mary", "John", "Tom", "Anna", "Paul", "Mark"),
    *("Zoë", "Zoe\u0308", "O'Neil", "Jean-Luc", "名", "مريم", "a", "mary"),
]
"""The first six are harmless."""


def prompts(chance: random.Random, place: Path) -> Callable[[], Any]:
    """Makes a file of rows: right, nearly right, or wrong."""
    from mi_sweeps.tasks import user

    wrong, hostile = chance.choice([0.0, 0.0, 0.1, 0.5]), chance.choice([0.0, 0.0, 0.0, 0.3])

    def row() -> Any:
        listed = chance.sample(NAMES if chance.random() < wrong else NAMES[:6], 3)
        one, two, three = chance.sample(listed, 3)
        where = chance.choice(
            ["shop", "👩‍👩‍👧", "\u202eparc\u202c", "x" * 20_000] if chance.random() < wrong else ["park"]
        )
        question = f"When {listed[0]}, {listed[1]} and {listed[2]} met at the {where}, {one} and {two} gave a ring to"
        found = {"question": question, "completion": f" {three}"}
        return spoilt(found, chance) if chance.random() < wrong else found

    rows = [row() for _ in range(chance.choice([0, 1, 2, 6, 12, 24, 24]))]
    lines = [json.dumps(one, ensure_ascii=chance.random() < 0.5) for one in rows]
    if chance.random() < hostile:
        lines.append('{"question": "a", "question": "b", "completion": "c", "completion": "d"}')
    if chance.random() < hostile:
        depth = chance.choice([50, 2_000, 200_000])
        lines.append("[" * depth + ("]" * depth if chance.random() < 0.5 else ""))
    written = ("[" + ",\n".join(lines) + "]") if chance.random() < 0.4 else "\n".join(lines)
    if written and chance.random() < hostile:
        at = chance.randrange(len(written))
        written = written[:at] + chance.choice(NASTY) + written[at + chance.randrange(3) :]
    encoding = "utf-8"
    if chance.random() < hostile:
        encoding = chance.choice(["utf-8-sig", "utf-16", "latin-1", "utf-32"])
    content = written.encode(encoding, "surrogatepass" if encoding.startswith("utf") else "replace")
    if content and chance.random() < hostile:
        at = chance.randrange(len(content))
        content = content[:at] + bytes(chance.randrange(256) for _ in range(3)) + content[at:]
    (place / "rows.jsonl").write_bytes(content)

    def work() -> None:
        options = {"split": "names", "heldout_path": None, "heldout": 0.5, "two_name": 4, "seed": 0}
        made = user.task(_tokenizer(), path=str(place / "rows.jsonl"), **options)
        kept = [prompt for split in ("train", "heldout") for prompt in made.splits[split]]
        for prompt in kept:
            for begin, end in prompt.slots:
                if not 0 <= begin < end <= len(prompt.text):
                    raise Fault(f"a slot outside its prompt: {prompt}")

    return work


@cache
def _tokenizer() -> Any:
    from transformers import AutoTokenizer

    from mi_sweeps.models.mini import FOLDER

    return AutoTokenizer.from_pretrained(FOLDER)


def records(folder: Path, chance: random.Random, place: Path) -> Callable[[], Any]:
    """Makes a JSON file in an output folder without a checksum and with false values."""
    from mi_sweeps.analysis import folder as analysis
    from mi_sweeps.slurm import submissions
    from mi_sweeps.store.folders import Folder
    from mi_sweeps.sweeps import manifest
    from mi_sweeps.sweeps import plan as planning

    kind = chance.choice(["status", "sweep", "submission", "page"])
    known = _records(folder)
    output = place / "outputs"
    run = output / "runs" / "0123456789ab"

    def write(file: Path, one: Any) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(one), encoding="utf-8", errors="surrogatepass")

    if kind == "status":
        write(run / "status.json", spoilt(known["status"], chance))
        return Folder(run).status
    if kind == "submission":
        file = output / "sweeps" / "s" / "slurm" / "abcd1234.json"
        write(file, spoilt(known["submission"], chance))
        return lambda: submissions.read(file)
    if kind == "sweep":
        write(manifest.path(output, "s"), spoilt(known["sweep"], chance))

        def look() -> None:
            planning.make([entry.point(output) for entry in manifest.load(output, "s")])

        return look
    write(manifest.path(output, "s"), spoilt(known["sweep"], chance) if chance.random() < 0.3 else known["sweep"])
    write(run / "run.json", spoilt(known["run"], chance))
    return lambda: analysis.read(output)


@cache
def _records(folder: Path) -> dict[str, Any]:
    from mi_sweeps.store.files import read_json

    sweep.reference(folder)
    output = folder / "scratch" / "reference" / "outputs"
    run = next((output / "runs").iterdir())
    return {
        "status": read_json(run / "status.json"),
        "run": read_json(run / "run.json"),
        "sweep": read_json(output / "sweeps" / "s" / "sweep.json"),
        "submission": {
            "sweep": "s",
            "submitted": "2026-01-01T00:00:00.000000+00:00",
            "retry": ["error"],
            "arrays": [{"stage": "finetune", "tasks": [["0123"]], "part": 0, "parts": 1, "after": [], "wait": None,
                        "name": "s-0", "jobs": ["1_0"]}],
            "cancelled": False,
        },
    }  # fmt: skip
