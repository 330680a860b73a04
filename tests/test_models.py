"""One door: what is loaded is what was saved; adapters touch the language model only; wrong names fail early."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from small import SIZES, small_folder, small_tokenizer
from transformers import Qwen2VLForConditionalGeneration

from vsr import models, profiles
from vsr.errors import VsrError
from vsr.models import add_lora, describe, folders, load
from vsr.models.folders import model_hash


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return small_folder(tmp_path_factory.mktemp("model"))


def logits(model):
    return model(torch.arange(8)[None]).logits.detach()


def test_a_saved_folder_comes_back_with_the_same_weights(folder):
    first, second = load(str(folder)), load(str(folder))
    assert torch.equal(logits(first.model), logits(second.model))
    assert not first.model.training
    assert first.info == describe(str(folder))
    assert first.info["name"] == "base"
    assert str(folder) not in json.dumps(first.info)
    assert {file.name for file in folder.iterdir()} >= {"config.json", "model.safetensors", "tokenizer.json"}


def test_the_real_tokenizer_and_template(shared, tmp_path):
    folder = folders.random_folder(tmp_path / "m", SIZES, shared / "qwen2-vl-processor")
    loaded = load(str(folder))
    assert loaded.model.config.video_token_id == 151656
    assert models.end_id(loaded.tokenizer) == 151645
    assert models.suppressed(loaded.tokenizer) == [151652, 151653, 151654, 151655, 151656]
    assert models.read(loaded.tokenizer, [19, 151645, 20]) == "4"
    assert models.read(loaded.tokenizer, [151644, 19, 151643, 20]) == "4"


def test_the_hash_sees_weights_and_tokenizer_only(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "elsewhere")
    (copy / "README.md").write_text("words")
    assert model_hash(copy) == model_hash(folder)
    other = small_folder(tmp_path, seed=1)
    assert model_hash(other) != model_hash(folder)


def test_lora_trains_the_language_model_only(folder):
    model = add_lora(load(str(folder)).model, profiles.get("tiny", lora_r=3))
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    layers = SIZES["text"]["num_hidden_layers"]
    assert len(trained) == 2 * 7 * layers
    assert not any("visual" in name for name in trained)
    assert all(min(model.get_parameter(name).shape) == 3 for name in trained)


def test_an_adapter_changes_answers_and_is_loaded_from_its_run_folder(folder, tmp_path):
    base = load(str(folder))
    before = logits(base.model)
    adapted = add_lora(base.model, profiles.get("tiny"))
    assert torch.equal(logits(adapted), before)  # a fresh adapter is the identity
    with torch.no_grad():
        for name, p in adapted.named_parameters():
            if "lora_B" in name:
                p.normal_()
    after = logits(adapted)
    run = tmp_path / "grpo-vanilla"
    adapted.save_pretrained(str(run / "adapter"))
    again = load(str(folder), adapter=run)
    assert torch.allclose(logits(again.model), after, atol=1e-5)
    assert not torch.allclose(after, before, atol=1e-2)
    assert again.info["name"] == "grpo-vanilla"
    assert again.info["adapter_hash"]
    profile = profiles.get("tiny", base=str(folder))
    assert describe(**models.arguments(str(run), profile)) == again.info
    assert describe(**models.arguments("base", profile)) == describe(str(folder))
    (run / "adapter" / "adapter_model.safetensors").unlink()
    with pytest.raises(VsrError, match=r"adapter_model.safetensors is missing"):
        load(str(folder), adapter=run)


@pytest.mark.parametrize(("name", "kind"), [("nf4", "Linear4bit"), ("fp4", "Linear4bit"), ("int8", "Linear8bitLt")])
def test_quantised_weights_stay_close_and_train_an_adapter(folder, name, kind):
    plain, small = load(str(folder)).model, load(str(folder), quantization=name).model
    assert type(small.model.language_model.layers[0].mlp.up_proj).__name__ == kind
    assert type(small.model.visual.blocks[0].attn.qkv) is torch.nn.Linear
    difference = (logits(plain) - logits(small)).abs().max() / logits(plain).std()
    assert 0 < difference < 1
    adapted = add_lora(small, profiles.get("tiny"))
    ids = torch.arange(8)[None]
    adapted(ids, labels=ids).loss.backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in adapted.parameters())


def test_the_miniature_is_small():
    """The shipped one."""
    with torch.device("meta"):
        model = Qwen2VLForConditionalGeneration(folders.find("tiny")[1])
    assert 3e6 < model.num_parameters() < 4e6
    assert (folders.TINY_FOLDER / "model.safetensors").stat().st_size < 12e6


def test_rotary_sections_must_fit():
    sizes = {**SIZES, "text": SIZES["text"] | {"mrope_section": [2, 2, 2]}}
    with pytest.raises(VsrError, match="half the head size, 8"):
        folders.build_config(sizes, small_tokenizer())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere",), "base 'nowhere': no such folder"),
        (("./a/b/c",), "no such folder"),
        (("Qwen/Qwen2-VL-2B-Instruct",), "hub cache"),
        (("tiny", "dtype", "bfloat"), "unknown dtype 'bfloat': did you mean 'bfloat16'"),
        (("tiny", "quantization", "nf8"), "unknown quantization 'nf8'"),
        (("tiny", "attn", "flash"), "unknown attention 'flash'"),
    ],
)
def test_wrong_names_fail_before_any_weight_is_read(arguments, message, monkeypatch):
    monkeypatch.setattr(Qwen2VLForConditionalGeneration, "from_pretrained", None)
    base, *option = arguments
    with pytest.raises(VsrError, match=message):
        load(base, **dict([option] if option else []))


def test_wrong_folders_are_named(folder, tmp_path):
    with pytest.raises(VsrError, match="no adapter_config"):
        load(str(folder), adapter=tmp_path)
    with pytest.raises(VsrError, match=r"no \*.safetensors"):
        load(str(tmp_path))
    cut = shutil.copytree(folder, tmp_path / "cut")
    weights = cut / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(VsrError, match="cannot be read"):
        load(str(cut))
    full = load_file(folder / "model.safetensors")
    save_file({k: v for k, v in full.items() if "norm" not in k}, weights, metadata={"format": "pt"})
    with pytest.raises(VsrError, match=r"weights lack model.*norm"):
        load(str(cut))
    other = shutil.copytree(folder, tmp_path / "other")
    (other / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(VsrError, match="model type 'gpt2'"):
        load(str(other))
