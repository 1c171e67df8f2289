"""Hostile input, in this process: the result must be right, or an error of one line."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import struct
import traceback
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

from campaign import sweep
from campaign.scenarios import Fault, Scenario, Values

AT_ONCE = 500
"""Cases in a scenario, each reproducible from the scenario's seed."""

CASES = {
    "prompts": 40_000,
    "values": 24_000,
    "records": 20_000,
    "checkpoints": 10_000,
    "overrides": 4_000,
    "grids": 1_500,
    "tokenizers": 500,
    "models": 500,
}
"""Number of cases of each kind: 100,500 in all."""

MEMORY = 8 << 30
"""Most bytes of memory for a case."""

LONGEST = 15_000
"""Most characters of a message: it quotes up to 5,000 characters of the input, perhaps twice."""

NASTY = [
    *(
        "",
        " ",
        "\0",
        "\ufeff",
        "\u202e",
        "\u200b",
        "e\u0301",
        "Zo\u0308e",
        "\ud800",
        "👩‍👩‍👧",
        "名前",
        "مريم",
        "..",
        "/",
        "~",
        "\\",
    ),
    *(
        "null",
        "true",
        "nan",
        "inf",
        "-inf",
        "1e999",
        "0x10",
        "1_000",
        "???",
        "${seed}",
        "${oc.env:HOME}",
        "${",
        "}",
        "a=b",
    ),
    *(
        "[",
        "]",
        "{}",
        "{a:1}",
        "[1,2]",
        "range(0,3)",
        "glob(*)",
        "choice(1,2)",
        "interval(0,1)",
        ",",
        "'",
        '"',
        "\n",
        "\t",
    ),
    *(
        "$(touch here)",
        "`id`",
        "; rm -rf here",
        "<script>",
        "%s%n",
        "{0}",
        "__class__",
        "../../etc/passwd",
        "a" * 5_000,
    ),
]
NUMBERS = [0, 1, -1, 2, 3, 1e-4, -0.0, 0.5, 1e308, 2**31, 2**63, 2**70, float("nan"), float("inf"), -float("inf")]


def scenarios(folder: Path, quick: bool) -> Iterator[Scenario]:
    """A few hundred cases of one kind at a time."""
    kinds: dict[str, Callable[[random.Random, Path], Callable[[], Any]]] = {
        "prompts": prompts,
        "values": values,
        "records": partial(records, folder),
        "checkpoints": checkpoints,
        "overrides": overrides,
        "grids": grids,
        "tokenizers": tokenizers,
        "models": models,
    }
    for name, case in kinds.items():
        if quick:
            yield Scenario(f"{name}-quick", partial(cases, case, max(4, CASES[name] // 1000)))
        else:
            for number in range(CASES[name] // AT_ONCE):
                yield Scenario(f"{name}-{number:03d}", partial(cases, case, AT_ONCE))


def cases(
    make: Callable[[random.Random, Path], Callable[[], Any]], count: int, chance: random.Random, scenario: Path
) -> Values:
    """Makes cases and checks the result of each."""
    from mi_sweeps.errors import UserError

    # Running out of memory must fail the case, not the machine.
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, resource.getrlimit(resource.RLIMIT_DATA)[1]))
    counts: Counter[str] = Counter()
    before = set(os.listdir("."))
    faults: dict[str, str] = {}
    for number in range(count):
        place = scenario / str(number)
        place.mkdir()
        work = make(random.Random(f"{chance.random()}"), place)
        counts["cases"] += 1
        fault = None
        try:
            work()
            counts["right results"] += 1
        except (UserError, OSError) as error:  # The command line prints one line for both.
            counts["one-line errors"] += 1
            if "\n" in str(error) or len(str(error)) > LONGEST + len(str(place)):
                fault = f"not one line: {str(error)[:300]!r}"
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # A panic in a Rust library is not an Exception.
            fault = f"{type(error).__name__}: {str(error)[:300]!r}, {_where(error)}"
        if fault:
            faults.setdefault(fault[:40], f"case {number}: {fault}")
        else:
            shutil.rmtree(place)
    if set(os.listdir(".")) != before:
        faults["made"] = f"made {set(os.listdir('.')) - before}"
    if faults:
        raise Fault("\n  ".join(["", *faults.values()]), counts)
    return counts


def _where(error: BaseException) -> str:
    """Returns the last line of our code that an error passed through."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "mi_sweeps" in frame.filename]
    return f"{Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else "nowhere of ours"


def text(chance: random.Random) -> str:
    """Makes a text that a user might have."""
    return chance.choice(
        [
            lambda: chance.choice(NASTY),
            lambda: "".join(chance.choice(NASTY[:-1]) for _ in range(3)),
            lambda: "".join(chr(chance.randrange(1, 0xD7FF)) for _ in range(chance.randrange(12))),
            lambda: unicodedata.normalize(chance.choice(["NFC", "NFD", "NFKD"]), "Zoë Ångström ﬁ"),
        ]
    )()


def value(chance: random.Random, depth: int = 0) -> Any:
    """Makes any JSON value."""
    kind = chance.randrange(8 if depth < 3 else 5)
    if kind == 5:
        return [value(chance, depth + 1) for _ in range(chance.randrange(4))]
    if kind >= 6:
        return {text(chance)[:50]: value(chance, depth + 1) for _ in range(chance.randrange(4))}
    return chance.choice([None, True, False, chance.choice(NUMBERS), text(chance), chance.randrange(-5, 300)])


def spoilt(found: Any, chance: random.Random) -> Any:
    """Copies a JSON value with a change: another value, an extra key, or a missing one."""
    if isinstance(found, dict) and found and chance.random() < 0.85:
        key = chance.choice(list(found))
        how = chance.random()
        if how < 0.1:
            return {name: one for name, one in found.items() if name != key}
        if how < 0.2:
            return {**found, text(chance): value(chance)}
        return {**found, key: spoilt(found[key], chance)}
    if isinstance(found, list) and found and chance.random() < 0.7:
        at = chance.randrange(len(found))
        return [*found[:at], spoilt(found[at], chance), *found[at + 1 :]]
    return value(chance)


NAMES = [
    "Mary",
    "John",
    "Tom",
    "Anna",
    "Paul",
    "Mark",
    "Zoë",
    "Zoe\u0308",
    "O'Neil",
    "Jean-Luc",
    "名",
    "مريم",
    "a",
    "mary",
]


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


@cache
def _default() -> dict[str, Any]:
    from mi_sweeps.sweeps.grid import expand

    (point,) = expand(["output=outputs"])
    return dict(point.values)


def values(chance: random.Random, place: Path) -> Callable[[], Any]:
    """Makes a configuration with some values changed."""
    from mi_sweeps.config import parse

    found = _default()
    for _ in range(chance.choice([1, 1, 2, 4])):
        other = spoilt(found, chance)
        found = other if isinstance(other, dict) else found
    (place / "values.json").write_text(json.dumps(found), errors="surrogatepass")

    def work() -> None:
        config = parse(found)
        if parse(config.dump()) != config:
            raise Fault("a configuration that does not come back")
        config.checkpoint_steps  # noqa: B018

    return work


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


def overrides(chance: random.Random, place: Path) -> Callable[[], Any]:
    """Makes the words of a command line."""
    from mi_sweeps.sweeps.grid import expand

    keys = [
        *("seed", "optim.lr", "schedule", "corruption", "task", "model", "patching", "launcher", "tracking", "sweep"),
        *("train.steps", "checkpoint.every", "checkpoint.steps", "checkpoint.storage", "patching.sites", "output"),
        *("launcher.time", "launcher.workers", "sweep.name", "task.path", "model.path", "tracking.project", "x", "a.b"),
    ]
    good = ["0", "0,1", "range(0,3)", "1e-4,3e-4", "first,second", "[0,4]", "cosine", "heads", "null", "local", "full"]
    words = []
    for _ in range(chance.choice([1, 1, 2, 3])):
        key = chance.choice(keys) if chance.random() < 0.95 else text(chance)
        right = chance.choice(good) if chance.random() < 0.5 else text(chance)
        words.append(f"{chance.choice(['', '', '', '', '+', '++', '~'])}{key}={right}")
    (place / "words.json").write_text(json.dumps(words))

    def work() -> None:
        points = expand([f"output={place}", *words])
        if not points or len({point.patch_id for point in points}) != len(points):
            raise Fault(f"{words}: not one point each")

    return work


def grids(chance: random.Random, place: Path) -> Callable[[], Any]:
    """Makes a user's own grid file, or another configuration file."""
    from mi_sweeps.sweeps.grid import expand

    right = "name: mine\ngrid:\n  seed: 0,1\n  optim.lr: 1e-4,3e-4\n  corruption: first,second\n"
    written = right
    for _ in range(chance.choice([1, 1, 2, 3])):
        at = chance.randrange(len(written) + 1)
        how = chance.random()
        if how < 0.4:
            written = (
                written[:at]
                + chance.choice([*NASTY, ": ", "- ", "&a", "*a", "!!python/object:os.system x", "#"])
                + written[at:]
            )
        elif how < 0.7:
            written = written[:at] + written[at + chance.randrange(1, 8) :]
        else:
            lines = written.split("\n")
            chance.shuffle(lines)
            written = "\n".join(lines)
    if chance.random() < 0.1:
        written = json.dumps({"name": "mine", "grid": value(chance)})
    encoding = chance.choice(["utf-8"] * 5 + ["utf-16", "latin-1"])
    (place / "sweep").mkdir()
    errors = "surrogatepass" if encoding != "latin-1" else "replace"
    (place / "sweep" / "mine.yaml").write_bytes(written.encode(encoding, errors))
    return lambda: expand(["sweep=mine", f"output={place / 'outputs'}"], place)


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
