"""The code on the pages runs as written."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mi_sweeps import cli
from mi_sweeps.analysis.export import EXPORTED
from mi_sweeps.circuits.families import describe
from mi_sweeps.circuits.fast import FastEngine
from mi_sweeps.config import Measure
from mi_sweeps.models.load import load_tokenizer
from mi_sweeps.sweeps.grid import expand
from mi_sweeps.sweeps.preflight import check
from mi_sweeps.tasks.load import load
from mi_sweeps.tasks.questions import QuestionTask

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture
def page() -> str:
    return (DOCS / "own_task.md").read_text()


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page, flags=re.DOTALL)


@pytest.mark.slow
def test_own_task_is_a_sweep_that_runs(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = dict(zip(re.findall(r"^`(conf/\S+\.yaml)`", page, flags=re.MULTILINE), blocks(page, "yaml"), strict=True))
    files = {name: files[name] for name in ("conf/task/repeated.yaml", "conf/corruption/swapped.yaml")}
    _, code = blocks(page, "python")
    for name, text in {"my_task.py": code, **files}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    _, script = blocks(page, "bash")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    exported, *commands = script.replace("\\\n", "").splitlines()
    assert exported == "export PYTHONPATH=."
    for command in commands:
        program, *arguments = shlex.split(command)
        assert program == "mi-sweeps"
        with pytest.raises(SystemExit) as stopped:
            cli.main(arguments)
        assert stopped.value.code == 0, command
    printed = capsys.readouterr().out
    assert "2 fine-tunes (2 to do), 2 patch jobs (2 to do)" in printed
    assert "done: 2 fine-tunes (2 done), 2 patch jobs (2 done)" in printed
    page_made = (tmp_path / "outputs" / "report-repeated.html").read_text()
    assert "accuracy" in page_made
    assert "logit_diff_beginning" in page_made
    assert len(list(tmp_path.glob("outputs/runs/*/patches/*/tables/*.parquet"))) == 2 * 3
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    wrong = subprocess.run(
        ["bash", "-uc", exported +
         "\ngiven='task=repeated model=nope patching=position corruption=previous'"
         "\nmi-sweeps plan --config-dir conf $given && mi-sweeps run --config-dir conf $given"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("error: corruption=previous: ") and wrong.stderr.count("\n") == 1
    assert "`swapped`" in wrong.stderr


def test_text_of_different_lengths_is_a_sweep(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `run` checks of it before it trains, and what training asks for."""
    files = dict(zip(re.findall(r"^`(conf/\S+\.yaml)`", page, flags=re.MULTILINE), blocks(page, "yaml"), strict=True))
    for name, text in {"recall.py": blocks(page, "python")[0], **files}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    exported, script = blocks(page, "bash")[0].split("\n", 1)
    command, verb, *arguments = shlex.split(script.replace("\\\n", " "))
    assert (exported, command, verb) == ("export PYTHONPATH=.", "mi-sweeps", "run")
    options, overrides = arguments[:2], arguments[2:]
    assert options == ["--config-dir", "conf"]
    (point,) = expand(overrides, tmp_path / "conf")
    assert "heldout: 24 prompts, of names that no training prompt has" in "\n".join(check([point]))
    own = load(point.config, load_tokenizer(point.config.model))
    batch = own.training(0, 4, 0)
    assert torch.equal(batch.tokens, own.training(0, 4, 0).tokens)
    right = torch.nn.functional.one_hot(batch.answers, 167).float()
    assert ("win_rate", 1.0, 4) in own.metrics(right, batch)


@torch.no_grad()
def test_text_of_different_lengths_is_read_at_its_own_end(
    page: str, mini_model: PreTrainedModel, mini_tokenizer: PreTrainedTokenizerBase
) -> None:
    """The engine's clean and corrupted logit differences are those of the plain model, one prompt at a time."""
    names: dict[str, Any] = {}
    exec(blocks(page, "python")[0], names)
    questions = names["task"](mini_tokenizer, prompts={"train": 2, "heldout": 8}, seed=0)
    pairs = QuestionTask(questions, mini_tokenizer, prepend_bos=False).pairs("person", 8)
    assert len(set(pairs.clean.end.tolist())) > 1
    (point,) = expand(["patching=heads"])
    network = describe(mini_model)
    assert network
    patched = FastEngine(network).patch(pairs, point.config.patching)
    for side, batch in ((patched.clean, pairs.clean), (patched.corrupted, pairs.corrupted)):
        for row, value in enumerate(side.tolist()):
            logits = mini_model(batch.tokens[row : row + 1, : batch.end[row] + 1]).logits[0, -1]
            question = pairs.clean.prompts[row]
            answer, other = (
                mini_tokenizer.convert_tokens_to_ids(words[0].strip()) for words in (question.right, question.wrong)
            )
            assert value == pytest.approx((logits[answer] - logits[other]).item(), abs=1e-4)


def test_every_exported_table_is_described_with_its_columns() -> None:
    """In docs/files.md, or on the page of transitions."""
    found = {}
    for name in ("transitions.md", "files.md"):
        for table, text in re.findall(r"^\| `(\w+)` \| (.*) \|$", (DOCS / name).read_text(), flags=re.MULTILINE):
            columns = re.sub(r" \((?:[^()]|\([^()]*\))*\)", "", text).split(";")[0]
            found.setdefault(table, columns.replace("`", "").split(", "))
    for table, kinds in EXPORTED.items():
        assert found.get(table) == list(kinds), table


def test_every_measure_is_described() -> None:
    _, rows = (DOCS / "files.md").read_text().split("| measure | component | value |")
    described = re.findall(r"`(\w+)`", "".join(row.split("|")[1] for row in rows.split("\n\n")[0].splitlines()[2:]))
    (keys,) = re.findall(r"`patching.measures` .*?\| ([^;]*);", (DOCS / "configuration.md").read_text())
    assert described == keys.split(", ") == list(get_args(Measure))


@pytest.mark.parametrize("page", [*DOCS.glob("*.md"), *DOCS.parent.glob("*.md")], ids=lambda page: page.name)
def test_no_page_has_both_sides_of_a_merge(page: Path) -> None:
    assert not re.findall(r"^(?:<{7} |={7}$|>{7} ).*", page.read_text(), flags=re.MULTILINE)


NEW = re.compile("NAME|recall|person|repeated|swapped|meeting|stranger|rises|gentle")
"""Files that the reader is to make."""


@pytest.mark.parametrize(
    "page",
    [*DOCS.glob("*.md"), *DOCS.parent.glob("*.md"), *DOCS.parent.glob("*/README.md")],
    ids=lambda page: str(page.relative_to(DOCS.parent)),
)
def test_every_file_that_a_page_names_exists(page: Path) -> None:
    folders = "mi_sweeps|analysis|jobs|conf|tests|docs|benchmarks|campaign|examples"
    named = re.findall(rf"`((?:{folders})/[\w./-]*)[`:]", page.read_text("utf-8"))
    assert not [name for name in named if not NEW.search(name) and not (DOCS.parent / name).exists()]
