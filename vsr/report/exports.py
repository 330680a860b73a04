"""An evaluation in other projects' files: lmms-eval's samples and results (0.7.3, task vsibench) and, where all of
VSI-Bench or of its debiased half was asked, what the EASI leaderboard takes (its scripts/submissions)."""

import hashlib
import io
import json
import zipfile
from pathlib import Path

from vsr.errors import VsrError
from vsr.files import atomic_write, write_json, write_jsonl
from vsr.paper import TASKS
from vsr.questions.dataset import DATASETS, TOTALS
from vsr.questions.question import NUMERICAL
from vsr.runs import Run
from vsr.scoring import read_samples, score_samples, summarise
from vsr.scoring.answers import final_answer

TASK, RULES = "vsibench", "lmms-eval"
METRICS = {task: f"{task}_{'mra' if task in NUMERICAL else 'accuracy'}" for task in TASKS}
BENCHES = {"full": "vsi_bench", "debiased": "vsi_debiased"}  # EASI's names


def results(run: str | Path, out: str | Path, name: str | None = None) -> list[Path]:
    """Write the evaluation in the folder `run` as `<id>_samples_vsibench.jsonl` and `<id>_results.json` in `out`, and
    as easi_results.json and easi_results.zip where it is one that EASI lists; the paths. `name`, owner/model, is what
    the leaderboard is to call the model. Scored by lmms-eval's rules. VsrError where it is no finished evaluation."""
    run, out = Run.read(run), Path(out)
    if run.manifest["stage"] != "answer" or not run.finished:
        raise VsrError(f"{run.path}: no finished evaluation; name the folder of one, like results/tiny/eval-...")
    rows, mark = read_samples(run.path / "samples.jsonl"), run.manifest["id"]
    whole = all(str(row["id"]).isdigit() for row in rows)  # VSI-Bench's ids are places in its file
    samples = [
        _sample(int(row["id"]) if whole else place, row, float(score))
        for place, (row, score) in enumerate(zip(rows, score_samples(rows, RULES), strict=True))
    ]
    found = summarise(rows, RULES, resamples=1)
    written = [out / f"{mark}_samples_{TASK}.jsonl", out / f"{mark}_results.json"]
    write_jsonl(written[0], samples)
    write_json(written[1], _results(run, found))
    if half := _half(rows, run.about):
        written += [out / "easi_results.json", out / "easi_results.zip"]
        write_json(written[2], _submission(run, found, half, name or run.about["model"]["name"]))
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as files:
            for path in written[:2]:
                files.writestr(zipfile.ZipInfo(f"{mark}/{path.name}"), path.read_bytes(), zipfile.ZIP_DEFLATED)
        atomic_write(written[3], packed.getvalue())
    return written


def _sample(place: int, row: dict, score: float) -> dict:
    """A line of lmms-eval's samples file: every metric has the whole document, with its prediction and its score."""
    doc = {key: row.get(key) for key in ("id", "dataset", "scene_name", "question_type", "question", "options")}
    doc["ground_truth"] = row["ground_truth"]
    told = json.dumps(doc, indent=2, ensure_ascii=False)
    answer = final_answer(row["response"])
    metric = "MRA:.5:.95:.05" if row["question_type"] in NUMERICAL else "accuracy"
    judged = doc | {"prediction": answer, metric: score}
    return {
        "doc_id": place,
        "target": row["ground_truth"],
        "input": row.get("question"),
        **({"resps": [row["response"]]} if answer != row["response"] else {}),
        "filtered_resps": answer,
        "token_counts": [{"output_tokens": row["tokens"]}] if "tokens" in row else [None],
        "doc_hash": hashlib.sha256(told.encode()).hexdigest(),
        "score": score,  # what its comparison with a baseline reads
        "vsibench_overall": judged,
        **dict.fromkeys(METRICS.values(), judged),
    }


def _results(run: Run, found: dict) -> dict:
    """lmms-eval's results file: shares, not percent; a task that nothing asked is not there."""
    shares = {METRICS[task]: found["tasks"][task]["score"] for task in TASKS if task in found["tasks"]}
    shares = {"vsibench_overall": found["overall"]} | shares
    told = {"alias": TASK} | {f"{name},none": round(value / 100, 6) for name, value in shares.items()}
    return {
        "results": {TASK: told},
        "configs": {TASK: {"task": TASK, "dataset_path": run.manifest["inputs"], "metadata": run.manifest["settings"]}},
        "n-samples": {TASK: {"original": found["n"], "effective": found["n"]}},
        "config": {"model": "vsr", "model_args": run.about["model"], "limit": run.about.get("limit")},
        "model_name": run.about["model"]["name"],
        "git_hash": run.manifest["git"]["sha"],
    }


def _half(rows: list[dict], about: dict) -> str | None:
    """Which of VSI-Bench's sets these are all questions of, with their videos; None: EASI has no place for them."""
    real = {row.get("dataset") for row in rows} <= set(DATASETS) and about["video"] == "true"
    return next((half for half in BENCHES if real and len(rows) == TOTALS[half]), None)


def _submission(run: Run, found: dict, half: str, name: str) -> dict:
    """easi_results.json: percent, the fields of EASI's own script; names of tasks as it has them."""
    settings, model, bench = run.manifest["settings"], run.about["model"], BENCHES[half]
    parts = {task if task in NUMERICAL else METRICS[task]: found["tasks"][task]["score"] for task in found["tasks"]}
    return {
        "modelName": name,
        "modelType": "instruction",
        "precision": model["dtype"],
        "revision": "main",
        "weightType": "Adapter" if model["adapter_hash"] else "Original",
        "baseModel": model["base"] if model["adapter_hash"] else "",
        "backend": "vsr",
        "remarks": (
            f"{settings['frames']} frames of at most {settings['max_pixels']} pixels, {run.about['mode']} prompt, "
            f"quantization {model['quantization']}; scored by the rules of {RULES}; run {run.manifest['id']}"
        ),
        "scores": {bench: found["overall"]},
        "subScores": {bench: parts},
    }
