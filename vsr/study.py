"""What notebooks and commands call: where a profile's data, runs and figures are, and how to make what is missing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from IPython.display import Image, Markdown
from matplotlib.figure import Figure

from vsr import estimate, markdown, profiles, runs
from vsr.engine.inputs import one_thread
from vsr.errors import VsrError
from vsr.files import hash_files, read_json, write_json
from vsr.models import cards
from vsr.plan import Planned
from vsr.profiles import VIDEOS, Profile
from vsr.progress import Counted, duration
from vsr.questions import agree, build, dataset
from vsr.questions.dataset import QuestionSet
from vsr.questions.question import read_questions
from vsr.report import figures_folder, plotting, show
from vsr.report.plotting import Curves
from vsr.scenes import metainfo
from vsr.scoring import Sampled, best_constant
from vsr.scoring.intervals import Value
from vsr.workers.pool import Job, run_all

if TYPE_CHECKING:
    from vsr.train.one_group import OneGroup

AGREE = runs.Stage("agree", 1, ())
PROBE_ROOMS = 24
RATES, RATE_SEED = (1 / 3, 1.0, 3.0), 100
ASKED = ("model", "mode", "video", "stage")  # of an evaluation
SHARED = runs.ROOT.parent / "shared" / "data"  # real scenes and questions, where a checkout has them beside it


@dataclass(frozen=True)
class Study:
    """One profile and its folders: `results` for runs, tables and executed notebooks, `figures`, `data` for rooms."""

    profile: Profile
    results: Path
    planned: list[Planned] | None = field(default=None, compare=False)  # where it is a list, nothing runs

    @property
    def figures(self) -> Path:
        """figures/<profile>, beside results/<profile>."""
        return figures_folder(self.results)

    @property
    def data(self) -> Path:
        """Rooms and cached features: made again when missing, never committed."""
        return runs.data_folder()

    @cached_property
    def bench(self) -> QuestionSet:
        """The questions and videos that models are scored on: held-out rooms under VSI-Bench's rules."""
        return self._rooms("bench", self.profile.bench_rooms, "vsibench")

    @cached_property
    def train(self) -> QuestionSet:
        """The training questions: other rooms under VSI-100k's rules (paper, section 3.1)."""
        return self._rooms("train", self.profile.train_rooms, self.profile.train_rules)

    @cached_property
    def probe(self) -> QuestionSet | None:
        """Questions as `bench`'s, for looks at a model in training; of real data some that it is trained on."""
        if not self.profile.probe_every:
            return None
        return self._rooms("probe", PROBE_ROOMS, "vsibench") if self.profile.data == "rooms" else self.train

    def fresh(self, number: int) -> QuestionSet:
        """Questions as `bench`'s about rooms that nothing else in the study uses."""
        return self._rooms("fresh", number, "vsibench")

    def _rooms(self, split: str, number: int, rules: str) -> QuestionSet:
        if self.profile.data != "rooms":
            folder = Path(self.profile.data) / split
            return (dataset.open_bench if split == "bench" and folder.is_dir() else dataset.load)(folder)
        folder, how = self.data / f"{split}-{number}-{rules}", self.profile
        held_out = how.route_questions, how.order_questions
        build.build_rooms(folder, split, number, rules, seed=how.seed, held_out=held_out)
        return dataset.load(folder)

    def figure(self, figure: Figure, name: str) -> Image:
        """Write a figure as figures/<profile>/<name>.svg and .png, and show it."""
        plotting.savefig(figure, self.figures / name)
        return plotting.image(figure)

    def estimate(self, mode: str = "vanilla") -> Markdown:
        """What a GRPO run of this profile and its evaluation need here, before they run."""
        with one_thread():
            found = estimate.estimate(self.profile, mode=mode)
            needs = f"a run needs {estimate.gib(found.needed)} and {duration(found.seconds)}"
            return Markdown(markdown.folded(f"Estimated: {needs}", show.from_markdown(found.table()).data))

    def evaluate(
        self, mode: str = "vanilla", video: str = "true", model: str = "base", stage: str | None = None
    ) -> dict:
        """The summary of 'base' or a trained run's folder: evaluated now, or read if finished; `stage`: the prompts."""
        from vsr import shards

        run = shards.evaluate(model, self.bench, mode, video, self.profile, self.results, _devices(), stage=stage)
        cards.refresh(model)
        return read_json(run.path / "summary.json")

    def evaluate_all(self, wanted: Sequence[tuple[str, ...]]) -> list[dict]:
        """The summaries of several (model, mode, video), or these and the stage of the prompts: side by side, or each
        on all GPUs."""
        from vsr import evaluate

        if self.planned is not None:
            for model, mode, video, *stage in wanted:
                name = f"eval-{Path(model).name}-{mode}-{video}" + "-train-prompt" * bool(stage)
                self.planned.append(Planned(self.profile, self.results / name, "evaluate", mode))
            return []
        self.bench  # noqa: B018  rooms are made once, not by each process
        common = {"bench": self.bench, "profile": self.profile, "out": self.results}
        todo = [Job(" ".join(one), evaluate.evaluate, dict(zip(ASKED, one, strict=False)) | common) for one in wanted]
        if _devices() == 1:
            run_all(todo, Counted("evaluations", len(todo)))
        return [self.evaluate(**dict(zip(ASKED, one, strict=False))) for one in wanted]

    def one_group(self, mode: str = "vanilla", kind: str = "") -> "OneGroup":
        """One real group of rollouts to a training question (of type `kind`), and one update on it."""
        from vsr.train.one_group import one_group

        return one_group(self.profile, self.train, mode, kind)

    def sampled(self, model: str | Path = "base", mode: str = "vanilla") -> Sampled:
        """The base or a trained run, asked again and again about rooms that it was not trained on."""
        from vsr import models
        from vsr.train import probe

        loaded = models.load(**models.arguments(str(model), self.profile))
        return probe.ask(loaded, self.probe or self.bench, self.profile, mode)

    def variant(self, name: str, **changes: object) -> "Study":
        """The same study with other settings, its runs in the folder `name` of this one's."""
        return replace(self, profile=replace(self.profile, **changes), results=self.results / name)

    def grid(self) -> list["Study"]:
        """Claim 5's studies, one a learning rate of the profile's grid, each to be trained at all its coefficients."""
        how = self.profile
        changes = {"max_steps": how.grid_steps, "questions_per_step": how.grid_questions, "seeds": how.grid_seeds}
        changes |= {"split_every": 1, "probe_every": 0}
        return [
            self.variant(f"rate-{factor:g}", learning_rate=factor * how.learning_rate, **changes)
            for factor in profiles.numbers("grid_rates", how.grid_rates)
        ]

    def rates(self, rooms: int = 120) -> list[tuple[str, float, Value]]:
        """Where the methods' learning rates come from: each trained once at a third, once and three times the
        profile's, with a seed that the study does not use, and its trained six on rooms that it does not use: method,
        rate, score. The rule: the highest score, of equal ones the lower rate; vsGRPO-T and -O take vsGRPO-V's."""
        from vsr import evaluate, train

        fresh, data, found = self.fresh(rooms), self.train, []
        names = {"grpo": "learning_rate", "sft": "sft_learning_rate", "dpo": "dpo_learning_rate"}
        for factor in RATES:
            scaled = {name: factor * getattr(self.profile, name) for name in names.values()}
            one = self.variant(f"rates/x{factor:.2g}", probe_every=0, **scaled)
            common = {"profile": one.profile, "out": one.results}
            made = {method: one.results / train.run_name(one.profile, method, RATE_SEED) for method in names}
            how = {"data": data, "seed": RATE_SEED} | common
            run_all([Job(f"{m} x{factor:.2g}", train.train, {"method": m} | how) for m in names])
            how = {"bench": fresh, "mode": "vanilla", "video": "true"} | common
            run_all([Job(f"{m} x{factor:.2g}", evaluate.evaluate, {"model": str(made[m])} | how) for m in names])
            for method, name in names.items():
                told = one.results / f"eval-{made[method].name}-vanilla-true" / "summary.json"
                found.append((method, scaled[name], Value.read(read_json(told), "trained")))
        return sorted(found, key=lambda row: (list(names).index(row[0]), row[1]))

    def longer(self) -> "Study":
        """Claim 9's study, without a run where the profile leaves it out: the length reward is trained with."""
        seeds = self.profile.grid_seeds * ("length" in self.profile.extra_runs)
        side = {"max_steps": self.profile.grid_steps, "seeds": seeds, "probe_every": 0}
        return self.variant("length", length_weight=1.0, **side)

    def grpo(self, modes: Sequence[str], betas: Sequence[float | None] = (None,), live: bool = True) -> list[Path]:
        """vsGRPO under each mode and KL coefficient (None: the profile's) for every seed; the run folders."""
        # the profile's own, given as a number too, is one run: two workers would ask for one folder
        others = dict.fromkeys(None if beta == self.profile.beta else beta for beta in betas)
        every = product(modes, others, range(self.profile.seeds))
        wanted = [{"method": "grpo", "mode": mode, "seed": seed, "beta": beta} for mode, beta, seed in every]
        return self._train(wanted, Curves if live else None)

    def tests(self, runs: Sequence[Path]) -> list[tuple[str, ...]]:
        """What trained models are asked, with the base: each under the prompt of its training and under the plain one,
        vsGRPO-V also on another room's video, and the first seed of every method on every kind of video."""
        own = {run: run.name.split("-")[1] if run.name.startswith("grpo") else "vanilla" for run in runs}
        found = [("base", "vanilla", "true"), ("base", "vanilla", "shuffled")]
        for run, mode in own.items():
            found += [(str(run), mode, "true"), (str(run), "vanilla", "true")]
            if run.name.endswith("seed0") and "compute" not in run.name:
                found += [(str(run), mode, video) for video in VIDEOS]
            if run.name.startswith("grpo-vanilla"):
                found.append((str(run), mode, "shuffled"))
        return list(dict.fromkeys(found))

    def _train(self, wanted: Sequence[dict], curves: Callable[..., Curves] | None) -> list[Path]:
        """The run folders of trainings, side by side: on shares of the devices that are offered, or on cores."""
        from vsr import train
        from vsr.train import launch

        folders = [self.results / train.run_name(self.profile, **one) for one in wanted]
        if self.planned is not None:
            made = zip(folders, wanted, strict=True)
            how = [(folder, one["method"], one.get("mode", "vanilla"), bool(one.get("budget"))) for folder, one in made]
            self.planned.extend(Planned(self.profile, *one) for one in how)
            return folders
        shown = curves and curves(folders, self.profile.max_steps)
        probe = self.probe if any(one["method"] == "grpo" for one in wanted) else None
        where = {"profile": self.profile, "data": self.train, "out": self.results, "probe": probe}
        if launch.offered() == 1:
            run_all(
                [Job(folder.name, train.train, one | where) for folder, one in zip(folders, wanted, strict=True)], shown
            )
            return folders
        where |= {"data": str(self.train.folder), "out": str(self.results), "probe": probe and str(probe.folder)}
        return launch.train_all([launch.Training(**one, **where) for one in wanted], launch.offered(), show=shown)

    def baselines(self, budget_of: Sequence[Path] = (), live: bool = True) -> list[Path]:
        """SFT and DPO for every seed, or with as many token passes as each of the GRPO runs `budget_of` took, unless
        the profile leaves those out; the run folders."""
        from vsr.train import token_passes

        if budget_of and "compute" not in self.profile.extra_runs:
            return []
        passes = [1 if self.planned is not None else token_passes(run) for run in budget_of]
        every = product(("sft", "dpo"), range(len(budget_of) or self.profile.seeds))
        wanted = [{"method": method, "seed": s, "budget": passes[s] if passes else None} for method, s in every]
        return self._train(wanted, partial(Curves, column="loss") if live else None)


def _devices() -> int:
    """For one evaluation: the GPUs that `vsr run --gpus` offers; on a CPU one, where evaluations run side by side."""
    import torch

    from vsr.train import launch

    return launch.offered() if torch.cuda.is_available() else 1


def base_card() -> dict:
    """How the shipped base model was made, from its manifest."""
    return read_json(runs.PACKAGE / "miniature" / "base" / "manifest.json")


def setup(profile: str = "tiny", settings: dict | None = None, results: str | Path = "") -> Study:
    """The study of a profile, some of its values changed by `settings`, with its runs in `results`."""
    chosen = profiles.get(profile, **(settings or {}))
    return Study(chosen, Path(results or runs.ROOT / "results" / profile).resolve())


def shared_file(name: str) -> Path:
    """A file of VSI-Bench's public data, which is no part of this repository; VsrError says where to put it."""
    path = SHARED / name
    if not path.is_file():
        raise VsrError(f"{name}: not found in ../shared/data; get it from VSI-Bench's repository or pass its path")
    return path


def ceilings(bench: QuestionSet) -> dict[str, tuple[dict, dict]]:
    """Of the bench, and of VSI-Bench's questions where they are at hand: our answers under the paper's rules, which a
    perfect learner of VSI-100k would give, and the best constant answers."""
    sets = {"ours": (list(bench.scenes.values()), list(bench.questions))} if bench.scenes else {}
    if SHARED.is_dir():
        files = shared_file("scannet_meta_info_val.json"), shared_file("vsibench_scannet.jsonl")
        sets["VSI-Bench, ScanNet"] = (metainfo.read_scenes(files[0]), read_questions(files[1]))
    return {name: (agree.agree(*both, rules="vsi100k"), best_constant(both[1])) for name, both in sets.items()}


def agreement(scenes: Path, questions: Path, results: Path, rules: str = "vsibench") -> runs.Run:
    """Our ground truth for given questions against theirs, as the run `agree-<questions file>` with agreement.json."""
    inputs = {"scenes": hash_files(scenes), "questions": hash_files(questions)}
    about = {"scenes": scenes.name, "questions": questions.name, "rules": rules}
    run = runs.Run.open(results, f"agree-{questions.stem}", AGREE, None, about=about, inputs=inputs, seed=0)
    if not run.finished:
        result = agree.agree(metainfo.read_scenes(scenes), read_questions(questions), rules)
        write_json(run.path / "agreement.json", result)
        run.finish()
    return run
