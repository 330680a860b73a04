"""Small inputs as other people's tools write them, each with its right value, made where a test asks for them.

A case is (what to write, what the command line says): `READ` stands for exit code 0, any other text is the pattern of
an error with exit code 2.
"""

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from small import write_video

from vsr.files import read_json
from vsr.models.folders import TINY_FOLDER
from vsr.video import encode_mp4

READ = ""
BOM = b"\xef\xbb\xbf"
COUNT = {
    "id": 1, "dataset": "scannet", "scene_name": "a", "question_type": "object_counting",
    "question": "How many chair(s) are in this room?", "options": None, "ground_truth": "3",
}  # fmt: skip
NEAR = COUNT | {
    "id": 2, "question_type": "object_rel_distance", "question": "Which is closest to the bed?",
    "options": ["A. table", "B. door"], "ground_truth": "B",
}  # fmt: skip
NUMBER, LETTER = "is no positive number", "is none of A, B; write the letter alone"


def lines(*rows: dict, end: str = "\n") -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + end for row in rows).encode()


# what is the same in questions and in samples: (fields that differ, right value)
ROWS: dict[str, tuple[dict, str]] = {
    "number as number": (COUNT | {"ground_truth": 3}, READ),
    "fraction": (COUNT | {"ground_truth": 2.5}, READ),
    "blanks around": (COUNT | {"ground_truth": " 3 "}, READ),
    "nan": (COUNT | {"ground_truth": float("nan")}, f"line 2: ground_truth nan {NUMBER}"),
    "nan as text": (COUNT | {"ground_truth": "nan"}, f"ground_truth 'nan' {NUMBER}"),
    "infinite": (COUNT | {"ground_truth": float("inf")}, f"ground_truth inf {NUMBER}"),
    "zero": (COUNT | {"ground_truth": 0}, f"ground_truth 0 {NUMBER}"),
    "negative": (COUNT | {"ground_truth": "-2"}, f"ground_truth '-2' {NUMBER}"),
    "huge": (COUNT | {"ground_truth": 10**400}, NUMBER),
    "unit": (COUNT | {"ground_truth": "2.5 meters"}, f"ground_truth '2.5 meters' {NUMBER}"),
    "thousands": (COUNT | {"ground_truth": "1,200"}, f"ground_truth '1,200' {NUMBER}"),
    "no truth": (COUNT | {"ground_truth": None}, f"ground_truth None {NUMBER}"),
    "true": (COUNT | {"ground_truth": True}, f"ground_truth True {NUMBER}"),
    "list": (COUNT | {"ground_truth": ["3"]}, rf"ground_truth \['3'\] {NUMBER}"),
    "full stop": (NEAR | {"ground_truth": "B."}, f"ground_truth 'B.' {LETTER}"),
    "brackets": (NEAR | {"ground_truth": "(B)"}, LETTER),
    "the option's text": (NEAR | {"ground_truth": "door"}, f"ground_truth 'door' {LETTER}"),
    "another letter": (NEAR | {"ground_truth": "C"}, f"ground_truth 'C' {LETTER}"),
    "small letter": (NEAR | {"ground_truth": "b"}, LETTER),
    "place instead of letter": (NEAR | {"ground_truth": 1}, f"ground_truth 1 {LETTER}"),
    "null choice": (NEAR | {"ground_truth": None}, LETTER),
    "options as text": (NEAR | {"options": "['A. table', 'B. door']"}, "expected a list of texts, or null"),
    "options as object": (NEAR | {"options": {"A": "table"}}, "expected a list of texts, or null"),
    "options of numbers": (NEAR | {"options": [1, 2]}, "expected a list of texts, or null"),
    "options without letters": (NEAR | {"options": ["table", "door"]}, "a letter of its own, as in 'A. chair'"),
    "options with one letter": (NEAR | {"options": ["A. table", "A. door"]}, "a letter of its own"),
    "another type": (COUNT | {"question_type": ["object_counting"]}, r"question_type \['object_counting'\] is none of"),
    "unknown type": (COUNT | {"question_type": "object_weight"}, "question_type 'object_weight' is none of"),
    "free-form": (NEAR | {"options": None, "ground_truth": "door"}, READ),
    "empty free-form": (NEAR | {"options": [], "ground_truth": " "}, "ground_truth ' ': expected text"),
}
QUESTIONS: dict[str, tuple[dict, str]] = {
    **ROWS,
    "no scene": (COUNT | {"scene_name": None}, "scene_name None: expected text"),
    "scene as number": (COUNT | {"scene_name": 42444950}, READ),
    "scene true": (COUNT | {"scene_name": True}, "scene_name True: expected text"),
    "empty question": (COUNT | {"question": ""}, "question '': expected text"),
    "half a letter": (COUNT | {"question": "\ud83d?"}, "surrogates not allowed"),
}
SAMPLES: dict[str, tuple[dict, str]] = {
    **{name: (row | {"response": "B"}, right) for name, (row, right) in ROWS.items()},
    "responses in a list": (NEAR | {"response": ["B"]}, r"line 2: response \['B'\]: expected the answer's text"),
    "no response": (NEAR | {"response": None}, "response None: expected the answer's text"),
    "number as response": (COUNT | {"response": 3}, "response 3: expected the answer's text"),
    "without response": (NEAR, "line 2: field 'response' is missing"),
    "id twice": (NEAR | {"id": 0, "response": "B"}, "line 2: id 0 is also in .*line 1"),
}
# whole files of two rows
FILES: dict[str, tuple[Callable[[dict, dict], bytes], str]] = {
    "bom": (lambda *rows: BOM + lines(*rows), READ),
    "crlf": (lambda *rows: lines(*rows, end="\r\n"), READ),
    "u2028": (lambda one, two: lines(one, two | {"question": "Which\u2028one\x85is closest?"}), READ),
    "no newline at the end": (lambda *rows: lines(*rows).rstrip(), READ),
    "empty lines": (lambda *rows: lines(*rows, end="\n\n \n"), READ),
    "cut": (lambda *rows: lines(*rows)[:-40], "line 2: not valid json .*is the file cut short"),
    "one list": (lambda *rows: json.dumps(rows).encode(), "line 1: expected an object, found list"),
    "utf-16": (lambda *rows: lines(*rows).decode().encode("utf-16"), "not valid utf-8"),
    "nul": (lambda *rows: lines(*rows) + b"\0" * 9, "line 3: not valid json"),
}
SCAN = "scene0001_00"
VSI100K: dict[str, tuple[dict, str]] = {
    "number": ({"answer": 3}, READ),
    "in tags": ({"answer": "<answer>3</answer>"}, READ),
    "nan": ({"answer": float("nan")}, NUMBER),
    "zero": ({"answer": 0}, NUMBER),
    "list": ({"answer": ["3"]}, r"row 0: answer \['3'\]: expected text or a number"),
    "true": ({"answer": True}, "answer True: expected text or a number"),
    "no answer": ({"answer": None}, "row 0: no answer: none of the columns"),
    "left": ({"question": "Facing the tv, is the sink to the left or the right?", "answer": "Left"}, READ),
    "letter": ({"question": "Facing the tv, is the sink to the left or the right?", "answer": "B"}, "'B' is none of"),
    "conversation": ({"question": [{"from": "human"}]}, "expected text or a number"),
    "no scan": ({"scene": "room"}, "no scan id such as scene0000_00"),
}


def film(frames: int = 6, height: int = 56, width: int = 84) -> bytes:
    rng = np.random.default_rng(0)
    return encode_mp4(rng.integers(0, 256, (frames, height, width, 3), dtype=np.uint8), 8)


FILMS: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "not a readable video of 0 bytes"),
    "page": (lambda: b"<html>404</html>" * 9, "not a readable video"),
    "cut": (lambda: film(60)[: -len(film(60)) // 2], "not a readable video"),
    "git-lfs pointer": (lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "not a readable video"),
}


def archive(path: Path, method: int, damage: Callable[[bytearray], None]) -> None:
    """VSI-Bench's archive of one film, stored by one of zipfile's methods and damaged; its questions beside it."""
    with zipfile.ZipFile(path, "w", method) as opened:
        opened.writestr("scannet/a.mp4", film(30))
    data = bytearray(path.read_bytes())
    damage(data)
    path.write_bytes(bytes(data))
    path.with_name("test.jsonl").write_bytes(lines(COUNT))


def garble(data: bytearray) -> None:
    """Nonsense in the middle of the stream, whose end and directory stay."""
    data[60:400] = bytes(range(1, 171)) * 2


def halve(data: bytearray) -> None:
    del data[len(data) // 2 :]


METHODS = {name: getattr(zipfile, f"ZIP_{name}") for name in ("STORED", "DEFLATED", "BZIP2", "LZMA")}
DAMAGES = {"garbled": garble, "cut": halve}


LAYER = "base_model.model.model.language_model.layers.0.self_attn.q_proj"
# what is done to weights and configuration of an adapter of the miniature: (change, right value)
ADAPTERS: dict[str, tuple[Callable[[dict, dict], object], str]] = {
    "as it is": (lambda w, c: None, READ),
    "fields of a later PEFT": (lambda w, c: c.update(some_future_field=3), READ),
    "adapter's name in keys": (lambda w, c: rename(w, ".weight", ".default.weight"), READ),
    "null where PEFT has a default": (lambda w, c: c.update(bias=None, rank_pattern=None), READ),
    "names of old": (lambda w, c: rename(w, "model.language_model.layers", "model.layers"), "before transformers 4.52"),
    "DoRA": (lambda w, c: c.update(use_dora=True), "its use_dora is True; only plain LoRA"),
    "DoRA's weights": (lambda w, c: w.update({f"{LAYER}.lora_magnitude_vector": torch.ones(192)}), "makes no .*magnit"),
    "IA3": (lambda w, c: c.update(peft_type="IA3"), "its peft_type is 'IA3'"),
    "no kind": (lambda w, c: c.pop("peft_type"), "its peft_type is 'None'"),
    "saved modules": (lambda w, c: c.update(modules_to_save=["lm_head"]), r"its modules_to_save is \['lm_head'\]"),
    "biases": (lambda w, c: c.update(bias="all"), "its bias is 'all'"),
    "biases of LoRA": (lambda w, c: c.update(lora_bias=True), "its lora_bias is True"),
    "PiSSA": (lambda w, c: c.update(init_lora_weights="pissa"), "pissa has changed its base"),
    "embeddings": (lambda w, c: c.update(target_modules=["embed_tokens"]), "only adapters of linear layers"),
    "no such layers": (lambda w, c: c.update(target_modules=["c_attn"]), "fits no layer of tiny"),
    "no layers": (lambda w, c: c.update(target_modules=7), "fits no layer of tiny"),
    "rank 0": (lambda w, c: c.update(r=0), "fits no layer of tiny"),
    "rank as text": (lambda w, c: c.update(r="16"), "adapter"),
    "another rank": (lambda w, c: c.update(r=8), "has rank 16, its configuration 8"),
    "another base's width": (lambda w, c: widen(w), "does not fit tiny"),
    "another base's layers": (lambda w, c: rename(w, "layers.5.", "layers.27."), "makes no .*layers.27"),
    "another base's name": (lambda w, c: c.update(base_model_name_or_path="a/b"), READ),
    "half": (lambda w, c: [w.pop(name) for name in list(w)[::2]], "42 of its 84 weights are missing"),
    "empty": (lambda w, c: w.clear(), "84 of its 84 weights are missing"),
    "vision tower too": (lambda w, c: c.update(target_modules="all-linear"), "weights are missing, such as .*visual"),
    "nan": (lambda w, c: w[f"{LAYER}.lora_A.weight"].fill_(float("nan")), "q_proj.lora_A.weight holds numbers that"),
}  # fmt: skip


def rename(weights: dict, old: str, new: str) -> None:
    for name in list(weights):
        weights[name.replace(old, new)] = weights.pop(name)


def widen(weights: dict) -> None:
    for name, weight in weights.items():
        weights[name] = weight.repeat(1, 2) if "lora_A" in name else weight


def adapter(source: Path, target: Path, change: Callable[[dict, dict], object]) -> Path:
    """A changed copy of an adapter folder."""
    weights, config = load_file(source / "adapter_model.safetensors"), read_json(source / "adapter_config.json")
    change(weights, config)
    target.mkdir(parents=True)
    save_file({name: weight.contiguous() for name, weight in weights.items()}, target / "adapter_model.safetensors")
    (target / "adapter_config.json").write_text(json.dumps(config))
    return target


AWQ = {"quant_method": "awq", "bits": 4}
BASES: dict[str, tuple[str, Callable[[str], str], str]] = {
    "preprocessor cut": ("preprocessor_config.json", lambda t: t[:20], "preprocessor_config.json: not valid json"),
    "preprocessor a list": ("preprocessor_config.json", lambda t: "[1]", "expected an object, found list"),
    "preprocessor of another": ("preprocessor_config.json", lambda t: '{"patch_size": "x"}', "patch_size=x"),
    "config cut": ("config.json", lambda t: t[:99], "base '.*'"),
    "config a list": ("config.json", lambda t: "[1]", "base '.*'"),
    "tokenizer cut": ("tokenizer.json", lambda t: t[:999], "no tokenizer"),
    "tokenizer an object": ("tokenizer.json", lambda t: "{}", "no tokenizer"),
    "awq": ("config.json", lambda t: put(t, AWQ), "its weights are kept as awq"),
    "gptq": ("config.json", lambda t: put(t, AWQ | {"quant_method": "gptq"}), "its weights are kept as gptq"),
    "a quantization of no kind": ("config.json", lambda t: put(t, 4), "base '.*'"),
}


def put(text: str, quantization: object) -> str:
    return json.dumps(json.loads(text) | {"quantization_config": quantization})


def base(folder: Path, name: str, change: Callable[[str], str]) -> Path:
    """The miniature's folder with one file changed."""
    shutil.copytree(TINY_FOLDER, folder)
    (folder / name).write_text(change((folder / name).read_text()))
    return folder


def bench(folder: Path, content: bytes, name: str = "questions.jsonl", videos: tuple[str, ...] = ()) -> Path:
    """A folder of questions, with films of some scenes."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    for scene in videos:
        write_video(folder / "videos" / f"{scene}.mp4")
    return folder
