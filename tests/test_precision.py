"""The type that a model computes in: bfloat16 where the hardware has it, else float16 that neither overflows nor loses
its gradients."""

from dataclasses import replace

import pytest
import torch
from grpo_setup import ROWS, arguments, letters, see, small_study
from safetensors.torch import load_file, save_file
from small import small_folder

from vsr import evaluate, models, profiles, train
from vsr.errors import VsrError
from vsr.estimate import devices, estimate
from vsr.files import read_json
from vsr.models import Loaded, add_lora, precision
from vsr.questions import dataset
from vsr.train.group_trainer import GroupTrainer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return small_folder(tmp_path_factory.mktemp("model"))


def card(monkeypatch, bfloat16: bool) -> None:
    """As on a GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bfloat16)


def test_auto_takes_what_the_hardware_has(monkeypatch):
    assert [precision.named(name) for name in ("float32", "auto")] == ["float32", "bfloat16"]
    card(monkeypatch, bfloat16=False)
    assert [precision.named(name) for name in ("bfloat16", "auto")] == ["bfloat16", "float16"]
    card(monkeypatch, bfloat16=True)
    assert precision.named("auto") == "bfloat16"


LOUD = ("model.layers.0.mlp.down_proj.weight", "visual.blocks.0.mlp.fc2.weight")


def loud_folder(parent, part: str):
    """A model one of whose weights is too large for float16."""
    folder = small_folder(parent)
    weights = load_file(folder / "model.safetensors")
    weights[next(name for name in weights if name.endswith(part))] *= 1e9
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_answers_of_a_model_that_overflows_are_refused(tmp_path):
    profile, data = small_study(tmp_path)
    loud = replace(profile, base=str(loud_folder(tmp_path / "loud", LOUD[0])), dtype="float16")
    with pytest.raises(VsrError, match=r"logits are not finite in float16; --set dtype=float32"):
        evaluate.evaluate("base", dataset.load(data), "vanilla", "true", loud, tmp_path / "out")


@pytest.mark.parametrize("part", LOUD)
def test_a_float16_that_overflows_is_loaded_in_float32(folder, tmp_path, monkeypatch, capsys, part):
    monkeypatch.setattr(models, "named", lambda dtype: "float16" if dtype == "auto" else dtype)
    loaded = models.load(str(folder), dtype="auto")
    assert (loaded.model.dtype, loaded.info["dtype"]) == (torch.float16, "float16")
    assert capsys.readouterr().err == ""
    loaded = models.load(str(loud_folder(tmp_path, part)), dtype="auto")
    assert (loaded.model.dtype, loaded.info["dtype"]) == (torch.float32, "float32")
    assert "float16 overflows in a first forward pass; it is loaded in float32" in capsys.readouterr().err


def gradients(folder, out, dtype: str, reward: float) -> dict[str, torch.Tensor]:
    """Of one step, whose rewards and with them gradients are `reward` times as large as usual."""
    loaded = models.load(str(folder), dtype=dtype)
    torch.manual_seed(0)
    adapted = Loaded(add_lora(loaded.model, profiles.get("tiny", lora_r=4)), loaded.tokenizer, loaded.info)

    def small(*given, **more):
        return [reward * value for value in letters(*given, **more)]

    args = arguments(out, beta=0.0, scale_rewards="none")
    trainer = GroupTrainer(adapted, ROWS, [small], args, see, token_budget=10_000, split_every=1)
    trainer.create_optimizer_and_scheduler(args.max_steps)
    trainer.training_step(trainer.model, ROWS[:3])
    return {name: p.grad.clone() for name, p in adapted.model.named_parameters() if "lora_B" in name}


def apart(ours: dict, theirs: dict) -> float:
    ours, theirs = (torch.cat([one[name].flatten() for name in theirs]) for one in (ours, theirs))
    return float((ours - theirs).norm() / theirs.norm())


def test_gradients_in_float16_are_those_of_float32_however_small(folder, tmp_path, monkeypatch):
    """Against the same rollouts: both sample from a seed, and the types draw alike at these weights."""
    exact, half = (gradients(folder, tmp_path / f"{dtype}-1", dtype, 1.0) for dtype in ("float32", "float16"))
    assert apart(half, exact) < 0.02
    faint = gradients(folder, tmp_path / "faint", "float16", 1e-4)
    assert apart(faint, {name: 1e-4 * gradient for name, gradient in exact.items()}) < 0.02
    monkeypatch.setattr(precision, "SCALE", 1.0)  # as it would be
    lost = gradients(folder, tmp_path / "lost", "float16", 1e-4)
    assert apart(lost, {name: 1e-4 * gradient for name, gradient in exact.items()}) > 0.05


@pytest.mark.slow
@pytest.mark.parametrize("method", ["sft", "dpo"])
def test_baselines_in_float16_learn_what_they_do_in_float32(tmp_path, method):
    profile, data = small_study(tmp_path)
    found = {}
    for dtype in ("float32", "float16"):
        one = replace(profile, dtype=dtype, questions_per_step=2)
        run = train.train(method, one, dataset.load(data), tmp_path / dtype)
        found[dtype] = load_file(run.path / "adapter" / "adapter_model.safetensors")
        assert read_json(run.path / "manifest.json")["dtype"] == dtype
    ups = {name: weight for name, weight in found["float32"].items() if "lora_B" in name}
    assert apart(found["float16"], ups) < 0.2  # Adam's first steps follow a gradient's sign, however small it is


@pytest.mark.parametrize(("gpu", "profile"), [("RTX 3060", "qlora-2b"), ("T4", "qlora-2b"), ("RTX 4080", "qlora-2b")])
def test_a_student_s_card_is_enough(gpu, profile):
    assert estimate(profiles.get(profile), devices.named(gpu)).fits
