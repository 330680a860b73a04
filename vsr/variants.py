"""vsGRPO-V with one thing changed: the base's quantisation, and what each saves (notebook 07); objective, rollouts,
rules, rooms and frames, and what each adds (notebook 08). Each variant has a folder of its own, in `<results>/qlora` or
`<results>/beyond`, which no table or figure of the main study reads."""

import gc
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from vsr import estimate, evaluate, models
from vsr import train as training
from vsr.errors import unknown
from vsr.files import read_json, write_json
from vsr.models.quantize import QUANTIZATIONS, held_bytes
from vsr.profiles import Profile
from vsr.progress import Counted, duration
from vsr.questions.dataset import QuestionSet
from vsr.report import plotting as p
from vsr.report import training_logs
from vsr.report.evaluations import BASE, GRPO_V, Evaluation, evaluation
from vsr.report.tables import NOT_RUN
from vsr.runs import Run, Stage
from vsr.scoring import intervals
from vsr.scoring.intervals import Effect, Value
from vsr.study import Study
from vsr.train import run_name
from vsr.workers.pool import Job, run_all

ESTIMATE = Stage("estimate", 1, ())
FOLDER, PLAN, MODE = "qlora", "plan", "vanilla"
AS_IT_IS = "the study's settings"
FULL = "none"  # the variant that is not quantised
PHASES = ("rollout", "scoring", "update")
MIB = 2**20
PLAN_HEAD = ("base", "weights", "loaded", "at most", "a step", "training", "fits")
HEAD = ("base", "MiB, estimated", "measured", "s a step, estimated", "measured", "score before", "after training")


def studies(study: Study, quantizations: Sequence[str], **changes: object) -> dict[str, Study]:
    """A study for each quantisation, with `changes` to the profile that all share; an empty one (0, "") is none."""
    for name in quantizations:
        if name not in QUANTIZATIONS:
            raise unknown("quantization", name, QUANTIZATIONS)
    changes = {key: value for key, value in changes.items() if value} | {"probe_every": 0}
    return {n: study.variant(f"{FOLDER}/{n}", quantization=n, **changes) for n in quantizations}


def beyond(study: Study) -> dict[str, Study]:
    """The studies of notebook 08, by what is changed; of given data rules and number of rooms cannot be."""
    how = study.profile
    changes = {
        AS_IT_IS: {},
        "Dr. GRPO: not divided by the deviation": {"scale_rewards": "none"},
        "DAPO: a mean over all tokens": {"loss_level": "token"},
        "equation 1 as printed: whole answers": {"loss_level": "sequence"},
        "4 rollouts": {"num_generations": 4},
        "8 rollouts": {"num_generations": 8},
        "trained under VSI-Bench's rules": {"train_rules": "vsibench"},
        "a quarter of the rooms": {"train_rooms": max(1, how.train_rooms // 4)},
        "half of the rooms": {"train_rooms": max(1, how.train_rooms // 2)},
        "half of the frames": {"frames": how.frames // 2},
        "two thirds of the pixels": {"max_pixels": how.max_pixels * 2 // 3},
    }
    common = {"max_steps": how.beyond_steps, "seeds": how.beyond_seeds, "probe_every": 0}
    return {
        name: study.variant(f"beyond/{'-'.join(map(str, sum(change.items(), ()))) or 'study'}", **common | change)
        for name, change in changes.items()
        if how.data == "rooms" or not change.keys() & {"train_rules", "train_rooms"}
    }


def look(study: Study) -> list[Path]:
    """Train and evaluate vsGRPO-V of every study of `beyond`, and the base where it reads another video; the run
    folders."""
    todo, folders, bench = [], [], study.bench
    study.evaluate()
    for name, one in beyond(study).items():
        how = {"study": one, "data": one.train, "bench": bench, "base": base_folder(study, one) == one.results}
        for seed in range(one.profile.seeds):
            todo.append(Job(f"{name}, seed {seed}", _look, how | {"seed": seed}))
            folders.append(one.results / run_name(one.profile, "grpo", seed, MODE))
    run_all(todo, Counted("variants", len(todo)))
    return folders


def base_folder(study: Study, one: Study) -> Path:
    """Where the evaluation of the base is that reads the videos as a variant does."""
    same = (one.profile.frames, one.profile.max_pixels) == (study.profile.frames, study.profile.max_pixels)
    return study.results if same else one.results


def _look(study: Study, data: QuestionSet, bench: QuestionSet, base: bool, seed: int) -> None:
    run = training.train("grpo", study.profile, data, study.results, seed, mode=MODE)
    for model in (str(run.path), *(["base"] if base and seed == 0 else [])):
        evaluate.evaluate(model, bench, MODE, "true", study.profile, study.results)


def gains(study: Study) -> dict[str, tuple[Effect, Effect, str]]:
    """By what is changed: points over the same base, and over what the study's own settings gain, trained six, each
    with its runs; nothing where those were not run."""
    found, plain = {}, None
    for name, one in beyond(study).items():
        ours, base = evaluation(one.results, GRPO_V), evaluation(base_folder(study, one), BASE)
        if ours and base and (plain or name == AS_IT_IS):
            added = ours.answers.above(base.answers)
            plain = plain or added
            effects = [intervals.compare(*pair, "trained") for pair in ((ours.answers, base.answers), (added, plain))]
            found[name] = (*effects, ", ".join(f"{one.results.name}/{run.manifest['id']}" for run in ours.runs))
    return found


def sentences(study: Study) -> list[tuple[str, str]]:
    """What is changed, and one sentence on what that does."""
    told = []
    for name, (own, other, _) in gains(study).items():
        does = "a gain" if own.low > 0 else "a loss" if own.high < 0 else "nothing that shows"
        less = "; more than" if other.low > 0 else "; less than" if other.high < 0 else "; no different from"
        than = "" if name == AS_IT_IS else f"{less} the study's settings ({other}, {other.detectable:.1f} would show)"
        told.append((name, f"{own} points, {does}{than}"))
    return told


@p.style()
def differences(study: Study) -> Figure:
    """A row a change: what training adds to the trained six, over the base that reads the same video."""
    found = gains(study)
    fig = Figure(figsize=(8.6, 1.6 + 0.36 * max(2, len(found))), layout="constrained")
    axes = fig.subplots()
    if found:
        series = [("", [own for own, *_ in found.values()], p.BLUE, "o")]
        p.interval_rows(axes, found, series, "points that training adds to its own base, trained six")
        axes.axvline(0, color="black", linestyle=":")
        apart = [name for name, (_, other, _) in found.items() if name != AS_IT_IS and other.low * other.high > 0]
        p.title(axes, f"Clearly unlike the study's settings: {', '.join(apart) or 'none'}", 74, x=-0.42)
    else:
        p.not_run(axes, "notebook 08")
    p.name_runs(fig, [ids for *_, ids in found.values()])
    return fig


def plan(variants: dict[str, Study]) -> dict[str, dict]:
    """What each variant is expected to need: the estimate.json of its run `plan`."""
    todo = [Job(n, expect, {"profile": v.profile, "out": v.results}) for n, v in variants.items()]
    run_all(todo, Counted("estimates", len(todo)))
    return {n: read_json(v.results / PLAN / "estimate.json") for n, v in variants.items()}


def plan_rows(plans: dict[str, dict]) -> list[tuple[str, ...]]:
    """PLAN_HEAD's columns: weights estimated and counted, memory at the worst moment, seconds, and what to change."""
    rows = []
    for name, found in plans.items():
        sizes = [estimate.gib(found[size]) for size in ("weights", "loaded", "peak")]
        times = f"{sum(found['step'].values()):.2f} s", duration(found["training"])
        rows.append((name, *sizes, *times, "yes" if found["fits"] else "; ".join(found["changes"])))
    return rows


def expect(profile: Profile, out: Path) -> Run:
    """The run `plan` of one variant; nothing is trained. Its estimate.json has `peak` and `weights` (bytes), `step` and
    `training` (seconds) as estimated, `loaded` (bytes) as measured, `fits`, and `changes` that would make it fit."""
    arguments = models.arguments("base", profile)
    about = {"mode": MODE, "model": models.describe(**arguments), "profile": asdict(profile)}
    run = Run.open(out, PLAN, ESTIMATE, None, about=about, inputs={}, seed=profile.seed)
    if run.finished:
        return run
    found, loaded = estimate.estimate(profile, mode=MODE), models.load(**arguments)
    plan = {"peak": found.peak, "weights": found.memory["weights"], "loaded": held_bytes(loaded.model)}
    plan |= {"step": found.step, "training": found.seconds, "rates": found.device.source}
    write_json(run.path / "estimate.json", plan | {"fits": found.fits, "changes": found.changes})
    run.finish(device=loaded.device_name)
    return run


def train(variants: dict[str, Study]) -> list[Path]:
    """vsGRPO-V of every variant and seed; the run folders. VsrError before any of them where a GPU is too small."""
    for variant in variants.values():
        estimate.require(variant.profile, MODE)
    todo, folders = [], []
    for name, one in variants.items():
        for seed in range(one.profile.seeds):
            # the data is made here, once, not by each process
            todo.append(Job(f"{name}, seed {seed}", train_alone, {"study": one, "data": one.train, "seed": seed}))
            folders.append(one.results / run_name(one.profile, "grpo", seed, MODE))
    steps = max(one.profile.max_steps for one in variants.values())
    run_all(todo, p.Curves(folders, steps, labels=[job.name for job in todo]))
    return folders


def train_alone(study: Study, data: QuestionSet, seed: int) -> None:
    """vsGRPO, its peak of GPU memory free of what ran before in this process."""
    forget()
    training.train("grpo", study.profile, data, study.results, seed, mode=MODE)


def forget() -> None:
    """Free what this process held before and count its peak of GPU memory anew."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def evaluate_all(variants: dict[str, Study], trained: Sequence[Path]) -> dict[str, dict]:
    """The summaries of every variant's base and of its trained models, all on the same questions."""
    found = {}
    for name, variant in variants.items():
        mine = [str(run) for run in trained if run.parent == variant.results]
        base, *others = variant.evaluate_all([(model, MODE, "true") for model in ("base", *mine)])
        found |= {f"{name}, base": base} | {f"{name}, trained": one for one in others}
    return found


@dataclass(frozen=True)
class Variant:
    """One quantisation; memory (MiB) and a step's seconds as estimated and as measured."""

    name: str
    device: str
    memory: tuple[float, float]
    step: tuple[float, float]
    base: Evaluation | None
    trained: Evaluation | None
    ids: tuple[str, ...]


def find(results: str | Path) -> list[Variant]:
    """The variants under `results` that have an estimate, full precision first, then by name."""
    found = []
    for path in sorted(Path(results).glob(f"{FOLDER}/*/{PLAN}/estimate.json")):
        folder, expected, mark = path.parent.parent, read_json(path), read_json(path.parent / "manifest.json")["id"]
        runs = [run for run in training_logs.find(folder) if run.mode == MODE]
        device = read_json(runs[0].path / "manifest.json")["device"] if runs else ""
        # on a GPU all that PyTorch held at the worst moment; on a CPU the process holds Python and its libraries too,
        # so there it is the weights alone
        memory = expected["weights"] / MIB, expected["loaded"] / MIB
        if device not in ("", "cpu"):
            memory = expected["peak"] / MIB, max(np.nanmax(run.curve("peak_memory_mb")) for run in runs)
        times = [sum(run.curve(f"seconds/{phase}") for phase in PHASES) for run in runs]
        step = sum(expected["step"].values()), float(np.median(np.concatenate(times))) if times else float("nan")
        shown = [evaluation(folder, method) for method in (BASE, GRPO_V)]
        ids = (mark, *(run.id for run in runs), *(one.id for one in shown if one))
        found.append(Variant(folder.name, device, memory, step, *shown, tuple(f"{folder.name}/{one}" for one in ids)))
    return sorted(found, key=lambda variant: (variant.name != FULL, variant.name))


def rows(results: str | Path) -> list[tuple[str, ...]]:
    """HEAD's columns, one row a variant: memory and seconds a step, score before and after training."""
    table = []
    for one in find(results):
        numbers = [f"{value:.1f}" for value in one.memory] + [f"{value:.2f}" for value in one.step]
        numbers += [f"{run and run.value('overall')}" for run in (one.base, one.trained)]
        table.append((one.name, *(NOT_RUN if number in ("nan", "None") else number for number in numbers)))
    return table


def loss(results: str | Path) -> dict[str, Effect]:
    """Each quantised variant's trained score minus full precision's, in points."""
    trained = {one.name: one.trained.answers for one in find(results) if one.trained}
    if FULL not in trained:
        return {}
    return {name: intervals.compare(ours, trained[FULL]) for name, ours in trained.items() if name != FULL}


@p.style()
def tradeoff(results: str | Path) -> Figure:
    """A row a variant: score before and after training, memory, seconds a step."""
    variants, lost = find(results), loss(results)
    fig = Figure(figsize=(10.4, 1.9 + 0.55 * max(2, len(variants))), layout="constrained")
    panels = fig.subplots(1, 3, sharey=True, width_ratios=(1.5, 1, 1))
    names = ["not quantised" if one.name == FULL else one.name for one in variants]
    scores = [[run and run.value("overall") for run in (one.base, one.trained)] for one in variants]
    numbers = [[[Value(part) for part in pair] for pair in (one.memory, one.step)] for one in variants]
    on_gpu = any(one.device not in ("", "cpu") for one in variants)
    size = "GPU memory at most, MiB" if on_gpu else "memory of the weights, MiB"
    looks = [("before", p.GREY, "o"), ("after training", p.BLUE, "^")]
    shown = [("average score, %", looks, scores)]
    looks = [("estimated", p.GREY, "o"), ("measured", p.ORANGE, "D")]
    shown += [(what, looks, [pairs[i] for pairs in numbers]) for i, what in enumerate((size, "seconds a step"))]
    for axes, (what, looks, pairs) in zip(panels, shown, strict=True):
        series = [(label, [pair[i] for pair in pairs], *look) for i, (label, *look) in enumerate(looks)]
        p.interval_rows(axes, names, series, what)
        p.legend(axes, labels=tuple(label for label, *_ in looks), x=-0.02)
        axes.set_xlim(left=None if axes is panels[0] else 0)
    text = "Quantised bases: quality, memory and speed"
    if lost:
        found = {one.name: one for one in variants}
        # the smallest variant, and of equally small ones the best
        least = min(lost, key=lambda name: (round(found[name].memory[1]), -lost[name].value))
        share, slower = (getattr(found[least], part)[1] / getattr(found[FULL], part)[1] for part in ("memory", "step"))
        costs = f"{slower:.1f} times the seconds a step, {lost[least]} points"
        text = f"{least} instead of full precision: {share:.0%} of the memory, {costs}"
    if not variants:
        p.not_run(panels[0], "QLoRA variants")
    p.suptitle(fig, text)
    p.name_runs(fig, [mark for one in variants for mark in one.ids])
    return fig
