"""A random Qwen2-VL folder that needs no file from anywhere: byte tokenizer, Qwen2-VL's special tokens and template;
and videos of noise."""

from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from vsr.models.folders import END, PAD, VISION_TOKENS, random_folder
from vsr.video import write_mp4

SIZES = {
    "text": {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "mrope_section": [2, 3, 3],
    },
    "vision": {"embed_dim": 32, "depth": 1, "num_heads": 2, "mlp_ratio": 2},
}
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for c in m['content'] %}{% if c['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def small_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=PAD)
    fast.add_special_tokens({"additional_special_tokens": ["<|im_start|>", *VISION_TOKENS]})
    fast.chat_template = TEMPLATE
    return fast


def small_folder(parent: Path, seed: int = 0) -> Path:
    """A loadable folder under `parent`."""
    small_tokenizer().save_pretrained(parent / "tokenizer")
    return random_folder(parent / f"model-{seed}", SIZES, parent / "tokenizer", seed)


def write_video(path: Path, seed: int = 0, frames: int = 6, height: int = 56, width: int = 84) -> Path:
    """An mp4 of noise, eight frames a second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    write_mp4(path, rng.integers(0, 256, (frames, height, width, 3), dtype=np.uint8), 8)
    return path
