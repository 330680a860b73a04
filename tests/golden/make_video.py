"""How `video.json` was made: the real Qwen2VLVideoProcessor of transformers 5.23.0 on torchvision 0.28.0, torch 2.13.0.

    pip install --no-deps --target torchvision-only torchvision==0.28.0
    PYTHONPATH=torchvision-only python tests/golden/make_video.py

torchvision's wheel is built for CUDA's torch: beside the CPU build its compiled operators do not load, and two of them
must be declared before it can be imported. The processor uses none of them: its resizing is torch's own.
"""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import torch

LIBRARIES: list[torch.library.Library] = []
CASES = [  # frames, height, width, max_pixels
    (8, 56, 84, 84 * 56),
    (8, 84, 84, 84 * 56),
    (8, 84, 84, 128 * 28 * 28),
    (16, 480, 640, 128 * 28 * 28),
    (16, 480, 640, 256 * 28 * 28),
    (5, 97, 211, 100 * 28 * 28),
    (3, 20, 31, 128 * 28 * 28),
    (2, 40, 400, 64 * 28 * 28),
    (1, 56, 56, 56 * 56),
]


def frames(count: int, height: int, width: int) -> np.ndarray:
    """Frames that any machine makes alike, uint8 (T, H, W, 3): gradients, hard edges and noise from a fixed formula."""
    t, y, x, c = np.ogrid[:count, :height, :width, :3]
    noise = (t * 7919 + y * 104729 + x * 1299709 + c * 15485863) % 257
    return ((x * 3 + y * 2 + 40 * c + 17 * t + noise + 160 * ((x // 9 + y // 7 + t) % 2)) % 256).astype(np.uint8)


def summary(patches: torch.Tensor, grid: torch.Tensor) -> dict:
    """A hash of every bit, and some values that show where a difference lies."""
    flat = patches.flatten()
    picks = [i * (len(flat) - 1) // 6 for i in range(7)]
    digest = hashlib.sha256(patches.contiguous().numpy().tobytes()).hexdigest()
    return {"grid": grid.tolist(), "sha256": digest, "at": picks, "values": flat[picks].tolist()}


def official(video: np.ndarray, max_pixels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What the real video processor makes of the frames."""
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

    size = {"shortest_edge": 56 * 56, "longest_edge": max_pixels}
    processor = Qwen2VLVideoProcessor(do_sample_frames=False, size=size, cap_pixels_per_frame=False)
    output = processor(videos=[torch.from_numpy(video).permute(0, 3, 1, 2)], return_tensors="pt")
    return output["pixel_values_videos"], output["video_grid_thw"]


def declare() -> None:
    """Before the first import of a torchvision without its compiled operators."""
    if "torchvision" not in sys.modules:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        LIBRARIES.append(library)  # its operators go with it


def main() -> None:
    declare()
    rows = [{"case": list(case), **summary(*official(frames(*case[:3]), case[3]))} for case in CASES]
    path = Path(__file__).with_name("video.json")
    path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
