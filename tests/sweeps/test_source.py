"""A user's configuration folder: a mistake in it is one line with the file's name."""

from __future__ import annotations

from pathlib import Path

import pytest

from mi_sweeps.errors import UserError
from mi_sweeps.sweeps.grid import expand


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"name: x\ngrid:\n\tseed: 1\n", ", line 3: not YAML: .*indent with spaces, not tabs"),
        (b"name: x\ngrid: {seed: 1\n", ", line 3: not YAML: .*"),
        (b"name: x\ngrid: {}\ngrid: {}\n", ", line 3: not YAML: found duplicate key grid"),
        ("name: x\n# für\n".encode("latin-1"), ", line 2: not UTF-8; save it as UTF-8"),
        (b"- name\n- grid\n", ": a list; a configuration file needs keys with values"),
        (b"7\n", ": .*"),
        (b"name: x\ngrid: {}\nwhen: !!python/name:os.system\n", ", line 3: not YAML: .*"),
        (b"name: x\ngrid: {launcher.time: 1:00:00}\n", r", line 2: 1:00:00: YAML reads this as another number; .*"),
        (b"name: x\ngrid: {launcher.account: 0123}\n", r", line 2: 0123: YAML reads this as another number; .*"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "mine.yaml").write_bytes(content)
    with pytest.raises(UserError, match=rf"\A{tmp_path}/sweep/mine\.yaml{says}\Z"):
        expand(["sweep=mine"], tmp_path)
    assert len(expand(["seed=0,1"], tmp_path)) == 2, "a file that is not asked for is not read"


def test_a_config_of_ones_own_does_not_replace_ours(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("seed: 1\n")
    with pytest.raises(UserError, match=r"config\.yaml: it would replace .*; move it to .*\+experiment=NAME\Z"):
        expand([], tmp_path)
