"""The source files of a user's own task or schedule, which are part of a run's identity.

They are the file of the module that `_target_` names, and of each of the user's modules that it imports, directly or
indirectly, with their packages. Files are read, never run. Not included are modules from the standard library or
site-packages, modules imported by a computed name, and data files.
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
"""Folders of installed packages; an editable install lies elsewhere, and counts as the user's own."""


def is_own(target: str) -> bool:
    """Whether a `_target_` is the user's own code."""
    return target.partition(".")[0] != OURS


def own_modules(target: str) -> dict[str, Path]:
    """Returns the source files by module name; empty if there is no such module."""
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
    """Checks that the user's code is still as this process first loaded it. Call it before each load: Python does not
    import a changed file again, so the code that runs would differ from the run's identity.

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
    """Finds a module without importing anything, not even its package."""
    first, *below = name.split(".")
    spec = _top(first)
    for part in below:
        if spec is None or spec.submodule_search_locations is None:
            return None
        spec = _below(f"{spec.name}.{part}", list(spec.submodule_search_locations))
    return spec


def _top(name: str) -> ModuleSpec | None:
    PathFinder.invalidate_caches()  # It caches folders, and a file may be newer.
    finders = (getattr(finder, "find_spec", None) for finder in sys.meta_path)
    try:
        return next((spec for find in finders if find and (spec := find(name, None, None))), None)
    except (ImportError, ValueError):
        return None


def _below(name: str, folders: list[str]) -> ModuleSpec | None:
    """Finds a module of a package; a folder without `__init__.py` only if nothing else has that name."""
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
    """Yields the modules that a file imports, at any level."""
    assert spec.origin
    try:
        tree = ast.parse(Path(spec.origin).read_bytes())
    except (OSError, SyntaxError, ValueError):
        return  # Importing it reports what is wrong.
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
            # A name imported from a package may be a module.
            yield from (f"{module}.{alias.name}" for alias in node.names)
