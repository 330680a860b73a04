"""One door to every base model: the shipped miniature, a folder or a hub id; LoRA and 4/8-bit by name.

No AutoProcessor: it needs torchvision. Text goes through the tokenizer, video through `vsr.video.patchify`.
"""

import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoTokenizer,
    BitsAndBytesConfig,
    GenerationConfig,
    PreTrainedTokenizerBase,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
)
from transformers.utils.logging import disable_progress_bar

from vsr.errors import VsrError, unknown
from vsr.profiles import Profile
from vsr.runs import hash_files, read_json

disable_progress_bar()  # "loading weights" bars would fill every executed notebook

TINY_FOLDER = Path(__file__).resolve().parent / "base"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
QUANTIZATIONS = ("none", "nf4", "fp4", "int8")
ATTENTIONS = ("sdpa", "eager", "flash_attention_2")
VISION_TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>")
END, PAD = "<|im_end|>", "<|endoftext|>"
LORA_TARGETS = r".*language_model\..*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
ADAPTER_FILES = ("adapter_config.json", "adapter/adapter_config.json")
MODEL_FILES = ("config.json", "*.safetensors", "tokenizer.json", "tokenizer_config.json", "chat_template.*")


@dataclass(frozen=True)
class Loaded:
    """A model on its device, in eval mode, with its tokenizer. `info` says what decides its answers: base, hash, dtype,
    quantization, attention, adapter_hash (None without adapter), and `name`: 'base', or the run that trained it."""

    model: Qwen2VLForConditionalGeneration | PeftModel
    tokenizer: PreTrainedTokenizerBase
    info: dict


def describe(
    base: str,
    *,
    dtype: str = "float32",
    quantization: str = "none",
    attn: str = "sdpa",
    adapter: str | Path | None = None,
) -> dict:
    """`Loaded.info` of the model that `load` would give, all names and files checked, before any weight is read."""
    for kind, value, known in (
        ("dtype", dtype, DTYPES),
        ("quantization", quantization, QUANTIZATIONS),
        ("attention", attn, ATTENTIONS),
    ):
        if value not in known:
            raise unknown(kind, value, known)
    source = _source(base)
    config = _config(base, source)
    local = Path(source).is_dir()
    info = {
        "name": "base",
        "base": Path(base).name if local else base,
        "hash": model_hash(source) if local else f"hub:{getattr(config, '_commit_hash', None)}",
        "dtype": dtype,
        "quantization": quantization,
        "attention": attn,
        "adapter_hash": None,
    }
    if adapter is not None:
        folder = _adapter_folder(Path(adapter))
        run = folder.parent if folder.name == "adapter" else folder
        info.update(name=run.resolve().name, adapter_hash=hash_files(folder))
    return info


def load(
    base: str,
    *,
    dtype: str = "float32",
    quantization: str = "none",
    attn: str = "sdpa",
    adapter: str | Path | None = None,
) -> Loaded:
    """The model `base`: 'tiny' (shipped), a folder, or a hub id; `adapter` is a PEFT folder or a run folder with one.

    On the first GPU (each process its own under `accelerate launch`), else on the CPU. The vision tower stays
    unquantised.
    """
    info = describe(base, dtype=dtype, quantization=quantization, attn=attn, adapter=adapter)
    source = _source(base)
    tokenizer = load_tokenizer(source)
    device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
    try:
        model, report = Qwen2VLForConditionalGeneration.from_pretrained(
            source,
            dtype=DTYPES[dtype],
            attn_implementation=attn,
            device_map={"": device},
            quantization_config=_quantization(quantization, DTYPES[dtype]),
            output_loading_info=True,
        )
    except (OSError, SafetensorError) as error:
        raise VsrError(f"base '{base}': its weights cannot be read ({error}); copy or download it again") from None
    if report["missing_keys"]:  # transformers would leave them random
        raise VsrError(f"base '{base}': weights lack {sorted(report['missing_keys'])[0]}; copy or download it again")
    for layer in model.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = (
                False  # it would repack weights in bf16 at the first forward in eval mode
            )
    model.name_or_path = info["base"]
    if adapter is not None:
        model = PeftModel.from_pretrained(model, str(_adapter_folder(Path(adapter))))
    return Loaded(model.eval(), tokenizer, info)


def arguments(name: str, profile: Profile) -> dict:
    """What `describe` and `load` take for a model that a command names: 'base' (the profile's), the folder of a
    training run (its adapter on the profile's base), or another base by folder or hub id."""
    adapter = Path(name) if any((Path(name) / file).is_file() for file in ADAPTER_FILES) else None
    base = profile.base if adapter or name == "base" else name
    return {"base": base, "dtype": profile.dtype, "quantization": profile.quantization, "adapter": adapter}


def load_tokenizer(source: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or hub id; one without a chat template or Qwen2-VL's special tokens is an error."""
    tokenizer = AutoTokenizer.from_pretrained(str(source))
    lacking = [t for t in (*VISION_TOKENS, END, PAD) if t not in tokenizer.get_vocab()]
    if lacking or not tokenizer.chat_template:
        what = f"special token '{lacking[0]}'" if lacking else "chat template"
        raise VsrError(f"{source}: its tokenizer has no {what}; use a Qwen2-VL checkpoint")
    return tokenizer


def suppressed(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids that must never be generated: a sampled vision token crashes the next forward."""
    return tokenizer.convert_tokens_to_ids(list(VISION_TOKENS))


def end_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id that ends an assistant's turn."""
    return tokenizer.convert_tokens_to_ids(END)


def read(tokenizer: PreTrainedTokenizerBase, answer: list[int]) -> str:
    """The text of generated ids up to the end of the turn or of the text, special tokens left out."""
    ends = {end_id(tokenizer), tokenizer.convert_tokens_to_ids(PAD)}
    length = next((i for i, token in enumerate(answer) if token in ends), len(answer))
    return tokenizer.decode(answer[:length], skip_special_tokens=True).strip()


def add_lora(model: Qwen2VLForConditionalGeneration, profile: Profile) -> PeftModel:
    """`model` with a fresh trainable adapter on the language model's linear layers; all else is frozen.

    Rank and targets are unstated in the paper; the vision tower is frozen so that features can be kept.
    """
    config = LoraConfig(
        r=profile.lora_r,
        lora_alpha=profile.lora_alpha,
        lora_dropout=profile.lora_dropout,
        target_modules=LORA_TARGETS,
        task_type="CAUSAL_LM",
    )
    adapted = get_peft_model(model, config)
    if "/" not in model.name_or_path:
        adapted.active_peft_config.base_model_name_or_path = None  # no hub id: peft would ask the hub for it on saving
    return adapted


def model_hash(folder: str | Path) -> str:
    """16 hex digits over the files that decide what the model in `folder` says."""
    return hash_files(*sorted(file for pattern in MODEL_FILES for file in Path(folder).glob(pattern)))


def tiny_config() -> dict:
    """Sizes of the miniature, in transformers' names: about 2.5M parameters with a vocabulary of 1.5k."""
    return {
        "text": {
            "hidden_size": 192,
            "intermediate_size": 384,
            "num_hidden_layers": 4,
            "num_attention_heads": 6,
            "num_key_value_heads": 2,
            "mrope_section": [4, 6, 6],
        },
        "vision": {"embed_dim": 128, "depth": 3, "num_heads": 4, "mlp_ratio": 2},
    }


def build_config(sizes: dict, tokenizer: PreTrainedTokenizerBase) -> Qwen2VLConfig:
    """A Qwen2-VL configuration of the given sizes (see `tiny_config`) with the tokenizer's ids and vocabulary."""
    text = dict(sizes["text"])
    sections = text.pop("mrope_section")
    width, heads = text["hidden_size"], text["num_attention_heads"]
    if 2 * sum(sections) * heads != width:
        raise VsrError(f"mrope_section {sections}: must sum to half the head size, {width // heads / 2:g}")
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in (*VISION_TOKENS, END, PAD)}
    return Qwen2VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "rms_norm_eps": 1e-6,
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": sections},
            "bos_token_id": ids[PAD],
            "eos_token_id": ids[END],
            "pad_token_id": ids[PAD],
            **text,
        },
        vision_config={"hidden_size": width, **sizes["vision"]},
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
        architectures=["Qwen2VLForConditionalGeneration"],
    )


def random_folder(path: str | Path, sizes: dict, tokenizer_from: str | Path, seed: int = 0) -> Path:
    """Write a loadable folder with random float32 weights of the given sizes and the tokenizer of `tokenizer_from`."""
    path = Path(path)
    tokenizer = load_tokenizer(tokenizer_from)
    torch.manual_seed(seed)
    model = Qwen2VLForConditionalGeneration(build_config(sizes, tokenizer))
    save(model, tokenizer, path)
    return path


def save(model: Qwen2VLForConditionalGeneration, tokenizer: PreTrainedTokenizerBase, folder: str | Path) -> None:
    """Write weights (safetensors), configuration and tokenizer; an interrupted save leaves the old folder as it was."""
    folder = Path(folder)
    staging = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(staging, ignore_errors=True)
    config = model.config
    model.generation_config = GenerationConfig(
        bos_token_id=config.text_config.bos_token_id,
        eos_token_id=config.text_config.eos_token_id,
        pad_token_id=config.text_config.pad_token_id,
        do_sample=False,
    )
    try:
        model.save_pretrained(staging)
        tokenizer.save_pretrained(staging)
        shutil.rmtree(folder, ignore_errors=True)
        staging.rename(folder)
    except OSError as error:
        raise VsrError(f"{folder}: could not be written ({error.strerror}); free some space or choose --out") from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _source(base: str) -> str:
    """What transformers shall load for `base`: a folder's path or a hub id."""
    if base == "tiny":
        if not (TINY_FOLDER / "model.safetensors").is_file():
            raise VsrError(f"{TINY_FOLDER}: the shipped miniature is missing; make it with 'python -m vsr.pretrain'")
        return str(TINY_FOLDER)
    folder = Path(base)
    if folder.is_dir():
        if not list(folder.glob("*.safetensors")):
            raise VsrError(f"{base}: no *.safetensors in this folder; name the folder of a saved Qwen2-VL checkpoint")
        return str(folder)
    if folder.is_absolute() or base.startswith((".", "~")) or base.count("/") != 1:
        raise VsrError(f"base '{base}': no such folder, and no hub id (owner/name); use 'tiny', a folder or a hub id")
    return base


def _config(base: str, source: str) -> Qwen2VLConfig:
    try:
        config = AutoConfig.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise VsrError(
            f"base '{base}': {str(error).splitlines()[0]} Check the name; without a network (or with HF_HUB_OFFLINE=1) "
            "the model must be in the hub cache already, or be given as a folder"
        ) from None
    if config.model_type != "qwen2_vl":
        raise VsrError(f"base '{base}': model type '{config.model_type}'; this study needs qwen2_vl")
    return config


def _adapter_folder(path: Path) -> Path:
    for folder in (path, path / "adapter"):
        if (folder / "adapter_config.json").is_file():
            read_json(folder / "adapter_config.json")
            if not (folder / "adapter_model.safetensors").is_file():
                raise VsrError(f"{folder}: adapter_model.safetensors is missing (not committed); train it again")
            return folder
    raise VsrError(f"adapter '{path}': no adapter_config.json there; name a run folder made by 'vsr train'")


def _quantization(name: str, compute: torch.dtype) -> BitsAndBytesConfig | None:
    if name == "none":
        return None
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns at every layer of every forward
    keep = ["model.visual", "lm_head"]
    if name == "int8":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=keep)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type=name, bnb_4bit_compute_dtype=compute, llm_int8_skip_modules=keep
    )
