"""The test that decides each of the paper's claims: pairs of evaluations on the same questions, or training logs.

What decides was declared before the runs (`vsr.report.declared`). Pairs get an interval from a bootstrap over scenes
and seeds; a claim's verdict is what its intervals leave open.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vsr import paper, profiles
from vsr.profiles import VIDEOS
from vsr.report import evaluations as e
from vsr.report import judgements_training as logs
from vsr.report.declared import (
    BOOTSTRAPS,
    CANNOT_TELL,
    LEAST,
    LEVEL_WITHIN,
    NO_CHANGE,
    NOTHING,
    Finding,
    Rule,
    Test,
    UndecidedError,
    above,
    judged,
    unchanged,
    worth,
)
from vsr.report.evaluations import BASE, GRPO_O, GRPO_T, GRPO_V, OWN_BASE, SFT, Evaluation, Method, evaluation
from vsr.report.tables import NOT_RUN
from vsr.scoring.answers import mean_relative_accuracy, read_number
from vsr.scoring.intervals import Answers, compare, effect
from vsr.scoring.rewards import TAGGED_MODES


@dataclass(frozen=True)
class Comparison:
    """Ours against theirs over all, the trained six or one task; `verdict` reads its interval, `least` says how large
    an effect is worth having. `bases` are taken off first: what training adds to each one's own base."""

    ours: Method
    theirs: Method
    over: str = "overall"
    verdict: Rule | None = worth
    video: str = "true"
    least: float = LEAST
    bases: tuple[Method, Method] | None = None

    @property
    def needs(self) -> tuple[Method, ...]:
        """What must have been evaluated."""
        return (self.ours, self.theirs, *(self.bases or ()))

    def finding(self, results: Path) -> Finding:
        """The comparison made."""
        found = [_needed(results, method, self.video) for method in self.needs]
        sides = [one.answers for one in found]
        if self.bases:
            sides = [side.above(base) for side, base in zip(sides[:2], sides[2:], strict=True)]
        effects = [compare(*sides[:2], self.over, seed) for seed in BOOTSTRAPS]
        # a method's prompt is named where that is what differs
        prompts = self.ours.mode != self.theirs.mode
        what = " − ".join(f"{one.method.label}{f' ({one.method.mode} prompt)' * prompts}" for one in found[:2])
        what = f"what training adds, {what}" if self.bases else what
        what += "" if self.over == "overall" else f", {e.COLUMNS[self.over]}"
        what += "" if self.video == "true" else f", {VIDEOS[self.video]}"
        ids = tuple(dict.fromkeys(run.manifest["id"] for one in found for run in one.runs))
        verdicts = [self.verdict(one) if self.verdict else "" for one in effects]
        return judged(Finding(what, effects[0], verdicts[0], ids, flips=len(set(verdicts)) > 1), self.least)


def _needed(results: Path, method: Method, video: str = "true") -> Evaluation:
    found = evaluation(results, method, video)
    if found is None:
        raise UndecidedError(NOT_RUN, f"missing: {method}, {VIDEOS[video]}")
    return found


def comparisons(*needed: Comparison, beside: tuple[Comparison, ...] = (), gate: Test | None = None) -> Test:
    """A test that needs some comparisons, behind a gate; those `beside` have no vote and are shown where they were
    run."""

    def test(results: Path) -> list[Finding]:
        ready = [c for c in beside if all(evaluation(results, method, c.video) for method in c.needs)]
        return [*(gate(results) if gate else []), *(comparison.finding(results) for comparison in (*needed, *ready))]

    return test


def ours_by_hand(results: Path) -> list[Finding]:
    """The gate of claim 1: whose base the answers are of."""
    made = any(run.about.get("model", {}).get("base") == "tiny" for run in _needed(results, BASE).runs)
    why = "the base was taught all three prompts alike; that they differ is its recipe, not a discovery"
    return [Finding("a base that is not of our making", NOTHING, "", (), why=why, holds=False)] if made else []


def level_base(results: Path) -> list[Finding]:
    """The gate of claim 4: the base answers as well under the prompts of training with tags as under the plain one."""
    found = []
    for mode in TAGGED_MODES:
        one = Comparison(OWN_BASE[mode], OWN_BASE["vanilla"], "trained", None).finding(results)
        why = f"{one.what} is {one.effect.value:+.1f}, beyond {LEVEL_WITHIN:g}"
        found.append(replace(one, holds=abs(one.effect.value) <= LEVEL_WITHIN, why=why))
    return found


def foundations(results: Path) -> list[Finding]:
    """What claim 2's gain rests on, task by task; what it is without the one that gained most, and beyond what two
    numbers do for the base."""
    ours, base = _needed(results, GRPO_V), _needed(results, BASE)
    beside = SIX, replace(SIX, video="shuffled"), *(replace(SIX, over=task) for task in paper.TRAINED)
    found = [
        *comparisons(GAIN, beside=beside)(results),
        Finding("vsGRPO-V − the base's own numbers, calibrated", compare(ours.answers, calibrated(base)), "", ()),
    ]
    gains = {task: compare(ours.answers, base.answers, task).value for task in paper.TASKS}
    largest = max((task for task in gains if not np.isnan(gains[task])), key=gains.__getitem__)
    left = compare(*(one.answers.without(largest) for one in (ours, base)))
    why = f"it rests on {e.COLUMNS[largest]}" if left.low <= 0 < found[0].effect.low else ""
    return [*found, Finding(f"vsGRPO-V − base, without {e.COLUMNS[largest]}", left, "", (), why=why)]


def calibrated(base: Evaluation) -> Answers:
    """The base's answers with each task's numbers stretched, log t = a + b log p, by two numbers learnt on the other
    half of the scenes: what a gain is worth that only puts metres right."""
    place = {mark: i for i, mark in enumerate(base.answers.ids)}
    rows, scores = sorted(base.samples(), key=lambda row: place[row["id"]]), base.answers.scores[0].copy()
    half = {name: i % 2 for i, name in enumerate(sorted({row["scene_name"] for row in rows}))}
    for task in {row["question_type"] for row in rows}:
        said = [(i, half[row["scene_name"]], row) for i, row in enumerate(rows) if row["question_type"] == task]
        numbers = [
            (i, h, read_number(row["response"]), row["ground_truth"]) for i, h, row in said if not row["options"]
        ]
        pairs = [(i, h, float(p), float(t)) for i, h, p, t in numbers if p and p > 0]
        for h in (0, 1):
            fit = np.array([(np.log(p), np.log(t)) for _, other, p, t in pairs if other != h])
            if len(fit) < 3 or np.ptp(fit[:, 0]) == 0:
                continue
            b, a = np.polyfit(fit[:, 0], fit[:, 1], 1)
            for i, own, p, t in pairs:
                if own == h:
                    scores[i] = mean_relative_accuracy(float(np.exp(a + b * np.log(p))), t)
    return replace(base.answers, scores=scores[None])


def against_printed(gains: Test, label: str, printed: float, margin: float = 0.0, only: str = "") -> Test:
    """`gains`, and on VSI-Bench's own questions vsGRPO-V against a printed score less a margin."""

    def test(results: Path) -> list[Finding]:
        if only and results.name != only:
            raise UndecidedError(CANNOT_TELL, f"is about the model of profile {only}")
        found = gains(results)
        if results.name not in profiles.PROFILES or profiles.get(results.name).data == "rooms":
            return found
        ours = _needed(results, GRPO_V)
        scores, draws = ours.answers.points("overall")
        # a printed score has no draws of its own: all of the interval is ours
        gap = effect(scores.mean() - printed, draws.mean(0) - printed, ours.answers.asked("overall"), ours.answers.size)
        ids = tuple(run.manifest["id"] for run in ours.runs)
        return [*found, Finding(f"vsGRPO-V − {label}, as printed", gap, above(gap, -margin), ids)]

    return test


GAIN = Comparison(GRPO_V, BASE)
SIX = Comparison(GRPO_V, BASE, "trained", None)
LADDER = (
    Comparison(GRPO_V, SFT, "trained"),
    Comparison(SFT, e.DPO, "trained"),
    Comparison(e.DPO, BASE, "trained", above),
)
BESIDE = (
    *(replace(one, over="overall", verdict=None) for one in LADDER),
    *(Comparison(GRPO_V, other, "trained", None) for other in (e.SFT_COMPUTE, e.DPO_COMPUTE)),
)
OWN = {GRPO_V: OWN_BASE["vanilla"], GRPO_T: OWN_BASE["think"], GRPO_O: OWN_BASE["observe"]}


TESTS: dict[int, Test] = {
    1: comparisons(Comparison(BASE, e.BASE_T), Comparison(BASE, e.BASE_O), gate=ours_by_hand),
    2: against_printed(foundations, "GPT-4o", 34.0),
    3: against_printed(comparisons(GAIN), "LLaVA-NeXT-Video-72B", 40.9, NO_CHANGE, only="paper-7b"),
    4: comparisons(
        *(Comparison(GRPO_V, one, bases=(OWN[GRPO_V], OWN[one])) for one in (GRPO_T, GRPO_O)),
        Comparison(GRPO_T, e.GRPO_T_PLAIN),
        Comparison(GRPO_O, e.GRPO_O_PLAIN),
        beside=tuple(Comparison(one, base, verdict=None) for one, base in OWN.items()),
        gate=level_base,
    ),
    5: logs.collapse,
    6: comparisons(*LADDER, beside=BESIDE),
    7: comparisons(
        Comparison(GRPO_V, BASE, "route_planning", lambda found: above(found, least=NO_CHANGE), least=NO_CHANGE),
        Comparison(GRPO_V, BASE, "obj_appearance_order", unchanged, least=NO_CHANGE),
    ),
    8: logs.convergence,
    9: logs.hacking,
    10: logs.gpu_hours,
}
