"""What a model's folder holds: tokenizer, configuration, preprocessing, weights; written whole, checked before use."""

import json
import shutil
from pathlib import Path

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase, Qwen2VLConfig, Qwen2VLForConditionalGeneration
from transformers.utils import cached_file

from vsr import video
from vsr.errors import VsrError
from vsr.files import hash_files, write_json
from vsr.models.sizes import shape

VISION_TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>")
END, PAD = "<|im_end|>", "<|endoftext|>"
MODEL_FILES = ("config.json", "*.safetensors", "tokenizer.json", "tokenizer_config.json", "chat_template.*")
PREPROCESSING = "preprocessor_config.json"
CONFIG_IDS = {  # the configuration's name of each special token's id
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
}


def load_tokenizer(source: str | Path, revision: str = "main") -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or hub id; one without a chat template or Qwen2-VL's special tokens is an error."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(source), revision=revision)
    except (OSError, ValueError) as error:
        raise VsrError(f"{source}: no tokenizer ({str(error).splitlines()[0]}); copy tokenizer.json there") from None
    known = tokenizer.backend_tokenizer.token_to_id  # get_vocab() copies 150k entries
    lacking = [token for token in (*VISION_TOKENS, END, PAD) if known(token) is None]
    if lacking or not tokenizer.chat_template:
        what = f"special token '{lacking[0]}'" if lacking else "chat template"
        raise VsrError(f"{source}: its tokenizer has no {what}; use a Qwen2-VL checkpoint")
    return tokenizer


def model_hash(folder: str | Path) -> str:
    """16 hex digits over the files that decide what the model in `folder` says."""
    return hash_files(*sorted(file for pattern in MODEL_FILES for file in Path(folder).glob(pattern)))


def preprocessing() -> dict:
    """Qwen2-VL's preprocessor_config.json as `vsr.video.patchify` follows it."""
    return {
        "min_pixels": video.MIN_PIXELS,
        "max_pixels": 12845056,
        "patch_size": video.PATCH,
        "temporal_patch_size": video.PAIR,
        "merge_size": video.MERGE,
        "image_mean": list(video.MEAN),
        "image_std": list(video.STD),
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2VLProcessor",
    }


def check_processor(
    source: str, config: Qwen2VLConfig, tokenizer: PreTrainedTokenizerBase, revision: str = "main"
) -> None:
    """Raise VsrError where tokenizer, preprocessing and model of a folder or hub id do not belong together."""
    if len(tokenizer) > config.text_config.vocab_size:
        raise VsrError(
            f"{source}: its tokenizer has {len(tokenizer)} tokens, its model {config.text_config.vocab_size}; "
            "use the tokenizer the model was trained with"
        )
    for name, token in CONFIG_IDS.items():
        ours, theirs = tokenizer.convert_tokens_to_ids(token), getattr(config, name)
        if ours != theirs:
            raise VsrError(
                f"{source}: its tokenizer gives '{token}' the id {ours}, config.json says {name}={theirs}; "
                "use the tokenizer the model was trained with"
            )
    vision = config.vision_config
    for name, ours, theirs in (
        ("patch_size", video.PATCH, vision.patch_size),
        ("spatial_merge_size", video.MERGE, vision.spatial_merge_size),
        ("temporal_patch_size", video.PAIR, vision.temporal_patch_size),
    ):
        if ours != theirs:
            raise VsrError(f"{source}: config.json says {name}={theirs}; Qwen2-VL's video preprocessing has {ours}")
    file = cached_file(source, PREPROCESSING, revision=revision, _raise_exceptions_for_missing_entries=False)
    given = {} if file is None else json.loads(Path(file).read_text(encoding="utf-8"))
    for name in ("patch_size", "temporal_patch_size", "merge_size", "image_mean", "image_std"):
        if given.get(name, preprocessing()[name]) != preprocessing()[name]:
            raise VsrError(f"{source}: {PREPROCESSING} says {name}={given[name]}, Qwen2-VL's {preprocessing()[name]}")


def build_config(sizes: dict, tokenizer: PreTrainedTokenizerBase) -> Qwen2VLConfig:
    """A Qwen2-VL configuration of the given sizes (see `vsr.models.sizes`) with the tokenizer's ids and, unless the
    sizes name one, vocabulary."""
    special = {"bos_token_id": PAD, "eos_token_id": END, "pad_token_id": PAD}
    text = {name: tokenizer.convert_tokens_to_ids(token) for name, token in special.items()}
    text = {"vocab_size": len(tokenizer)} | text | sizes["text"]
    return shape(sizes | {"text": text}, **{n: tokenizer.convert_tokens_to_ids(t) for n, t in CONFIG_IDS.items()})


def random_folder(path: str | Path, sizes: dict, tokenizer_from: str | Path, seed: int = 0) -> Path:
    """Write a loadable folder with random float32 weights of the given sizes and the tokenizer of `tokenizer_from`."""
    path = Path(path)
    tokenizer = load_tokenizer(tokenizer_from)
    torch.manual_seed(seed)
    save(Qwen2VLForConditionalGeneration(build_config(sizes, tokenizer)), tokenizer, path)
    return path


def save(model: Qwen2VLForConditionalGeneration, tokenizer: PreTrainedTokenizerBase, folder: str | Path) -> None:
    """Write weights (safetensors), configuration, tokenizer and preprocessing, as plain transformers loads them; an
    interrupted save leaves the old folder as it was."""
    folder = Path(folder)
    staging = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(staging, ignore_errors=True)
    generation = model.generation_config
    generation.bos_token_id = generation.pad_token_id = tokenizer.convert_tokens_to_ids(PAD)
    generation.eos_token_id = generation.eos_token_id or tokenizer.convert_tokens_to_ids(END)
    try:
        model.save_pretrained(staging)
        tokenizer.save_pretrained(staging)
        write_json(staging / PREPROCESSING, preprocessing())
        shutil.rmtree(folder, ignore_errors=True)
        staging.rename(folder)
    except OSError as error:
        raise VsrError(f"{folder}: could not be written ({error.strerror}); free some space or choose --out") from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)
