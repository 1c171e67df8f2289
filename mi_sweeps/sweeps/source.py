"""Sources of configuration: the user's folder, then ours. Their errors become one line."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra import initialize_config_module
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, ListConfig, open_dict
from omegaconf._utils import get_yaml_loader
from omegaconf.errors import OmegaConfBaseException

from mi_sweeps.config import Config
from mi_sweeps.errors import UserError

CONFIG = "config"

DECIMAL = re.compile(r"[-+]?(0|[1-9][0-9_]*)")
"""A plain decimal integer. YAML 1.1 reads others, too: 1:00:00 is 3600, 010 is 8."""

NO_SUCH_KEY = "no such key; `mi-sweeps plan --config` prints all of them"


class Own(FileConfigSource):
    """The user's folder. Errors in a file name the file."""

    @staticmethod
    def scheme() -> str:
        """Returns the name of this kind of source in Hydra's search path."""
        return "own"

    def load_config(self, config_path: str) -> ConfigResult:
        """Loads one file.

        Raises:
            UserError: Hydra cannot read it, or YAML would read a number other than the one written.
        """
        file = Path(self.path, self._normalize_file_name(config_path))
        try:
            text = file.read_text(encoding="utf-8")
            _check_numbers(file, yaml.compose(text, get_yaml_loader()))
            result = super().load_config(config_path)
        except UnicodeDecodeError as error:
            before = file.read_bytes()[: error.start].count(b"\n")
            raise UserError(f"{file}, line {before + 1}: not UTF-8; save it as UTF-8") from None
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            line = f", line {mark.line + 1}" if mark else ""
            problem = getattr(error, "problem", None) or " ".join(str(error).split())
            tab = "; indent with spaces, not tabs" if "'\\t'" in problem else ""
            raise UserError(f"{file}{line}: not YAML: {problem}{tab}") from None
        except OSError as error:
            raise UserError(f"{file}: {error.strerror or error}") from None
        except (HydraException, OmegaConfBaseException, ValueError, RecursionError) as error:
            raise UserError(f"{file}: {' '.join(str(error).split())}") from None
        if isinstance(result.config, ListConfig):
            raise UserError(f"{file}: a list; a configuration file needs keys with values")
        return result


def _check_numbers(file: Path, root: yaml.Node | None) -> None:
    """Checks that YAML reads every integer as it is written."""
    waiting: list[Any] = [root]
    seen = set()  # A file full of aliases has the same node in many places.
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            waiting += [item for pair in node.value for item in pair]
        elif isinstance(node, yaml.SequenceNode):
            waiting += node.value
        elif isinstance(node, yaml.ScalarNode) and node.tag.endswith(":int") and not DECIMAL.fullmatch(node.value):
            raise UserError(
                f"{file}, line {node.start_mark.line + 1}: {node.value}: YAML reads this as another number; "
                f"write it in quotes ('{node.value}') if it is text, or as a plain decimal number"
            )


@contextmanager
def opened(config_dir: Path | None) -> Iterator[ConfigLoader]:
    """Opens Hydra for composing, and turns its errors into one line.

    Args:
        config_dir: a folder of the user's own configuration, searched before ours.

    Raises:
        UserError: Hydra found an error.
    """
    if config_dir is not None:
        if not config_dir.is_dir():
            raise UserError(f"--config-dir {config_dir}: no such folder")
        if (config_dir / f"{CONFIG}.yaml").exists():
            raise UserError(
                f"{config_dir / CONFIG}.yaml: it would replace the whole default configuration; move it to "
                f"experiment/NAME.yaml, with `# @package _global_` as its first line, and give +experiment=NAME"
            )
    GlobalHydra.instance().clear()
    try:
        with initialize_config_module("mi_sweeps.conf", version_base="1.3"):
            loader = _loader()
            if config_dir is not None:
                SourcesRegistry.instance().register(Own)
                search_path = loader.get_search_path()
                search_path.prepend("user", f"{Own.scheme()}://{config_dir.resolve()}")
                # Hydra's compose API takes only one folder, and glob(*) must see both.
                loader.repository.initialize_sources(search_path)  # type: ignore[attr-defined]
            yield loader
    except UserError:
        raise
    except MissingConfigException as error:
        raise UserError(_no_such_choice(error)) from None
    except OverrideParseException as error:
        raise UserError(
            f"{error.override}: cannot be read as KEY=VALUE ({str(error).splitlines()[0]}); see Hydra's grammar"
        ) from None
    except (HydraException, OmegaConfBaseException) as error:
        if key := unknown_key(error):
            raise UserError(f"{key}: {NO_SUCH_KEY}") from None
        raise UserError(f"configuration: {' '.join(str(error).split())}") from None


def _loader() -> ConfigLoader:
    opened = GlobalHydra.instance().hydra
    assert opened is not None
    return opened.config_loader


def compose(lines: Sequence[str]) -> DictConfig:
    """Composes a configuration from overrides without sweeps. What comes from our files alone is composed once.

    Raises:
        UserError: a section was given several choices, of which Hydra would keep the last; or Hydra failed.
        HydraException, OmegaConfBaseException: another error, which `opened` turns into one line.
    """
    return copy.deepcopy(_ours(tuple(lines))) if only_ours() else _composed(lines)


def only_ours() -> bool:
    """Whether Hydra was opened without a folder of the user's own, whose files may change."""
    sources = _loader().repository.get_sources()  # type: ignore[attr-defined]
    return not any(isinstance(source, Own) for source in sources)


@cache
def _ours(lines: tuple[str, ...]) -> DictConfig:
    return _composed(lines)


def _composed(lines: Sequence[str]) -> DictConfig:
    try:
        config = hydra.compose(CONFIG, list(lines), return_hydra_config=True)
    except (UserError, HydraException, OmegaConfBaseException):
        raise
    except Exception as error:  # Hydra's own checks raise errors of any kind.
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"{' '.join(lines)}: Hydra cannot compose this ({reason})") from None
    check_choices(config, config.hydra.runtime.choices)
    with open_dict(config):
        del config["hydra"]
    return config


def check_choices(config: DictConfig, choices: Mapping[str, Any]) -> None:
    """Checks that each section has a single choice: of a list, Hydra keeps the last without a word.

    Args:
        choices: Hydra's choices; a section that was given a list is not among them.

    Raises:
        UserError: a section was given several.
    """
    loader = _loader()
    for group in Config.model_fields:
        if group in config and group not in choices and choices_of(group, loader):
            raise UserError(
                f"{group}: a list of choices, but a run has only one; to sweep over them give {group}=ONE,OTHER"
            )


def check_choice(group: str, value: Any, loader: ConfigLoader) -> None:
    """Checks that a group's value is the name of a choice.

    Raises:
        UserError: it is something else.
    """
    if isinstance(value, list) and group in Config.model_fields:
        listed = ",".join(map(str, value))
        raise UserError(f"{group}=[{listed}]: a run has only one; to sweep over them give {group}={listed}")
    if not isinstance(value, (str, list, dict)):
        given = "null" if value is None else value
        raise UserError(f"{group}={given}: not the name of a choice; there are: {', '.join(choices_of(group, loader))}")


def choices_of(group: str, loader: ConfigLoader) -> list[str]:
    """Returns the names of a group's choices; empty if it is not a group."""
    # The loader's own method copies every source first: 5 ms, twenty times for a grid.
    found: list[str] = loader.repository.get_group_options(group, ObjectType.CONFIG)  # type: ignore[attr-defined]
    return found


def _no_such_choice(error: MissingConfigException) -> str:
    message = str(error)
    options = [line.strip() for line in message.splitlines() if line.startswith("\t")]
    missing = str(error.missing_cfg_file or "")
    group, _, name = missing.rpartition("/")
    shown = ", ".join(option for option in options if "=" not in option)
    return (
        f"{group}={name}: no such choice; there are: {shown}" if shown else f"{group or name}: no such group; see conf/"
    )


def unknown_key(error: Exception) -> str | None:
    """Returns the overridden key that Hydra did not find, if that is the error."""
    found = re.match(r"\s*Could not override '([^']*)'", str(error))
    return found and found[1]
