"""An exported evaluation: lmms-eval's own code reads and scores it alike, EASI's demands are met."""

import importlib.util
import json
import shutil
import zipfile
from pathlib import Path

import pytest

from vsr import cli
from vsr.errors import VsrError
from vsr.files import read_json, read_jsonl, write_json, write_jsonl
from vsr.paper import TASKS
from vsr.questions.dataset import COUNTS
from vsr.report import exports
from vsr.scoring import score_samples, summarise

RUN = Path(__file__).resolve().parents[1] / "results" / "published" / "tiny" / "eval-grpo-think-seed0-think-true"


def theirs(name: str):
    """A module of the installed lmms-eval, without the models that its package would import on the way."""
    pytest.importorskip("loguru")
    if (found := importlib.util.find_spec("lmms_eval")) is None:
        pytest.skip("needs lmms-eval")
    file = Path(found.origin).parent / name
    spec = importlib.util.spec_from_file_location(f"lmms_{file.stem}", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_samples_and_results_say_what_the_run_says(tmp_path, capsys):
    assert cli.main(["export", "results", "--run", str(RUN), "--out", str(tmp_path)]) == 0
    samples, results = map(Path, capsys.readouterr().out.split())
    rows, given = list(read_jsonl(samples)), list(read_jsonl(RUN / "samples.jsonl"))
    assert [row["doc_id"] for row in rows] == list(range(len(given)))
    assert all(row["resps"] == [one["response"]] for row, one in zip(rows, given, strict=True) if "resps" in row)
    shares = read_json(results)["results"]["vsibench"]
    assert shares["vsibench_overall,none"] == pytest.approx(summarise(given, "lmms-eval")["overall"] / 100, abs=1e-6)
    assert len(shares) == 1 + 1 + len(TASKS)


def test_lmms_eval_reads_it_and_comes_to_the_same_scores(tmp_path):
    samples, results = exports.results(RUN, tmp_path)
    vsibench = theirs("tasks/vsibench/utils.py")
    rows, given = list(read_jsonl(samples)), list(read_jsonl(RUN / "samples.jsonl"))
    asked = [
        {key: row["vsibench_overall"][key] for key in ("question_type", "ground_truth", "options")} for row in rows
    ]
    told = [
        vsibench.vsibench_process_results(doc, [row["filtered_resps"]]) for doc, row in zip(asked, rows, strict=True)
    ]
    scores = [one["vsibench_overall"].get("accuracy", one["vsibench_overall"].get("MRA:.5:.95:.05")) for one in told]
    assert scores == pytest.approx(list(score_samples(given, "lmms-eval")), abs=1e-12)
    shares = read_json(results)["results"]["vsibench"]
    for name in ("vsibench_overall", *exports.METRICS.values()):
        end = name.removeprefix("vsibench_")
        mean = getattr(vsibench, f"vsibench_aggregate_{end}")([row[name] for row in rows])
        assert mean == pytest.approx(shares[f"{name},none"], abs=1.1e-6)
    read, whole = theirs("baselines/loader.py")._load_baseline_from_local(str(samples), "vsibench")
    assert read == dict(enumerate(scores))
    assert whole["results"]["vsibench"] == shares


def vsi_bench(folder: Path) -> Path:
    """The run as if it had been asked all of VSI-Bench."""
    given = {}
    for row in read_jsonl(RUN / "samples.jsonl"):
        given.setdefault(row["question_type"], []).append(row)
    kinds = [kind for kind, count in COUNTS.items() for _ in range(count)]
    rows = [given[kind][i % len(given[kind])] | {"id": str(i), "dataset": "scannet"} for i, kind in enumerate(kinds)]
    shutil.copytree(RUN, folder / "run", ignore=shutil.ignore_patterns("samples*"))
    write_jsonl(folder / "run" / "samples.jsonl", rows)
    return folder / "run"


def test_easi_takes_a_run_on_all_of_vsi_bench(tmp_path):
    paths = exports.results(run := vsi_bench(tmp_path), tmp_path / "out", "me/mine")
    payload = read_json(paths[2])
    found = summarise(read_jsonl(run / "samples.jsonl"), "lmms-eval")
    assert payload["scores"] == {"vsi_bench": found["overall"]}
    assert payload["subScores"]["vsi_bench"]["object_counting"] == found["tasks"]["object_counting"]["score"]
    assert payload["subScores"]["vsi_bench"]["route_planning_accuracy"] == found["tasks"]["route_planning"]["score"]
    # what its validate_payload_for_submit asks for
    assert "/" in payload["modelName"]
    assert payload["modelType"]
    assert payload["precision"]
    assert paths[3].stat().st_size < 4.5 * 2**20
    with zipfile.ZipFile(paths[3]) as packed:
        assert [name.split("/")[1] for name in packed.namelist()] == [path.name for path in paths[:2]]
        assert json.loads(packed.read(packed.namelist()[1])) == read_json(paths[1])
    assert exports.results(run, tmp_path / "again", "me/mine")[3].read_bytes() == paths[3].read_bytes()


def test_what_is_no_evaluation_is_refused(tmp_path):
    write_json(tmp_path / "manifest.json", read_json(RUN / "manifest.json") | {"stage": "grpo"})
    with pytest.raises(VsrError, match="no finished evaluation"):
        exports.results(tmp_path, tmp_path / "out")
