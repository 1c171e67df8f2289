"""The Python of the README and the docs, and the example notebook, run as written."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest

import mi_sweeps as mi

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(small, tmp_path_factory):
    """A folder with outputs/ of a run that ends at checkpoint 8."""
    place = tmp_path_factory.mktemp("python")
    longer = ("train.steps=8", "checkpoint.every=8", "patching.steps=[0,8]", "corruption=first,second", "seed=0")
    mi.plan(*small, *longer, f"output={place / 'outputs'}").run()
    return place


def shown(source: str, names: dict) -> object:
    """Runs a cell; gives the value of its last line, if that is one."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    return None if last is None else eval(compile(ast.Expression(last.value), "cell", "eval"), names)


@pytest.mark.parametrize("page", ["README.md", "docs/python.md"])
def test_the_python_of_a_page(page, folder, monkeypatch):
    monkeypatch.chdir(folder)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)
    assert any("import mi_sweeps" in block for block in blocks)
    names: dict = {}
    for block in blocks:
        exec(block, names)
    assert len(names["pairs"].clean) == 6
    assert repr(names["plan"]).startswith("sweep demo: ")


def test_the_notebook(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    cells = json.loads((ROOT / "examples" / "notebook.ipynb").read_text())["cells"]
    names: dict = {}
    for cell in cells:
        if cell["cell_type"] != "code":
            continue
        source = "".join(cell["source"])
        value = shown(source, names)
        stored = [output["data"] for output in cell["outputs"] if output["output_type"] == "execute_result"]
        if "image/png" in (stored or [{}])[0]:
            assert value._repr_png_().startswith(b"\x89PNG")
        elif stored:
            # What is stored is what comes out, ids included: they are of what is computed, not of where.
            assert "".join(stored[0]["text/plain"]).splitlines()[0].split() == repr(value).splitlines()[0].split()
    printed = capsys.readouterr().out
    assert re.search(r"by hand (\S+), in the table \1\n", printed)
    assert (tmp_path / "report.html").stat().st_size > 1_000_000


def test_the_notebook_names_no_machine():
    text = (ROOT / "examples" / "notebook.ipynb").read_text()
    assert len(text) < 200_000
    assert not re.search(r"/tmp|/home|/work|/root", text)
