"""A merged adapter is a folder of its own: plain transformers loads it, and it answers as base and adapter do."""

import json

import pytest
import torch
from baseline_setup import staged
from transformers import AutoTokenizer, Qwen2VLForConditionalGeneration

from vsr import cli, models, prompts
from vsr.errors import VsrError
from vsr.files import read_json
from vsr.models.adapters import export
from vsr.train import train

TOLERANCE = {"none": 1e-5, "nf4": 1e-5, "fp4": 1e-5, "int8": 0.03}  # of the largest logit; int8 rounds inputs as well


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    with staged(tmp_path_factory.mktemp("stage")) as stage:
        yield stage


@pytest.fixture(scope="module")
def run(stage, tmp_path_factory):
    return train("sft", stage.profile(sft_learning_rate=1e-2), stage.data, tmp_path_factory.mktemp("results"))


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(torch.arange(5, 25)[None]).logits


@pytest.mark.parametrize("quantization", TOLERANCE)
def test_plain_transformers_loads_it_and_it_answers_equally(stage, tmp_path, quantization):
    profile = stage.profile(sft_learning_rate=1e-2, quantization=quantization, max_steps=3)
    run = train("sft", profile, stage.data, tmp_path)
    trained = logits(models.load(profile.base, quantization=quantization, adapter=run.path).model)
    folder = export(run.path, tmp_path / "merged")
    plain, report = Qwen2VLForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values())
    apart = (logits(plain) - trained).abs().max()
    assert apart <= TOLERANCE[quantization] * trained.abs().max()
    base = logits(models.load(profile.base, quantization=quantization).model)
    assert (base - trained).abs().max() > 3 * TOLERANCE["int8"] * trained.abs().max()  # the adapter matters
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    assert (f"{quantization} weights dequantised" in (folder / "README.md").read_text()) == (quantization != "none")


def test_tokenizer_template_and_preprocessing_come_along(stage, run, tmp_path):
    folder = export(run.path, tmp_path / "merged")
    chat = prompts.messages(stage.data.questions[0], "vanilla")
    ours, theirs = (
        AutoTokenizer.from_pretrained(path).apply_chat_template(chat, add_generation_prompt=True)["input_ids"]
        for path in (folder, stage.model)
    )
    assert ours == theirs
    for name in ("preprocessor_config.json", "generation_config.json"):
        assert read_json(folder / name) == read_json(stage.model / name)
    again = models.load(str(folder))  # and it is a base of its own
    assert again.info["adapter_hash"] is None


def test_the_command(stage, run, tmp_path, capsys):
    assert cli.main(["export", "--adapter", str(run.path), "--out", str(tmp_path / "m")]) == 0
    assert "written to" in capsys.readouterr().out
    assert cli.main(["export", "--adapter", str(run.path)]) == 2
    assert "--out FOLDER is missing" in capsys.readouterr().err


def test_what_cannot_be_exported_is_named_before_anything_is_loaded(stage, run, tmp_path, monkeypatch):
    monkeypatch.setattr(Qwen2VLForConditionalGeneration, "from_pretrained", None)
    held = tmp_path / "held"
    held.mkdir()
    (held / "thesis.txt").write_text("words")
    with pytest.raises(VsrError, match="exists already; name a new folder"):
        export(run.path, held)
    assert (held / "thesis.txt").read_text() == "words"
    with pytest.raises(VsrError, match="no adapter_config"):
        export(tmp_path, tmp_path / "new")
    with pytest.raises(VsrError, match=r"trained on .*, not on this tiny"):
        export(run.path, tmp_path / "new", base="tiny")
    with pytest.raises(VsrError, match=r"manifest\.json: no such file"):
        export(run.path / "adapter", tmp_path / "new")
    assert not (tmp_path / "new").exists()
