"""Frames are chosen and cut as the real pipeline does; broken files are named."""

import importlib.util
import json
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from golden.make_video import CASES, frames, official, summary

from vsr.errors import VsrError
from vsr.video import decode, frame_indices, patchify, smart_resize, tokens

GOLDEN = json.loads((Path(__file__).parent / "golden" / "video.json").read_text())


def write_mp4(path, count, height=56, width=84, faststart=False):
    """Frame i is grey of level 8 * i, so that a decoded frame tells its index."""
    options = {"movflags": "faststart"} if faststart else {}
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("libx264", rate=8, options={"crf": "10"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for i in range(count):
            picture = np.full((height, width, 3), 8 * i, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("row", GOLDEN, ids=lambda row: "x".join(map(str, row["case"])))
def test_patches_equal_the_official_processor_bit_for_bit(row):
    *shape, max_pixels = row["case"]
    patches, grid = patchify(frames(*shape), max_pixels)
    found = summary(patches, grid)
    assert found["grid"] == row["grid"]
    assert found["values"] == pytest.approx(row["values"], abs=1e-6)
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
                h, w = smart_resize(height, width, cap)
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
    levels = video.reshape(asked, -1).mean(1) / 8
    assert np.round(levels).astype(int).tolist() == frame_indices(count, asked).tolist()


def test_decoding_and_patches_meet(tmp_path):
    patches, grid = patchify(decode(write_mp4(tmp_path / "a.mp4", 10), 8), 84 * 56)
    assert patches.shape == (96, 1176)
    assert grid.tolist() == [[4, 4, 6]]


def test_broken_videos_are_named(tmp_path):
    good = write_mp4(tmp_path / "good.mp4", 30, 112, 112, faststart=True).read_bytes()
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
        smart_resize(10, 4000, 128 * 28 * 28)
