"""Model cards: valid for the hub, true to the manifest, free of machines' names, and no part of what an adapter is."""

import os
from pathlib import Path

import pytest
import torch
from baseline_setup import staged
from huggingface_hub import ModelCard
from peft import PeftModel
from transformers import Qwen2VLForConditionalGeneration

from vsr import cli, evaluate, models
from vsr.files import append_jsonl, read_json, write_json
from vsr.models import cards
from vsr.models.adapters import adapter_hash
from vsr.train import train


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    with staged(tmp_path_factory.mktemp("stage")) as stage:
        yield stage


@pytest.fixture(scope="module")
def trained(stage, tmp_path_factory):
    """The run folder of each method."""
    out, profile = tmp_path_factory.mktemp("results"), stage.profile(max_steps=2, num_generations=2, seeds=1)
    data = stage.data
    made = {
        "grpo": train("grpo", profile, data, out, mode="think"),
        "sft": train("sft", profile, data, out),
        "dpo": train("dpo", profile, data, out),
    }
    return {name: run.path for name, run in made.items()}


def card(run: Path) -> ModelCard:
    return ModelCard.load(run / "adapter" / "README.md")


@pytest.mark.parametrize("method", ["grpo", "sft", "dpo"])
def test_every_adapter_has_a_card_that_the_hub_reads(trained, stage, method):
    run, manifest = trained[method], read_json(trained[method] / "manifest.json")
    found = card(run)
    assert found.data.library_name == "peft"
    assert found.data.pipeline_tag == "video-text-to-text"
    assert found.data.base_model is None  # no hub id: it would be a broken link
    for word in (manifest["id"], manifest["about"]["model"]["hash"], cards.NAMES[method], "Not evaluated yet"):
        assert word in found.text
    assert f"| seed | {manifest['seed']} |" in found.text
    assert f"| lora r | {stage.profile().lora_r} |" in found.text
    assert "- evaluation with the vanilla prompt and true video" in found.text
    assert "- VSI-Bench itself, with its real videos" in found.text


def test_no_machine_is_named(trained, stage):
    for run in trained.values():
        words = (run / "adapter" / "README.md").read_text()
        for secret in (str(stage.model.parent), str(run.parent), str(Path.home()), os.uname().nodename):
            assert secret not in words


def test_plain_peft_loads_the_folder(trained, stage):
    base = Qwen2VLForConditionalGeneration.from_pretrained(stage.model)
    ids = torch.arange(5, 25)[None]
    ours = models.load(str(stage.model), adapter=trained["sft"]).model
    with torch.no_grad():
        expected = ours(ids).logits
        assert torch.allclose(PeftModel.from_pretrained(base, trained["sft"] / "adapter").eval()(ids).logits, expected)


def test_an_evaluation_fills_the_card_and_makes_nothing_stale(trained, stage, capsys):
    run, out = trained["grpo"], trained["grpo"].parent
    profile = stage.profile(max_steps=2, num_generations=2, seeds=1)
    before, mark = (run / "adapter" / "README.md").read_text(), adapter_hash(run)
    words = ["--bench", str(stage.data.folder), "--out", str(out), "--mode", "think"]
    for key in ("base", "frames", "lora_r", "max_steps", "questions_per_step", "num_generations", "seeds"):
        words += ["--set", f"{key}={getattr(profile, key)}"]
    assert cli.main(["evaluate", "--adapter", str(run), *words]) == 0
    after, summary = card(run), read_json(out / "eval-grpo-think-seed0-think-true" / "summary.json")
    assert after.content != before
    assert f"{summary['overall']:.1f}" in after.text
    assert summary["run"] in after.text
    assert "evaluation with the think prompt and true video" not in after.text
    assert "evaluation with the think prompt and shuffled video" in after.text
    assert "evaluation with the vanilla prompt and true video" in after.text
    (result,) = after.data.eval_results
    assert result.metric_value == round(summary["overall"], 1)
    assert adapter_hash(run) == mark == read_json(run / "manifest.json")["adapter"]
    assert train("grpo", profile, stage.data, out, mode="think").finished
    assert card(run).content == after.content  # nothing was trained again
    assert evaluate.evaluate(str(run), stage.data, "think", "true", profile, out).finished
    assert "Not evaluated yet" in card(trained["sft"]).text  # another adapter's scores are not its own


def test_scores_of_an_adapter_that_was_trained_again_are_dropped(trained):
    run = trained["dpo"]
    evaluation = run.parent / "named-as-you-like"
    about = {"model": {"adapter_hash": adapter_hash(run)}, "mode": "vanilla", "video": "true"}
    manifest = {"id": "e", "stage": "answer", "identity": "0", "about": about, "settings": {}, "finished": True}
    write_json(evaluation / "manifest.json", manifest)
    summary = about | {
        "n": 1,
        "overall": 61.25,
        "overall_low": 50.0,
        "overall_high": 70.0,
        "trained": None,
        "tasks": {},
        "run": "e",
    }
    write_json(evaluation / "summary.json", summary)
    append_jsonl(evaluation / "samples.jsonl", {"id": "q", "dataset": "arkitscenes"})
    cards.write(run)
    assert "61.2 [50.0, 70.0]" in card(run).text
    assert "VSI-Bench itself" not in card(run).text
    write_json(evaluation / "manifest.json", manifest | {"about": about | {"model": {"adapter_hash": "0" * 16}}})
    cards.write(run)
    assert "Not evaluated yet" in card(run).text


def test_hub_bases_are_linked_and_warnings_said(trained):
    run = trained["sft"]
    manifest = read_json(run / "manifest.json")
    manifest["about"]["model"]["base"] = "Qwen/Qwen2-VL-2B-Instruct@abc"
    manifest |= {"warning": "trained on rooms of VSI-Bench"}
    cards.write(run, manifest)
    found = card(run)
    assert found.data.base_model == "Qwen/Qwen2-VL-2B-Instruct"
    assert "**Warning.** trained on rooms of VSI-Bench" in found.text
