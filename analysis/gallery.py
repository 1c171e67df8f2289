"""Writes figures and animations to files, with their numbers and captions."""

from __future__ import annotations

import ctypes
import gc
import io
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.text import Text

from ..errors import UserError
from ..store.files import read_json, write_bytes, write_json
from . import animations, fonts
from .animated import Film
from .folder import several
from .plotting import Picture, settings

DPI, PAPER_DPI = 200, 300
CANVASES: dict[str, type[FigureCanvasBase]] = {"png": FigureCanvasAgg, "svg": FigureCanvasSVG, "pdf": FigureCanvasPdf}
FORMATS = tuple(CANVASES)
EDITABLE = {"pdf.fonttype": 42, "svg.fonttype": "none", "svg.hashsalt": "mi-sweeps"}
"""Text stays text, in TrueType fonts as journals ask, and the same tables give the same bytes."""

PARENT_DEATH_SIGNAL = 1
"""PR_SET_PDEATHSIG of Linux."""

Draw = Callable[[], Picture | Film]


def write(
    drawings: Sequence[tuple[str, Draw]], directory: Path, formats: str | Iterable[str] | None = None,
    paper: bool = False, processes: int = 1, report: Callable[[int], None] = lambda done: None,
    meanwhile: Callable[[], None] = lambda: None,
) -> list[Path]:  # fmt: skip
    """Draw into `directory`; return the files.

    Each picture gets its numbers as CSV. An animation is a GIF, and an MP4 if ffmpeg is installed. figures.json and
    figures.md list the captions and runs of all pictures, including earlier ones whose files still exist.

    Args:
        paper: leave out title and footnote, which figures.md has; make grids light, and PNG at PAPER_DPI.
        processes: number of processes that draw.
        report: called with the number of pictures drawn so far, first with 0.
        meanwhile: called once in this process, before `report`, while the other processes already draw.

    Raises:
        UserError: ffmpeg failed, or a process that draws was killed.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    files: list[Path] = []
    index: list[dict[str, Any]] = []
    work = Work(drawings, directory, several(FORMATS if formats is None else formats), paper)
    with _drawn(work, processes) as drawn:
        meanwhile()
        report(0)
        for done, (written, about) in enumerate(drawn, 1):
            files += written
            index.append(about)
            report(done)
    if files:
        index = _with_earlier(index, directory)
        write_json(directory / "figures.json", index)
        write_bytes(directory / "figures.md", _gallery(index).encode())
        files += [directory / "figures.json", directory / "figures.md"]
    return files


@dataclass(frozen=True)
class Work:
    """The pictures to draw, the folder for them, and how."""

    drawings: Sequence[tuple[str, Draw]]
    directory: Path
    formats: Sequence[str]
    paper: bool

    def one(self, number: int) -> tuple[list[Path], dict[str, Any]]:
        """Draw one picture; return its files and its entry in the index."""
        name, draw = self.drawings[number]
        stem = self.directory / name
        stem.parent.mkdir(exist_ok=True)
        drawing = draw()
        if isinstance(drawing, Film):
            picture, written = drawing.picture, animations.write(drawing, stem)
        else:
            picture, written = drawing, _write(drawing, stem, self.formats, self.paper)
        names = [file.relative_to(self.directory).as_posix() for file in written]
        about = {"title": picture.title, "setting": picture.setting, "caption": str(picture.source)}
        return written, {"name": name, "files": names} | about | asdict(picture.source)


@contextmanager
def _drawn(work: Work, processes: int) -> Iterator[Iterator[tuple[list[Path], dict[str, Any]]]]:
    """The results of `Work.one` for each picture, in order; other processes start drawing immediately."""
    numbers = range(len(work.drawings))
    if min(processes, len(numbers)) < 2:
        yield map(work.one, numbers)
        return
    if "pdf" in work.formats:
        fonts.small()
    # Forked processes share the tables, and need no pickling, which most drawing functions do not support.
    with ProcessPoolExecutor(min(processes, len(numbers)), get_context("fork"), _start, (work,)) as pool:
        try:
            yield pool.map(_one, numbers)
        except BrokenProcessPool:
            raise UserError("figures: a drawing process was killed; is there enough memory?") from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


_work: Work
"""Set in each process that draws."""


def _start(work: Work) -> None:
    global _work
    _work = work
    # Figures are full of cycles. Collecting garbage while drawing searched all tables and took a seventh of the time.
    gc.freeze()
    gc.disable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    ctypes.CDLL(None).prctl(PARENT_DEATH_SIGNAL, signal.SIGKILL)  # also if the parent is killed


def _one(number: int) -> tuple[list[Path], dict[str, Any]]:
    result = _work.one(number)
    gc.collect()
    return result


def _write(picture: Picture, stem: Path, formats: Sequence[str], paper: bool) -> list[Path]:
    if paper:
        picture.bare()
    files = [_save(picture, _ending(stem, kind), kind, PAPER_DPI if paper else DPI) for kind in formats]
    write_bytes(_ending(stem, "csv"), picture.numbers.to_csv(index=False).encode())
    return [*files, _ending(stem, "csv")]


def _ending(stem: Path, kind: str) -> Path:
    return stem.with_name(f"{stem.name}.{kind}")


def _save(picture: Picture, file: Path, kind: str, dpi: int = DPI) -> Path:
    content = io.BytesIO()
    title, about = ", ".join(filter(None, [picture.title, picture.setting])), str(picture.source)
    metadata = {
        "png": {"Title": title, "Description": about},
        "svg": {"Title": title, "Description": about, "Date": None},
        "pdf": {"Title": title, "Subject": about, "Keywords": " ".join(picture.source.runs), "CreationDate": None},
    }
    picture.set_dpi(dpi)
    with settings():
        picture.lay_out()
    is_small = kind == "pdf" and fonts.has(text.get_text() for text in picture.findobj(Text))
    with settings(**EDITABLE, **({"font.sans-serif": [fonts.small()]} if is_small else {})):
        # Not savefig, which draws everything twice.
        getattr(CANVASES[kind](picture), f"print_{kind}")(content, metadata=metadata[kind])
    write_bytes(file, content.getvalue())
    return file


def _with_earlier(index: list[dict[str, Any]], directory: Path) -> list[dict[str, Any]]:
    """Add the earlier index's pictures that were not drawn again and still have files."""
    try:
        earlier = read_json(directory / "figures.json")
    except UserError:
        earlier = None
    names = {one["name"] for one in index}
    for one in earlier if isinstance(earlier, list) else ():
        keys = ("name", "title", "caption")
        if not (isinstance(one, dict) and all(isinstance(one.get(key), str) for key in keys)):
            continue
        files = [file for file in one.get("files") or () if (directory / file).is_file()]
        if one["name"] not in names and files:
            index.append(one | {"files": files})
    return index


def _gallery(index: Sequence[dict[str, Any]]) -> str:
    """The pictures with their captions as Markdown."""
    parts = ["# Figures"]
    for one in index:
        image = next((file for file in one["files"] if file.endswith((".png", ".gif", ".svg"))), None)
        title = ", ".join(filter(None, [one["title"], one.get("setting")]))
        parts.append(f"## {one['name']}")
        if image:
            parts.append(f"![{title}]({image})")
        parts.append(f"{title}. {one['caption']}.")
        runs = " ".join(one.get("runs") or ())
        parts.append(f"Files: {', '.join(f'[{file}]({file})' for file in one['files'])}. Runs: {runs}")
    return "\n\n".join(parts) + "\n"
