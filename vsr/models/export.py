"""An adapter merged into its base: one folder that plain transformers loads, without PEFT or bitsandbytes."""

from pathlib import Path

from vsr import models, profiles
from vsr.errors import VsrError
from vsr.files import atomic_write, read_json
from vsr.models import cards
from vsr.models.adapters import adapter_folder
from vsr.models.folders import save

FIELDS = ("base", "dtype", "quantization", "attention")  # of the profile that the run was trained with


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
    run, out = Path(run), Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise VsrError(f"{out}: exists already; name a new folder with --out")
    adapter_folder(run)
    manifest = read_json(run / "manifest.json")
    settings = manifest["settings"]
    profile = profiles.get("tiny", **({name: settings[name] for name in FIELDS} | changes))
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
