"""A lab's folders in small: Qwen2-VL's files on a thin model, VSI-100k from made-up raw scans, VSI-Bench's own
questions on camera-sized videos."""

import shutil
from pathlib import Path

import torch
from raw import write_sens, write_table
from real import camera, thin_folder
from safetensors.torch import load_file, save_file

from vsr.models.folders import END, load_tokenizer
from vsr.questions.question import read_questions, write_questions
from vsr.scannet import from_scans
from vsr.scannet.made_up import make_layout, write_scan
from vsr.video import write_mp4

SCANS, FRAMES = 3, 24


def lab(shared: Path, folder: Path) -> dict[str, str]:
    """The settings `base` and `data` of a study whose files are written into `folder`."""
    base = thin_folder(shared / "qwen2-vl-processor", folder / "base")
    *tokens, ends = load_tokenizer(base).convert_tokens_to_ids([*"0123456789", END])
    name, weights = "model.embed_tokens.weight", load_file(base / "model.safetensors")
    # every token leans one way and digits more so: random weights then say numbers, which rewards tell apart
    weights[name] += torch.full_like(weights[name][0], 0.06)
    weights[name][tokens] += 0.22
    weights[name][ends] += 0.25
    save_file(weights, base / "model.safetensors", {"format": "pt"})
    scans = folder / "scannet"
    for number in range(SCANS):
        name = f"scene{number:04d}_00"
        made = write_scan(scans, make_layout(name, 1, objects=24), 2500, noise=0.002)
        write_sens(made / f"{name}.sens", camera(FRAMES, 8 + number), moving=0)
    write_table(scans)
    assert from_scans.build_scans(folder / "data" / "train", from_scans.plan(scans), videos=True, workers=1) == {}
    shutil.rmtree(scans)
    bench = folder / "data" / "bench"
    (bench / "videos").mkdir(parents=True)
    official = read_questions(shared / "vsibench_scannet.jsonl")
    first = {question.question_type: question for question in reversed(list(official))}  # one of each type ...
    rooms = list(dict.fromkeys(question.scene_name for question in first.values()))
    write_questions(bench / "questions.jsonl", list(first.values()))
    for number, name in enumerate(rooms):  # ... on the rooms that they are about
        write_mp4(bench / "videos" / f"{name}.mp4", camera(FRAMES, 6 + number), 24)
    return {"base": str(base), "data": str(folder / "data")}
