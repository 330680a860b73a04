"""What the tests of SFT and DPO share: a random model, two real videos, questions, and transformers' own forward."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small import small_folder, write_video

from vsr import models, profiles, runs
from vsr.engine.inputs import video_features
from vsr.files import read_jsonl
from vsr.models import Loaded, add_lora, end_id
from vsr.prompts import render
from vsr.questions import dataset
from vsr.questions.question import Question, write_questions
from vsr.train.baselines import config, make
from vsr.train.data import Rows
from vsr.video import decode, patchify

FRAMES = {"one": 4, "two": 6}  # videos of different lengths


@dataclass(frozen=True)
class Stage:
    """A random model's folder, and ten questions with answers of one to nine bytes about two videos."""

    model: Path
    data: dataset.QuestionSet

    def profile(self, **changes) -> profiles.Profile:
        settings = {"base": str(self.model), "frames": 4, "lora_r": 4, "max_steps": 6, "questions_per_step": 3}
        return profiles.get("tiny", **(settings | changes))


@contextmanager
def staged(folder: Path) -> Iterator[Stage]:
    """A stage in `folder`, where cached features go too."""
    near = "Which of these objects (trash bin, bed, lamp, sofa) is the closest to the door?"
    kinds = [("object_abs_distance", "How far is it?", "4.2"), ("object_rel_distance", near, "trash bin")]
    questions = [
        Question(f"q{i}", "rooms", list(FRAMES)[i % 2], kind, text, None, truth)
        for i, (kind, text, truth) in enumerate([kinds[i // 2 % 2] for i in range(10)])
    ]
    write_questions(folder / "train" / "questions.jsonl", questions)
    for seed, scene in enumerate(FRAMES):
        write_video(folder / "train" / "videos" / f"{scene}.mp4", seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "ROOT", folder)
        yield Stage(small_folder(folder / "model"), dataset.load(folder / "train"))


def pixels(row: dict):
    """Patches and grid of a row's video, whose number of frames differs from scene to scene."""
    path = Path(row["video"])
    return patchify(decode(path, FRAMES[path.stem]), 84 * 56)


def trainer(method: str, stage: Stage, out: Path):
    """The method's trainer on an adapter that has left the base, and its rows, one of them without a video."""
    chosen = stage.profile()
    base = models.load(str(stage.model))
    with torch.no_grad():
        base.model.model.language_model.norm.weight.mul_(8)  # logits spread as in a trained model
    torch.manual_seed(0)
    loaded = Loaded(add_lora(base.model, chosen), base.tokenizer, base.info)
    rows = Rows(method, stage.data)[:4]
    rows.append({**rows[0], "id": "blind", "video": None, "prompt": blind(rows[0])})

    def see(path):
        patches, grid = pixels({"video": path})
        return video_features(base.model, patches, grid), grid

    made = make(method, chosen, loaded, rows, see, config(method, chosen, out))
    made.model.train()
    with torch.no_grad():
        for name, p in loaded.model.named_parameters():
            if "lora_B" in name:
                p.normal_(0, 0.05)
    return made, rows


def blind(row: dict) -> list[dict]:
    """The row's prompt without its video."""
    return [
        {**turn, "content": [part for part in turn["content"] if part["type"] != "video"]} for turn in row["prompt"]
    ]


def loss(trainer, rows: list[dict]) -> torch.Tensor:
    return trainer.compute_loss(trainer.model, trainer.data_collator(rows))


def naive_logps(trainer, row: dict, answer: str) -> torch.Tensor:
    """Log-probabilities (tokens,) of an answer: one sequence, pixels and vision tower, transformers' own positions."""
    tokenizer, model = trainer.data_collator.loaded.tokenizer, trainer.model
    patches, grid = (None, None) if row["video"] is None else pixels(row)
    prompt = render(tokenizer, row["prompt"], grid)
    ids = torch.cat((prompt, torch.tensor([*tokenizer(answer)["input_ids"], end_id(tokenizer)])))[None]
    video = {} if grid is None else {"pixel_values_videos": patches, "video_grid_thw": grid}
    types = (ids == tokenizer.convert_tokens_to_ids("<|video_pad|>")).int() * 2
    model.get_base_model().model.rope_deltas = None
    logits = model(
        input_ids=ids, attention_mask=torch.ones_like(ids), mm_token_type_ids=types, use_cache=False, **video
    ).logits
    logps = logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    return logps.gather(-1, ids[0, len(prompt) :, None])[:, 0]


def gradients(trainer, value: torch.Tensor) -> dict[str, torch.Tensor]:
    trainer.model.zero_grad()
    value.backward()
    return {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.requires_grad}


def furthest(ours: dict, theirs: dict) -> float:
    """The largest relative distance of two sets of gradients."""
    assert ours.keys() == theirs.keys()
    return max(float((ours[n] - theirs[n]).norm() / theirs[n].norm()) for n in theirs)


def adapter(run: runs.Run) -> dict[str, torch.Tensor]:
    return load_file(run.path / "adapter" / "adapter_model.safetensors")


def log(run: runs.Run) -> list[dict]:
    return list(read_jsonl(run.path / "log.jsonl"))


def die_at(step: int):
    """Something that kills the process while a step is being logged, before its checkpoint."""

    def kill(line: dict) -> None:
        if line["step"] == step:
            raise KeyboardInterrupt

    return kill
