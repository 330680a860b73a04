"""What differs between the model families that can be used, all in one place: names, preprocessing, how a video's times
reach the model, published sizes. Everything else is the same code for all.

Times: Qwen2-VL knows none. Qwen2.5-VL puts them into its positions, so many a second. Qwen3-VL writes them as text
before each pair of frames, and adds what deeper blocks of its vision tower see after its first layers ("deepstack").
"""

import math
from dataclasses import dataclass

from vsr.errors import VsrError

MERGE, PAIR = 2, 2  # patches a token side, frames a patch: all families'
VISION_START, VISION_END, VIDEO_TOKEN = "<|vision_start|>", "<|vision_end|>", "<|video_pad|>"


@dataclass(frozen=True)
class Family:
    """`name` is config.json's model_type, `classes` what transformers' classes begin with. `patch` is in pixels;
    `min_pixels` holds for a frame, or for the frames of a video together (`whole`); `theta` is the rotary base."""

    name: str
    title: str
    classes: str
    patch: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    min_pixels: int
    max_pixels: int
    whole: bool = False
    times: str = ""  # "", "positions" or "text"
    theta: float = 1e6

    @property
    def factor(self) -> int:
        """Pixels a token side."""
        return self.patch * MERGE

    @property
    def model(self) -> type:
        """transformers' class."""
        import transformers

        return getattr(transformers, f"{self.classes}ForConditionalGeneration")

    @property
    def config(self) -> type:
        """transformers' class."""
        import transformers

        return getattr(transformers, f"{self.classes}Config")

    def size(self, frames: int, height: int, width: int, max_pixels: int) -> tuple[int, int]:
        """The (height, width) that frames are resized to, as the family's own `smart_resize` says, `max_pixels` a
        frame: the nearest multiples of `factor`; where they break a bound, both sides are scaled to it and rounded
        inwards. VsrError for what it refuses."""
        factor, frames = self.factor, max(frames, PAIR) if self.whole else 1
        most, least = max_pixels * frames, self.min_pixels
        if most < least or max_pixels < factor**2:
            lowest = max(math.ceil(least / frames), factor**2)
            raise VsrError(f"max_pixels={max_pixels}: {self.title} reads at least {lowest} pixels a frame; choose more")
        if max(height, width) > 200 * min(height, width):
            raise VsrError(f"frames of {width}x{height}: one side is over 200 times the other; crop the video")
        if self.whole and min(height, width) < factor:
            grow = max(factor / height, factor / width)
            height, width = int(height * grow), int(width * grow)
        rows, columns = round(height / factor), round(width / factor)
        pixels = rows * columns * factor**2 * (round(frames / PAIR) * PAIR if self.whole else 1)
        if pixels > most:
            shrink = math.sqrt(frames * height * width / most)
            rows = max(1, math.floor(height / shrink / factor))
            columns = max(1, math.floor(width / shrink / factor))
        elif pixels < least:
            grow = math.sqrt(least / (frames * height * width))
            rows, columns = math.ceil(height * grow / factor), math.ceil(width * grow / factor)
        return rows * factor, columns * factor

    def step(self, indices: list[int], total: int, fps: float) -> float | None:
        """Seconds a step of the grid, of frames `indices` out of `total`; None where positions know no time."""
        return PAIR / (len(indices) / total * fps) if self.times == "positions" else None

    def stamps(self, indices: list[int], fps: float) -> list[float] | None:
        """The seconds that are written before each pair of frames, their mean; None where nothing is written."""
        if self.times != "text":
            return None
        seconds = [index / fps for index in [*indices, *indices[-1:] * (len(indices) % PAIR)]]
        return [(first + last) / 2 for first, last in zip(seconds[::PAIR], seconds[1::PAIR], strict=True)]


def written(stamps: list[float]) -> str:
    """What stands for a video whose times are text: the seconds, then one VIDEO_TOKEN, of each pair of frames."""
    return "".join(f"<{second:.1f} seconds>{VISION_START}{VIDEO_TOKEN}{VISION_END}" for second in stamps)


CLIP = {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}  # OpenAI CLIP's
HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
# pixels: preprocessor_config.json of Qwen2-VL and Qwen2.5-VL, video_preprocessor_config.json of Qwen3-VL
PIXELS = {"min_pixels": 56 * 56, "max_pixels": 12845056}
QWEN2_VL = Family("qwen2_vl", "Qwen2-VL", "Qwen2VL", 14, **CLIP, **PIXELS)
QWEN2_5_VL = Family("qwen2_5_vl", "Qwen2.5-VL", "Qwen2_5_VL", 14, **CLIP, **PIXELS, times="positions")
QWEN3_VL = Family(
    *("qwen3_vl", "Qwen3-VL", "Qwen3VL", 16),
    **HALF,
    **{"min_pixels": 4096, "max_pixels": 25165824, "whole": True, "times": "text", "theta": 5e6},
)
FAMILIES = {family.name: family for family in (QWEN2_VL, QWEN2_5_VL, QWEN3_VL)}


def of(config: object, base: str = "") -> Family:
    """The family of a configuration; VsrError, naming it and those that there are, for any other."""
    if (name := getattr(config, "model_type", None)) not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise VsrError(f"base '{base}': model type '{name}'; only these families are supported: {known}")
    return FAMILIES[name]


# --- published sizes: config.json of Qwen/<name>-Instruct; they give the parameter counts that the hub shows ---
_SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
_SIZES += ("num_key_value_heads",)
_WINDOWED = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "tokens_per_second": 2}
_DEEP = {"num_heads": 16, "num_position_embeddings": 2304}
_SMALL = {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "deepstack_visual_indexes": [5, 11, 17]}
_LARGE = {"depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "deepstack_visual_indexes": [8, 16, 24]}
_PLAIN = {"embed_dim": 1280, "depth": 32, "num_heads": 16, "mlp_ratio": 4}
PUBLISHED: dict[str, dict] = {
    f"Qwen/{name}-Instruct": {
        "family": family.name,
        "text": dict(zip(_SIZES, sizes, strict=True))
        | ({"head_dim": 128, "mrope_section": [24, 20, 20]} if family is QWEN3_VL else {"mrope_section": [16, 24, 24]})
        | ({"max_window_layers": 28} if family is QWEN2_VL else {}),
        "vision": vision,
        "tied": tied,
    }
    for name, family, sizes, vision, tied in (
        ("Qwen2-VL-2B", QWEN2_VL, (151936, 1536, 8960, 28, 12, 2), _PLAIN, True),
        ("Qwen2-VL-7B", QWEN2_VL, (152064, 3584, 18944, 28, 28, 4), _PLAIN, False),
        ("Qwen2.5-VL-3B", QWEN2_5_VL, (151936, 2048, 11008, 36, 16, 2), _WINDOWED, True),
        ("Qwen2.5-VL-7B", QWEN2_5_VL, (152064, 3584, 18944, 28, 28, 4), _WINDOWED, False),
        ("Qwen3-VL-2B", QWEN3_VL, (151936, 2048, 6144, 28, 16, 8), _DEEP | _SMALL, True),
        ("Qwen3-VL-4B", QWEN3_VL, (151936, 2560, 9728, 36, 32, 8), _DEEP | _SMALL, True),
        ("Qwen3-VL-8B", QWEN3_VL, (151936, 4096, 12288, 36, 32, 8), _DEEP | _LARGE, False),
    )
}
