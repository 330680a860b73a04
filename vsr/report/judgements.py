"""The test that decides each of the paper's claims: pairs of evaluations on the same questions, or training logs."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vsr import paper, profiles
from vsr.report import log_tests, methods
from vsr.report.findings import NO_CHANGE, Finding, NotRunError, OutOfReachError, Test, above, unchanged
from vsr.report.methods import BASE, DPO, GRPO_O, GRPO_O_PLAIN, GRPO_T, GRPO_T_PLAIN, GRPO_V, SFT, Method
from vsr.report.summaries import Evaluation, evaluation
from vsr.scoring import intervals
from vsr.scoring.intervals import Effect, effect


@dataclass(frozen=True)
class Comparison:
    """Ours against theirs over everything, the trained six or one task; `verdict` says what its interval means."""

    ours: Method
    theirs: Method
    over: str = "overall"
    verdict: Callable[[Effect], str] | None = above
    video: str = "true"

    def finding(self, results: Path) -> Finding:
        """The comparison made."""
        pair = [_evaluation(results, method.evaluation(self.video)) for method in (self.ours, self.theirs)]
        found = intervals.compare(pair[0].answers, pair[1].answers, self.over)
        where = {"overall": "", "trained": ", trained six"}.get(self.over, f", {paper.TASKS.get(self.over)}")
        shown = "" if self.video == "true" else f", {methods.VIDEOS[self.video]}"
        what = f"{_name(self.ours, self.theirs)} − {_name(self.theirs, self.ours)}{where}{shown}"
        return Finding(
            what, found, self.verdict(found) if self.verdict else "", tuple(run.id for one in pair for run in one.runs)
        )


def comparisons(*needed: Comparison, beside: tuple[Comparison, ...] = ()) -> Test:
    """A test that needs some comparisons; those `beside` have no vote and are shown where they were run."""

    def test(results: Path) -> list[Finding]:
        found = [comparison.finding(results) for comparison in needed]
        return found + [comparison.finding(results) for comparison in beside if _ready(comparison, results)]

    return test


def against_printed(test: Test, label: str, printed: float, margin: float = 0.0) -> Test:
    """`test`, and where the questions are VSI-Bench's own, vsGRPO-V against a printed score less a margin."""

    def whole(results: Path) -> list[Finding]:
        found = test(results)
        if results.name not in profiles.PROFILES or profiles.get(results.name).data == "rooms":
            return found
        ours = _evaluation(results, GRPO_V.evaluation())
        scores, draws = ours.answers.points("overall")
        gap = effect(scores.mean() - printed, draws.mean(0) - printed, ours.answers.asked("overall"), ours.answers.size)
        return [
            *found,
            Finding(f"vsGRPO-V − {label}, as printed", gap, above(gap, -margin), tuple(run.id for run in ours.runs)),
        ]

    return whole


def only_for(profile: str, test: Test) -> Test:
    """A test about the model of one profile."""

    def guarded(results: Path) -> list[Finding]:
        if results.name != profile:
            raise OutOfReachError(f"is about the model of profile {profile}")
        return test(results)

    return guarded


def _evaluation(results: Path, name: str) -> Evaluation:
    found = evaluation(results, name)
    if found is None:
        raise NotRunError(f"missing: {name}")
    return found


def _ready(comparison: Comparison, results: Path) -> bool:
    pair = (comparison.ours, comparison.theirs)
    return all(evaluation(results, method.evaluation(comparison.video)) for method in pair)


def _name(method: Method, other: Method) -> str:
    """The method, with its prompt where that is what differs."""
    return f"{method.label} ({method.mode} prompt)" if method.mode != other.mode else method.label


GAIN = Comparison(GRPO_V, BASE)
THINK, OBSERVE = Method("base", "think", "base"), Method("base", "observe", "base")

TESTS: dict[int, Test] = {
    1: comparisons(Comparison(BASE, THINK), Comparison(BASE, OBSERVE)),
    2: against_printed(
        comparisons(
            GAIN,
            beside=(
                Comparison(GRPO_V, BASE, "trained", None),
                Comparison(GRPO_V, BASE, "trained", None, video="shuffled"),
            ),
        ),
        "GPT-4o",
        34.0,
    ),
    3: only_for("paper-7b", against_printed(comparisons(GAIN), "LLaVA-NeXT-Video-72B", 40.9, NO_CHANGE)),
    4: comparisons(
        Comparison(GRPO_V, GRPO_T),
        Comparison(GRPO_V, GRPO_O),
        Comparison(GRPO_T, GRPO_T_PLAIN),
        Comparison(GRPO_O, GRPO_O_PLAIN),
    ),
    5: log_tests.collapse,
    6: comparisons(
        Comparison(GRPO_V, SFT),
        Comparison(SFT, DPO),
        Comparison(DPO, BASE),
        beside=(
            Comparison(GRPO_V, methods.SFT_COMPUTE, verdict=None),
            Comparison(GRPO_V, methods.DPO_COMPUTE, verdict=None),
        ),
    ),
    7: comparisons(
        Comparison(GRPO_V, BASE, "route_planning"),
        Comparison(GRPO_V, BASE, "obj_appearance_order", unchanged),
    ),
    8: log_tests.convergence,
    9: log_tests.hacking,
    10: log_tests.gpu_hours,
}
