"""Videos: choose frames and decode them as a player shows them, cut them into what a model reads, encode frames.

No torchvision: `patchify` gives bit for bit what the family's own video processor of transformers gives with
`do_sample_frames=False` (parity-tested). torch is imported where it is used: processes that only render or export films
do without.
"""

import io
import math
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np

from vsr.errors import VsrError
from vsr.families import MERGE, PAIR, QWEN2_VL, Family
from vsr.files import atomic_write

if TYPE_CHECKING:
    import torch

CRF = "10"  # small pictures are cheap: keep their colours
DECODING = (av.error.FFmpegError, OSError, ValueError, ArithmeticError, MemoryError)  # what a damaged film raises
REPEATABLE = "zerolatency"  # with x264's lookahead about one encoding in 200 of the same frames differs in some bytes


def frame_indices(available: int, frames: int) -> np.ndarray:
    """Which of `available` frames to take: `linspace(0, available - 1, frames)` cut to whole numbers, (frames,).

    It is the rule of VSI-Bench's harness: first and last frame included; a shorter video repeats frames.
    """
    return np.linspace(0, available - 1, frames).astype(int)


@dataclass(frozen=True)
class Clip:
    """Frames uint8 (T, height, width, 3) in RGB, which of the video's `total` frames they are, and how many of those it
    shows a second."""

    frames: np.ndarray
    indices: list[int]
    total: int
    fps: float

    def __getitem__(self, part: slice) -> "Clip":
        return Clip(self.frames[part], self.indices[part], self.total, self.fps)


def sample(path: str | Path, frames: int) -> Clip:
    """`frames` uniformly chosen frames of a video and their times.

    A missing, empty or broken file is an error: a video cut short must not pass for a short one.
    """
    path = Path(path)
    if frames < 1:
        raise VsrError(f"{path}: frames={frames}; choose at least 1")
    total = count_frames(path)
    wanted = frame_indices(total, frames).tolist()
    chosen = dict(shown(path, set(wanted)))
    return Clip(np.stack([chosen[index] for index in wanted]), wanted, total, frame_rate(path))


def decode(path: str | Path, frames: int) -> np.ndarray:
    """The frames of `sample`, uint8 (frames, height, width, 3)."""
    return sample(path, frames).frames


def frame_rate(path: str | Path) -> float:
    """Frames that a video shows a second, on average, as its container says: a rate that is guessed would move every
    time that a model is told. 0 where it says nothing."""
    with av.open(str(path), metadata_errors="replace") as container:
        stream = container.streams.best("video")
        return float(stream.average_rate or stream.guessed_rate or 0)


def count_frames(path: str | Path) -> int:
    """How many frames a video shows, by its packets: exact where the header is wrong, far cheaper than decoding."""
    path = Path(path)
    if not path.is_file():
        raise VsrError(f"{path}: no such video; download or render it")
    found, presented, announced = _packets(path)
    if found < announced:  # an edit list leaves packets out, as a cut does: count once more without it
        found = _packets(path, ignore_editlist="1")[0]
    if not presented or found < announced:
        raise _broken(path, f"cut short: {found} of {announced} frames" if found < announced and found else "no frames")
    return presented


def _packets(path: Path, **options: str) -> tuple[int, int, int]:
    """Whole packets of the video stream, those of them that are shown, and how many the header announces."""
    found = presented = lost = 0
    try:
        with av.open(str(path), options=options, metadata_errors="replace") as container:
            stream = container.streams.best("video")  # a cover picture is a stream too
            if stream is None:
                raise _broken(path, "no video stream")
            announced = stream.frames
            for packet in container.demux(stream):  # one at a time: a film may be larger than the memory
                if packet.is_corrupt:
                    lost += 1
                elif packet.size:
                    found += 1
                    presented += not packet.is_discard
    except DECODING as error:
        raise _broken(path, getattr(error, "strerror", None) or str(error)) from None
    return found, presented, max(announced, found + lost)


def shown(path: str | Path, wanted: Collection[int]) -> Iterator[tuple[int, np.ndarray]]:
    """The frames of the given indices with these, uint8 (height, width, 3), as a player shows them: upright, and
    without what an edit list hides. One pass that stops after the last of them."""
    path, last, size = Path(path), max(wanted), None
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            stream = container.streams.best("video")
            stream.thread_type = "AUTO"
            for index, frame in enumerate(container.decode(stream)):
                sides = f"{frame.width}x{frame.height}"
                size = size or sides
                if sides != size:
                    raise VsrError(f"{path}: frame {index} is {sides}, those before {size}; encode it at one size")
                if index in wanted:
                    if frame.is_corrupt:
                        raise _broken(path, f"frame {index} is damaged")
                    yield index, _upright(frame)
                if index == last:
                    return
    except DECODING as error:
        raise _broken(path, getattr(error, "strerror", None) or str(error)) from None
    raise _broken(path, f"frame {last} is missing")


def _upright(frame: av.VideoFrame) -> np.ndarray:
    """The pixels as the display matrix turns and mirrors them, to the nearest quarter turn."""
    pixels = frame.to_ndarray(format="rgb24")
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return pixels
    # (x, y) is shown at (a x + c y, b x + d y): where b and c are the larger ones, rows become columns
    a, b, _, c, d = np.frombuffer(bytes(matrix), "=i4")[:5].tolist()
    if abs(b) > abs(a):
        pixels, a, d = pixels.transpose(1, 0, 2), c, b
    return pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


def _broken(path: Path, why: str) -> VsrError:
    size = f"{path.stat().st_size:,} bytes"
    return VsrError(f"{path}: not a readable video of {size} ({why}); render or download it again")


def encode_mp4(frames: Iterable[np.ndarray], fps: int, crf: str = CRF, tune: str | None = REPEATABLE) -> bytes:
    """The mp4 file (H.264, yuv420p) of uint8 frames (height, width, 3) with even sides."""
    frames = iter(frames)
    first = next(frames, np.empty(0))
    if first.ndim != 3 or first.shape[0] % 2 or first.shape[1] % 2:
        raise VsrError(f"frames of shape {first.shape}: a video needs at least one frame and even sides (yuv420p)")
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt, stream.codec_context.thread_count = "yuv420p", 1
        stream.options = {"crf": crf, "preset": "veryfast", "flags": "+bitexact"} | ({"tune": tune} if tune else {})
        for picture in chain([first], frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return buffer.getvalue()


def write_mp4(path: str | Path, frames: Iterable[np.ndarray], fps: int) -> None:
    """Write frames as an mp4 file, whole or not at all."""
    atomic_write(path, encode_mp4(frames, fps))


def tokens(frames: int, height: int, width: int, max_pixels: int, family: Family = QWEN2_VL) -> int:
    """How many language-model tokens a video becomes: one for two frames of `family.factor` pixels a side."""
    height, width = family.size(frames, height, width, max_pixels)
    return math.ceil(frames / PAIR) * (height // family.factor) * (width // family.factor)


def patchify(frames: np.ndarray, max_pixels: int, family: Family = QWEN2_VL) -> "tuple[torch.Tensor, torch.Tensor]":
    """Patches float32 (t*h*w, 6 * patch^2) and their grid int64 (1, 3) = [[t, h, w]] of frames uint8 (T, H, W, 3).

    `max_pixels` caps one frame: it is the processor's `size["longest_edge"]` (of Qwen3-VL, which counts all frames, a
    frame's share of it) with `cap_pixels_per_frame` off, as transformers 5.23 reads it; `size["shortest_edge"]` is the
    family's `min_pixels`. An odd last frame is paired with itself.
    """
    import torch

    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not frames.size:
        raise VsrError(f"frames {frames.dtype} {frames.shape}: expected uint8 (T, H, W, 3) with T >= 1")
    height, width = family.size(*frames.shape[:3], max_pixels)
    video = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)
    if video.shape[2:] != (height, width):
        # uint8 in, uint8 out: rounding between resizing and normalising is part of the reference
        video = torch.nn.functional.interpolate(
            video, size=(height, width), mode="bicubic", align_corners=False, antialias=True
        )
    scale = 1.0 / (1 / 255)  # the reference folds the rescaling into mean and deviation
    mean, deviation = (torch.tensor(values).mul(scale).view(3, 1, 1) for values in (family.mean, family.std))
    video = video.float().sub_(mean).div_(deviation)
    if len(video) % PAIR:
        video = torch.cat((video, video[-1:]))
    grid = (len(video) // PAIR, height // family.patch, width // family.patch)
    tall, wide = ((side // MERGE, MERGE, family.patch) for side in grid[1:])
    blocks = video.reshape(grid[0], PAIR, 3, *tall, *wide)
    # (time, token row, token column, patch row, patch column | colour, frame of the pair, y, x)
    patches = blocks.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(math.prod(grid), -1)
    return patches, torch.tensor([grid])
