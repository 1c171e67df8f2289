"""All commands read `output` in the same way, and a hint that names a folder can be pasted."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from mi_sweeps import locations
from mi_sweeps.commands.common import output_of
from mi_sweeps.errors import UserError
from mi_sweeps.hints import hint
from mi_sweeps.sweeps.grid import expand

WORDS = {
    "here": "here",
    "exp:1": "exp:1",
    '"exp:1"': "exp:1",
    "'two words'": "two words",
    "two words": "two words",
    "a (copy) [1]": "a (copy) [1]",
    "[x]": "[x]",
    "{x}": "{x}",
    "'a,b'": "a,b",
    "2024": "2024",
    "1e3": "1e3",
    "true": "true",
    "größe": "größe",
    "日本": "日本",
    "it's": "it's",
    "~/x": "HOME/x",
    "${oc.env:HOME}/x": "HOME/x",
    "x/../y": "x/../y",
}


@pytest.mark.parametrize("word", WORDS)
def test_output_is_one_folder_for_all_commands(word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "HOME"))
    monkeypatch.chdir(tmp_path)
    meant = tmp_path / WORDS[word]
    assert output_of(["a", f"output={word}"]) == meant
    (point,) = expand([f"output={word}"])
    assert point.output == meant


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("", "no folder; give output=DIR"),
        ("null", "no folder; give output=DIR"),
        ("s3://bucket/x", "not on this machine"),
        ("file:///x", "not on this machine"),
        ("a,b", "several folders; give one"),
        ("range(0,2)", "several folders; give one"),
        ("~nobody-here/x", "~nobody-here is not a user of this machine"),
        ("${oc.env:NO_SUCH_VARIABLE}/x", ".*NO_SUCH_VARIABLE"),
    ],
)
def test_what_is_no_folder_is_refused_by_all_commands(word: str, says: str) -> None:
    for read in (lambda: expand([f"output={word}"]), lambda: output_of([f"output={word}"])):
        with pytest.raises(UserError) as refused:
            read()
        assert "\n" not in str(refused.value) and str(refused.value).startswith("output")
        assert refused.match(says)


def test_without_a_word_it_is_outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert output_of(["name"]) == expand([])[0].output == tmp_path / "outputs"


@pytest.mark.parametrize("name", ["exp:1", "two words", "it's", 'say "x"', "[x]", "a,b", "$HOME", "#1", "größe", "(a)"])
def test_a_hint_can_be_pasted(name: str, tmp_path: Path) -> None:
    program, command, sweep, word = shlex.split(hint("status", "demo", tmp_path / name))
    assert (program, command, sweep) == ("mi-sweeps", "status", "demo")
    assert output_of([word]) == tmp_path / name


def test_a_hint_for_the_default_folder_is_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert hint("status", "demo", tmp_path / "outputs") == "mi-sweeps status demo"


@pytest.mark.parametrize("path", ["hf://a/b", "~nobody-here/x", "a\0b"])
def test_an_invalid_path_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match=r"not on this machine|not a user|null character"):
        locations.local(path)
