"""Model cards of adapters: what a manifest and the evaluations beside its run say, in the hub's format.

A card is words only: `vsr.models.adapters.adapter_hash` leaves it out, so it may be written again after every
evaluation.
"""

import os
from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData

from vsr import markdown, runs
from vsr.files import atomic_write, read_json, read_jsonl
from vsr.models.adapters import adapter_folder, adapter_hash
from vsr.paper import TASKS
from vsr.profiles import VIDEOS
from vsr.scoring.intervals import Value

CARD = "README.md"
TASK = "video-text-to-text"  # the hub's name for what these models do
NAMES = {"grpo": "vsGRPO", "sft": "SFT", "dpo": "DPO"}
ADAPTER = ("lora_r", "lora_alpha", "lora_targets", "questions_per_step", "frames", "max_pixels")
SETTINGS = {  # of each method
    "grpo": ("learning_rate", "num_generations", "temperature", "beta", "epsilon", "max_completion_length", *ADAPTER),
    "sft": ("sft_learning_rate", *ADAPTER),
    "dpo": ("dpo_learning_rate", "dpo_beta", *ADAPTER),
}
SHIPPED = "vsr/miniature/base"
MINIATURE = (
    "Qwen2-VL: the base is this project's miniature of a few million parameters, which knows procedural rooms and "
    "nothing else; its scores compare methods and say nothing about Qwen2-VL"
)
USE = """## Use

```python
from peft import PeftModel
from transformers import AutoModelForImageTextToText

base = AutoModelForImageTextToText.from_pretrained("{}")
model = PeftModel.from_pretrained(base, "adapter")
```

`vsr export` merges it into its base, for use without PEFT.
"""


def write(run: str | Path, manifest: dict | None = None) -> Path:
    """Write the card of the adapter in a run folder; `manifest` where the run's is not on disk yet. The card's path."""
    run = Path(run)
    path = adapter_folder(run) / CARD
    atomic_write(path, text(run, manifest or read_json(run / "manifest.json")))
    return path


def refresh(model: str | Path) -> None:
    """Write the card again after an evaluation, if `model` is a run folder that may be written."""
    folder = Path(model) / "adapter"
    if (Path(model) / "manifest.json").is_file() and folder.is_dir() and os.access(folder, os.W_OK):
        write(model)


def text(run: Path, manifest: dict, merged: str = "") -> str:
    """The card; `merged` says how the adapter became a model of its own."""
    found, about = evaluations(run), manifest["about"]
    others = runs.find(run.resolve().parent, manifest["stage"], **about)  # this training under other seeds
    alone = all(other.manifest["seed"] == manifest["seed"] for other in others)
    parts = [
        f"---\n{_front_matter(manifest, found, bool(merged))}\n---\n",
        f"# {manifest['name']}\n",
        f"{merged or 'A LoRA adapter'} for visual-spatial questions about a video, from a reproduction of *Improved "
        "Visual-Spatial Reasoning via R1-Zero-Like Training* (arXiv 2504.00883).\n",
        *([f"**Warning.** {manifest['warning']}\n"] if manifest.get("warning") else []),
        f"## How it was made\n\n{markdown.table(('', ''), _made(manifest))}",
        f"## Scores\n\n{_scores(found)}",
        "## Not run\n\n" + "".join(f"- {line}\n" for line in _not_run(about, found, alone)),
        "" if merged else USE.format(SHIPPED if about["model"]["base"] == "tiny" else about["model"]["base"]),
    ]
    return "\n".join(part for part in parts if part)


def evaluations(run: Path) -> list[dict]:
    """The summaries of evaluations of the very adapter in `run`, with `dataset`, the kinds of rooms asked about."""
    mark, found = adapter_hash(run), []
    for one in runs.find(run.resolve().parent, "answer"):
        if one.about["model"]["adapter_hash"] == mark and (one.path / "summary.json").is_file():
            asked = {row.get("dataset", "?") for row in read_jsonl(one.path / "samples.jsonl")}
            found.append(read_json(one.path / "summary.json") | {"dataset": ", ".join(sorted(asked))})
    return found


def _front_matter(manifest: dict, found: list[dict], merged: bool) -> str:
    """YAML without its fences; the base only where it is a hub id, since anything else would be a broken link."""
    base = manifest["about"]["model"]["base"].partition("@")[0]
    results = [
        EvalResult(
            task_type=TASK,
            dataset_type=one["dataset"],
            dataset_name=f"{one['n']} questions, {one['mode']} prompt",
            metric_type="vsi-bench-average",
            metric_value=round(one["overall"], 1),
        )
        for one in found
        if one["video"] == "true"
    ]
    data = ModelCardData(
        model_name=manifest["name"],
        base_model=base if "/" in base else None,
        library_name="transformers" if merged else "peft",
        pipeline_tag=TASK,
        tags=["lora", "spatial-reasoning", manifest["about"]["method"]],
        eval_results=results or None,
    )
    return data.to_yaml().strip()


def _made(manifest: dict) -> list[tuple[str, object]]:
    settings, method = manifest["settings"] | manifest["about"], manifest["about"]["method"]
    model, git = settings["model"], manifest["git"]
    budget = ", for as many token passes as a GRPO run" if settings.get("budget") else ""
    return [
        ("method", f"{NAMES[method]}, {settings['mode']} prompt{budget}"),
        ("base", f"{model['base']}, hash {model['hash']}, {model['dtype']}, quantization {model['quantization']}"),
        ("data", f"{manifest.get('data', '?')}, questions {manifest['inputs']['questions']}"),
        ("seed", manifest["seed"]),
        ("steps", manifest.get("steps", settings["max_steps"])),
        *((name.replace("_", " "), str(settings[name])) for name in SETTINGS[method]),
        *([("on-policy", _on_policy(manifest["on_policy"]))] if manifest.get("on_policy") else []),
        ("device", manifest.get("device", "?")),
        ("code", f"{git['sha'] or 'no git'}{' with changes' if git['dirty'] else ''}"),
        ("versions", ", ".join(f"{name} {number}" for name, number in manifest["versions"].items())),
        ("run", manifest["id"]),
    ]


def _on_policy(found: dict) -> str:
    """What `vsr.train.on_policy` has found."""
    if found["largest"] is None:
        return "not known"
    told = f"log-probabilities drawn and scored differ by {found['largest']:.2g} at most, bound {found['bound']:.2g}"
    return f"{'yes' if found['holds'] else 'no'}: {told}"


def _scores(found: list[dict]) -> str:
    """One row an evaluation; 95 % intervals over scenes."""
    if not found:
        return "Not evaluated yet.\n"
    rows = []
    for one in found:
        scores = [Value.read(one, over) or "–" for over in ("overall", "trained", *TASKS)]
        rows.append((one["mode"], VIDEOS[one["video"]], one["dataset"], one["n"], *scores))
    head = ("prompt", "video", "data", "questions", "average", "trained six", *TASKS.values())
    ids = ", ".join(one["run"] for one in found)
    return f"{markdown.table(head, rows)}\nPercent, 95 % intervals over scenes. Evaluations: {ids}.\n"


def _not_run(about: dict, found: list[dict], alone: bool) -> list[str]:
    """What a reader might expect and not find."""
    done = {(one["mode"], one["video"]) for one in found}
    lacking = [
        f"evaluation with the {mode} prompt and {name}"
        for mode in dict.fromkeys((about["mode"], "vanilla"))
        for video, name in VIDEOS.items()
        if (mode, video) not in done
    ]
    if not any(set(one["dataset"].split(", ")) & {"scannet", "scannetpp", "arkitscenes"} for one in found):
        lacking.append("VSI-Bench itself, with its real videos")
    if alone:
        lacking.append("a second seed, so nothing is known about the spread between seeds")
    return lacking + [MINIATURE] * (about["model"]["base"] == "tiny")
