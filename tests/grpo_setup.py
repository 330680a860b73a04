"""A GRPO run small enough for tests: a random model, two random videos, questions of one line."""

import torch
from small import SIZES, small_folder, write_video

from vsr import models, profiles
from vsr.models import Loaded, add_lora
from vsr.questions.question import Question, write_questions
from vsr.train.grpo import config

GRIDS = {"a": (2, 4, 6), "b": (1, 4, 4)}


def see(path):
    """Random features of a video by its name."""
    grid = torch.tensor([GRIDS[path.stem]])
    generator = torch.Generator().manual_seed(ord(path.stem))
    return 0.1 * torch.randn(int(grid.prod()) // 4, SIZES["text"]["hidden_size"], generator=generator), grid


def row(number: int, video: str | None, truth: str = "e") -> dict:
    content = [{"type": "text", "text": f"Question {number}?" + " Why?" * (number % 3)}]
    if video:
        content.insert(0, {"type": "video"})
    path = video and f"{video}.mp4"
    return {"id": f"q{number}", "prompt": [{"role": "user", "content": content}], "video": path, "ground_truth": truth}


ROWS = [row(i, video) for i, video in enumerate(["a", "b", None, "a", "b", "b", "a"])]


def letters(completions, ground_truth, **_) -> list[float]:
    """How much of a completion is the wanted letter or its neighbours in the alphabet."""
    texts = [completion[0]["content"] for completion in completions]
    return [sum(abs(ord(c) - ord(t)) < 12 for c in text) / 8 for text, t in zip(texts, ground_truth, strict=True)]


def adapted(folder, seed: int = 0, **settings) -> Loaded:
    """The model of a folder with a fresh adapter, the same for the same seed; logits spread as in a trained model."""
    loaded = models.load(str(folder), **settings)
    with torch.no_grad():
        loaded.model.model.language_model.norm.weight.mul_(8)
    torch.manual_seed(seed)
    return Loaded(add_lora(loaded.model, profiles.get("tiny", lora_r=4)), loaded.tokenizer, loaded.info)


def arguments(folder, **changes):
    """Four completions of at most eight tokens to each of three questions, four steps."""
    settings = {"num_generations": 4, "max_completion_length": 8, "per_device_train_batch_size": 12, "max_steps": 4}
    settings |= {"learning_rate": 1e-2, "beta": 0.1, "save_steps": 1}
    return config(profiles.get("tiny"), folder, **(settings | changes))


def adapter_of(loaded: Loaded) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in loaded.model.named_parameters() if p.requires_grad}


def small_study(parent) -> tuple[profiles.Profile, object]:
    """A profile, and a folder with three rooms and two questions each."""
    data, questions = parent / "rooms", []
    for i in range(3):
        write_video(data / "videos" / f"room{i}.mp4", i)
        ask = ("rooms", f"room{i}")
        questions.append(Question(f"c{i}", *ask, "object_counting", "How many chairs?", None, str(i + 1)))
        questions.append(Question(f"d{i}", *ask, "object_rel_distance", "What is nearest (bed, sofa)?", None, "bed"))
    write_questions(data / "questions.jsonl", questions)
    base = str(small_folder(parent))
    return profiles.get("smoke", base=base, frames=4, num_generations=3, max_steps=3, max_completion_length=6), data


__all__ = ["ROWS", "adapted", "adapter_of", "arguments", "letters", "row", "see", "small_folder", "small_study"]
