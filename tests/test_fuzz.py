"""Whatever a model says and whatever a file holds: a result, or a VsrError that names it; never another exception.

200 cases a test; all 10,000, a few minutes, with `pytest tests/test_fuzz.py --hypothesis-profile thorough`."""

import contextlib
import copy
import io
import json
import math
import tempfile
import zipfile
from pathlib import Path

import hypothesis
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.torch import save

from vsr import models, notebooks, profiles, runs, scoring, status, workers
from vsr.errors import VsrError
from vsr.files import extract, read_jsonl
from vsr.models import adapters, folders
from vsr.questions.question import NUMERICAL, TYPES, Question, read_questions
from vsr.report.evaluations import BASE, evaluation
from vsr.scannet.files import read_labels
from vsr.scenes import metainfo
from vsr.scoring import answers, harnesses

CASES = 10_000 if hypothesis.settings.get_current_profile_name() == "thorough" else 200
MANY = hypothesis.settings(max_examples=CASES, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))

WORDS = st.sampled_from(
    ["<answer>", "</answer>", "<think>", "</think>", "A.", "(B)", "1,200", "3.5", "-0", "nan", "1e999"]
)
ODD = st.sampled_from(["٣", "²", "½", "\x00", "ⅷ", "\u200b", "1_000", "∞", "０", "9" * 400])
RESPONSES = st.lists(WORDS | ODD | st.text(max_size=12), max_size=8).map(" ".join)
NUMBERS = st.integers() | st.floats() | st.sampled_from([10**400, -0.0, math.nan, math.inf])
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
BYTES = st.binary(max_size=60)
TRUTHS = dict.fromkeys(TYPES, "A") | dict.fromkeys(NUMERICAL, "3")


def mutated(value: object) -> st.SearchStrategy:
    """`value` with one of its parts, at any depth, replaced by any json or left out."""

    @st.composite
    def build(draw):
        whole = copy.deepcopy(value)
        part, steps = whole, draw(st.integers(0, 6))
        for _ in range(steps):
            keys = list(part) if isinstance(part, dict) else list(range(len(part)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(part[key], dict | list) and draw(st.booleans()):
                part = part[key]
            elif draw(st.booleans()):
                part[key] = draw(JSON)
                break
            else:
                del part[key]
                break
        return whole

    return build()


def files(value: object) -> st.SearchStrategy:
    """The bytes of a file that should hold `value`: damaged json, any json, cut json, any bytes."""
    damaged = (mutated(value) | JSON).map(lambda found: json.dumps(found).encode())
    cut = st.integers(0, len(json.dumps(value))).map(lambda n: json.dumps(value).encode()[:n])
    return damaged | cut | BYTES


def tried(function, *arguments) -> None:
    with contextlib.suppress(VsrError):
        function(*arguments)


@pytest.fixture(scope="module")
def folder():
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@MANY
@given(RESPONSES, st.sampled_from(TYPES), st.sampled_from(sorted(harnesses.RULES)))
def test_any_response_gets_a_score(response, kind, rules):
    options = None if kind in NUMERICAL else ("A. left", "B. right")
    question = Question("q", "rooms", "room", kind, "?", options, TRUTHS[kind])
    assert 0 <= scoring.score(question, response, rules) <= 1
    answers.read_number(response)
    assert answers.final_answer(response) in response


BOX = {"centroid": [1.0, 2.0, 0.5], "axesLengths": [0.5, 0.6, 0.9], "normalizedAxes": [0, 1, 0, -1, 0, 0, 0, 0, 1]}
SCENE = {"dataset": "scannet", "room_size": 12.5, "object_counts": {"chair": 1}, "object_bbox": {"chair": [BOX]}}


@MANY
@given(files({"scene0000_00": SCENE}))
def test_any_scene_file_is_read_or_refused(folder, content):
    (folder / "meta.json").write_bytes(content)
    tried(metainfo.read_scenes, folder / "meta.json")


ROW = {
    "id": "1", "dataset": "rooms", "scene_name": "room", "question_type": "object_rel_distance", "question": "?",
    "options": ["A. x", "B. y"], "ground_truth": "A", "pruned": False,
}  # fmt: skip


@MANY
@example(content=json.dumps({**ROW, "options": True}).encode())
@given(st.lists(files(ROW), max_size=3).map(b"\n".join))
def test_any_questions_file_is_read_or_refused(folder, content):
    (folder / "questions.jsonl").write_bytes(content)
    tried(read_questions, folder / "questions.jsonl")


@MANY
@given(st.lists(files({"step": 1, "reward": 0.5}), max_size=3).map(b"\n".join))
def test_any_log_is_read_or_refused(folder, content):
    (folder / "log.jsonl").write_bytes(content)
    tried(lambda path: list(read_jsonl(path)), folder / "log.jsonl")


FIELDS = sorted(profiles.sources())
SETTINGS = st.builds("{}={}".format, st.sampled_from(FIELDS) | st.text(max_size=8), st.text(max_size=8) | NUMBERS)


@MANY
@given(
    st.sampled_from(sorted(profiles.PROFILES)) | st.text(max_size=6),
    st.lists(SETTINGS | st.text(max_size=8), max_size=3),
)
def test_any_setting_is_taken_or_refused(name, words):
    tried(lambda: profiles.get(name, **profiles.changes(words)))


@MANY
@given(st.sampled_from(FIELDS), JSON)
def test_any_value_from_a_notebook_is_taken_or_refused(key, value):
    tried(lambda: profiles.get("smoke", **{key: value}))


@pytest.fixture(scope="module")
def book():
    """A notebook and its parameters, read once."""
    path = notebooks.find("00")[0]
    known = notebooks.parameters(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(notebooks, "parameters", lambda _: known)
        yield path


@MANY
@given(st.dictionaries(st.sampled_from(["profile", "results", "profil"]) | st.text(max_size=8), JSON, max_size=3))
def test_any_notebook_parameter_is_taken_or_refused(book, given):
    tried(notebooks.check_parameters, book, given)


ABOUT = {"method": "base", "mode": "vanilla", "video": "true"}
MANIFEST = {"id": "r-0123", "stage": "answer", "identity": "0123", "about": ABOUT, "settings": {}, "finished": True}
SUMMARY = {"run": "r-0123", "overall": 50.0, "tasks": {"room_size_estimation": {"score": 50.0, "low": 1, "high": 99}}}


HUGE = json.dumps({**SUMMARY, "overall": 10**400}).encode()


@MANY
@example(manifest=json.dumps(MANIFEST).encode(), summary=HUGE)
@given(files(MANIFEST), files(SUMMARY))
def test_any_run_folder_is_read_or_refused(folder, manifest, summary):
    run = folder / "results" / "r"
    run.mkdir(parents=True, exist_ok=True)
    (run / "manifest.json").write_bytes(manifest)
    (run / "summary.json").write_bytes(summary)
    (run / workers.BEAT).write_bytes(summary)
    tried(runs.Run.read, run)
    tried(runs.find, run.parent)
    tried(status.statuses, run.parent)
    tried(lambda: (found := evaluation(run.parent, BASE)) and found.values())


BEAT = {"step": 1, "total": 2, "rate": 0.5, "at": 3.0, "boot": workers._boot(), "stopped": None}


@MANY
@given(files(BEAT))
def test_any_sign_of_life_is_shown(folder, content):
    run = folder / "beats" / "r"
    run.mkdir(parents=True, exist_ok=True)
    (run / "manifest.json").write_text(json.dumps({**MANIFEST, "seconds": 0.0}))
    (run / workers.BEAT).write_bytes(content)
    assert status.table(status.statuses(run.parent))


SAMPLE = {name: ROW[name] for name in ("id", "scene_name", "question_type", "options", "ground_truth")}


@MANY
@example(content=json.dumps({**SAMPLE, "response": ["A"]}).encode())
@given(st.lists(files({**SAMPLE, "response": "A"}), max_size=3).map(b"\n".join))
def test_any_samples_file_is_scored_or_refused(folder, content):
    (folder / "samples.jsonl").write_bytes(content)
    tried(lambda: scoring.score_samples(scoring.read_samples(folder / "samples.jsonl"), "VLMEvalKit"))


TABLE = b"id\traw_category\tcategory\tcount\tnyu40class\n1\tchair\tchair\t9\tchair\n2\ttrash can\ttrash can\t3\t\n"


def damaged(data: bytes) -> st.SearchStrategy:
    """`data` with some of its bytes replaced, put in or left out."""

    def change(edits: list[tuple[int, int, bytes]]) -> bytes:
        new = bytearray(data)
        for at, length, part in edits:
            new[at : at + length] = part
        return bytes(new)

    edit = st.tuples(st.integers(0, len(data)), st.integers(0, 40), st.binary(max_size=8))
    return st.lists(edit, min_size=1, max_size=4).map(change)


@MANY
@given(damaged(TABLE) | BYTES)
def test_any_label_table_is_read_or_refused(folder, content):
    (folder / "labels.tsv").write_bytes(content)
    tried(read_labels, folder / "labels.tsv")


def zipped(method: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr("scannet/a.mp4", b"0123456789" * 30)
        archive.writestr("scannet/b.mp4", bytes(range(256)))
    return buffer.getvalue()


ARCHIVES = [zipped(getattr(zipfile, f"ZIP_{name}")) for name in ("STORED", "DEFLATED", "BZIP2", "LZMA")]


@MANY
@given(st.sampled_from(ARCHIVES).flatmap(damaged) | BYTES)
def test_any_archive_is_unpacked_or_refused(folder, content):
    (folder / "scannet.zip").write_bytes(content)
    tried(extract, folder / "scannet.zip", folder / "unpacked", {"a", "b"})


@pytest.fixture(scope="module")
def made():
    """A small base's configuration, and the weights and configuration of an adapter of it."""
    with pytest.MonkeyPatch.context() as patch:
        config = folders.find("tiny")[1]
        config.text_config.num_hidden_layers = config.vision_config.depth = 1
        config.text_config.layer_types = config.text_config.layer_types[:1]
        small = adapters.skeleton(config)
        patch.setattr(adapters, "skeleton", lambda _: copy.deepcopy(small))
        lora = models.add_lora(copy.deepcopy(small), profiles.get("smoke"))
        state = {k.replace(".default", ""): torch.zeros(v.shape) for k, v in lora.state_dict().items() if "lora_" in k}
        given = {k: v for k, v in lora.active_peft_config.to_dict().items() if not isinstance(v, set)}
        given |= {"peft_type": "LORA", "target_modules": ["q_proj", "v_proj"]}
        yield config, save({k: v for k, v in state.items() if "q_proj" in k or "v_proj" in k}), given


@MANY
@given(st.data())
def test_any_adapter_folder_is_accepted_or_refused(folder, made, data):
    config, weights, given = made
    where = folder / "theirs"
    where.mkdir(exist_ok=True)
    (where / adapters.ADAPTER_CONFIG).write_bytes(data.draw(files(given) | st.just(json.dumps(given).encode())))
    (where / adapters.ADAPTER_WEIGHTS).write_bytes(data.draw(st.just(weights) | damaged(weights) | BYTES))
    tried(adapters.check_adapter, where, config, "tiny", "0123")
