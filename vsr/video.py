"""From an mp4 to what Qwen2-VL reads: choose frames, decode them, cut them into patches. No torchvision.

`patchify` gives bit for bit what transformers' `Qwen2VLVideoProcessor(do_sample_frames=False)` gives (parity-tested).
"""

import math
from pathlib import Path

import av
import numpy as np
import torch

from vsr.errors import VsrError

PATCH, MERGE, PAIR = 14, 2, 2  # pixels a patch side, patches a token side, frames a patch
FACTOR = PATCH * MERGE
MIN_PIXELS = 56 * 56  # min_pixels of Qwen2-VL's preprocessor_config.json
MEAN = (0.48145466, 0.4578275, 0.40821073)  # OpenAI CLIP's, as in the same file
STD = (0.26862954, 0.26130258, 0.27577711)


def frame_indices(available: int, frames: int) -> np.ndarray:
    """Which of `available` frames to take: `linspace(0, available - 1, frames)` cut to whole numbers, (frames,).

    It is the rule of VSI-Bench's harness: first and last frame included; a shorter video repeats frames.
    """
    return np.linspace(0, available - 1, frames).astype(int)


def decode(path: str | Path, frames: int) -> np.ndarray:
    """`frames` uniformly chosen frames of a video, uint8 (frames, height, width, 3) in RGB.

    A missing, empty or broken file is an error: a video cut short must not pass for a short one.
    """
    path = Path(path)
    if frames < 1:
        raise VsrError(f"{path}: frames={frames}; choose at least 1")
    if not path.is_file():
        raise VsrError(f"{path}: no such video; download or render it")
    try:
        wanted = frame_indices(_count(path), frames).tolist()
        chosen = _read(path, set(wanted))
    except (av.error.FFmpegError, OSError) as error:
        raise _broken(path, error.strerror or str(error)) from None
    return np.stack([chosen[index] for index in wanted])


def _broken(path: Path, why: str) -> VsrError:
    return VsrError(
        f"{path}: not a readable video of {path.stat().st_size:,} bytes ({why}); render or download it again"
    )


def _count(path: Path) -> int:
    """How many frames the file shows, by its packets: exact where the header is wrong, far cheaper than decoding."""
    with av.open(str(path)) as container:
        if not container.streams.video:
            raise _broken(path, "no video stream")
        packets = [packet for packet in container.demux(video=0) if packet.size]
        announced = container.streams.video[0].frames
    if not packets or len(packets) < announced or any(packet.is_corrupt for packet in packets):
        raise _broken(path, f"cut short: {len(packets)} of {announced} frames" if packets else "no frames")
    return sum(not packet.is_discard for packet in packets)


def _read(path: Path, wanted: set[int]) -> dict[int, np.ndarray]:
    """The frames of the given indices, in one pass that stops after the last of them."""
    chosen = {}
    with av.open(str(path)) as container:
        container.streams.video[0].thread_type = "AUTO"
        for index, frame in enumerate(container.decode(video=0)):
            if index in wanted:
                if frame.is_corrupt:
                    raise _broken(path, f"frame {index} is damaged")
                chosen[index] = frame.to_ndarray(format="rgb24")
            if len(chosen) == len(wanted):
                return chosen
    raise _broken(path, f"frame {max(wanted)} is missing")


def smart_resize(height: int, width: int, max_pixels: int) -> tuple[int, int]:
    """The nearest (height, width) in multiples of 28 with at least 56*56 and at most `max_pixels` pixels.

    Qwen2-VL's rule: where rounding to multiples of 28 breaks a bound, both sides are scaled to it and rounded inwards.
    """
    if max_pixels < MIN_PIXELS:
        raise VsrError(f"max_pixels={max_pixels}: the model reads at least {MIN_PIXELS} pixels a frame; choose more")
    if max(height, width) > 200 * min(height, width):
        raise VsrError(f"frames of {width}x{height}: one side is over 200 times the other; crop the video")
    rows, columns = round(height / FACTOR), round(width / FACTOR)
    if rows * columns * FACTOR**2 > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        rows = max(1, math.floor(height / shrink / FACTOR))
        columns = max(1, math.floor(width / shrink / FACTOR))
    elif rows * columns * FACTOR**2 < MIN_PIXELS:
        grow = math.sqrt(MIN_PIXELS / (height * width))
        rows, columns = math.ceil(height * grow / FACTOR), math.ceil(width * grow / FACTOR)
    return rows * FACTOR, columns * FACTOR


def tokens(frames: int, height: int, width: int, max_pixels: int) -> int:
    """How many language-model tokens a video becomes: one for two frames of 28x28 pixels."""
    height, width = smart_resize(height, width, max_pixels)
    return math.ceil(frames / PAIR) * (height // FACTOR) * (width // FACTOR)


def patchify(frames: np.ndarray, max_pixels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Patches float32 (t*h*w, 1176) and their grid int64 (1, 3) = [[t, h, w]] of frames uint8 (T, H, W, 3).

    `max_pixels` caps one frame: it is the processor's `size["longest_edge"]` with `cap_pixels_per_frame` off, as
    transformers 5.23 reads it, and `size["shortest_edge"]` is 56*56. An odd last frame is paired with itself.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not frames.size:
        raise VsrError(f"frames {frames.dtype} {frames.shape}: expected uint8 (T, H, W, 3) with T >= 1")
    height, width = smart_resize(frames.shape[1], frames.shape[2], max_pixels)
    video = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)
    if video.shape[2:] != (height, width):
        # uint8 in, uint8 out: rounding between resizing and normalising is part of the reference
        video = torch.nn.functional.interpolate(
            video, size=(height, width), mode="bicubic", align_corners=False, antialias=True
        )
    scale = 1.0 / (1 / 255)  # the reference folds the rescaling into mean and deviation
    mean, deviation = (torch.tensor(values).mul(scale).view(3, 1, 1) for values in (MEAN, STD))
    video = video.float().sub_(mean).div_(deviation)
    if len(video) % PAIR:
        video = torch.cat((video, video[-1:]))
    grid = (len(video) // PAIR, height // PATCH, width // PATCH)
    blocks = video.reshape(grid[0], PAIR, 3, grid[1] // MERGE, MERGE, PATCH, grid[2] // MERGE, MERGE, PATCH)
    # (time, token row, token column, patch row, patch column | colour, frame of the pair, y, x)
    patches = blocks.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(math.prod(grid), -1)
    return patches, torch.tensor([grid])
