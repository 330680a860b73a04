"""How much a profile's runs compute: tokens, passes, videos, questions; counted by code and data, else assumed."""

import math
from dataclasses import dataclass

from vsr import prompts, video
from vsr.engine.inputs import Part, passes
from vsr.errors import VsrError
from vsr.miniature.procedural import STUDY
from vsr.models.folders import find, load_tokenizer
from vsr.profiles import Profile
from vsr.questions.dataset import COUNTS
from vsr.questions.question import Question
from vsr.train.group_trainer import DECODED

CAMERA = (480, 640)  # height, width of ScanNet's and ARKitScenes' exported videos
TEXT = {"vanilla": 62, "think": 88, "observe": 100}  # mean tokens around VSI-100k's questions, Qwen2-VL's tokenizer
SHORT = 6  # tokens of a bare answer with the token that ends it
ROOM_QUESTIONS = 16  # of the bench, a procedural room
TASKS = 8


@dataclass(frozen=True)
class Workload:
    """One GRPO run and one evaluation. `grid` (time, height, width) of a video's patches, `video` its tokens, `prompt`
    tokens of a training prompt, `completion` those expected and `longest` at most; `training` and `bench` questions;
    `scenes` and `train_scenes` videos."""

    grid: tuple[int, int, int]
    video: int
    prompt: int
    completion: int
    longest: int
    training: int
    train_scenes: int
    bench: int
    scenes: int
    profile: Profile

    def passes(self, length: int, decoding: bool = False) -> list[list[Part]]:
        """The forward passes of a step whose completions all have `length` tokens, as the trainer plans them."""
        profile = self.profile
        groups = [[length] * profile.num_generations] * profile.questions_per_step
        return passes([self.prompt] * len(groups), groups, profile.token_budget * (DECODED if decoding else 1))

    def shape(self, one: list[Part], length: int) -> list[tuple[int, list[int]]]:
        """Such a pass as `vsr.engine.logps.branch_logps` takes it."""
        return [(self.prompt - 1, [length] * len(members)) for _, members in one]


def of(profile: Profile, mode: str) -> Workload:
    """The workload of a profile trained and evaluated in `mode`."""
    rooms = profile.data == "rooms"
    height, width = (STUDY.height, STUDY.width) if rooms else CAMERA
    tall, wide = (side // video.PATCH for side in video.smart_resize(height, width, profile.max_pixels))
    grid = (math.ceil(profile.frames / video.PAIR), tall, wide)
    count = math.prod(grid) // prompts.TOKEN_PATCHES
    longest = profile.max_completion_length
    return Workload(
        grid=grid,
        video=count,
        prompt=count + _text_tokens(profile, mode),
        completion=min(longest, SHORT) if mode == "vanilla" else max(1, longest // 2),
        longest=longest,
        training=profile.max_steps * profile.questions_per_step,
        train_scenes=min(profile.train_rooms, profile.max_steps * profile.questions_per_step),
        bench=profile.bench_rooms * ROOM_QUESTIONS if rooms else sum(COUNTS.values()),
        scenes=profile.bench_rooms,
        profile=profile,
    )


def _text_tokens(profile: Profile, mode: str) -> int:
    """Tokens of a prompt beside the video's: counted with the base's tokenizer where it is at hand."""
    try:
        source, _ = find(profile.base)
    except VsrError:
        return TEXT[mode]
    if not source.local:
        return TEXT[mode]
    question = Question("", "", "", "object_counting", "How many chair(s) are in this room?", None, "")
    chat = prompts.messages(question, mode, "train", video=False)
    return 2 + len(prompts.render(load_tokenizer(source.name), chat, None))  # and the video's two brackets
