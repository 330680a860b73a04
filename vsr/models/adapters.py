"""Adapter folders: found, hashed, checked against a base, merged into it for use without PEFT or bitsandbytes."""

import re
from dataclasses import MISSING, fields
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from safetensors import SafetensorError
from safetensors.torch import load as load_bytes
from transformers import PreTrainedConfig

from vsr import profiles
from vsr.errors import VsrError
from vsr.files import atomic_write, hash_files, read_json
from vsr.models.folders import save
from vsr.models.quantize import skeleton

ADAPTER_CONFIG, ADAPTER_WEIGHTS, PICKLED = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
# fields of an adapter's configuration: those that we read, and those that change nothing in how it answers
READ = ("r", "lora_alpha", "target_modules", "exclude_modules", "rank_pattern", "alpha_pattern", "use_rslora")
READ += ("layers_to_transform", "layers_pattern")
UNREAD = ("task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode")
UNREAD += ("lora_dropout", "init_lora_weights", "loftq_config", "eva_config", "runtime_config", "qalora_group_size")


def adapter_folder(path: str | Path) -> Path:
    """The folder of the adapter that a run folder or adapter folder `path` holds, both of its files present."""
    for folder in (Path(path), Path(path) / "adapter"):
        if (folder / ADAPTER_CONFIG).is_file():
            read_json(folder / ADAPTER_CONFIG)
            if (folder / PICKLED).is_file() and not (folder / ADAPTER_WEIGHTS).is_file():
                raise VsrError(f"{folder / PICKLED}: pickled weights can run code; save them as {ADAPTER_WEIGHTS}")
            if not (folder / ADAPTER_WEIGHTS).is_file():
                raise VsrError(f"{folder}: {ADAPTER_WEIGHTS} is missing (not committed); train it again")
            return folder
    raise VsrError(f"adapter '{path}': no {ADAPTER_CONFIG} there; name a run folder made by 'vsr train'")


def adapter_hash(path: str | Path) -> str:
    """16 hex digits over an adapter's weights and configuration; its card may change."""
    folder = adapter_folder(path)
    return hash_files(folder / ADAPTER_CONFIG, folder / ADAPTER_WEIGHTS)


def check_adapter(path: str | Path, config: PreTrainedConfig, base: str, base_hash: str) -> None:
    """Raise VsrError unless the adapter belongs to this base (by its run's manifest and the base it names) and its file
    holds exactly the weights that its configuration makes there, all of them finite."""
    folder = adapter_folder(path)
    run = folder.parent if folder.name == "adapter" else folder
    told: object = read_json(run / "manifest.json") if (run / "manifest.json").is_file() else {}
    for key in ("about", "model"):
        told = told.get(key) if isinstance(told, dict) else None
    trained_on = told if isinstance(told, dict) else {}
    named = str(trained_on.get("base") or read_json(folder / ADAPTER_CONFIG).get("base_model_name_or_path") or "?")
    remedy = "name the base it was trained on with --set base=..."
    other_name = "/" in named and "/" in base and named.partition("@")[0] != base.partition("@")[0]
    if other_name or trained_on.get("hash", base_hash) != base_hash:
        raise VsrError(f"adapter '{path}': trained on {named}, not on this {base} ({base_hash}); {remedy}")
    wanted, found = _made(folder, config, base), _weights(folder / ADAPTER_WEIGHTS)
    for name in sorted(found):
        given, right = tuple(found[name].shape), wanted.get(name)
        if name.startswith("base_model.model.model.layers."):
            raise VsrError(f"adapter '{path}': {name} is named as before transformers 4.52; save it with a newer one")
        if right is None:
            raise VsrError(f"adapter '{path}': its configuration makes no {name} on {base}; {remedy}")
        rank = -2 if ".lora_A." in name else -1
        if given != right and (len(given) != len(right) or given[-3 - rank] != right[-3 - rank]):
            raise VsrError(f"adapter '{path}': its {name} {list(given)} does not fit {base}; {remedy}")
        if given != right:
            raise VsrError(f"adapter '{path}': its {name} has rank {given[rank]}, its configuration {right[rank]}")
        if not found[name].isfinite().all():
            raise VsrError(f"adapter '{path}': its {name} holds numbers that are not finite; train it again")
    if lacking := sorted(wanted.keys() - found.keys()):
        what = f"{len(lacking)} of its {len(wanted)} weights are missing, such as {lacking[0]}"
        raise VsrError(f"adapter '{path}': {what}; copy it again, or {remedy}")


def lora_config(folder: Path) -> LoraConfig:
    """The configuration of an adapter folder. VsrError, naming the field, where it is no plain LoRA: whatever else PEFT
    can do to a layer, the engine and the merge do not."""
    given = read_json(folder / ADAPTER_CONFIG)
    plain = {field.name: None if field.default is MISSING else field.default for field in fields(LoraConfig)}
    given["peft_type"], plain["peft_type"] = str(given.get("peft_type")), "LORA"
    for name, default in plain.items():
        if name not in (*READ, *UNREAD) and given.get(name) not in (default, None, False, "", [], {}):
            raise VsrError(f"adapter '{folder}': its {name} is {given.get(name)!r}; only plain LoRA can be read")
    if isinstance(way := given.get("init_lora_weights"), str) and way not in ("gaussian", "eva", "orthogonal"):
        raise VsrError(f"adapter '{folder}': {way} has changed its base; convert it to plain LoRA with PEFT")
    return LoraConfig(task_type="CAUSAL_LM", **{name: given[name] for name in READ if given.get(name) is not None})


def _made(folder: Path, config: PreTrainedConfig, base: str) -> dict[str, tuple[int, ...]]:
    """The names and shapes of the weights that an adapter's configuration makes on a base, by PEFT itself."""
    try:
        with torch.device("meta"):
            state = get_peft_model(skeleton(config), lora_config(folder)).state_dict()
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError, re.error) as error:
        raise VsrError(f"{folder / ADAPTER_CONFIG}: fits no layer of {base} ({str(error).splitlines()[0]})") from None
    found = {name.replace(".default", ""): tuple(weight.shape) for name, weight in state.items() if ".lora_" in name}
    if odd := [name for name in found if not re.search(r"\.lora_[AB]\.weight$", name)]:
        raise VsrError(f"{folder / ADAPTER_CONFIG}: makes {odd[0]}; only adapters of linear layers can be read")
    return found


def _weights(file: Path) -> dict[str, torch.Tensor]:
    try:
        loaded = load_bytes(file.read_bytes())
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise VsrError(f"{file}: cannot be read ({error}); copy it again, or train it again") from None
    return {name.replace(".default", ""): weight.float() for name, weight in loaded.items()}  # PEFT reads both names


def export(run: str | Path, out: str | Path, **changes: object) -> Path:
    """Merge the adapter of a run folder into the base it was trained on and write weights, tokenizer, chat template,
    preprocessing and model card to the new folder `out`, which is returned; the `from_pretrained` of transformers' own
    class loads it, and it answers as base and adapter together do.

    A base that was quantised for training is merged *dequantised*: the adapter has learned to work on the rounded
    weights, and its scores are theirs. On the weights before rounding it would be a model that nobody has evaluated.
    So the folder is as large as an unquantised model, and no more exact than the quantised one. (int8 rounds inputs as
    well while it answers; that rounding is gone, so answers agree to about 1 %.)

    `changes` replace settings of the run's profile, e.g. `base`, where the base's folder has moved. VsrError for
    another base than the run's, a missing adapter, and a folder that holds files already."""
    from vsr import models  # the door opens adapters itself
    from vsr.models import cards

    run, out = Path(run), Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise VsrError(f"{out}: exists already; name a new folder with --out")
    adapter_folder(run)
    manifest = read_json(run / "manifest.json")
    settings = manifest["settings"]
    as_trained = {name: settings[name] for name in models.SETTINGS} | {"base": manifest.get("base", settings["base"])}
    profile = profiles.get("tiny", **(as_trained | changes))
    arguments = models.arguments(str(run), profile)
    quantization = models.describe(**arguments)["quantization"]  # refuses another base
    loaded = models.load(**arguments | {"adapter": None})
    base = loaded.model
    if quantization != "none":
        base = base.dequantize()
        base._weight_conversions = None  # how a base that is kept quantised was read: there is no way back
    merged = models.with_adapter(base, run).merge_and_unload()
    save(merged, loaded.tokenizer, out)
    words = "Base and LoRA adapter merged into one model"
    if quantization != "none":
        words += f" (the base's {quantization} weights dequantised, as the adapter knew them)"
    atomic_write(out / cards.CARD, cards.text(run, manifest, merged=words))
    return out
