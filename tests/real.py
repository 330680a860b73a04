"""The real thing without its weights: Qwen2-VL's tokenizer, template and vocabulary on a thin random model, and
camera-sized videos."""

from pathlib import Path

import numpy as np

from vsr.families import PUBLISHED
from vsr.models.folders import random_folder
from vsr.questions.question import Question, write_questions
from vsr.video import write_mp4

SECONDS = 2
FPS = {"walk24": 24, "walk30": 30, "walk10": 10}
ASKED = (
    ("object_counting", "How many chair(s) are in this room?", None, "3"),
    ("object_rel_distance", "Which of these objects is the closest to the bed?", ("A. table", "B. door"), "B"),
    ("room_size_estimation", "What is the size of this room (in square meters)?", None, "21.5"),
)


def thin(width: int = 64, layers: int = 2, depth: int = 1) -> dict:
    """Sizes of a model that keeps Qwen2-VL-2B's vocabulary and is small everywhere else."""
    text = PUBLISHED["Qwen/Qwen2-VL-2B-Instruct"]["text"] | {
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "mrope_section": [width // 32, width * 3 // 64, width * 3 // 64],
    }
    return {"text": text, "vision": {"embed_dim": 32, "depth": depth, "num_heads": 2, "mlp_ratio": 2}}


def thin_folder(processor: Path, path: Path, **sizes: int) -> Path:
    """A folder that loads as a Qwen2-VL checkpoint does."""
    return random_folder(path, thin(**sizes), processor)


def camera(frames: int, speed: int, height: int = 480, width: int = 640) -> np.ndarray:
    """A camera panning over coloured panels, uint8 (T, H, W, 3)."""
    t, y, x, c = np.ogrid[:frames, :height, :width, :3]
    panels = 60 * ((x + speed * t) // 80 % 3) + 40 * (y // 120 % 2) + 30 * c
    return (panels + (x + y + speed * t) % 64).astype(np.uint8)


def write_bench(folder: Path) -> Path:
    """Three videos of 480x640 at 24, 30 and 10 frames a second, three questions each."""
    (folder / "videos").mkdir(parents=True)
    for number, (name, fps) in enumerate(FPS.items(), 3):
        write_mp4(folder / "videos" / f"{name}.mp4", camera(SECONDS * fps, 240 // fps * number // 3), fps)
    questions = [
        Question(f"{name}-{kind}", "scannet", name, kind, words, options, truth)
        for name in FPS
        for kind, words, options, truth in ASKED
    ]
    write_questions(folder / "questions.jsonl", questions)
    return folder
