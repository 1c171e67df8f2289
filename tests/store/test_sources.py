"""What counts as the source of a user's own task."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from mi_sweeps.errors import UserError
from mi_sweeps.store import sources


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package whose modules import each other in every way, and end the process that runs one of them."""
    stop = "raise SystemExit('it was imported')\n"
    for name, text in {
        "things/__init__.py": "from .words import WORDS\n",
        "things/words.py": "import json, pytest, torch\n",
        "things/recall.py": "from . import draw\nfrom mi_sweeps.tasks import pairs\nimport nowhere\n",
        "things/draw/__init__.py": "def later():\n    from ..deep import bottom as other\n",
        "things/deep/bottom.py": "import lists\n",
        "things/unused.py": "",
        "lists.py": "import things.recall\n",
    }.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + stop)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.parametrize("target", ["things.recall.Recall", "things.recall", "things.recall.Recall.make"])
def test_it_is_the_module_and_what_it_imports_of_the_user_s_own(own: Path, target: str) -> None:
    names = ("things", "things.words", "things.recall", "things.draw", "things.deep.bottom", "lists")
    files = {name: own / name.replace(".", "/") for name in names}
    found = {name: file if file.is_dir() else file.with_suffix(".py") for name, file in files.items()}
    expected = {name: file / "__init__.py" if file.is_dir() else file for name, file in found.items()}
    assert sources.own_modules(target) == expected
    assert not {"things", "lists"} & set(sys.modules)


def test_what_is_installed_is_followed_only_where_the_task_is_in_it(own: Path) -> None:
    installed = own / "site-packages" / "theirs"
    installed.mkdir(parents=True)
    (installed / "__init__.py").write_text("from theirs import more\n")
    (installed / "more.py").write_text("")
    sys.path.insert(0, str(installed.parent))
    try:
        (own / "lists.py").write_text("import theirs\n")
        assert list(sources.own_modules("lists.task")) == ["lists"]
        assert sorted(sources.own_modules("theirs.task")) == ["theirs", "theirs.more"]
    finally:
        sys.path.remove(str(installed.parent))


@pytest.mark.parametrize("target", ["nowhere.at.all", "sys.exit"])
def test_what_has_no_file_has_no_source(own: Path, target: str) -> None:
    assert sources.own_modules(target) == {}


def test_code_that_was_loaded_before_its_file_changed_is_refused(own: Path) -> None:
    sources.hold("lists.task")
    sources.hold("lists.task")
    (own / "things" / "words.py").write_text("WORDS = []\n")
    says = r"\Alists\.task: the source of things\.words changed since .*; run again in a new process\Z"
    with pytest.raises(UserError, match=says):
        sources.hold("lists.task")
    assert json.dumps(sources.is_own("mi_sweeps.tasks.ioi.task")) == "false"
