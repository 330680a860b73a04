"""Made-up finished runs, complete enough for every table, figure and claim: answers and training logs of a study."""

import json
import random
import re
from pathlib import Path

import numpy as np

from vsr.files import write_json
from vsr.paper import TASKS
from vsr.questions.question import NUMERICAL
from vsr.report import evaluations as methods
from vsr.scoring import summarise

LEVELS = ("easy", "medium", "hard")
WORDS = {"easy": ("left", "right"), "medium": ("left", "right", "back"), "hard": ("front", "back", "left", "right")}


def kinds_of(task: str) -> list[str]:
    """The question types of a task."""
    return [f"{task}_{level}" for level in LEVELS] if task == "object_rel_direction" else [task]


def about_of(name: str, base: str = "tiny") -> dict:
    """What a manifest says of a run of that name; the package itself never asks a name."""
    name, own = name.removesuffix("-train-prompt"), name.endswith("-train-prompt")
    kind = r"(?:eval-)?(base|constant|sft|dpo|grpo)(?:-(compute|vanilla|think|observe))?(?:-seed(\d+))?"
    parts = re.fullmatch(kind + r"(?:-(beta)[\d.e-]+)?(?:-(\w+)-(\w+))?", name)
    method, trained, seed, ablated, mode, video = parts.groups()
    if method == "base":
        prompts = "train" if own else "evaluate"
        about = {"method": "base", "mode": trained or mode, "video": name.rsplit("-", 1)[1], "prompts": prompts}
        return about | {"model": {"base": base}}
    about = {"method": method, "budget": 9 if trained == "compute" else None, "ablated": ablated}
    trained = trained if method == "grpo" else "vanilla"
    if not name.startswith("eval-"):
        return about | {"mode": trained}
    return about | {"trained_mode": trained, "train_seed": int(seed or 0), "mode": mode, "video": video}


def write_manifest(folder: Path, stage: str, **facts: object) -> None:
    """As a finished run's."""
    about = (
        facts.pop("about")
        if "about" in facts
        else about_of(folder.name, "Qwen" if folder.parent.name.startswith("paper") else "tiny")
    )
    whole = {"id": f"{folder.name}-0123abcd", "identity": "0123abcd", "settings": {}, "finished": True}
    write_json(folder / "manifest.json", whole | {"stage": stage, "about": about} | facts)


def write_run(
    results: Path, name: str, skill: float, tasks: tuple[str, ...] = tuple(TASKS), scenes: int = 8, pruned: bool = False
) -> None:
    """A run folder whose answers are right with probability `skill`, on questions that are the same for every run."""
    rng, asked, samples = random.Random(name), random.Random(0), []
    for scene in range(scenes):
        for task in TASKS:
            for kind in kinds_of(task):
                truth = str(asked.randint(2, 9)) if task in NUMERICAL else asked.choice("AB")
                words = WORDS.get(kind.rsplit("_", 1)[-1], (f"a{scene}", f"b{scene}"))
                options = None if task in NUMERICAL else [f"{x}. {w}" for x, w in zip("ABCD", words, strict=False)]
                wrong = str(rng.randint(2, 12)) if task in NUMERICAL else rng.choice(["A", "B", "none"])
                right, drop = rng.random() < skill, asked.random() < 0.5
                if task not in tasks:
                    continue
                sample = {
                    "id": f"{scene}-{kind}", "scene_name": f"room{scene}", "question_type": kind, "options": options,
                    "ground_truth": truth, "response": truth if right else wrong, "video": "true", "mode": "vanilla",
                }  # fmt: skip
                samples.append(sample | ({"pruned": drop} if pruned else {}))
    (results / name).mkdir(parents=True)
    (results / name / "samples.jsonl").write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    write_manifest(results / name, "constant" if name == "eval-constant" else "answer")
    write_json(results / name / "summary.json", {**summarise(samples, resamples=200), "run": f"{name}-0123abcd"})


def write_training(
    results: Path,
    name: str,
    mode: str,
    beta: float,
    seed: int,
    steps: int = 60,
    end: float = 1.0,
    shells: float = 0.0,
    kl: float = 4.0,
) -> None:
    """A GRPO run whose format reward rises early and then moves to `end`; a share `shells` of its rollouts are empty
    and repeat their tags; the KL term's gradient is about `beta * exp(kl)`."""
    rng = np.random.default_rng([seed, steps, len(name)])
    at = np.arange(1, steps + 1) / steps
    form = np.clip(1 - 0.9 * np.exp(-12 * at), 0, 1)
    form = np.clip(np.where(at > 0.4, form + (end - 1) * (at - 0.4) / 0.6, form) + rng.normal(0, 0.03, steps), 0, 1)
    accuracy = np.clip(0.2 + 0.35 * at**0.7 + rng.normal(0, 0.04, steps), 0, 1)
    rows = []
    for i in range(steps):
        row = {"step": i + 1, "loss": 0.0, "kl": 0.1 * at[i], "frac_reward_zero_std": 0.1 + 0.2 * at[i]}
        row |= {"rewards/accuracy_reward/mean": accuracy[i], "reward": accuracy[i]}
        if mode != "vanilla":
            row |= {"rewards/format_reward/mean": form[i], "reward": accuracy[i] + form[i]}
            tagged = rng.binomial(14, form[i], 8)
            groups = {"tagged": tagged, "tagged_accuracy": tagged * accuracy[i]}
            cheats = shells if at[i] > 0.3 else 0.0
            groups |= {"shells": rng.binomial(tagged, cheats), "repeats": rng.binomial(14, cheats, 8)}
            row["groups"] = {name: counts.tolist() for name, counts in groups.items()}
        if rng.random() < 0.7:
            row["rewards/accuracy_reward/object_counting"] = float(np.clip(accuracy[i] + rng.normal(0, 0.2), 0, 1))
        row |= {"grad_norm/policy": float(rng.lognormal(0, 0.3))}
        if beta:
            live = float(beta * rng.lognormal(kl, 0.3))
            row |= {"grad_norm/kl_live": live, "grad_norm/kl_flat": live * float(rng.random() < 0.8) * 0.3}
        rows.append(row)
    folder = results / name
    folder.mkdir(parents=True)
    (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    completions = [
        {"step": step, "id": "q", "completion": f"<{mode}> </{mode}> <answer>2</answer>" if rng.random() < shells
         else f"<{mode}>two chairs</{mode}> <answer>2</answer>"}
        for step in range(1, steps + 1) for _ in range(4)
    ]  # fmt: skip
    (folder / "completions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in completions))
    write_manifest(folder, "grpo", seed=seed, settings={"beta": beta}, adapter="ab")


def write_grid(folder: Path, seed: int, ends: tuple[float, ...] = (0.4, 1.0, 1.0), kl: float = 8.0) -> None:
    """Claim 5's runs at one rate and seed; `ends` are the format rewards at the end, by beta."""
    for beta, end in zip((0.0, 1e-4, 0.01), ends, strict=True):
        name = f"grpo-think-seed{seed}" + (f"-beta{beta:g}" if beta != 1e-4 else "")
        write_training(folder, name, "think", beta, seed, end=end, kl=kl)


SKILLS = {
    methods.BASE: 0.3, methods.SFT: 0.45, methods.DPO: 0.33, methods.SFT_COMPUTE: 0.5, methods.DPO_COMPUTE: 0.34,
    methods.GRPO_T_PLAIN: 0.36, methods.GRPO_O_PLAIN: 0.38, methods.GRPO_T: 0.45, methods.GRPO_O: 0.47,
    methods.GRPO_V: 0.7,
}  # fmt: skip
BLIND = {"one": 0.6, "shuffled": 0.3, "none": 0.2}  # of the skill beyond guessing


def name_of(method: methods.Method, seed: int, video: str = "true") -> str:
    """The folder of a method's evaluation."""
    compute = "compute-" * method.compute
    trained = {"base": "base", "grpo": f"grpo-{method.trained}-seed{seed}"}.get(
        method.method, f"{method.method}-{compute}seed{seed}"
    )
    return f"eval-{trained}-{method.mode}-{video}" + "-train-prompt" * bool(method.prompts)


def write_study(results: Path, seeds: int = 3, scenes: int = 8) -> Path:
    """A whole study under `results`: every evaluation that a table asks for, and all trainings."""
    write_run(results, "eval-constant", 0.3, scenes=scenes)
    for mode, skill in (("think", 0.2), ("observe", 0.4)):
        write_run(results, f"eval-base-{mode}-true", skill, scenes=scenes)
    for method in methods.OWN_BASE.values():
        write_run(results, name_of(method, 0), 0.3, scenes=scenes)
    for method, skill in SKILLS.items():
        for seed in range(seeds) if method.trained else (0,):
            write_run(results, name_of(method, seed), skill, scenes=scenes)
            for video, share in BLIND.items() if method in methods.SEEING else ():
                write_run(results, name_of(method, seed, video), share * skill, scenes=scenes)
    for seed in range(seeds):
        write_training(results, f"grpo-vanilla-seed{seed}", "vanilla", 1e-4, seed)
        write_training(results, f"grpo-think-seed{seed}", "think", 1e-4, seed)
        write_training(results, f"grpo-observe-seed{seed}", "observe", 1e-4, seed, shells=0.1)
        write_training(results / "length", f"grpo-observe-seed{seed}", "observe", 1e-4, seed, shells=0.1)
        for rate in ("rate-3", "rate-10"):
            write_grid(results / rate, seed)
    return results
