"""How `families.json` was made: pixels, grid, ids, times and positions by the real processors of transformers 5.23.0
(on torchvision 0.28.0, see `make_video.py`) and their models' `get_rope_index`.

    pip install --no-deps --target torchvision-only torchvision==0.28.0
    PYTHONPATH=torchvision-only:tests:. python tests/golden/make_families.py
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from golden.make_video import declare, frames, summary

from vsr.families import FAMILIES, Family

CASES = [  # frames, height, width, max_pixels; frames a second and frames of the video they are taken from
    (8, 56, 84, 84 * 56, 8.0, 32),
    (16, 480, 640, 128 * 28 * 28, 1.0, 20),
    (16, 480, 640, 128 * 28 * 28, 30.0, 900),
    (32, 240, 320, 64 * 32 * 32, 10.0, 400),
    (5, 97, 211, 100 * 28 * 28, 24.0, 121),
    (3, 20, 31, 128 * 28 * 28, 30000 / 1001, 47),
    (2, 40, 400, 64 * 28 * 28, 60.0, 1000),
    (12, 333, 517, 200 * 28 * 28, 60.0, 77),
]
CHAT = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "How many chair(s)?"}]}]


def places(case: tuple) -> list[int]:
    """Which frames are taken."""
    return np.linspace(0, case[5] - 1, case[0]).astype(int).tolist()


def processor(family: Family, tokenizer):
    """transformers' own, set to give one answer whatever its defaults become."""
    import transformers

    kind = "Qwen3VL" if family.whole else "Qwen2VL"
    video = getattr(transformers, f"{kind}VideoProcessor")(do_sample_frames=False, cap_pixels_per_frame=False)
    image = transformers.Qwen2VLImageProcessor(patch_size=family.patch)
    made = getattr(transformers, f"{family.classes}Processor")(image, tokenizer, video, tokenizer.chat_template)
    return made


def official(family: Family, case: tuple, tokenizer) -> dict:
    """What transformers makes of a question about the frames of a case."""
    from vsr.models import folders

    count, height, width, most, fps, total = case
    shown = torch.from_numpy(frames(count, height, width)).permute(0, 3, 1, 2)
    longest = most * max(2, count) if family.whole else most
    found = processor(family, tokenizer)(
        text=[tokenizer.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)],
        videos=[shown],
        video_metadata=[{"fps": fps, "total_num_frames": total, "frames_indices": places(case)}],
        size={"shortest_edge": family.min_pixels, "longest_edge": longest},
        return_tensors="pt",
    )
    with torch.device("meta"):
        config = folders.build_config(sizes_of(family), tokenizer)
        model = family.model(config).model
    step = found.get("second_per_grid_ts")
    more = {"second_per_grid_ts": step} if step is not None else {}
    types, grid = found["mm_token_type_ids"], found["video_grid_thw"]
    positions, _ = model.get_rope_index(found["input_ids"], mm_token_type_ids=types, video_grid_thw=grid, **more)
    return {
        "pixels": summary(found["pixel_values_videos"], found["video_grid_thw"]),
        "ids": listed(found["input_ids"][0]),
        "positions": listed(positions[:, 0]),
        "step": None if step is None else torch.as_tensor(step).tolist(),
    }


def sizes_of(family: Family) -> dict:
    """Small sizes of a family."""
    from small import SIZES

    text = SIZES["text"] | ({"head_dim": 16} if family.name == "qwen3_vl" else {})
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2}
    more = {
        "qwen2_vl": SIZES["vision"],
        "qwen2_5_vl": vision | {"tokens_per_second": 2, "window_size": 56, "fullatt_block_indexes": [1]},
        "qwen3_vl": vision | {"num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]},
    }
    return {"family": family.name, "text": text, "vision": more[family.name]}


def listed(tensor: torch.Tensor) -> dict:
    """A hash of whole numbers, with the first and the last of them."""
    flat = tensor.to(torch.int64).contiguous()
    digest = hashlib.sha256(flat.numpy().tobytes()).hexdigest()
    ends = {"first": flat[..., :12].tolist(), "last": flat[..., -3:].tolist()}
    return {"shape": list(flat.shape), "sha256": digest, **ends}


def main() -> None:
    declare()  # before anything imports transformers
    from small import small_tokenizer

    tokenizer = small_tokenizer()
    rows = [
        {"family": family.name, "case": list(case), **official(family, case, tokenizer)}
        for family in FAMILIES.values()
        for case in CASES
    ]
    path = Path(__file__).with_name("families.json")
    text = ",\n".join(json.dumps(row) for row in rows)
    path.write_text(f"[\n{text}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
