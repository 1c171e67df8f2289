"""Films as files: GIF, and MP4 where there is ffmpeg."""

from __future__ import annotations

import io
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from ..errors import UserError
from ..store.files import replacing, write_bytes
from .animated import Film
from .plotting import settings

DPI = 130
SECOND, LAST = 4, 1.5
"""Checkpoints a second, and seconds for which the last stays."""
EVERY = 4
"""Of so many dots in a row one is looked at for a GIF's colours."""


def has_ffmpeg() -> bool:
    """Whether MP4 can be written on this machine."""
    return shutil.which("ffmpeg") is not None


def write(film: Film, stem: Path) -> list[Path]:
    """Writes the film beside each other as STEM.gif and, where there is ffmpeg, STEM.mp4; returns the files.

    Every checkpoint is drawn once, for both. Raises UserError where ffmpeg fails.
    """
    pictures = frames(film)
    files = [stem.with_name(f"{stem.name}.gif")]
    write_bytes(files[0], _gif(pictures, f"{film.picture.title}: {film.picture.source}"))
    if has_ffmpeg():
        files.append(stem.with_name(f"{stem.name}.mp4"))
        _write_mp4(pictures, files[1], film.picture.title)
    return files


def frames(film: Film) -> list[Image.Image]:
    """The film's picture at each checkpoint, in colours (RGB)."""
    figure = film.picture
    figure.set_dpi(DPI)
    paper = FigureCanvasAgg(figure)
    drawn = []
    with settings():
        figure.lay_out()
        for artist in film.moving:
            artist.set_animated(True)
        paper.draw()
        still = paper.copy_from_bbox(figure.bbox)
        for step in film.steps:
            film.show(step)
            paper.restore_region(still)
            for artist in film.moving:
                figure.draw_artist(artist)
            drawn.append(Image.fromarray(np.asarray(paper.buffer_rgba())).convert("RGB"))
    return drawn


def _gif(pictures: Sequence[Image.Image], comment: str) -> bytes:
    # One palette for all, of the colours of each: a value has the same colour at every checkpoint.
    sample = np.concatenate([np.asarray(picture)[::EVERY, ::EVERY] for picture in pictures])
    palette = Image.fromarray(sample).quantize(255, Image.Quantize.MAXCOVERAGE)
    indexed = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    durations = [1000 // SECOND] * (len(indexed) - 1) + [round(1000 * LAST)]
    content = io.BytesIO()
    indexed[0].save(
        content, "GIF", save_all=True, append_images=indexed[1:], duration=durations, loop=0, comment=comment.encode()
    )  # fmt: skip
    return content.getvalue()


def _write_mp4(pictures: Sequence[Image.Image], file: Path, title: str) -> None:
    width, height = pictures[0].size
    shown = [*pictures, *[pictures[-1]] * round(SECOND * LAST - 1)]
    with replacing(file) as temporary:
        command = [
            *("ffmpeg", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}"),
            *("-r", str(SECOND), "-i", "-", "-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2", "-pix_fmt", "yuv420p"),
            *("-movflags", "+faststart", "-metadata", f"title={title}", "-f", "mp4", str(temporary)),
        ]
        ended = subprocess.run(command, input=b"".join(one.tobytes() for one in shown), capture_output=True)
        if ended.returncode:
            said = ended.stderr.decode(errors="replace").strip().splitlines()
            raise UserError(f"{file}: ffmpeg failed: {said[-1] if said else ended.returncode}; see `ffmpeg -version`")
