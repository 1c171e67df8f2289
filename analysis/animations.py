"""Writes animations as GIF, and as MP4 if ffmpeg is installed."""

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
RATE, LAST = 4, 1.5
"""Checkpoints per second, and seconds for which the last one stays."""
EVERY = 4
"""Every n-th pixel of each row and column is sampled for a GIF's palette."""


def has_ffmpeg() -> bool:
    """Whether ffmpeg is installed, which writes MP4."""
    return shutil.which("ffmpeg") is not None


def write(film: Film, stem: Path) -> list[Path]:
    """Write STEM.gif and, if ffmpeg is installed, STEM.mp4; return the files.

    Raises:
        UserError: ffmpeg failed.
    """
    pictures = frames(film)
    files = [stem.with_name(f"{stem.name}.gif")]
    write_bytes(files[0], _gif(pictures, f"{film.picture.title}: {film.picture.source}"))
    if has_ffmpeg():
        files.append(stem.with_name(f"{stem.name}.mp4"))
        _write_mp4(pictures, files[1], film.picture.title)
    return files


def frames(film: Film) -> list[Image.Image]:
    """Draw a frame for each checkpoint (RGB)."""
    figure = film.picture
    figure.set_dpi(DPI)
    canvas = FigureCanvasAgg(figure)
    images = []
    with settings():
        figure.lay_out()
        for artist in film.moving:
            artist.set_animated(True)
        canvas.draw()
        background = canvas.copy_from_bbox(figure.bbox)
        for step in film.steps:
            film.show(step)
            canvas.restore_region(background)
            for artist in film.moving:
                figure.draw_artist(artist)
            images.append(Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB"))
    return images


def _gif(pictures: Sequence[Image.Image], comment: str) -> bytes:
    # One palette for all frames, so that a value has the same colour at every checkpoint.
    sample = np.concatenate([np.asarray(picture)[::EVERY, ::EVERY] for picture in pictures])
    palette = Image.fromarray(sample).quantize(255, Image.Quantize.MAXCOVERAGE)
    indexed = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    durations = [1000 // RATE] * (len(indexed) - 1) + [round(1000 * LAST)]
    content = io.BytesIO()
    indexed[0].save(
        content, "GIF", save_all=True, append_images=indexed[1:], duration=durations, loop=0, comment=comment.encode()
    )  # fmt: skip
    return content.getvalue()


def _write_mp4(pictures: Sequence[Image.Image], file: Path, title: str) -> None:
    width, height = pictures[0].size
    repeated = [*pictures, *[pictures[-1]] * round(RATE * LAST - 1)]
    with replacing(file) as temporary:
        command = [
            *("ffmpeg", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}"),
            *("-r", str(RATE), "-i", "-", "-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2", "-pix_fmt", "yuv420p"),
            *("-movflags", "+faststart", "-metadata", f"title={title}", "-f", "mp4", str(temporary)),
        ]
        result = subprocess.run(command, input=b"".join(one.tobytes() for one in repeated), capture_output=True)
        if result.returncode:
            lines = result.stderr.decode(errors="replace").strip().splitlines() or [str(result.returncode)]
            raise UserError(f"{file}: ffmpeg failed: {lines[-1]}; see `ffmpeg -version`")
