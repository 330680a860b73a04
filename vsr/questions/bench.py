"""What a model is asked: a folder's questions and the videos they are about."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path

from vsr.errors import VsrError
from vsr.questions.question import Question, read_questions
from vsr.scenes import store
from vsr.scenes.scene import Scene

QUESTIONS = ("questions.jsonl", "test.jsonl")  # ours, and VSI-Bench's on the hub


@dataclass(frozen=True)
class Bench:
    """Questions with their videos: `videos/<scene>.mp4` as `vsr build` makes them, or `<dataset>/<scene>.mp4` as
    VSI-Bench's archives unpack."""

    folder: Path
    questions: tuple[Question, ...]

    def video_path(self, scene_name: str) -> Path | None:
        """The scene's video; None if it is missing, so that its questions count as wrong instead of vanishing."""
        datasets = dict.fromkeys(q.dataset for q in self.by_scene.get(scene_name, ()))
        for place in ("videos", *datasets):
            path = self.folder / place / f"{scene_name}.mp4"
            if path.is_file():
                return path
        return None

    @cached_property
    def by_scene(self) -> dict[str, list[Question]]:
        """Questions grouped by scene, in the file's order."""
        groups: dict[str, list[Question]] = {}
        for question in self.questions:
            groups.setdefault(question.scene_name, []).append(question)
        return groups

    @property
    def missing(self) -> list[str]:
        """The scenes that are asked about and have no video."""
        return [name for name in self.by_scene if self.video_path(name) is None]

    @cached_property
    def scenes(self) -> dict[str, Scene]:
        """The rooms themselves by id, where the folder has them."""
        return {scene.id: scene for scene in store.load(self.folder / "scenes.jsonl")}


def load(folder: str | Path) -> Bench:
    """The bench in a folder; ids must be unique. Missing videos are listed by `missing`, all missing is an error."""
    folder = Path(folder)
    if not folder.is_dir():
        raise VsrError(f"{folder}: no such folder; make one with 'vsr build procedural'")
    names = [name for name in QUESTIONS if (folder / name).is_file()]
    if not names:
        raise VsrError(f"{folder}: holds none of {', '.join(QUESTIONS)}; make it with 'vsr build'")
    bench = Bench(folder, tuple(read_questions(folder / names[0])))
    twice = next(_repeated(bench.questions), None)
    if twice:
        raise VsrError(f"{folder / names[0]}: id '{twice}' occurs more than once; ids must be unique")
    if len(bench.missing) == len(bench.by_scene):
        raise VsrError(f"{folder}: none of its {len(bench.by_scene)} scenes has a video in videos/ or <dataset>/")
    return bench


def _repeated(questions: tuple[Question, ...]) -> Iterator[str]:
    for name, group in groupby(sorted(question.id for question in questions)):
        if len(list(group)) > 1:
            yield name
