"""Does the ledger keep its head? Studies in which nothing happened, and studies in which a known effect was planted.

    python tests/null_study.py [--rooms 240] [--seeds 5] [--studies 20] [--plant 0 1.5] [--temperature 0.1]

The shipped base answers the questions of fresh rooms fourteen times each, at a temperature at which two samples differ
as often as the greedy answers of two trained seeds do. In a null study every method of the ledger and every seed of it
is the base under another sampling seed. With `--plant P` wrong answers are
put right at random: P points for each step of the ladder DPO, SFT, GRPO and for training under tags, route planning in
proportion (2 points where P is 1.5, the declared sizes). Studies go through the ledger as run folders, as real ones do.
"""

import argparse
import json
import tempfile
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from made_runs import name_of, write_manifest

from vsr import models, profiles, runs, study
from vsr.engine import FeatureCache
from vsr.files import write_json
from vsr.miniature.diagnose import _ask
from vsr.paper import HELD_OUT
from vsr.report import claims, evaluations, reading
from vsr.report.declared import LEAST, NO_CHANGE
from vsr.scoring import score, summarise, task_of

METHODS = (*evaluations.TABLE_2, evaluations.BASE_T, evaluations.BASE_O, *evaluations.OWN_BASE.values())
# steps of P points above the base on the six trained tasks, by method and prompt; claim 4 asks for the average of eight
PLANTED = {
    evaluations.DPO: 1, evaluations.SFT: 2, evaluations.GRPO_V: 3, evaluations.GRPO_T: 8 / 6, evaluations.GRPO_O: 8 / 6,
}  # fmt: skip
JUDGED = (2, 4, 6, 7)  # by evaluations; training logs are made up elsewhere


def sampled(rooms: int, temperature: float) -> tuple[list, np.ndarray, list[list[str]]]:
    """The questions about fresh rooms, the scores (questions, 14) of sampled answers, and the answers."""
    profile = profiles.get("overnight", seed=7)
    here = study.Study(profile, runs.ROOT / "results" / "tiny")
    bench, loaded = here.fresh(rooms), models.load(**models.arguments("base", profile))
    see = FeatureCache(loaded.model, runs.data_folder() / "features", profile.frames, profile.max_pixels)
    asked = list(bench.questions)
    with torch.no_grad():
        texts = _ask(loaded, see, bench, asked, "vanilla", "evaluate", profile, temperature)
    pairs = np.mean([group[0] != group[1] for group in texts])
    print(f"temperature {temperature}: two samples differ in {100 * pairs:.1f} % of the questions", flush=True)
    return asked, np.array([[score(q, text) for text in group] for q, group in zip(asked, texts, strict=True)]), texts


def write_evaluation(folder: Path, method: evaluations.Method, asked: list, said: list[str]) -> None:
    """One finished evaluation."""
    rows = [{**asdict(q), "response": text, "score": score(q, text)} for q, text in zip(asked, said, strict=True)]
    folder.mkdir(parents=True)
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_manifest(folder, "answer")
    write_json(folder / "summary.json", {**summarise(rows, resamples=100), "run": f"{folder.name}-0123abcd"})


def main() -> None:
    """Simulate, judge, count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("rooms", 240), ("seeds", 5), ("studies", 20)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--plant", type=float, nargs="+", default=[0.0, 1.5], help="points (default: %(default)s)")
    parser.add_argument("--temperature", type=float, default=0.1)
    given = parser.parse_args()
    asked, scores, texts = sampled(given.rooms, given.temperature)
    for plant in given.plant:
        simulate(asked, scores, texts, given.seeds, given.studies, plant)


def simulate(asked: list, scores: np.ndarray, texts: list[list[str]], seeds: int, studies: int, plant: float) -> None:
    """Studies of so many seeds with `plant` points planted, and how the ledger judged them."""
    kinds = np.array([task_of(q.question_type) for q in asked])
    verdicts = {number: Counter() for number in JUDGED}
    clean = 0
    for number in range(studies):
        rng = np.random.default_rng([number, 3])
        with tempfile.TemporaryDirectory() as place, reading():
            results = Path(place) / "results" / "tiny"
            for method in METHODS:
                for seed in range(seeds) if method.trained else (0,):
                    chosen = rng.integers(scores.shape[1], size=len(asked))
                    said = [group[i] for group, i in zip(texts, chosen, strict=True)]
                    now = scores[np.arange(len(asked)), chosen]
                    points = plant * PLANTED.get(method, 0) / 100
                    for task in set(kinds.tolist()):
                        mine = kinds == task
                        gain = points
                        if task in HELD_OUT:
                            gain = plant / LEAST * NO_CHANGE / 100 * (method is evaluations.GRPO_V)
                            gain *= task == "route_planning"
                        right = rng.random(len(asked)) < gain / max(1e-9, 1 - now[mine].mean())
                        for i in np.flatnonzero(mine & right & (now < 1)):
                            said[i] = asked[i].ground_truth
                    write_evaluation(results / name_of(method, seed), method, asked, said)
            found = {n: claims.judge(claims.CLAIMS[n - 1], results) for n in JUDGED}
        for n, entry in found.items():
            verdicts[n][entry.verdict] += 1
        clean += all(entry.verdict != "reproduced" for entry in found.values())
        print(number, {n: f"{entry.verdict}: {entry.note}"[:80] for n, entry in found.items()}, flush=True)
    print(f"{studies} studies: {seeds} seeds, {plant} points planted")
    print({n: dict(count) for n, count in verdicts.items()}, f"without any 'reproduced': {clean}", flush=True)


if __name__ == "__main__":
    main()
