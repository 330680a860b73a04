"""ScanNet's `.sens` streams (version 4), read frame by frame, and any exported form of a scan's video -> mp4."""

import io
import os
import re
import shutil
import struct
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
from PIL import Image, UnidentifiedImageError

from vsr.errors import VsrError

SIZE, FPS = (640, 480), 24  # VSI-Bench's ScanNet videos, by the notes of its generation scripts
CRF = "23"
COLOURS = {0: "raw", 1: "png", 2: "jpeg"}
DEPTHS = {0: "raw", 1: "zlib"}
MOST = 1 << 31  # bytes of a frame, pixels of a side, letters of a name: beyond, the stream is damaged
REMEDY = "copy or download it again"


@dataclass(frozen=True)
class Header:
    """What stands before the frames. Matrices are (4, 4); sizes are (width, height); `depth_shift` turns the stored
    depth into metres by division."""

    sensor: str
    color_intrinsic: np.ndarray
    depth_intrinsic: np.ndarray
    colour: str
    depth: str
    color_size: tuple[int, int]
    depth_size: tuple[int, int]
    depth_shift: float
    frames: int


@dataclass(frozen=True)
class Frame:
    """One frame. `pose` (4, 4) is camera to world in metres, None where tracking was lost; `time` is in seconds;
    `color` and `depth` are as stored, see `decode_color` and `decode_depth`."""

    pose: np.ndarray | None
    time: float
    color: bytes
    depth: bytes


class Sens:
    """An open `.sens` stream; iterating reads one frame at a time. A stream cut short or with values that cannot be is
    an error naming the file, the frame and the field."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        try:
            self._file: BinaryIO = self.path.open("rb")
        except FileNotFoundError:
            raise VsrError(f"{path}: no such file") from None
        try:
            self.header = self._header()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> "Sens":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[Frame]:
        for number in range(self.header.frames):
            where = f"frame {number} of {self.header.frames}"
            pose = np.array(self._unpack("<16f", f"{where}: cameraToWorld")).reshape(4, 4)
            stamp, _, color, depth = self._unpack("<4Q", f"{where}: sizes")
            color_bytes = self._read(color, f"{where}: colour")
            yield Frame(
                pose=pose if np.isfinite(pose).all() else None,
                time=stamp / 1e6,
                color=color_bytes,
                depth=self._read(depth, f"{where}: depth"),
            )

    def _header(self) -> Header:
        (version,) = self._unpack("<I", "version")
        if version != 4:
            raise VsrError(f"{self.path}: version {version}, expected 4: not a .sens stream, or an old one")
        (length,) = self._unpack("<Q", "length of the sensor's name")
        sensor = self._read(length, "sensor's name").decode("utf-8", "replace")
        color, _, depth, _ = np.array(self._unpack("<64f", "intrinsics")).reshape(4, 4, 4)
        color_kind, depth_kind = self._unpack("<2i", "compression")
        if color_kind not in COLOURS or depth_kind not in DEPTHS:
            known = f"{COLOURS} and {DEPTHS}"
            raise VsrError(f"{self.path}: compression of colour {color_kind} and depth {depth_kind}, expected {known}")
        sizes = self._unpack("<4I", "sizes")
        if not all(0 < side < 1 << 15 for side in sizes):
            raise VsrError(f"{self.path}: colour {sizes[0]}x{sizes[1]}, depth {sizes[2]}x{sizes[3]} pixels; {REMEDY}")
        (shift,) = self._unpack("<f", "depthShift")
        (frames,) = self._unpack("<Q", "numFrames")
        kinds = COLOURS[color_kind], DEPTHS[depth_kind]
        return Header(sensor, color, depth, *kinds, sizes[:2], sizes[2:], shift, frames)

    def _unpack(self, form: str, what: str) -> tuple:
        return struct.unpack(form, self._read(struct.calcsize(form), what))

    def _read(self, size: int, what: str) -> bytes:
        data = self._file.read(size) if size < MOST else b""
        if len(data) < size:
            raise VsrError(f"{self.path}: {what}: {size} bytes expected, {len(data)} left; is the file cut short?")
        return data

    def decode_color(self, frame: Frame) -> np.ndarray:
        """The picture, uint8 (H, W, 3)."""
        width, height = self.header.color_size
        if self.header.colour == "raw":
            if len(frame.color) != 3 * width * height:
                raise VsrError(f"{self.path}: colour of {len(frame.color)} bytes, expected {3 * width * height}")
            return np.frombuffer(frame.color, np.uint8).reshape(height, width, 3)
        return _picture(io.BytesIO(frame.color), f"{self.path}: frame at {frame.time:.3f} s: colour")

    def decode_depth(self, frame: Frame) -> np.ndarray:
        """Depth in metres, float32 (H, W), 0 where unknown."""
        width, height = self.header.depth_size
        try:
            raw = zlib.decompress(frame.depth) if self.header.depth == "zlib" else frame.depth
            return np.frombuffer(raw, "<u2").reshape(height, width).astype(np.float32) / self.header.depth_shift
        except (zlib.error, ValueError) as error:
            raise VsrError(f"{self.path}: frame at {frame.time:.3f} s: depth: {error}; {REMEDY}") from None


def export_video(source: str | Path, target: str | Path, every: int = 1) -> int:
    """A scan's video as VSI-Bench's: H.264, 640x480 at 24 frames a second, one frame in `every`; frames written.

    `source` is a `.sens` stream, a folder of numbered pictures (`color/0.jpg`, ...) or a video file, which is copied.
    The target appears whole or not at all.
    """
    source = Path(source)
    if source.suffix == ".sens":
        with Sens(source) as stream:
            return write_video((stream.decode_color(frame) for frame in islice(stream, 0, None, every)), target)
    if source.is_dir():
        pictures = [path for path in source.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png")]
        pictures.sort(key=lambda path: (int((re.findall(r"\d+", path.stem) or ["0"])[-1]), path.name))
        return write_video((_picture(path, str(path)) for path in pictures[::every]), target)
    if source.suffix == ".mp4" and every == 1:
        return _copy(source, Path(target))
    return write_video(_frames(source, every), target)


def write_video(pictures: Iterable[np.ndarray], target: str | Path) -> int:
    """Encode uint8 pictures (H, W, 3) of any size; frames written. No picture is an error."""
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
    os.close(handle)
    written = 0
    try:
        with av.open(temporary, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
            stream = container.add_stream("libx264", rate=FPS)
            (stream.width, stream.height), stream.pix_fmt = SIZE, "yuv420p"
            stream.codec_context.thread_count = 1
            stream.options = {"crf": CRF, "preset": "veryfast", "flags": "+bitexact"}
            for picture in pictures:
                resized = np.asarray(Image.fromarray(picture).resize(SIZE, Image.Resampling.BILINEAR))
                container.mux(stream.encode(av.VideoFrame.from_ndarray(resized, format="rgb24")))
                written += 1
            container.mux(stream.encode())
        if not written:
            raise VsrError(f"{target}: there are no frames to write; is the stream or folder empty?")
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
    except (OSError, av.FFmpegError) as error:
        raise VsrError(f"{target}: could not be written ({error}); free some space or choose --out") from None
    finally:
        Path(temporary).unlink(missing_ok=True)
    return written


def _copy(source: Path, target: Path) -> int:
    count = sum(1 for _ in _frames(source, 1))  # a broken video must not be taken over
    temporary = target.with_name(f".{target.name}.copy.tmp")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, temporary)
    os.replace(temporary, target)
    return count


def _frames(source: Path, every: int) -> Iterator[np.ndarray]:
    try:
        with av.open(str(source)) as container:
            for frame in islice(container.decode(video=0), 0, None, every):
                yield frame.to_ndarray(format="rgb24")
    except (av.FFmpegError, IndexError) as error:
        raise VsrError(f"{source}: not a readable video ({error}); {REMEDY}") from None


def _picture(source: io.BytesIO | Path, where: str) -> np.ndarray:
    try:
        with Image.open(source) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, UnidentifiedImageError, ValueError) as error:
        raise VsrError(f"{where}: not a readable picture ({error}); {REMEDY}") from None
