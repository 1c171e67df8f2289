"""The source of a task or schedule of the user's own: what it computes is part of a run's identity.

That is the file of the module that `_target_` names, and of each module of the user's own that it imports, directly or
by way of others, with the packages that they are in. Files are read and never run. What Python or pip installed counts
by its name alone, as do modules that are imported by a computed name, and data files.
"""

from __future__ import annotations

import ast
import hashlib
import sys
import sysconfig
from collections.abc import Iterator
from importlib.machinery import SOURCE_SUFFIXES, FileFinder, ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import resolve_name
from pathlib import Path

from mi_sweeps.errors import UserError

OURS = "mi_sweeps"
INSTALLED = {"site-packages", "dist-packages"}
"""Folders of what pip installs; a package that it installs as editable lies elsewhere, and is the user's own."""


def is_own(target: str) -> bool:
    """Whether a `_target_` is not one of ours."""
    return target.partition(".")[0] != OURS


def own_modules(target: str) -> dict[str, Path]:
    """The files by module name; empty where there is no such module."""
    found: dict[str, Path] = {}
    first = target.partition(".")[0]
    # The longest name that is a module: "tasks.recall.Recall" is a class of one.
    names = (target.rsplit(".", count)[0] for count in range(target.count(".") + 1))
    waiting = [next((name for name in names if _spec(name)), "")]
    seen = set(waiting)
    while waiting:
        name = waiting.pop()
        spec = _spec(name)
        if spec is None or not (name.partition(".")[0] == first or _is_the_user_s(spec)):
            continue
        wanted = [name.rpartition(".")[0]] if "." in name else []
        if spec.has_location and spec.origin:
            found[name] = Path(spec.origin)
            wanted += _imported(name, spec)
        waiting += [one for one in dict.fromkeys(wanted) if one not in seen]
        seen.update(wanted)
    return found


_HELD: dict[str, dict[str, str]] = {}


def hold(target: str) -> None:
    """Call where own code is loaded: Python keeps a module as it was imported, whatever becomes of its file,
    and what runs would not be what the run's identity says.

    Raises:
        UserError: a file changed since this process loaded it.
    """
    if not is_own(target):
        return
    now = {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in own_modules(target).items()}
    before = _HELD.setdefault(target, now)
    if changed := sorted(name for name in {*before, *now} if before.get(name) != now.get(name)):
        raise UserError(
            f"{target}: the source of {', '.join(changed)} changed since this process loaded it; "
            "run again in a new process"
        )


def _spec(name: str) -> ModuleSpec | None:
    """Where a module lies. Nothing is imported, not even the package that it is in."""
    first, *below = name.split(".")
    spec = _top(first)
    for part in below:
        if spec is None or spec.submodule_search_locations is None:
            return None
        spec = _below(f"{spec.name}.{part}", list(spec.submodule_search_locations))
    return spec


def _top(name: str) -> ModuleSpec | None:
    PathFinder.invalidate_caches()  # It remembers what folders held; a file may be newer.
    finders = (getattr(finder, "find_spec", None) for finder in sys.meta_path)
    try:
        return next((spec for find in finders if find and (spec := find(name, None, None))), None)
    except (ImportError, ValueError):
        return None


def _below(name: str, folders: list[str]) -> ModuleSpec | None:
    """A module of a package; a folder without `__init__.py` only if no other has a module of that name."""
    finders = (FileFinder(folder, (SourceFileLoader, SOURCE_SUFFIXES)) for folder in folders)
    found = [spec for finder in finders if (spec := finder.find_spec(name))]
    return next((spec for spec in found if spec.loader), found[0] if found else None)


def _is_the_user_s(spec: ModuleSpec) -> bool:
    places = [Path(place) for place in (spec.origin, *(spec.submodule_search_locations or ())) if place]
    library = {Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib")}
    return spec.name.partition(".")[0] != OURS and any(
        place.is_absolute() and not INSTALLED & set(place.parts) and not library & set(place.resolve().parents)
        for place in places
    )


def _imported(name: str, spec: ModuleSpec) -> Iterator[str]:
    """The modules that a module's file names in its imports, wherever these stand in it."""
    assert spec.origin
    try:
        tree = ast.parse(Path(spec.origin).read_bytes())
    except (OSError, SyntaxError, ValueError):
        return  # Whoever imports it says what is wrong.
    package = name if spec.submodule_search_locations is not None else name.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            try:
                module = resolve_name("." * node.level + (node.module or ""), package) if node.level else node.module
            except ImportError:
                continue
            assert module
            yield module
            # What is imported of a package may be a module.
            yield from (f"{module}.{alias.name}" for alias in node.names)
