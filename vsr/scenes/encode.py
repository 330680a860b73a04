"""Frames -> mp4 (H.264) by PyAV: same frames, same bytes; whole file or none."""

import io
from pathlib import Path

import av
import numpy as np

from vsr.errors import VsrError
from vsr.files import atomic_write

CRF = "10"  # small pictures are cheap: keep their colours
REPEATABLE = "zerolatency"  # with x264's lookahead about one encoding in 200 of the same frames differs in some bytes


def encode_mp4(rgb: np.ndarray, fps: int) -> bytes:
    """The mp4 file of uint8 frames (T, H, W, 3) with even sides."""
    count, height, width, _ = rgb.shape
    if not count or height % 2 or width % 2:
        raise VsrError(f"frames of shape {rgb.shape}: a video needs at least one frame and even sides (yuv420p)")
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1
        stream.options = {"crf": CRF, "preset": "veryfast", "tune": REPEATABLE, "flags": "+bitexact"}
        for picture in rgb:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return buffer.getvalue()


def write_mp4(path: str | Path, rgb: np.ndarray, fps: int) -> None:
    """Write uint8 frames (T, H, W, 3) as H.264, yuv420p; a full disk leaves the old file as it was."""
    atomic_write(path, encode_mp4(rgb, fps))
