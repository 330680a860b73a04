"""Videos, films of scans included: frames are chosen, shown and cut as in the real pipeline; broken ones are named."""

import contextlib
import importlib.util
import json
import shutil
import struct
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from golden.make_video import CASES, frames, official, summary
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from raw import write_sens

from vsr.errors import VsrError
from vsr.families import QWEN2_VL
from vsr.scannet.sens import FPS, SIZE, export_video, read_sens
from vsr.video import count_frames, decode, frame_indices, patchify, tokens

GOLDEN = json.loads((Path(__file__).parent / "golden" / "video.json").read_text())


def write_mp4(path, count, height=56, width=84, kind="mp4", **options):
    """Frame i is grey of level 4 * i, so that a decoded frame tells its index; its upper left quarter is darker."""
    with av.open(str(path), "w", format=kind, options=options) as container:
        stream = container.add_stream("libx264", rate=8, options={"crf": "10"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for i in range(count):
            picture = np.full((height, width, 3), 4 * i, dtype=np.uint8)
            picture[: height // 2, : width // 2] //= 2
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def numbers(video) -> list[int]:
    """The indices that decoded frames tell, by the quarter that is not darker."""
    return np.round(video[:, video.shape[1] // 2 :, video.shape[2] // 2 :].mean((1, 2, 3)) / 4).astype(int).tolist()


@pytest.mark.parametrize("row", GOLDEN, ids=lambda row: "x".join(map(str, row["case"])))
def test_patches_equal_the_official_processor_bit_for_bit(row):
    *shape, max_pixels = row["case"]
    patches, grid = patchify(frames(*shape), max_pixels)
    found = summary(patches, grid)
    assert found["grid"] == row["grid"]
    assert found["values"] == pytest.approx(row["values"], abs=1e-6)
    # resizing rounds to whole bytes, the rest is one rounding an operation: every bit, on any processor seen so far
    assert found["sha256"] == row["sha256"]
    assert patches.dtype == torch.float32
    assert grid.dtype == torch.int64


@pytest.mark.skipif(not importlib.util.find_spec("torchvision"), reason="torchvision is no dependency; see golden/")
@pytest.mark.parametrize("case", [*CASES, (4, 333, 517, 200 * 28 * 28), (7, 84, 112, 84 * 56)])
def test_patches_equal_the_installed_official_processor(case):
    video = np.random.default_rng(1).integers(0, 256, (*case[:3], 3), dtype=np.uint8)
    ours, theirs = patchify(video, case[3]), official(video, case[3])
    assert torch.equal(ours[0], theirs[0])
    assert torch.equal(ours[1], theirs[1])


def test_token_counts():
    assert tokens(16, 480, 640, 128 * 28 * 28) == 936
    assert tokens(16, 480, 640, 256 * 28 * 28) == 1872
    assert tokens(8, 56, 84, 84 * 56) == 24
    assert tokens(7, 56, 84, 84 * 56) == 24  # the odd frame is paired with itself
    _, grid = patchify(frames(8, 56, 84), 84 * 56)
    assert grid.tolist() == [[4, 4, 6]]


def test_sizes_keep_the_bounds():
    for height in range(10, 700, 37):
        for width in range(10, 700, 41):
            for cap in (56 * 56, 84 * 56, 128 * 28 * 28):
                h, w = QWEN2_VL.size(2, height, width, cap)
                assert h % 28 == w % 28 == 0
                assert h * w >= 28 * 28
                assert h * w <= cap or min(h, w) == 28


def test_patch_order_by_hand():
    """One pixel lit at (t, y, x) of a 56 x 56 pair shows up in exactly the patch and place that the order says."""
    video = np.zeros((2, 56, 56, 3), dtype=np.uint8)
    video[1, 30, 45, 2] = 255
    lit, _ = patchify(video, 56 * 56)
    dark, _ = patchify(np.zeros_like(video), 56 * 56)
    (where,) = (lit != dark).nonzero().tolist()
    token, inside = (30 // 28) * 2 + 45 // 28, (30 % 28 // 14) * 2 + 45 % 28 // 14
    assert where == [token * 4 + inside, ((2 * 2 + 1) * 14 + 30 % 14) * 14 + 45 % 14]


def test_frame_rule():
    assert frame_indices(32, 8).tolist() == [0, 4, 8, 13, 17, 22, 26, 31]
    assert frame_indices(3, 5).tolist() == [0, 0, 1, 1, 2]
    assert frame_indices(9, 1).tolist() == [0]


@pytest.mark.parametrize(("count", "asked"), [(24, 8), (8, 8), (3, 8), (1, 4)])
def test_decoded_frames_are_those_asked_for(tmp_path, count, asked):
    video = decode(write_mp4(tmp_path / "a.mp4", count), asked)
    assert video.shape == (asked, 56, 84, 3)
    assert video.dtype == np.uint8
    assert numbers(video) == frame_indices(count, asked).tolist()


# where a player shows the darker quarter and what numpy makes of the picture; the matrix of a track turns and mirrors
TURNS = {
    "upright": ((1, 0, 0, 1), lambda x: x),
    "clockwise": ((0, 1, -1, 0), lambda x: np.rot90(x, -1)),
    "upside down": ((-1, 0, 0, -1), lambda x: np.rot90(x, 2)),
    "counter-clockwise": ((0, -1, 1, 0), lambda x: np.rot90(x)),
    "mirrored": ((-1, 0, 0, 1), np.fliplr),
    "mirrored in water": ((1, 0, 0, -1), np.flipud),
    "clockwise and mirrored": ((0, 1, 1, 0), lambda x: x.transpose(1, 0, 2)),
}


@pytest.mark.parametrize("turn", TURNS)
def test_frames_are_upright(tmp_path, turn):
    (a, b, c, d), turned = TURNS[turn]
    data = bytearray(write_mp4(tmp_path / "a.mp4", 40).read_bytes())
    plain = decode(tmp_path / "a.mp4", 2)[1]
    matrix = [65536 * value for value in (a, b, 0, c, d, 0, 0, 0)]
    struct.pack_into(">8i", data, data.index(b"tkhd") + 44, *matrix)
    (tmp_path / "a.mp4").write_bytes(data)
    np.testing.assert_array_equal(decode(tmp_path / "a.mp4", 2)[1], turned(plain))


def trimmed(path: Path, first: int, count: int) -> None:
    """Let the edit list show `count` frames from `first` on, as a phone's trimming does."""
    data = bytearray(path.read_bytes())
    at = data.index(b"elst") + 12
    _, start = struct.unpack_from(">2i", data, at)
    with av.open(str(path)) as container:
        ticks = round(1 / container.streams.video[0].time_base / 8)
    struct.pack_into(">2i", data, at, count * 1000 // 8, start + first * ticks)
    path.write_bytes(data)


@pytest.mark.parametrize(("first", "count"), [(0, 20), (30, 30), (13, 24), (59, 1)])
def test_a_trimmed_clip_has_the_frames_it_shows(tmp_path, first, count):
    path = write_mp4(tmp_path / "a.mp4", 60, movflags="faststart")
    trimmed(path, first, count)
    assert count_frames(path) == count
    assert numbers(decode(path, 8)) == (first + frame_indices(count, 8)).tolist()
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(VsrError, match=r"a\.mp4: .*cut short: \d+ of 60 frames"):
        decode(path, 8)


def test_a_size_that_changes_is_named(tmp_path):
    parts = [write_mp4(tmp_path / "a", 5, 56, 84, "h264"), write_mp4(tmp_path / "b", 5, 84, 56, "h264")]
    (tmp_path / "a.mp4").write_bytes(b"".join(part.read_bytes() for part in parts))
    with pytest.raises(VsrError, match=r"a\.mp4: frame 5 is 56x84, those before 84x56"):
        decode(tmp_path / "a.mp4", 2)


def test_broken_videos_are_named(tmp_path):
    good = write_mp4(tmp_path / "good.mp4", 30, 112, 112, movflags="faststart").read_bytes()
    broken = {
        "empty.mp4": b"",
        "text.mp4": b"not a video\n" * 50,
        "head.mp4": good[:300],
        "cut.mp4": good[: len(good) * 3 // 4],
    }
    for name, content in broken.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(VsrError, match=rf"{name}: .*again"):
            decode(tmp_path / name, 8)
    with pytest.raises(VsrError, match=r"none.mp4: no such video"):
        decode(tmp_path / "none.mp4", 8)
    with pytest.raises(VsrError, match="frames=0"):
        decode(tmp_path / "good.mp4", 0)


def test_video_without_pictures(tmp_path):
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono")
        sound.sample_rate = 16000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    with pytest.raises(VsrError, match=r"sound.mp4.*no video stream"):
        decode(tmp_path / "sound.mp4", 8)


def test_bad_frames_and_sizes_are_named():
    with pytest.raises(VsrError, match="float64"):
        patchify(np.zeros((2, 56, 56, 3)), 56 * 56)
    with pytest.raises(VsrError, match="max_pixels=100"):
        patchify(np.zeros((2, 56, 56, 3), dtype=np.uint8), 100)
    with pytest.raises(VsrError, match="200 times"):
        QWEN2_VL.size(2, 10, 4000, 128 * 28 * 28)


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


def film(path) -> tuple[list[np.ndarray], float]:
    with av.open(str(path)) as container:
        rate = float(container.streams.video[0].average_rate)
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)], rate


def test_video_as_the_benchmark_has_it(stream, tmp_path):
    export_video(stream, tmp_path / "out.mp4")
    frames, rate = film(tmp_path / "out.mp4")
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
    blue = [frame[..., 2].mean() for frame in film(tmp_path / "out.mp4")[0]]
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
