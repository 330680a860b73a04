"""Adapter folders: found, hashed, checked against a base."""

from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from vsr.errors import VsrError
from vsr.files import hash_files, read_json

if TYPE_CHECKING:
    from transformers import Qwen2VLConfig

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


def check_adapter(path: str | Path, config: "Qwen2VLConfig", base: str, base_hash: str) -> None:
    """Raise VsrError for an adapter that was trained on another base: by its run's manifest, the base it names, and the
    shapes of its weights."""
    from vsr.models.quantize import skeleton

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
