"""Pre-training of the miniature base model: rooms, then seeing, then answering; staged, seeded, resumable.

The rooms are those of `vsr.miniature.procedural.PRETRAIN`, which differ from the study's in sizes, layouts, palettes
and seeds; answering is stopped early. What is taught is never false.
"""

from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save
from torch import nn

from vsr import runs
from vsr.files import append_jsonl, atomic_write, read_json, read_jsonl, write_json
from vsr.miniature import corpus, labels, rooms, seeing, state
from vsr.miniature import recipe as plan
from vsr.miniature.language import Packer
from vsr.miniature.recipe import Plan
from vsr.miniature.talking import Talking
from vsr.models import folders
from vsr.runs import Run

PRETRAIN = runs.Stage("pretrain", 1, ())
PROBES = "probes.safetensors"


def pretrain(out: str | Path, seed: int = 0, smoke: bool = False, recipe: Plan | None = None, workers: int = 1) -> Run:
    """Make a base model in `out`: `base/` (loadable, with manifest), `gates.json`, `log.jsonl`; rooms in `out/rooms`.

    An interrupted run continues from its last checkpoint; a finished one with the same settings and code is left alone.
    """
    recipe = recipe or (plan.SMOKE if smoke else plan.FULL)
    out = Path(out)
    run = Run.open(out, "run", PRETRAIN, None, about={"recipe": asdict(recipe)}, inputs={}, seed=seed)
    if run.finished:
        return run
    shards = rooms.make(out / "rooms", recipe.rooms, seed, workers=workers)
    drafts = corpus.load(corpus.make(shards, seed, workers=workers))
    train(run, recipe, seed, rooms.read(shards), drafts)
    return run


def train(run: Run, recipe: Plan, seed: int, data: rooms.Rooms, drafts: list[list[dict]]) -> None:
    """All stages on rooms with their drafted questions, and the shipped files."""
    known = run.path / "gates.json"
    gates: dict[str, dict] = read_json(known) if known.is_file() else {}

    def log(**row: object) -> None:
        append_jsonl(run.path / "log.jsonl", row)
        print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)

    def passed(name: str, numbers: dict) -> None:
        gates[name] = numbers
        write_json(known, gates)
        print(f"gate {name}: {numbers}", flush=True)

    tokens = state.new_tokenizer()
    model = state.new_model(tokens, seed)
    truth = labels.label(data)
    eyes = seeing.Seeing(model.model.visual, model.config.text_config.hidden_size)
    views = seeing.Views(data, truth)
    seeing.train(eyes, views, recipe, seed, run.path / "see.safetensors", log)
    passed("see", seeing.gate(eyes, views, recipe.held))
    features = _settle(model, eyes, tokens, data)
    packer = Packer(model, tokens, truth)
    talk = Talking(model, packer, corpus.Corpus(data, drafts), features, recipe)

    def exam(stage: plan.Stage) -> None:
        true, shuffled = talk.exam(stage.weights), talk.exam(stage.weights, shuffled=True)
        passed(stage.name, {"true": true, "shuffled": shuffled})

    talk.train(seed, run.path / "talk.safetensors", log, exam)
    _ship(run, model, tokens, eyes, gates)


def _settle(model: nn.Module, eyes: seeing.Seeing, tokens: object, data: rooms.Rooms) -> torch.Tensor:
    """Bring video tokens to unit scale, give the categories' words to the language model; returns all video tokens."""
    features = seeing.features(model.model.visual, data.frames)
    scale = features.pow(2).mean().sqrt()
    last = model.model.visual.merger.mlp[2]
    with torch.no_grad():
        last.weight /= scale
        last.bias /= scale
        words = nn.functional.normalize(eyes.words, dim=-1) * eyes.words.shape[1] ** 0.5 * state.WORD_NORM
        model.get_input_embeddings().weight[state.category_ids(tokens)] = words
    return features / scale


def _ship(run: Run, model: nn.Module, tokens: object, eyes: seeing.Seeing, gates: dict) -> None:
    """Weights in bfloat16 with configuration, tokenizer, the read-outs of the vision tower and a manifest."""
    folder = run.path.parent / "base"
    folders.save(model.to(torch.bfloat16), tokens, folder)
    readout = {**eyes.heads.state_dict(), "words": eyes.words.detach()}
    atomic_write(folder / "probes" / PROBES, save(readout))
    facts = {key: run.manifest[key] for key in ("seed", "settings", "inputs", "git", "versions")}
    hashes = {"model": folders.model_hash(folder)}
    seconds = round(_trained(run), 1)
    write_json(folder / "manifest.json", facts | {"gates": gates, "seconds": seconds, "hashes": hashes})
    run.finish(**hashes, gates=gates)


def _trained(run: Run) -> float:
    """Seconds of training that the log tells of; its clock starts anew with each part and after each break."""
    total = before = 0.0
    for row in read_jsonl(run.path / "log.jsonl"):
        total += row["seconds"] - (before if row["seconds"] > before else 0.0)
        before = row["seconds"]
    return total
