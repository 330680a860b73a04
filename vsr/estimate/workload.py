"""How much a profile's runs compute: tokens, passes, videos, questions; counted by code and data, else assumed."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vsr import families, prompts
from vsr.engine.inputs import passes
from vsr.miniature.procedural import STUDY
from vsr.models.folders import TINY_FOLDER, configuration, load_tokenizer
from vsr.profiles import Profile
from vsr.questions.build import PER_ROOM
from vsr.questions.dataset import COUNTS
from vsr.questions.held_out import ORDER, ROUTE
from vsr.questions.question import Question
from vsr.report import training_logs
from vsr.runs import ROOT
from vsr.scoring.intervals import detectable, task_of

CAMERA = (480, 640)  # height, width of ScanNet's and ARKitScenes' exported videos
# mean tokens around VSI-100k's questions, Qwen2-VL's tokenizer
TEXT = {"vanilla": 62, "think": 88, "observe": 100}
STAMP = 9  # tokens that say when two frames are shown, with their brackets
SHORT = 6  # tokens of a bare answer with the token that ends it
PER_QUESTION = 0.5  # standard deviation of two models' difference on a question, of 1
ALIKE = 0.05  # correlation of that difference between questions of a task in a scene


@dataclass(frozen=True)
class Workload:
    """One GRPO run and one evaluation."""

    profile: Profile
    mode: str
    grid: tuple[int, int, int]  # time, height, width of a video's patches
    video: int  # its tokens
    prompt: int  # tokens of a training prompt
    completion: int  # tokens expected
    source: str  # where that is from
    train_scenes: int  # videos
    bench: Mapping[str, int]  # questions of each type

    def passes(self, length: int, budget: int) -> list[tuple[int, ...]]:
        """The forward passes of a step whose completions all have `length` tokens, as the trainer plans them: how many
        completions of each group."""
        profile = self.profile
        groups = [[length] * profile.num_generations] * profile.questions_per_step
        found = passes([self.prompt] * len(groups), groups, budget)
        return [tuple(len(members) for _, members in one) for one in found]

    @property
    def effect(self) -> float:
        """Points of the overall score that are seen with 80 % power, questions spread evenly over scenes (those about
        one are alike: the design effect of a cluster sample)."""
        asked: Counter = Counter()
        for kind, number in self.bench.items():
            asked[task_of(kind)] += number
        variances = [(1 + max(0, n / self.profile.bench_rooms - 1) * ALIKE) / n for n in asked.values()]
        return 100 * detectable(PER_QUESTION * math.sqrt(sum(variances)) / len(variances))


def workload(profile: Profile, mode: str) -> Workload:
    """What a profile trained and evaluated in `mode` has to do."""
    rooms = profile.data == "rooms"
    height, width = (STUDY.height, STUDY.width) if rooms else CAMERA
    family = families.of(configuration(profile.base))
    tall, wide = (side // family.patch for side in family.size(profile.frames, height, width, profile.max_pixels))
    grid = (math.ceil(profile.frames / families.PAIR), tall, wide)
    count = math.prod(grid) // prompts.TOKEN_PATCHES
    text, folder = TEXT[mode], TINY_FOLDER if profile.base == "tiny" else Path(profile.base)
    if folder.is_dir():  # its tokenizer is at hand: count
        question = Question("", "", "", "object_counting", "How many chair(s) are in this room?", None, "")
        chat = prompts.messages(question, mode, "train", video=False)
        # and the video's two brackets
        text = 2 + len(prompts.render(load_tokenizer(folder), chat, None))
    text += grid[0] * STAMP if family.times == "text" else 0
    mean, source = expected(profile, mode)
    held_out = {ROUTE: profile.route_questions, ORDER: profile.order_questions}
    per_room = {**PER_ROOM, "room_size_estimation": 1, **held_out}
    return Workload(
        profile=profile,
        mode=mode,
        grid=grid,
        video=count,
        prompt=count + text,
        completion=mean,
        source=source,
        train_scenes=min(profile.train_rooms, profile.max_steps * profile.questions_per_step),
        bench={kind: profile.bench_rooms * number for kind, number in per_room.items()} if rooms else COUNTS,
    )


def expected(profile: Profile, mode: str) -> tuple[int, str]:
    """Mean tokens of a completion while this profile trains in `mode`, and how that is known: from its runs, here or
    published, else assumed."""
    longest = profile.max_completion_length
    for results in (ROOT / "results" / profile.name, ROOT / "results" / "published" / profile.name):
        runs = training_logs.find(results) if results.is_dir() else []
        lengths = [run.curve("completions/mean_length").mean() for run in runs if run.mode == mode]
        if lengths and np.isfinite(lengths).all():
            known = f"mean of {len(lengths)} runs in {results.relative_to(ROOT).as_posix()}"
            return min(longest, max(1, round(float(np.mean(lengths))))), known
    return (min(longest, SHORT) if mode == "vanilla" else max(1, longest // 2)), "assumed"
