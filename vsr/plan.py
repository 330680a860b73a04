"""What the notebooks will run and what that takes, before they do."""

import functools
import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vsr import runs
from vsr.files import read_json
from vsr.profiles import Profile
from vsr.progress import duration

if TYPE_CHECKING:
    from vsr.estimate.devices import Device
    from vsr.study import Study


@dataclass(frozen=True)
class Planned:
    """A run that a study would make: `method` grpo, sft, dpo or evaluate, `mode` its prompt; `compute` is a training
    at GRPO's compute."""

    profile: Profile
    folder: Path
    method: str
    mode: str = "vanilla"
    compute: bool = False


def planned(study: "Study") -> dict[str, list[Planned]]:
    """The runs that each of the profile's notebooks makes beyond those of the notebooks before it."""
    from vsr import paper, profiles, variants

    def side(here: "Study", made: dict[str, "Study"]) -> None:
        for one in made.values():
            own = one.results.parent.name == variants.FOLDER or variants.base_folder(here, one) == one.results
            asked = [*map(str, one.grpo([variants.MODE])), *(["base"] if own else [])]
            one.evaluate_all([(model, variants.MODE, "true") for model in asked])

    def fourth(here: "Study") -> None:
        for one in here.grid():
            one.grpo(["think"], betas=profiles.numbers("grid_betas", here.profile.grid_betas))
        here.longer().grpo(["observe"])

    def fifth(here: "Study") -> None:
        data, grpo = here.baselines(), here.grpo(["vanilla"])
        here.evaluate_all(here.tests([*data, *here.baselines(budget_of=grpo[: here.profile.grid_seeds])]))

    few = {"max_steps": min(20, study.profile.max_steps), "bench_rooms": min(24, study.profile.bench_rooms), "seeds": 1}
    plain = [("base", mode, "true") for mode in paper.MODES] + [("base", "vanilla", video) for video in profiles.VIDEOS]
    own = [("base", mode, "true", "train") for mode in paper.MODES]
    steps = {
        "01": lambda here: here.evaluate_all(plain),
        "03": lambda here: here.evaluate_all(here.tests(here.grpo(paper.MODES)) + own),
        "04": fourth,
        "05": fifth,
        "07": lambda here: side(here, variants.studies(here, ("none", "nf4", "fp4", "int8"), **few)),
        "08": lambda here: side(here, variants.beyond(here)),
    }
    found, seen, books = {}, set(), study.profile.notebooks
    wanted = {word.strip().zfill(2)[:2] for word in books.split(",")} if books else steps
    for number, make in ((n, make) for n, make in steps.items() if n in wanted):
        here = replace(study, planned=[])
        make(here)
        found[number] = list({one.folder: one for one in here.planned if one.folder not in seen}.values())
        seen.update(one.folder for one in found[number])
    return found


def plan(study: "Study", device: "Device | None" = None, gpus: int = 1) -> str:
    """Markdown: each notebook's runs, how many are done, the hours that the others take, and the sum; memory and the
    smallest effect. On this machine, or on `gpus` devices like `device`. Nothing is run."""
    from vsr import estimate, markdown
    from vsr.estimate.workload import SHORT
    from vsr.train import launch

    first = estimate.estimate(study.profile, device, "think")
    devices = gpus if first.device.asynchronous else os.cpu_count() or 1

    @functools.cache
    def needs(profile: Profile, mode: str) -> estimate.Estimate:
        return estimate.estimate(profile, first.device, mode)

    @functools.cache
    def seconds(profile: Profile, method: str, mode: str, compute: bool, shared: int) -> tuple[float, float]:
        """Least and most: a batch of thoughts goes on for the mean or for the longest completion. A training's step has
        its questions shared by some devices, an evaluation its scenes by all."""
        if method == "evaluate":
            return (needs(profile, mode).evaluation / devices,) * 2
        profile = replace(profile, questions_per_step=math.ceil(profile.questions_per_step / shared))
        if method == "grpo" or compute:
            longest = needs(profile, mode).work.completion if mode == "vanilla" else profile.max_completion_length
            return needs(profile, mode).seconds, needs(profile, mode).training(longest)
        # one bare answer a question; DPO has two, and scores them under the reference too
        answers = 2 if method == "dpo" else 1
        step = needs(replace(profile, num_generations=answers, max_completion_length=SHORT), "vanilla").step
        return (profile.max_steps * (step["update"] + (answers - 1) * step["scoring"]),) * 2

    rows, total, needed = [], np.zeros(5), first.needed
    for number, made in planned(study).items():
        left = [one for one in made if not _finished(one.folder)]
        trained = [one for one in left if one.method != "evaluate"]
        beside, shared = launch.shares(study.profile.questions_per_step, len(trained), devices)
        shared = shared if first.device.asynchronous else 1
        times = [(one, seconds(one.profile, one.method, one.mode, one.compute, shared)) for one in left]
        took, ends = np.zeros(2), np.zeros((beside, 2))
        for one, time_ in times:
            if one.method == "evaluate":
                took += time_
            else:
                ends[ends[:, 0].argmin()] += time_
        took += ends.max(0)
        asked = sum(one.method == "evaluate" for one in made)
        numbers = np.array([len(made) - asked, asked, len(made) - len(left), *took])
        rows.append((number, *_told(numbers)))
        total += numbers
        needed = max([needed, *(needs(one.profile, one.mode).needed for one in left if one.method == "grpo")])
    rows.append(("all", *_told(total)))
    where = f"{devices} x {first.device.name}, rates {first.device.source}"
    memory = f"{estimate.gib(needed)} of {estimate.gib(first.device.memory)} at the worst moment"
    effect = f"two models on the same questions are told apart from {first.work.effect:.1f} points on"
    disk = estimate.gib(sum(first.disk.values()) + first.disk["checkpoints and adapter"] / 7 * total[0])
    head = ("notebook", "trainings", "evaluations", "done", "left, at least", "at most")
    return f"{markdown.table(head, rows)}\n{where}; {memory}; {disk} of disk; {effect}.\n"


def ahead(study: "Study", gpus: int) -> str:
    """The first words of every run: the whole plan where it is dear, else how many runs there are."""
    if study.profile.base != "tiny":
        return plan(study, gpus=gpus)
    made = [one for part in planned(study).values() for one in part]
    ended = sum(_finished(one.folder) for one in made)
    name, runs_ = study.profile.name, f"{len(made)} trainings and evaluations, {ended} done"
    return f"{name}: {runs_}; 'vsr run --plan' says what they take"


def _told(numbers: np.ndarray) -> list[str]:
    return [f"{number:.0f}" for number in numbers[:3]] + [duration(number) for number in numbers[3:]]


def _finished(folder: Path) -> bool:
    manifest = folder / runs.MANIFEST
    return manifest.is_file() and bool(read_json(manifest).get("finished"))
