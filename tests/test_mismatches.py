"""Parts that do not belong together are refused by name before any weight is read."""

import json
import shutil

import pytest
import torch
from small import small_folder
from transformers import Qwen2VLForConditionalGeneration

from vsr import models, profiles
from vsr.errors import VsrError
from vsr.files import read_json, write_json
from vsr.models import add_lora, load
from vsr.models.folders import PREPROCESSING, model_hash
from vsr.train import save_adapter


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return small_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


@pytest.fixture
def no_weights(monkeypatch):
    """Reading weights fails the test."""
    monkeypatch.setattr(Qwen2VLForConditionalGeneration, "from_pretrained", None)


def change(path, **values) -> None:
    """Some values of a json file; dicts are changed inside."""
    known = json.loads(path.read_text())
    for key, value in values.items():
        known[key] = known[key] | value if isinstance(value, dict) else value
    path.write_text(json.dumps(known))


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("config.json", {"text_config": {"vocab_size": 100}}, r"its tokenizer has \d+ tokens, its model 100; use the"),
        ("config.json", {"video_token_id": 5}, r"gives '<\|video_pad\|>' the id \d+, config.json says video_token_id"),
        ("config.json", {"vision_config": {"patch_size": 16}}, "config.json says patch_size=16; Qwen2-VL's .* has 14"),
        (PREPROCESSING, {"merge_size": 4}, "preprocessor_config.json says merge_size=4, Qwen2-VL's 2"),
        (PREPROCESSING, {"image_mean": [0.5, 0.5, 0.5]}, r"says image_mean=\[0.5, 0.5, 0.5\]"),
    ],
)
def test_a_processor_of_another_model(copy, no_weights, name, values, message):
    change(copy / name, **values)
    with pytest.raises(VsrError, match=message):
        load(str(copy))


def test_a_tokenizer_without_its_file_or_template(copy, no_weights):
    (copy / "chat_template.jinja").unlink()
    with pytest.raises(VsrError, match="its tokenizer has no chat template; use a Qwen-VL checkpoint"):
        load(str(copy))
    (copy / "tokenizer.json").unlink()
    with pytest.raises(VsrError, match=r"no tokenizer \(.*copy tokenizer.json there"):
        load(str(copy))


@pytest.fixture
def run(folder, tmp_path):
    """A run folder with an adapter of the model in `folder`, and the manifest that training leaves."""
    save_adapter(add_lora(load(str(folder)).model, profiles.get("tiny", lora_r=2)), tmp_path / "run" / "adapter")
    about = {"model": {"base": folder.name, "hash": model_hash(folder)}}
    write_json(tmp_path / "run" / "manifest.json", {"about": about})
    return tmp_path / "run"


def test_an_adapter_of_its_own_base_loads(run, folder):
    assert load(str(folder), adapter=run).info["name"] == "run"


@pytest.mark.parametrize("trained", [{"hash": "0" * 16}, {"base": "Qwen/Qwen2-VL-7B-Instruct", "hash": "hub:abc"}])
def test_an_adapter_that_was_trained_on_other_weights(run, folder, no_weights, trained):
    manifest = read_json(run / "manifest.json")
    manifest["about"]["model"] |= trained
    write_json(run / "manifest.json", manifest)
    with pytest.raises(VsrError, match=r"trained on .*, not on this .*; name the base it was trained on"):
        load(str(folder), adapter=run)


def test_an_adapter_without_a_manifest_is_known_by_its_shapes(run, folder, no_weights):
    (run / "manifest.json").unlink()
    with pytest.raises(VsrError, match=r"its base_model.*lora_A.* does not fit tiny; name the base it was trained on"):
        load("tiny", adapter=run)


def test_an_adapter_whose_file_is_cut_short(run, folder, no_weights):
    weights = run / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(VsrError, match=r"adapter_model.safetensors: cannot be read .*; copy it again"):
        load(str(folder), adapter=run)


def test_a_gpu_that_cannot_hold_the_weights(folder, no_weights, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1000, 2**30))
    with pytest.raises(VsrError, match=r"its weights take .* GiB as none and float32, the GPU has 0.0 of 1.0 free"):
        models.load(str(folder))
