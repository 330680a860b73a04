"""Adapter folders: found, hashed, checked against a base, merged into it for use without PEFT or bitsandbytes."""

from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers import Qwen2VLConfig

from vsr import profiles
from vsr.errors import VsrError
from vsr.files import atomic_write, hash_files, read_json
from vsr.models.folders import save
from vsr.models.quantize import skeleton

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def adapter_folder(path: str | Path) -> Path:
    """The folder of the adapter that a run folder or adapter folder `path` holds, both of its files present."""
    for folder in (Path(path), Path(path) / "adapter"):
        if (folder / ADAPTER_CONFIG).is_file():
            read_json(folder / ADAPTER_CONFIG)
            if not (folder / ADAPTER_WEIGHTS).is_file():
                raise VsrError(f"{folder}: {ADAPTER_WEIGHTS} is missing (not committed); train it again")
            return folder
    raise VsrError(f"adapter '{path}': no {ADAPTER_CONFIG} there; name a run folder made by 'vsr train'")


def adapter_hash(path: str | Path) -> str:
    """16 hex digits over an adapter's weights and configuration; its card may change."""
    folder = adapter_folder(path)
    return hash_files(folder / ADAPTER_CONFIG, folder / ADAPTER_WEIGHTS)


def check_adapter(path: str | Path, config: Qwen2VLConfig, base: str, base_hash: str) -> None:
    """Raise VsrError for an adapter that was trained on another base: by its run's manifest, the base it names, and the
    shapes of its weights."""
    folder = adapter_folder(path)
    manifest = folder.parent / "manifest.json"
    trained_on = read_json(manifest).get("about", {}).get("model", {}) if manifest.is_file() else {}
    named = trained_on.get("base") or read_json(folder / ADAPTER_CONFIG).get("base_model_name_or_path") or "?"
    remedy = "name the base it was trained on with --set base=..."
    other_name = "/" in named and "/" in base and named.partition("@")[0] != base.partition("@")[0]
    if other_name or trained_on.get("hash", base_hash) != base_hash:
        raise VsrError(f"adapter '{path}': trained on {named}, not on this {base} ({base_hash}); {remedy}")
    layers = dict(skeleton(config).named_modules())
    for key, shape in _shapes(folder / ADAPTER_WEIGHTS).items():
        name, _, part = key.removeprefix("base_model.model.").partition(".lora_")
        layer = layers.get(name)
        wanted = layer and {"A": layer.in_features, "B": layer.out_features}[part[0]]
        if wanted != shape[1 if part[0] == "A" else 0]:
            raise VsrError(f"adapter '{path}': its {key} {shape} does not fit {base}; {remedy}")


def _shapes(weights: Path) -> dict[str, list[int]]:
    try:
        with safe_open(weights, "pt") as file:
            return {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise VsrError(f"{weights}: cannot be read ({error}); train it again") from None


def export(run: str | Path, out: str | Path, **changes: object) -> Path:
    """Merge the adapter of a run folder into the base it was trained on and write weights, tokenizer, chat template,
    preprocessing and model card to the new folder `out`, which is returned; `Qwen2VLForConditionalGeneration`'s own
    `from_pretrained` loads it, and it answers as base and adapter together do.

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
    models.describe(**arguments)  # refuses another base
    loaded = models.load(**arguments | {"adapter": None})
    base = loaded.model
    if profile.quantization != "none":
        base = base.dequantize()
    merged = models.with_adapter(base, run).merge_and_unload()
    save(merged, loaded.tokenizer, out)
    words = "Base and LoRA adapter merged into one model"
    if profile.quantization != "none":
        words += f" (the base's {profile.quantization} weights dequantised, as the adapter knew them)"
    atomic_write(out / cards.CARD, cards.text(run, manifest, merged=words))
    return out
