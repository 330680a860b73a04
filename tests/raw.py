"""What raw scans have beside `vsr.scannet.made_up`'s files: the label table and `.sens` streams."""

import io
import shutil
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from vsr.scannet.files import TABLE
from vsr.scannet.made_up import LABELS


def write_table(root: Path) -> Path:
    """The label table of made-up scans where ScanNet's lies."""
    root.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy(LABELS, root / TABLE))


def write_sens(path: Path, frames: Iterable[np.ndarray], compression: str = "jpeg", moving: int = 2) -> None:
    """A `.sens` stream, version 4, of uint8 frames (H, W, 3): jpeg, png or raw colour, zlib depth, poses, and
    `moving` measurements of the inertial unit at its end."""
    frames = list(frames)
    height, width = frames[0].shape[:2]
    camera = np.eye(4, dtype="<f4").tobytes()
    kinds = {"raw": 0, "png": 1, "jpeg": 2}
    sensor = b"StructureSensor"
    head = struct.pack("<IQ", 4, len(sensor)) + sensor + camera * 4
    head += struct.pack("<iiIIIIf", kinds[compression], 1, width, height, 64, 48, 1000.0)
    parts = [head, struct.pack("<Q", len(frames))]
    depth = zlib.compress(np.full((48, 64), 1500, "<u2").tobytes())
    for i, frame in enumerate(frames):
        colour = frame.tobytes()
        if compression != "raw":
            Image.fromarray(frame).save(buffer := io.BytesIO(), format=compression, quality=90)
            colour = buffer.getvalue()
        parts += [camera, struct.pack("<QQQQ", 33_333 * i, 33_333 * i, len(colour), len(depth)), colour, depth]
    parts += [struct.pack("<Q", moving), (struct.pack("<15d", *range(15)) + struct.pack("<Q", 7)) * moving]
    path.write_bytes(b"".join(parts))
