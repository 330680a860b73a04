"""A scan's film -> mp4: ScanNet's `.sens` stream (version 4), exported pictures, or a video file."""

import io
import re
import struct
from collections import deque
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from vsr.errors import VsrError
from vsr.files import atomic_write
from vsr.video import count_frames, encode_mp4, shown

SIZE, FPS = (640, 480), 24  # VSI-Bench's ScanNet videos, by the notes of its generation scripts
CRF = "23"
COLOURS = {0: "raw", 1: "png", 2: "jpeg"}
MOST = 1 << 31  # bytes of a frame, pixels of a side, letters of a name: beyond, the stream is damaged
REMEDY = "copy or download it again"


def read_sens(path: str | Path) -> Iterator[np.ndarray]:
    """The pictures of a stream, uint8 (H, W, 3), one at a time. A stream cut short or with values that cannot be is an
    error naming the file, the frame and the field. Poses and depth, which no film needs, are skipped unread."""
    try:
        with Path(path).open("rb") as file:
            yield from _pictures(file, path)
    except OSError as error:
        raise VsrError(f"{path}: cannot be read ({error.strerror})") from None


def _pictures(file: BinaryIO, path: str | Path) -> Iterator[np.ndarray]:
    def read(size: int, what: str) -> bytes:
        data = file.read(size) if size < MOST else b""
        if len(data) < size:
            raise VsrError(f"{path}: {what}: {size} bytes expected, {len(data)} left; is the file cut short?")
        return data

    def unpack(form: str, what: str) -> tuple:
        return struct.unpack(form, read(struct.calcsize(form), what))

    (version,) = unpack("<I", "version")
    if version != 4:
        raise VsrError(f"{path}: version {version}, expected 4: not a .sens stream, or an old one")
    (length,) = unpack("<Q", "length of the sensor's name")
    read(length, "sensor's name")
    read(4 * 64, "intrinsics")  # of colour and depth, each with extrinsics: four matrices (4, 4) of float32
    kind, depth = unpack("<2i", "compression")
    if kind not in COLOURS:
        raise VsrError(f"{path}: compression of colour {kind} and depth {depth}, expected {COLOURS} for colour")
    width, height, *_ = unpack("<4I", "sizes")  # then the depth's
    if not (0 < width < 1 << 15 and 0 < height < 1 << 15):
        raise VsrError(f"{path}: colour {width}x{height} pixels; {REMEDY}")
    _, frames = unpack("<fQ", "depthShift and numFrames")
    for number in range(frames):
        where = f"frame {number} of {frames}"
        read(64, f"{where}: cameraToWorld")
        _, _, colour, depth = unpack("<4Q", f"{where}: sizes")  # two time stamps first, in microseconds
        data = read(colour, f"{where}: colour")
        read(depth, f"{where}: depth")
        if COLOURS[kind] != "raw":
            yield _picture(io.BytesIO(data), f"{path}: {where}: colour")
        elif len(data) == 3 * width * height:
            yield np.frombuffer(data, np.uint8).reshape(height, width, 3)
        else:
            raise VsrError(f"{path}: colour of {len(data)} bytes, expected {3 * width * height}")


def export_video(source: str | Path, target: str | Path) -> None:
    """A scan's video as VSI-Bench's: H.264, 640x480 at 24 frames a second.

    `source` is a `.sens` stream, a folder of numbered pictures (`color/0.jpg`, ...) or a video file; an mp4 is copied
    once all of it could be read. The target appears whole or not at all.
    """
    source = Path(source)
    if source.suffix == ".sens":
        pictures = read_sens(source)
    elif source.is_dir():
        suffixes = (".jpg", ".jpeg", ".png")  # macOS leaves ._3.jpg beside 3.jpg
        files = [path for path in source.iterdir() if path.suffix.lower() in suffixes and path.name[0] != "."]
        files.sort(key=lambda path: (int((re.findall(r"\d+", path.stem) or ["0"])[-1]), path.name))
        pictures = (_picture(path, str(path)) for path in files)
    else:
        pictures = (picture for _, picture in shown(source, range(count_frames(source))))
    if source.suffix == ".mp4":
        deque(pictures, maxlen=0)  # a broken video must not be taken over
        content = source.read_bytes()
    else:
        resized = (np.asarray(Image.fromarray(picture).resize(SIZE, Image.Resampling.BILINEAR)) for picture in pictures)
        first = next(resized, None)
        if first is None:
            raise VsrError(f"{target}: there are no frames to write; is the stream or folder empty?")
        # a film of minutes is some ten megabytes once encoded: only its pictures come one at a time
        content = encode_mp4(chain([first], resized), FPS, CRF, tune=None)
    atomic_write(target, content)


def _picture(source: io.BytesIO | Path, where: str) -> np.ndarray:
    try:
        with Image.open(source) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, UnidentifiedImageError, ValueError) as error:
        raise VsrError(f"{where}: not a readable picture ({error}); {REMEDY}") from None
