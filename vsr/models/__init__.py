"""One door to every base model: the shipped miniature, a folder or a hub id; LoRA and 4/8-bit by name.

No AutoProcessor: it needs torchvision. Text goes through the tokenizer, video through `vsr.video.patchify`.
"""

import os
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from vsr import families
from vsr.errors import VsrError, unknown
from vsr.models.adapters import ADAPTER_CONFIG, adapter_folder, adapter_hash, check_adapter, lora_config
from vsr.models.folders import END, PAD, VISION_TOKENS, Source, check_processor, find, load_tokenizer, model_hash
from vsr.models.precision import AUTO, DTYPES, named, overflows, restored
from vsr.models.quantize import QUANTIZATIONS, bits_and_bytes, keep_precision, stored_as, weight_bytes
from vsr.profiles import Profile
from vsr.questions import leak

disable_progress_bar()  # "loading weights" bars would fill every executed notebook
# PEFT asks transformers by a deprecated name; the warning would print this machine's folders into notebooks
warnings.filterwarnings("ignore", ".*gradient_checkpointing.*", FutureWarning)

ATTENTIONS = ("sdpa", "eager", "flash_attention_2")  # of the vision tower; the engine brings the language part's
SETTINGS = ("base", "dtype", "quantization", "attention")  # of a profile: those that `arguments` reads
LORA_LAYERS = ("q", "k", "v", "o", "gate", "up", "down")


@dataclass(frozen=True)
class Loaded:
    """A model on its device, in eval mode, with its tokenizer. `info` says what decides its answers: base, hash (of the
    files, or the hub's commit), dtype, quantization, attention, adapter_hash (None without adapter), and `name`:
    'base', or the run that trained it."""

    model: PreTrainedModel | PeftModel
    tokenizer: PreTrainedTokenizerBase
    info: dict

    @property
    def device_name(self) -> str:
        """The GPU's name, or 'cpu'."""
        device = next(self.model.parameters()).device
        return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def describe(base: str, **options: str | Path | None) -> dict:
    """`Loaded.info` of the model that `load` would give with the same options; names, files, processor and adapter are
    checked, no weight is read."""
    return _examine(base, **options)[0]


def load(
    base: str,
    *,
    dtype: str = "float32",
    quantization: str = "none",
    attn: str = "sdpa",
    adapter: str | Path | None = None,
) -> Loaded:
    """The model `base`: 'tiny' (shipped), a folder, or a hub id (owner/name or owner/name@revision); `adapter` is a
    PEFT folder or a run folder with one.

    On the first GPU (each process its own under `accelerate launch`), else on the CPU; VsrError, before any weight is
    read, where the weights do not fit there. The vision tower stays unquantised. `dtype` 'auto' takes float32 where
    float16, all that the GPU has, overflows.
    """
    how = {"quantization": quantization, "attn": attn, "adapter": adapter}
    info, config, source, tokenizer = _examine(base, dtype, **how)
    chosen, quantization, stored = DTYPES[info["dtype"]], info["quantization"], stored_as(config, base)
    if torch.cuda.is_available():  # a refusal now, not when half of the weights are read
        need, (free, total) = weight_bytes(config, chosen, quantization), torch.cuda.mem_get_info(_device())
        if need > free:
            raise VsrError(
                f"base '{base}': its weights take {need / 2**30:.1f} GiB as {quantization} and {info['dtype']}, the "
                f"GPU has {free / 2**30:.1f} of {total / 2**30:.1f} free; try --set quantization=nf4, or a smaller base"
            )
    try:
        model, report = families.of(config).model.from_pretrained(
            source.name,
            revision=source.revision,
            dtype=chosen,
            attn_implementation=attn,
            device_map={"": _device()},
            quantization_config=bits_and_bytes(quantization, chosen) if stored == "none" else None,
            output_loading_info=True,
        )
    except (OSError, SafetensorError, RuntimeError, ValueError) as error:
        raise VsrError(f"base '{base}': its weights cannot be read ({error}); copy or download it again") from None
    if report["missing_keys"]:  # transformers would leave them random
        raise VsrError(f"base '{base}': weights lack {sorted(report['missing_keys'])[0]}; copy or download it again")
    keep_precision(model)
    if dtype == AUTO and chosen == torch.float16 and overflows(model, tokenizer.encode("What is in this room?")):
        print(f"base '{base}': float16 overflows in a first forward pass; it is loaded in float32", file=sys.stderr)
        del model
        return load(base, dtype="float32", **how)
    model.name_or_path = info["base"]
    if adapter is not None:
        model = with_adapter(model, adapter)
    return Loaded(model.eval(), tokenizer, info)


def with_adapter(model: PreTrainedModel, adapter: str | Path) -> PeftModel:
    """`model` with the adapter of a PEFT folder or run folder, as it was trained; nothing is trainable."""
    folder = adapter_folder(adapter)
    return PeftModel.from_pretrained(model, str(folder), config=lora_config(folder))


def arguments(name: str, profile: Profile) -> dict:
    """What `describe` and `load` take for a model that a command names: 'base' (the profile's), the folder of a
    training run (its adapter on the profile's base), or another base by folder or hub id."""
    adapter = Path(name) if any((Path(name) / f / ADAPTER_CONFIG).is_file() for f in (".", "adapter")) else None
    base = profile.base if adapter or name == "base" else name
    options = {"dtype": profile.dtype, "quantization": profile.quantization, "attn": profile.attention}
    return {"base": base, "adapter": adapter, **options}


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


def add_lora(model: PreTrainedModel, profile: Profile) -> PeftModel:
    """`model` with a fresh trainable adapter on the language model's linear layers that `lora_targets` names; all else
    is frozen.

    Rank and targets are unstated in the paper; the vision tower is frozen so that features can be kept.
    """
    config = LoraConfig(
        r=profile.lora_r,
        lora_alpha=profile.lora_alpha,
        lora_dropout=profile.lora_dropout,
        target_modules=rf".*language_model\..*\.({'|'.join(f'{t}_proj' for t in lora_targets(profile))})",
        task_type="CAUSAL_LM",
    )
    adapted = get_peft_model(model, config)
    restored((weight for weight in adapted.parameters() if weight.requires_grad), model)
    if "/" not in model.name_or_path:
        adapted.active_peft_config.base_model_name_or_path = None  # no hub id: peft would ask the hub for it on saving
    return adapted


def lora_targets(profile: Profile) -> list[str]:
    """The layers that the adapter changes, out of LORA_LAYERS."""
    named = [word.strip() for word in profile.lora_targets.split(",")]
    for word in named:
        if word not in LORA_LAYERS:
            raise unknown("layer in lora_targets", word, LORA_LAYERS)
    return named


def _examine(
    base: str, dtype="float32", quantization="none", attn="sdpa", adapter: str | Path | None = None
) -> tuple[dict, PreTrainedConfig, Source, PreTrainedTokenizerBase]:
    """What `load` needs, everything checked that can be without weights."""
    given = {"dtype": (named(dtype), DTYPES), "quantization": (quantization, QUANTIZATIONS)}
    for kind, (value, known) in (given | {"attention": (attn, ATTENTIONS)}).items():
        if value not in known:
            raise unknown(kind, value, known)
    source, config = find(base)
    tokenizer = load_tokenizer(source.name, source.revision)
    check_processor(source.name, config, tokenizer, source.revision)
    stored = stored_as(config, base)
    if stored != "none" and quantization not in ("none", stored):
        raise VsrError(f"base '{base}': its weights are kept as {stored}, not {quantization}; leave the setting out")
    info = {
        "name": "base",
        "base": Path(base).name if source.local else base,
        "hash": model_hash(source.name) if source.local else f"hub:{source.revision}",
        "dtype": named(dtype),
        "quantization": quantization if stored == "none" else stored,
        "attention": attn,
        "adapter_hash": None,
    }
    if adapter is not None:
        folder = adapter_folder(adapter)
        check_adapter(folder, config, info["base"], info["hash"])
        run = folder.parent if folder.name == "adapter" else folder
        info.update(name=run.resolve().name, adapter_hash=adapter_hash(folder))
        if caution := leak.warning(run):
            info["warning"] = caution
    return info, config, source, tokenizer


def _device() -> str:
    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
