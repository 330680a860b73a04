"""The ceiling: a room read from the video tokens by the pre-training's own read-outs, then the official rules."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from vsr.errors import VsrError
from vsr.miniature.catalogue import CATALOGUE
from vsr.miniature.labels import VALUES, VIEWS, headings
from vsr.miniature.vision import Heads
from vsr.questions import tasks
from vsr.questions.question import Question
from vsr.questions.rules import VSIBENCH
from vsr.scenes.scene import Box, Scene

THINNEST = 0.02  # metres


@dataclass(frozen=True)
class Scale:
    """True metres for a metre read: of places, of longest sides, of a room's sides."""

    places: float = 1.0
    longest: float = 1.0
    sides: float = 1.0


class Solver:
    """Answers from video tokens (tokens, D) without a language model; `probes` is the file the pre-training wrote.
    `scale` makes good for a camera that the read-outs have not met."""

    def __init__(self, probes: str | Path, scale: Scale = Scale()):
        self.scale = scale
        tensors = load_file(str(probes))
        self.words = tensors.pop("words")
        self.heads = Heads(self.words.shape[1])
        self.heads.load_state_dict(tensors)

    @torch.no_grad()
    def scene(self, tokens: torch.Tensor, name: str = "read") -> Scene:
        """The room that the tokens tell of, seen from the camera's spot. Every category is there: one that no token
        claims is put where it is least unlikely, and does not count."""
        logits = self.heads.presence(tokens, self.words)
        boxes, counts = [], {}
        for category, label in enumerate(CATALOGUE):
            claimed = (logits[:, category] > 0).nonzero()[:, 0].tolist()
            counts[label] = len(claimed)
            for token in claimed or [int(logits[:, category].argmax())]:
                values = self.heads.values(tokens[token : token + 1], self.words[category : category + 1])[0]
                boxes.append(_box(label, dict(zip(VALUES, values.tolist(), strict=True)), self.scale))
        walls = self.heads.walls(self.heads.norm(tokens)).view(VIEWS, -1, 4).mean(1).exp().numpy()
        faced = np.cos(headings()[:, None] - np.arange(4) * np.pi / 2) > 0.5
        east, north, west, south = (walls * faced).sum(0) / faced.sum(0)
        area = float((east + west) * (north + south)) * self.scale.sides**2
        return Scene(name, "read", tuple(boxes), room_size=area, counts=counts)

    def answer(self, question: Question, scene: Scene) -> str:
        """A number or a letter; '' where the boxes cannot tell."""
        if question.question_type == "object_size_estimation":
            return self._size(question, scene)
        try:
            told = tasks.truth(scene, VSIBENCH, question)
        except VsrError:
            return ""
        if question.options:
            return next((option[0] for option in question.options if option[3:] == told), "")
        return told

    @staticmethod
    def _size(question: Question, scene: Scene) -> str:
        label = VSIBENCH.templates[question.question_type].read(question.question)["label"]
        return str(round(100 * scene.labelled(label)[0].point_center[0]))


def calibrate(read: Mapping[str, Scene], truth: Mapping[str, Scene]) -> Scale:
    """The median ratios of what is to what an unscaled solver read, over rooms whose truth is known."""
    places, longest, sides = [], [], []
    for name, scene in read.items():
        true, spot = truth[name], truth[name].camera.position[0, :2]
        sides.append((true.room_size / scene.room_size) ** 0.5)
        for box in true.once():
            told = scene.labelled(box.label)[0]
            places.append(np.hypot(*(box.center[:2] - spot)) / np.hypot(*told.center[:2]))
            longest.append(box.size.max() / told.point_center[0])
    return Scale(*(float(np.median(ratios)) for ratios in (places, longest, sides)))


def _box(label: str, value: dict[str, float], scale: Scale) -> Box:
    """An upright box along the walls; the longest side, which such a box may lack, is carried beside it."""
    center = np.array([2 * value["x"], 2 * value["y"], value["z"] + 0.5]) * scale.places
    half = np.array([value["reach_x"], value["reach_y"], value["half_height"]]) * scale.places
    longest = np.array([np.exp(value["log_longest"])] * 3) * scale.longest
    return Box(label, center, 2 * np.maximum(half, THINNEST), np.eye(3), point_center=longest)
