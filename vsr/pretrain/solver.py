"""The ceiling: a room read from the video tokens by the pre-training's own read-outs, then the official rules."""

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from vsr.errors import VsrError
from vsr.pretrain.labels import VALUES, VIEWS, headings
from vsr.pretrain.vision import Heads
from vsr.questions import tasks
from vsr.questions.question import Question
from vsr.questions.rules import VSIBENCH
from vsr.scenes.catalogue import CATALOGUE
from vsr.scenes.scene import Box, Scene

THINNEST = 0.02  # metres


class Solver:
    """Answers from video tokens (tokens, D) without a language model; `probes` is the file the pre-training wrote."""

    def __init__(self, probes: str | Path):
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
                boxes.append(_box(label, dict(zip(VALUES, values.tolist(), strict=True))))
        walls = self.heads.walls(self.heads.norm(tokens)).view(VIEWS, -1, 4).mean(1).exp().numpy()
        faced = np.cos(headings()[:, None] - np.arange(4) * np.pi / 2) > 0.5
        east, north, west, south = (walls * faced).sum(0) / faced.sum(0)
        return Scene(name, "read", tuple(boxes), room_size=float((east + west) * (north + south)), counts=counts)

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


def _box(label: str, value: dict[str, float]) -> Box:
    """An upright box along the walls; the longest side, which such a box may lack, is carried beside it."""
    center = np.array([2 * value["x"], 2 * value["y"], value["z"] + 0.5])
    half = np.array([value["reach_x"], value["reach_y"], value["half_height"]])
    longest = np.array([np.exp(value["log_longest"])] * 3)
    return Box(label, center, 2 * np.maximum(half, THINNEST), np.eye(3), point_center=longest)
