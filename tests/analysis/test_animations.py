"""Films as files: one frame per checkpoint, as GIF, and as MP4 if ffmpeg is installed."""

from __future__ import annotations

import os
import shutil
import stat

import numpy as np
import pytest
from PIL import Image

from mi_sweeps.analysis import animated, animations
from mi_sweeps.analysis.frames import load
from mi_sweeps.errors import UserError


@pytest.fixture
def film(make_output):
    return animated.heatmap(load(make_output(layers=2, heads=2)), "z")


@pytest.fixture
def no_ffmpeg(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda program: None)


def fake_ffmpeg(folder, monkeypatch, script):
    """A program of that name, before all others."""
    program = folder / "bin" / "ffmpeg"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")


def test_a_gif_has_a_frame_a_checkpoint_and_waits_at_the_last(film, tmp_path, no_ffmpeg):
    (file,) = animations.write(film, tmp_path / "z")
    assert file.name == "z.gif"
    with Image.open(file) as gif:
        assert gif.n_frames == len(film.steps) == 4
        assert gif.info["loop"] == 0
        assert b"Recovered by patching z: 12 prompts; run run-0.0001-constant-0" in gif.info["comment"]
        durations = []
        for at in range(gif.n_frames):
            gif.seek(at)
            durations.append(gif.info["duration"])
    assert durations == [250, 250, 250, 1500]


def test_a_value_has_its_own_colour_in_a_gif(film, tmp_path, no_ffmpeg):
    """Also one that is on a few dots of one frame only."""
    drawn = [Image.new("RGB", (200, 200), "white") for _ in range(12)]
    for at, picture in enumerate(drawn):
        picture.paste((21 * at, 255 - 21 * at, 40), (8, 8, 20, 20))
    (tmp_path / "a.gif").write_bytes(animations._gif(drawn, ""))
    with Image.open(tmp_path / "a.gif") as gif:
        for at in range(gif.n_frames):
            gif.seek(at)
            assert np.abs(np.subtract(gif.convert("RGB").getpixel((14, 14)), (21 * at, 255 - 21 * at, 40))).max() < 12


def test_only_moving_parts_are_redrawn(film):
    """As good as drawing all of it each time: the frames are those of a picture that is drawn whole."""
    drawn = animations.frames(film)
    for artist in film.moving:
        artist.set_animated(False)
    for step, frame in zip(film.steps, drawn, strict=True):
        film.show(step)
        film.picture.canvas.draw()
        whole = np.asarray(film.picture.canvas.buffer_rgba())[..., :3].astype(int)
        assert np.abs(whole - np.asarray(frame).astype(int)).max() <= 2


def test_mp4_has_the_same_frames_and_the_last_for_longer(film, tmp_path, monkeypatch):
    fake_ffmpeg(tmp_path, monkeypatch, f'cat > "{tmp_path}/raw"; for last; do :; done; echo "$@" > "$last"')
    gif, mp4 = animations.write(film, tmp_path / "z")
    assert (gif.name, mp4.name) == ("z.gif", "z.mp4")
    with Image.open(gif) as picture:
        width, height = picture.size
    assert f"-s {width}x{height}" in mp4.read_text()
    frames = np.fromfile(tmp_path / "raw", np.uint8).reshape(-1, height, width, 3)
    assert len(frames) == 4 + 5
    assert (frames[3:] == frames[3]).all() and not (frames[2] == frames[3]).all()


def test_an_ffmpeg_that_fails_is_one_line_and_leaves_no_file(film, tmp_path, monkeypatch):
    fake_ffmpeg(tmp_path, monkeypatch, "cat > /dev/null; echo first >&2; echo no such encoder >&2; exit 3")
    with pytest.raises(UserError, match="z.mp4: ffmpeg failed: no such encoder; see"):
        animations.write(film, tmp_path / "z")
    assert not (tmp_path / "z.mp4").exists()


@pytest.mark.skipif(not animations.has_ffmpeg(), reason="no ffmpeg on this machine")
def test_a_real_mp4(film, tmp_path):
    _, mp4 = animations.write(film, tmp_path / "z")
    assert mp4.read_bytes()[4:8] == b"ftyp"
