"""Pre-training of the miniature base model: rooms, then seeing, then answering; staged, seeded, resumable.

The rooms are drawn as the study's are, from other seeds: no shift is planted for training to undo. What is left to
learn comes from stopping early and from sampling: with twice the language steps nothing was left for GRPO to add
(docs/log.md). What is taught is never false.

The shipped base is one of two seeds, by a rule written down before either was trained: the one whose answers to the six
trained tasks, plain prompts and tagged ones together, score higher at the last gate.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, Qwen2VLForConditionalGeneration

from vsr import runs
from vsr.engine.decoding import answer_scenes
from vsr.files import append_jsonl, atomic_write, read_json, write_json
from vsr.miniature import corpus, rooms, vision
from vsr.miniature.catalogue import CATALOGUE
from vsr.miniature.language import GRID, Objective, Packer
from vsr.miniature.training import FULL, SMOKE, Optimiser, fit, new_model
from vsr.models import folders, suppressed
from vsr.questions.question import Question
from vsr.runs import Run
from vsr.scoring import score
from vsr.scoring.answers import final_answer

PRETRAIN = runs.Stage("pretrain", 4, ())
PROBES = "probes.safetensors"
WORD_NORM = 0.1  # root mean square of the categories' embeddings
WARM = 50  # steps
ANSWER_TOKENS = {0.0: 3, 1.0: 48}  # plain and tagged


@dataclass(frozen=True)
class Talking:
    """The language stages: questions about rooms whose video tokens are known, the vision tower at rest. `features`
    (rooms, video tokens, D); the last `plan["held"]` rooms are for gates."""

    model: Qwen2VLForConditionalGeneration
    packer: Packer
    corpus: corpus.Corpus
    features: Tensor
    plan: dict

    def train(self, seed: int, path: Path, log: Callable[..., None], gate: Callable[[dict], None]) -> None:
        """All lessons, from the checkpoint at `path` if there is one; `gate` is called at the end of each."""
        plan, text = self.plan, self.model.model.language_model
        objective = Objective(self.model, self.packer.tokenizer, self.packer.video)
        # the step at which each lesson ends
        ends = dict(zip(accumulate(lesson["steps"] for lesson in plan["language"]), plan["language"], strict=True))

        def losses(step: int) -> dict[str, Tensor]:
            lesson = ends[min(end for end in ends if step < end)]
            rng = np.random.default_rng([seed, 2, step])
            rooms = rng.integers(len(self.features) - plan["held"], size=plan["rooms_per_step"])
            count = range(plan["questions_per_room"])
            asked = [[self.corpus.item(room, lesson["weights"], lesson["tags"], rng) for _ in count] for room in rooms]
            return objective(self.packer.pack(rooms, asked, self.features[torch.from_numpy(rooms)]))

        outer = [self.model.get_input_embeddings().weight, *objective.probes.parameters()]
        rates = plan["language_muon"], plan["language_adam"], plan["decay"]
        optimiser = Optimiser([text.layers, text.norm], outer, *rates)
        names = {end: lesson["name"] for end, lesson in ends.items()}
        modules = {"model": self.model, "probes": objective.probes}
        fit(path, modules, optimiser, names, losses, WARM, plan, log, lambda end: gate(ends[end]))

    @torch.no_grad()
    def exam(self, weights: Mapping[str, float], shuffled: bool = False, tags: float = 0.0) -> dict[str, float]:
        """Mean score in percent by kind of question on the held-out rooms, with their own or with the next one's
        video, asked plainly (`tags` 0) or in think and observe mode (1)."""
        rng = np.random.default_rng(0)
        held = range(len(self.features) - self.plan["held"], len(self.features))
        end = self.model.config.text_config.eos_token_id
        scores = defaultdict(list)
        for number, room in enumerate(held):
            shown = held[(number + 1) % len(held)] if shuffled else room
            kinds = [kind for kind in weights if kind in self.corpus.drafts[room]]
            items = [self.corpus.item(room, {kind: 1.0}, tags, rng) for kind in kinds]
            prompts = [self.packer.prompt(item) for item in items]
            asked, never = (prompts, self.features[shown], GRID), suppressed(self.packer.tokenizer)
            (told,) = answer_scenes(self.model, [asked], ANSWER_TOKENS[tags], end, never)
            for kind, item, ids in zip(kinds, items, told, strict=True):
                text = self.packer.tokenizer.decode(ids, skip_special_tokens=True)
                scores[kind].append(_score(final_answer(item.response), text))
        return {kind: round(100 * float(np.mean(found)), 1) for kind, found in scores.items()}


def _score(truth: str, text: str) -> float:
    kind = "object_abs_distance" if truth[0].isdigit() else "object_rel_direction"
    return score(Question("", "", "", kind, "", None, truth), final_answer(text))


def pretrain(out: str | Path, seed: int = 0, smoke: bool = False) -> Run:
    """Make a base model in `out`: `base/` (loadable, with manifest), `gates.json`, `log.jsonl`; rooms in `out/rooms`.

    An interrupted run continues from its last checkpoint; a finished one with the same recipe and seed is left alone.
    """
    recipe, out = SMOKE if smoke else FULL, Path(out)
    run = Run.open(out, "run", PRETRAIN, None, about={"recipe": recipe}, inputs={}, seed=seed)
    if run.finished:
        return run
    known = run.path / "gates.json"
    gates: dict[str, dict] = read_json(known) if known.is_file() else {}

    def log(**row: object) -> None:
        append_jsonl(run.path / "log.jsonl", row)
        print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)

    def passed(name: str, numbers: dict) -> None:
        gates[name] = numbers
        write_json(known, gates)
        print(f"gate {name}: {numbers}", flush=True)

    shards = rooms.make(out / "rooms", recipe["rooms"], seed)
    data = rooms.read(shards)
    questions = corpus.drafts(shards, seed)
    tokens = corpus.new_tokenizer()
    model = new_model(tokens, seed)
    truth = rooms.label(data)
    eyes = vision.Seeing(model.model.visual, model.config.text_config.hidden_size)
    views = vision.Views(data, truth)
    vision.train(eyes, views, recipe, seed, run.path / "see.pt", log)
    passed("see", vision.gate(eyes, views, recipe["held"]))
    features = _settle(model, eyes, tokens, data)
    talk = Talking(model, Packer(model, tokens, truth), corpus.Corpus(data, questions), features, recipe)

    def exam(lesson: dict) -> None:
        true = talk.exam(lesson["weights"])
        shuffled = talk.exam(lesson["weights"], shuffled=True)
        tagged = talk.exam(lesson["weights"], tags=1.0)
        passed(lesson["name"], {"true": true, "shuffled": shuffled, "tagged": tagged})

    talk.train(seed, run.path / "talk.pt", log, exam)
    _ship(run, model, tokens, eyes, gates)
    return run


def _settle(model: nn.Module, eyes: vision.Seeing, tokens: PreTrainedTokenizerFast, data: rooms.Rooms) -> torch.Tensor:
    """Bring video tokens to unit scale, give the categories' words to the language model; returns all video tokens."""
    features = vision.features(model.model.visual, data.frames)
    # the merger's last layer is linear: dividing its weights divides the tokens
    scale = features.pow(2).mean().sqrt()
    last = model.model.visual.merger.mlp[2]
    with torch.no_grad():
        last.weight /= scale
        last.bias /= scale
        words = nn.functional.normalize(eyes.words, dim=-1) * eyes.words.shape[1] ** 0.5 * WORD_NORM
        model.get_input_embeddings().weight[tokens.convert_tokens_to_ids(list(CATALOGUE))] = words
    return features / scale


def _ship(run: Run, model: nn.Module, tokens: object, eyes: vision.Seeing, gates: dict) -> None:
    """Weights in bfloat16 with configuration, tokenizer, the read-outs of the vision tower and a manifest."""
    folder = run.path.parent / "base"
    folders.save(model.to(torch.bfloat16), tokens, folder)
    readout = {**eyes.heads.state_dict(), "words": eyes.words.detach()}
    atomic_write(folder / "probes" / PROBES, save(readout))
    facts = {key: run.manifest[key] for key in ("seed", "git", "versions")} | {"recipe": run.about["recipe"]}
    hashes = {"model": folders.model_hash(folder)}
    write_json(folder / "manifest.json", facts | {"gates": gates, "hashes": hashes})
    run.finish(**hashes, gates=gates)
