"""What a model is asked: a folder's questions and the videos they are about."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from vsr.errors import VsrError
from vsr.questions.question import Question, read_questions
from vsr.scenes.scene import Scene, load_scenes

QUESTIONS = ("questions.jsonl", "test.jsonl")  # ours, and VSI-Bench's on the hub


@dataclass(frozen=True)
class Bench:
    """Questions with their videos: `videos/<scene>.mp4` as `vsr build` makes them, or `<dataset>/<scene>.mp4` as
    VSI-Bench's archives unpack."""

    folder: Path
    questions: tuple[Question, ...]

    def video_path(self, scene_name: str) -> Path:
        """The scene's video, or where it should be: a missing one counts as wrong answers and must not vanish."""
        folders = ["videos", *self._datasets.get(scene_name, ())]
        places = [self.folder / name / f"{scene_name}.mp4" for name in folders]
        return next((path for path in places if path.is_file()), places[0])

    @cached_property
    def missing(self) -> list[str]:
        """The scenes that are asked about and have no video, in the questions' order."""
        return [name for name in self._datasets if not self.video_path(name).is_file()]

    @cached_property
    def scenes(self) -> dict[str, Scene]:
        """The rooms themselves by id; an error for benches that have no scenes.jsonl."""
        return {scene.id: scene for scene in load_scenes(self.folder / "scenes.jsonl")}

    @cached_property
    def _datasets(self) -> dict[str, dict[str, None]]:
        found: dict[str, dict[str, None]] = {}
        for question in self.questions:
            found.setdefault(question.scene_name, {})[question.dataset] = None
        return found


def load(folder: str | Path) -> Bench:
    """The bench in a folder: questions.jsonl, or VSI-Bench's test.jsonl. Missing videos are listed by `missing`."""
    folder = Path(folder)
    if not folder.is_dir():
        raise VsrError(f"{folder}: no such folder; make one with 'vsr build procedural'")
    names = [name for name in QUESTIONS if (folder / name).is_file()]
    if not names:
        raise VsrError(f"{folder}: holds none of {', '.join(QUESTIONS)}; make it with 'vsr build procedural'")
    return Bench(folder, tuple(read_questions(folder / names[0])))
