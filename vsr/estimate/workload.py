"""How much a profile's runs compute: tokens, passes, videos, questions; counted by code and data, else assumed."""

import math
from dataclasses import dataclass
from pathlib import Path

from vsr import prompts, video
from vsr.engine.inputs import passes
from vsr.miniature.procedural import STUDY
from vsr.models.folders import TINY_FOLDER, load_tokenizer
from vsr.profiles import Profile
from vsr.questions.dataset import COUNTS
from vsr.questions.question import Question

CAMERA = (480, 640)  # height, width of ScanNet's and ARKitScenes' exported videos
# mean tokens around VSI-100k's questions, Qwen2-VL's tokenizer
TEXT = {"vanilla": 62, "think": 88, "observe": 100}
SHORT = 6  # tokens of a bare answer with the token that ends it
ROOM_QUESTIONS = 16  # of the benchmark, a procedural room


@dataclass(frozen=True)
class Workload:
    """One GRPO run and one evaluation."""

    profile: Profile
    mode: str
    grid: tuple[int, int, int]  # time, height, width of a video's patches
    video: int  # its tokens
    prompt: int  # tokens of a training prompt
    completion: int  # tokens expected
    train_scenes: int  # videos
    bench: int  # questions

    def passes(self, length: int, budget: int) -> list[tuple[int, ...]]:
        """The forward passes of a step whose completions all have `length` tokens, as the trainer plans them: how many
        completions of each group."""
        profile = self.profile
        groups = [[length] * profile.num_generations] * profile.questions_per_step
        found = passes([self.prompt] * len(groups), groups, budget)
        return [tuple(len(members) for _, members in one) for one in found]


def workload(profile: Profile, mode: str) -> Workload:
    """What a profile trained and evaluated in `mode` has to do."""
    rooms = profile.data == "rooms"
    height, width = (STUDY.height, STUDY.width) if rooms else CAMERA
    tall, wide = (side // video.PATCH for side in video.smart_resize(height, width, profile.max_pixels))
    grid = (math.ceil(profile.frames / video.PAIR), tall, wide)
    count, longest = math.prod(grid) // prompts.TOKEN_PATCHES, profile.max_completion_length
    text, folder = TEXT[mode], TINY_FOLDER if profile.base == "tiny" else Path(profile.base)
    if folder.is_dir():  # its tokenizer is at hand: count
        question = Question("", "", "", "object_counting", "How many chair(s) are in this room?", None, "")
        chat = prompts.messages(question, mode, "train", video=False)
        # and the video's two brackets
        text = 2 + len(prompts.render(load_tokenizer(folder), chat, None))
    return Workload(
        profile=profile,
        mode=mode,
        grid=grid,
        video=count,
        prompt=count + text,
        completion=min(longest, SHORT) if mode == "vanilla" else max(1, longest // 2),
        train_scenes=min(profile.train_rooms, profile.max_steps * profile.questions_per_step),
        bench=profile.bench_rooms * ROOM_QUESTIONS if rooms else sum(COUNTS.values()),
    )
