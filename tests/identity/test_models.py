"""A model is what its files are, wherever they lie: in a folder or on the hub, with or without a network."""

from __future__ import annotations

import json
import shutil
from itertools import product
from pathlib import Path

import pytest

from mi_sweeps.config import Config
from mi_sweeps.errors import UserError
from mi_sweeps.identity import data_fingerprint, patch_id, run_id
from mi_sweeps.models.mini import FOLDER
from mi_sweeps.store import hashes
from tests.hub import Hub, a_new_process, cached
from tests.identity.configs import changed


def test_a_model_is_its_content_not_its_place(default: Config, model_copy: Path, tmp_path: Path) -> None:
    here = changed(default, {"model.path": str(model_copy)})
    assert run_id(here) == run_id(default)
    moved = changed(default, {"model.path": str(model_copy.rename(tmp_path / "moved"))})
    assert run_id(moved) == run_id(default)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_run_id_changes_with_the_models_files(default: Config, model_copy: Path, name: str) -> None:
    config = changed(default, {"model.path": str(model_copy)})
    before = run_id(config)
    content = (model_copy / name).read_bytes()
    (model_copy / name).write_bytes(content[:-2] + b" " + content[-2:])
    assert run_id(config) != before
    assert data_fingerprint(config) != data_fingerprint(default)


def test_run_id_changes_with_what_a_tokenizer_without_tokenizer_json_is_made_of(
    default: Config, model_copy: Path
) -> None:
    (model_copy / "tokenizer.json").unlink()
    config = changed(default, {"model.path": str(model_copy)})
    ids = set()
    for content in ("mary", "john"):
        (model_copy / "vocab.txt").write_text(content)
        ids.add(run_id(config))
    assert len(ids) == 2


def test_runs_of_uncased_tokenizers_are_not_those_of_before(
    default: Config, model_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their win rates were zero: an id that means another result now is another id."""
    file = model_copy / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    lowercase = {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]}
    config = changed(default, {"model.path": str(model_copy)})
    new: list[bool] = []
    for normalizer in (lowercase, {"type": "NFC"}):
        file.write_text(json.dumps({**tokenizer, "normalizer": normalizer}))
        now = run_id(config)
        with monkeypatch.context() as before:
            before.setattr("mi_sweeps.identity.spells_otherwise", lambda model: False)
            new.append(run_id(config) != now)
    assert new == [True, False]


def test_run_id_does_not_change_with_notes_beside_the_model(default: Config, model_copy: Path) -> None:
    (model_copy / "notes.md").write_text("# Mine")
    assert run_id(changed(default, {"model.path": str(model_copy)})) == run_id(default)


def test_a_model_on_the_hub_is_what_its_files_are(default: Config, hub: Hub) -> None:
    """Not its name, nor that of a branch, which moves."""
    files = {"config.json": b"{}", "model.safetensors": b"1", "tokenizer.json": b"{}"}
    same = [
        ("some/model", None, hub.add("some/model", "main", {**files, "README.md": b"first"})),
        ("some/model", "v2", hub.add("some/model", "v2", {**files, "README.md": b"second"})),
        ("a/copy", "v2", hub.add("a/copy", "v2", files)),
    ]
    others = [
        ("some/model", f"v{number}", hub.add("some/model", f"v{number}", {**files, name: b"{ }"}))
        for number, name in enumerate([*files, "tokenizer_config.json"], 3)
    ]

    def identity(name: str, revision: str | None) -> str:
        return run_id(changed(default, {"model.hub": name, "model.revision": revision}))

    ids = [identity(name, revision) for name, revision, _ in same + others]
    assert len(set(ids[: len(same)])) == 1 and len(set(ids)) == 1 + len(others)
    assert ids == [identity(name, commit) for name, _, commit in same + others]


def test_a_model_on_the_hub_that_nobody_can_tell_is_not_planned(default: Config, hub_cache: Path) -> None:
    config = changed(default, {"model.hub": "some/model"})
    with pytest.raises(UserError, match=r"some/model: 127.0.0.1 does not answer .*hf download some/model.*model=local"):
        run_id(config)


def test_a_node_without_network_has_the_ids_of_one_with(
    default: Config, hub: Hub, hub_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the cache, however it was filled; or with what was remembered where the plan was made."""
    from mi_sweeps.models.load import load_model

    commit = hub.add("some/model", "main", FOLDER)
    config = changed(default, {"model.hub": "some/model", "output": str(tmp_path / "outputs")})
    before = run_id(config)
    hashes.keep(config.output)
    load_model(config.model)
    hub.down()
    a_new_process()
    hashes._recalled.add(config.output)
    assert run_id(config) == before
    # A cache with the name of the commit alone.
    shutil.rmtree(hub_cache / "models--some--model" / "snapshots")
    hashes._commits.clear()
    with pytest.raises(UserError, match="some/model: 127.0.0.1 does not answer"):
        run_id(config)
    hashes._recalled.clear()
    assert run_id(config) == run_id(changed(config, {"model.revision": commit})) == before


def test_a_node_without_network_needs_no_more_of_a_tokenizer_s_model_than_the_tokenizer(
    default: Config, hub: Hub, model_copy: Path, tmp_path: Path
) -> None:
    from mi_sweeps.models.load import load_tokenizer

    hub.add("some/model", "main", FOLDER)
    for file in model_copy.glob("tokenizer*"):
        file.unlink()
    config = changed(default, {"model.path": str(model_copy), "model.tokenizer": "some/model"})
    before = run_id(config)
    load_tokenizer(config.model)
    assert hub.downloads() == 0
    hub.down()
    a_new_process()
    assert run_id(config) == before
    assert load_tokenizer(config.model) is not None


def test_tables_of_a_model_that_was_wrapped_once_for_all_checkpoints_are_not_those_of_now(
    default: Config, model_copy: Path
) -> None:
    """Most of them had the first checkpoint's weights: none may be taken for done. Nobody else's id changes."""
    config = changed(default, {"model.path": str(model_copy)})
    run, before = run_id(config), patch_id(config)
    values = json.loads((model_copy / "config.json").read_text())
    ids = {}
    for kind in ("gpt2", "qwen3", "gpt_neox"):
        (model_copy / "config.json").write_text(json.dumps({**values, "model_type": kind}))
        ids[kind] = patch_id(config, run)
    assert ids["gpt2"] == ids["qwen3"] == before != ids["gpt_neox"]


def test_a_model_on_the_hub_has_had_no_tables_of_before(default: Config, hub_cache: Path) -> None:
    """Its runs have other ids since."""
    sites = {"patching.sites": ["z", "k"]}
    for kind in ("gpt2", "gpt_neox", "olmo2"):
        files = {"config.json": b'{"model_type": "%s"}' % kind.encode(), "model.safetensors": b"weights"}
        cached(hub_cache, f"some/{kind}", files)
        on_hub = changed(default, {"model.hub": f"some/{kind}", **sites})
        assert patch_id(on_hub, "run") == patch_id(changed(default, sites), "run")


def test_queries_and_keys_that_were_patched_before_all_heads_are_normalised_are_not_those_of_now(
    default: Config, model_copy: Path
) -> None:
    values = json.loads((model_copy / "config.json").read_text())
    ids = {}
    for kind, sites in product(("olmo2", "gemma2"), (["z"], ["z", "k"])):
        (model_copy / "config.json").write_text(json.dumps({**values, "model_type": kind}))
        asked = {"model.path": str(model_copy), "patching.sites": sites}
        ids[kind, len(sites)] = patch_id(changed(default, asked), "run")
    assert ids["olmo2", 1] == ids["gemma2", 1] and ids["olmo2", 2] != ids["gemma2", 2]


def test_copying_scores_that_left_out_the_norm_after_attention_are_not_those_of_now(
    default: Config, model_copy: Path, hub_cache: Path
) -> None:
    """Of a folder and of the hub; where there are no such scores, or no such norm, ids stay."""
    values = json.loads((model_copy / "config.json").read_text())
    ids = {}
    for kind in ("olmo2", "gemma3_text", "gemma"):
        config = json.dumps({**values, "model_type": kind})
        (model_copy / "config.json").write_text(config)
        cached(hub_cache, f"some/{kind}", {"config.json": config.encode(), "model.safetensors": b"weights"})
        places = (("path", str(model_copy)), ("hub", f"some/{kind}"))
        for (key, place), looks in product(places, (True, False)):
            asked = {f"model.{key}": place, "patching.looks": looks, "patching.sites": ["z"]}
            ids[key, kind, looks] = patch_id(changed(default, asked), "run")
    for key in ("path", "hub"):
        assert len({ids[key, kind, False] for kind in ("olmo2", "gemma3_text", "gemma")}) == 1
        assert ids[key, "olmo2", True] == ids[key, "gemma3_text", True] != ids[key, "gemma", True]


def test_missing_model_is_one_line(default: Config, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"\Amodel\.path=.*nowhere: no config\.json.*give the folder of a saved.*\Z"):
        run_id(changed(default, {"model.path": str(tmp_path / "nowhere")}))
