"""ScanNet's .sens streams: every field where the format has it, pictures, poses, depth, and the way to mp4."""

import contextlib
import shutil
import struct

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vsr.errors import VsrError
from vsr.scannet.made_up import write_sens
from vsr.scannet.sens import FPS, SIZE, export_video, read_sens


def pictures(number: int = 5, width: int = 96, height: int = 64) -> list[np.ndarray]:
    """Smooth pictures that differ."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    return [np.stack([2 * x, 3 * y, np.full_like(x, 40 * i)], axis=-1).astype(np.uint8) for i in range(number)]


@pytest.fixture
def stream(tmp_path):
    write_sens(tmp_path / "scene0000_00.sens", pictures())
    return tmp_path / "scene0000_00.sens"


def test_the_written_bytes_are_the_formats(stream):
    """Field by field as the format's description counts them, apart from our reader."""
    data = stream.read_bytes()
    version, length = struct.unpack_from("<IQ", data)
    assert (version, length) == (4, 15)
    start = 296 + length  # header without the number of frames
    assert struct.unpack_from("<iiIIIIf", data, 4 + 8 + length + 256) == (2, 1, 96, 64, 64, 48, 1000.0)
    assert struct.unpack_from("<Q", data, start) == (5,)
    at = start + 8
    for _ in range(5):
        color, depth = struct.unpack_from("<2Q", data, at + 64 + 16)
        assert data[at + 96 : at + 98] == b"\xff\xd8"  # a JPEG begins right behind the frame's 96 bytes
        at += 96 + color + depth
    assert struct.unpack_from("<Q", data, at) == (2,)
    assert len(data) == at + 8 + 2 * 128  # two measurements of the inertial unit


@pytest.mark.parametrize("compression", ["jpeg", "png", "raw"])
def test_pictures_come_back(tmp_path, compression):
    write_sens(tmp_path / "a.sens", pictures(), compression)
    for seen, picture in zip(read_sens(tmp_path / "a.sens"), pictures(), strict=True):
        assert np.abs(seen.astype(int) - picture).mean() < (3 if compression == "jpeg" else 1e-9)


def test_what_no_film_needs_blocks_none(stream):
    """A lost camera, a depth that nobody can decode."""
    data = bytearray(stream.read_bytes())
    at = 296 + 15 + 8
    data[at : at + 64] = struct.pack("<16f", *[-np.inf] * 16)
    data[at - 32 : at - 28] = struct.pack("<i", -1)
    stream.write_bytes(data)
    assert len(list(read_sens(stream))) == 5


def decoded(path) -> tuple[list[np.ndarray], float]:
    with av.open(str(path)) as container:
        rate = float(container.streams.video[0].average_rate)
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)], rate


def test_video_as_the_benchmark_has_it(stream, tmp_path):
    export_video(stream, tmp_path / "out.mp4")
    frames, rate = decoded(tmp_path / "out.mp4")
    assert (len(frames), rate, frames[0].shape) == (5, FPS, (SIZE[1], SIZE[0], 3))
    for frame, picture in zip(frames, pictures(), strict=True):
        wanted = np.asarray(Image.fromarray(picture).resize(SIZE, Image.Resampling.BILINEAR)).astype(int)
        assert np.abs(frame - wanted).mean() < 5
    first = (tmp_path / "out.mp4").read_bytes()
    export_video(stream, tmp_path / "out.mp4")
    assert (tmp_path / "out.mp4").read_bytes() == first


def test_exported_frames_in_the_order_of_their_numbers(tmp_path):
    (tmp_path / "color").mkdir()
    for i, picture in enumerate(pictures(12)):
        Image.fromarray(picture).save(tmp_path / "color" / f"{i}.jpg")
    (tmp_path / "color" / "._3.jpg").write_bytes(b"Mac OS X")
    export_video(tmp_path / "color", tmp_path / "out.mp4")
    blue = [frame[..., 2].mean() for frame in decoded(tmp_path / "out.mp4")[0]]
    assert len(blue) == 12
    assert blue[:6] == sorted(blue[:6])  # 0, 1, 2, ..., 10, 11 and not 0, 1, 10, 11, 2


def test_an_exported_video_is_taken_over_once_it_was_read(stream, tmp_path):
    export_video(stream, tmp_path / "a.mp4")
    export_video(tmp_path / "a.mp4", tmp_path / "b" / "b.mp4")
    assert (tmp_path / "b" / "b.mp4").read_bytes() == (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "broken.mp4").write_bytes((tmp_path / "a.mp4").read_bytes()[:300])
    with pytest.raises(VsrError, match=r"broken\.mp4: not a readable video"):
        export_video(tmp_path / "broken.mp4", tmp_path / "c.mp4")
    assert sorted(path.name for path in tmp_path.rglob("*.mp4")) == ["a.mp4", "b.mp4", "broken.mp4"]


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_cut_anywhere_it_is_an_error_that_names_the_place(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("cut")
    write_sens(folder / "whole.sens", pictures(3), moving=0)
    whole = (folder / "whole.sens").read_bytes()
    end = len(whole) - 8  # then the inertial unit's measurements, which no reader of pictures needs
    cut = data.draw(st.integers(0, end - 1))
    (folder / "cut.sens").write_bytes(whole[:cut])
    with pytest.raises(VsrError, match=r"cut\.sens: .* bytes expected, \d+ left; is the file cut short"):
        export_video(folder / "cut.sens", folder / "out.mp4")
    assert not (folder / "out.mp4").exists()
    assert not list(folder.glob(".*"))  # nothing half-written
    shutil.rmtree(folder)


@given(st.binary(max_size=600), st.integers(0, 400))
@settings(max_examples=60, deadline=None)
def test_nonsense_is_refused(tmp_path_factory, noise, at):
    folder = tmp_path_factory.mktemp("noise")
    write_sens(folder / "a.sens", pictures(1), moving=0)
    whole = (folder / "a.sens").read_bytes()
    (folder / "a.sens").write_bytes(whole[:at] + noise + whole[at + len(noise) :])
    with contextlib.suppress(VsrError):  # no other error, and no endless read
        list(read_sens(folder / "a.sens"))
    shutil.rmtree(folder)
