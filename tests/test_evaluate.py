"""An evaluation is exact, resumable and honest about what it could not see."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from made_runs import write_manifest
from small import small_folder, write_video
from test_committed import alike

from vsr import evaluate, models, profiles, prompts, scoring
from vsr.errors import VsrError
from vsr.files import append_jsonl, read_json, read_jsonl, write_json
from vsr.questions import dataset
from vsr.questions.question import Question, write_questions
from vsr.report.evaluations import BASE, GRPO_V
from vsr.video import decode, patchify

GOLDEN = Path(__file__).resolve().parent / "golden" / "trajectories.json"
COUNT = ("object_counting", "How many chair(s) are in this room?", None)
NEAR = ("object_rel_distance", "Which of these objects is the closest to the bed?", ("A. table", "B. door"))
SIZE = ("room_size_estimation", "What is the size of this room?", None)
SCENES = [f"room{i}" for i in range(4)]


@pytest.fixture
def folder(tmp_path):
    """Four rooms with three questions each; the questions of the rooms are interleaved in the file."""
    questions = [
        Question(f"{scene}-{kind}", "rooms", scene, kind, text, options, "B" if options else str(i + 1))
        for kind, text, options in (COUNT, NEAR, SIZE)
        for i, scene in enumerate(SCENES)
    ]
    write_questions(tmp_path / "bench" / "questions.jsonl", questions)
    for i, scene in enumerate(SCENES):
        write_video(tmp_path / "bench" / "videos" / f"{scene}.mp4", i)
    return tmp_path / "bench"


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """A random model whose answers differ between videos."""
    loaded = models.load(str(small_folder(tmp_path_factory.mktemp("model"))))
    torch.manual_seed(0)
    with torch.no_grad():
        for p in loaded.model.parameters():
            if p.ndim > 1:
                p.mul_(8)
    return loaded


PROFILE = profiles.get("smoke", frames=4, max_new_tokens=5, max_new_tokens_reasoning=6, bootstrap=50)


def rows(run):
    return list(read_jsonl(run.path / "samples.jsonl"))


def summary(run):
    return read_json(run.path / "summary.json")


def one_by_one(loaded, question, pixels, grid, mode, length):
    """transformers' own generate on one question."""
    tokenizer = loaded.tokenizer
    ids = prompts.render(tokenizer, prompts.messages(question, mode, video=grid is not None), grid)[None]
    video = {} if grid is None else {"pixel_values_videos": pixels, "video_grid_thw": grid}
    types = (ids == tokenizer.convert_tokens_to_ids("<|video_pad|>")).int() * 2
    output = loaded.model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), mm_token_type_ids=types, max_new_tokens=length,
        do_sample=False, suppress_tokens=models.suppressed(tokenizer), eos_token_id=models.end_id(tokenizer), **video
    )  # fmt: skip
    return models.read(tokenizer, output[0, ids.shape[1] :].tolist())


@pytest.mark.parametrize(("mode", "video"), [("vanilla", "true"), ("think", "none"), ("vanilla", "one")])
def test_answers_equal_those_of_generate(loaded, folder, tmp_path, mode, video):
    run = evaluate.evaluate(loaded, dataset.load(folder), mode, video, PROFILE, tmp_path / "out")
    length = PROFILE.max_new_tokens if mode == "vanilla" else PROFILE.max_new_tokens_reasoning
    asked = {q.id: q for q in dataset.load(folder).questions}
    expected = {}
    for question in asked.values():
        frames = decode(folder / "videos" / f"{question.scene_name}.mp4", 6)  # all there are
        frames = frames[[0, 1, 3, 5]] if video == "true" else frames[[2, 2]]
        inputs = (None, None) if video == "none" else patchify(frames, PROFILE.max_pixels)
        expected[question.id] = one_by_one(loaded, question, *inputs, mode, length)
    assert {row["id"]: row["response"] for row in rows(run)} == expected
    assert all(row["score"] == scoring.score(asked[row["id"]], row["response"]) for row in rows(run))
    assert len(set(expected.values())) > (1 if video == "none" else 5)  # prompts, and videos where there are any


def test_run_name_order_and_summary(loaded, folder, tmp_path):
    run = evaluate.evaluate(loaded, dataset.load(folder), "observe", "true", PROFILE, tmp_path)
    assert run.path.name == "eval-base-observe-true"
    assert [row["id"] for row in rows(run)] == [f"{s}-{kind}" for s in SCENES for kind, _, _ in (COUNT, NEAR, SIZE)]
    found = summary(run)
    assert found["run"] == run.manifest["id"]
    assert set(found["tasks"]) == {COUNT[0], NEAR[0], SIZE[0]}
    assert found["tasks"][COUNT[0]]["n"] == 4
    assert found["missing"] == {"questions": 0, "videos": {}}
    assert found["truncated"] == sum(row["truncated"] for row in rows(run))
    assert run.manifest["questions_answered"] == 12
    assert run.manifest["questions_per_second"] > 0
    assert str(tmp_path) not in (run.path / "manifest.json").read_text() + (run.path / "summary.json").read_text()


def test_another_scenes_video_is_shown_with_shuffled(loaded, folder, tmp_path):
    loaded_bench = dataset.load(folder)
    shuffled = rows(evaluate.evaluate(loaded, loaded_bench, "vanilla", "shuffled", PROFILE, tmp_path))
    shown = {row["scene_name"]: row["video"] for row in shuffled}
    assert sorted(shown.values()) == SCENES
    assert all(scene != other for scene, other in shown.items())
    originals = {scene: (folder / "videos" / f"{scene}.mp4").read_bytes() for scene in SCENES}
    for scene, other in shown.items():
        (folder / "videos" / f"{scene}.mp4").write_bytes(originals[other])
    swapped = rows(evaluate.evaluate(loaded, loaded_bench, "vanilla", "true", PROFILE, tmp_path))
    assert [row["response"] for row in swapped] == [row["response"] for row in shuffled]


def test_shuffling_is_seeded_and_never_the_identity(folder):
    loaded_bench = dataset.load(folder)
    drawn = [evaluate.shown_videos(loaded_bench, SCENES, "shuffled", seed) for seed in range(30)]
    assert all(shown[scene] != scene for shown in drawn for scene in SCENES)
    assert len({tuple(sorted(shown.items())) for shown in drawn}) == 6  # all circles of four
    assert drawn[3] == evaluate.shown_videos(loaded_bench, SCENES, "shuffled", 3)
    assert evaluate.shown_videos(loaded_bench, ["room1"], "shuffled", 3) == {"room1": drawn[3]["room1"]}


def test_a_killed_run_continues_and_gives_the_same_file(loaded, folder, tmp_path, monkeypatch):
    loaded_bench = dataset.load(folder)
    whole = evaluate.evaluate(loaded, loaded_bench, "vanilla", "true", PROFILE, tmp_path / "whole")
    append, written = append_jsonl, []

    def dies(path, row):
        if len(written) == 7:
            with path.open("a") as file:
                file.write('{"id": "half a li')
            raise KeyboardInterrupt
        written.append(row)
        append(path, row)

    monkeypatch.setattr(evaluate, "append_jsonl", dies)
    with pytest.raises(KeyboardInterrupt):
        evaluate.evaluate(loaded, loaded_bench, "vanilla", "true", PROFILE, tmp_path / "killed")
    monkeypatch.setattr(evaluate, "append_jsonl", append)
    again = evaluate.evaluate(loaded, loaded_bench, "vanilla", "true", PROFILE, tmp_path / "killed")
    assert again.manifest["questions_answered"] == 6  # two of four rooms were whole
    name = "samples.jsonl"
    assert (again.path / name).read_bytes() == (whole.path / name).read_bytes()
    assert summary(again) == summary(whole)


def test_a_finished_run_is_read_not_repeated_until_its_data_change(loaded, folder, tmp_path, monkeypatch):
    run = evaluate.evaluate(loaded, dataset.load(folder), "vanilla", "true", PROFILE, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "answer_scenes", None)
        again = evaluate.evaluate(loaded, dataset.load(folder), "vanilla", "true", PROFILE, tmp_path)
        assert again.manifest == run.manifest
        write_video(folder / "videos" / "room0.mp4", 9)
        with pytest.raises(TypeError):
            evaluate.evaluate(loaded, dataset.load(folder), "vanilla", "true", PROFILE, tmp_path)


def test_missing_and_broken_videos_count_as_wrong(loaded, folder, tmp_path):
    whole = summary(evaluate.evaluate(loaded, dataset.load(folder), "vanilla", "true", PROFILE, tmp_path))
    (folder / "videos" / "room0.mp4").unlink()
    (folder / "videos" / "room1.mp4").write_bytes(b"")
    run = evaluate.evaluate(loaded, dataset.load(folder), "vanilla", "true", PROFILE, tmp_path)
    found = summary(run)
    assert found["n"] == whole["n"] == 12
    assert found["missing"]["questions"] == 6
    assert set(found["missing"]["videos"]) == {"room0", "room1"}
    assert found["missing"]["videos"]["room1"].startswith("room1.mp4: ")
    assert str(tmp_path) not in json.dumps(found)
    assert all(row["score"] == 0 for row in rows(run) if row["scene_name"] in ("room0", "room1"))
    for scene in SCENES:
        (folder / "videos" / f"{scene}.mp4").write_bytes(b"broken")
    with pytest.raises(VsrError, match="no video could be read"):
        evaluate.evaluate(loaded, dataset.load(folder), "vanilla", "true", PROFILE, tmp_path)


def test_without_video_none_is_needed(loaded, folder, tmp_path):
    loaded_bench = dataset.load(folder)
    shutil.rmtree(folder / "videos")
    run = evaluate.evaluate(loaded, loaded_bench, "vanilla", "none", PROFILE, tmp_path)
    assert summary(run)["missing"]["questions"] == 0
    assert all(row["video"] is None for row in rows(run))


def test_a_limited_run_has_its_own_folder(loaded, folder, tmp_path):
    run = evaluate.evaluate(loaded, dataset.load(folder), "vanilla", "true", PROFILE, tmp_path, limit=5)
    assert run.path.name == "eval-base-vanilla-true-first5"
    assert len(rows(run)) == 5


def test_an_adapter_is_asked_with_the_training_prompts(loaded, folder, tmp_path):
    base = small_folder(tmp_path)
    adapted = models.add_lora(models.load(str(base)).model, PROFILE)
    adapted.save_pretrained(str(tmp_path / "grpo-think" / "adapter"))
    profile = profiles.get("smoke", base=str(base), frames=4, max_new_tokens=3, max_new_tokens_reasoning=3)
    run = evaluate.evaluate(str(tmp_path / "grpo-think"), dataset.load(folder), "think", "true", profile, tmp_path)
    assert run.path.name == "eval-grpo-think-think-true"
    assert run.manifest["about"]["prompts"] == "train"
    untrained = evaluate.evaluate("base", dataset.load(folder), "think", "true", profile, tmp_path)
    assert untrained.manifest["about"]["prompts"] == "evaluate"


def test_an_adapter_is_never_taken_for_the_base(folder, tmp_path):
    """By its run or by the folder in it, it is the same evaluation; a foreign one is nobody's."""
    base = small_folder(tmp_path)
    adapted = models.add_lora(models.load(str(base)).model, PROFILE)
    run = tmp_path / "grpo-vanilla-seed3"
    adapted.save_pretrained(str(run / "adapter"))
    profile = profiles.get("smoke", base=str(base), frames=4, max_new_tokens=2)
    asked = (dataset.load(folder), "vanilla", "true", profile, tmp_path)
    foreign = evaluate.evaluate(str(run), *asked)
    assert foreign.about["method"] == "unknown"
    write_manifest(run, "grpo", seed=3, finished=False)
    found = [evaluate.evaluate(str(named), *asked) for named in (run, run / "adapter")]
    assert found[0].manifest == found[1].manifest
    assert found[0].about.items() >= {"method": "grpo", "trained_mode": "vanilla", "train_seed": 3}.items()
    assert [one.path.name for one in GRPO_V.find(tmp_path)] == [found[0].path.name]
    assert BASE.find(tmp_path) == []


def test_repeated_ids_are_refused(loaded, folder, tmp_path):
    questions = dataset.load(folder).questions
    write_questions(folder / "questions.jsonl", [*questions, *questions[:1]])
    with pytest.raises(VsrError, match="room0-object_counting"):
        evaluate.evaluate(loaded, dataset.load(folder), "vanilla", "true", PROFILE, tmp_path)


def test_constants(folder, tmp_path):
    run = evaluate.constant(dataset.load(folder), tmp_path, PROFILE)
    found = summary(run)
    assert found["constants"][NEAR[0]] == "B"
    assert found["tasks"][NEAR[0]]["score"] == 100
    for task, (answer, score) in scoring.best_constant(dataset.load(folder).questions).items():
        assert found["tasks"][task]["score"] == pytest.approx(score, abs=1e-3)
        assert {row["response"] for row in rows(run) if row["question_type"] == task} == {answer}


def test_wrong_names_are_errors(loaded, folder, tmp_path):
    with pytest.raises(VsrError, match="unknown mode 'thnk': did you mean 'think'"):
        evaluate.evaluate(loaded, dataset.load(folder), "thnk", "true", PROFILE, tmp_path)
    with pytest.raises(VsrError, match="unknown video 'both'"):
        evaluate.evaluate(loaded, dataset.load(folder), "think", "both", PROFILE, tmp_path)
    assert not list(tmp_path.glob("eval-*"))


def test_other_bootstrap_settings_or_scoring_rules_ask_nothing_again(loaded, folder, tmp_path, monkeypatch):
    asked = (loaded, dataset.load(folder), "vanilla", "true")
    run = evaluate.evaluate(*asked, PROFILE, tmp_path)
    answered, before = rows(run), summary(run)
    monkeypatch.setattr(evaluate, "answer", None)  # must not be called
    again = evaluate.evaluate(*asked, replace(PROFILE, bootstrap=60), tmp_path)
    assert again.path == run.path
    assert rows(again) == answered
    assert summary(again)["scored"] != before["scored"]
    stricter = replace(evaluate.SCORE, version=evaluate.SCORE.version + 1)
    monkeypatch.setattr(evaluate, "SCORE", stricter)
    monkeypatch.setattr(scoring, "score_samples", lambda samples, rules="": np.zeros(len(samples)))
    evaluate.evaluate(*asked, PROFILE, tmp_path)
    assert [row["score"] for row in rows(run)] == [0.0] * len(answered)
    assert [row["response"] for row in rows(run)] == [row["response"] for row in answered]


@pytest.mark.parametrize("mode", ["vanilla", "think"])
def test_answering_reads_the_settings_it_declares_and_no_other(loaded, folder, tmp_path, mode):
    profile = replace(PROFILE, base=str(small_folder(tmp_path)))
    asked = evaluate.ask("base", dataset.load(folder), mode, "true", profile, None, None)
    evaluate.answer(loaded, dataset.load(folder), asked, tmp_path / "samples.jsonl")
    assert asked.settings.read == set(evaluate.ANSWER[mode].settings)


def test_answers_and_scores_change_with_their_versions_only(loaded, folder, tmp_path):
    """Eleven of twelve answers: on another processor the last bits may turn a near tie, a change of prompt, frames or
    decoding turns them all. Scores are of made-up responses; the last of their four decimals may round elsewhere."""
    run = evaluate.evaluate(loaded, dataset.load(folder), "vanilla", "true", PROFILE, tmp_path)
    said = ["3", "B", "about 2 metres", "", "2.5", "A. table", "4", "<answer>B</answer>", "1", "none", "b", "10"]
    made = [row | {"response": text} for row, text in zip(rows(run), said, strict=True)]
    found = {
        "answer": {"version": evaluate.ANSWER["vanilla"].version, "answers": [row["response"] for row in rows(run)]},
        "score": {"version": evaluate.SCORE.version, "summary": scoring.summarise(made, resamples=50)},
    }
    golden = read_json(GOLDEN)
    if pytest.renew_golden:
        write_json(GOLDEN, golden | found)
        return
    renew = "renew with 'pytest tests/test_evaluate.py --renew-golden'"
    assert {stage: golden[stage]["version"] for stage in found} == {s: found[s]["version"] for s in found}, renew
    pairs = zip(found["answer"]["answers"], golden["answer"]["answers"], strict=True)
    assert sum(one == other for one, other in pairs) >= 11, f"answers changed: bump the version of ANSWER and {renew}"
    same = alike(*(json.dumps(one["score"]["summary"], sort_keys=True) for one in (found, golden)))
    assert same, f"scores changed: bump the version of SCORE and {renew}"
