"""4- and 8-bit layers do what the weights they stand for would do; the shared prefix stays exact on top of them."""

import copy

import bitsandbytes
import pytest
import torch
from naive import (
    EOS,
    SPECIAL,
    answer_many,
    generate_one,
    group_logps,
    naive_logps,
    random_model,
    random_prompt,
    random_video,
    with_lora,
)
from real import thin
from test_engine_logps import completions_of, gradients, relative
from torch import nn
from transformers import Qwen2VLForConditionalGeneration

from vsr.engine.inputs import Prompt, video_features
from vsr.models import quantize

TRAINING = 1e-5  # relative to the reference, float32 on a CPU: log-probabilities and LoRA gradients
ANSWERING = {"nf4": 1e-5, "nf4-double": 1e-5, "fp4": 1e-5, "int8": 0.03}  # there, LLM.int8 rounds inputs to 8 bits too
LENGTHS = [7, 1, 4, 7, 2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    random_model(3, hidden=64, layers=2, heads=4, kv=2).save_pretrained(path)
    return path


def quantised(folder, name: str):
    model = Qwen2VLForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, quantization_config=quantize.bits_and_bytes(name, torch.float32)
    )
    quantize.keep_precision(model)
    return model


def dequantise(model: nn.Module) -> None:
    """Replace every quantised layer by a plain one with the very weights it stands for, float32."""
    for parent in list(model.modules()):
        for name, layer in parent.named_children():
            if isinstance(layer, bitsandbytes.nn.Linear4bit):
                weight = bitsandbytes.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
            elif isinstance(layer, bitsandbytes.nn.Linear8bitLt):
                scales = layer.weight.SCB if layer.weight.SCB is not None else layer.state.SCB
                weight = layer.weight.data.float() * scales[:, None] / 127
            else:
                continue
            plain = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
            plain.weight = nn.Parameter(weight.float(), requires_grad=False)
            plain.bias = layer.bias
            setattr(parent, name, plain)


def group(model):
    pixels, grid = random_video(5, (2, 4, 6))
    ids = random_prompt(5, 6, grid)
    return pixels, Prompt(ids, video_features(model, pixels, grid), grid), completions_of(105, LENGTHS)


def weights():
    return torch.randn(5, 7, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", ANSWERING)
def test_forward_and_lora_gradient_equal_the_dequantised_reference(folder, name):
    plain = quantised(folder, name)
    reference = copy.deepcopy(plain)
    dequantise(reference)
    pixels, prompt, completions = group(plain)
    kinds = {type(layer) for layer in reference.modules()}
    assert bitsandbytes.nn.Linear4bit not in kinds
    assert bitsandbytes.nn.Linear8bitLt not in kinds
    answered = []
    for model in (plain, reference):
        with torch.no_grad():
            answered.append(naive_logps(model.eval(), pixels, prompt.grid, prompt.ids, completions))
    assert (answered[0] - answered[1]).abs().max() <= ANSWERING[name] * answered[1].abs().max()
    results = []
    for model in (plain, reference):
        torch.manual_seed(0)
        adapted = with_lora(model).train()
        logps = naive_logps(adapted, pixels, prompt.grid, prompt.ids, completions)
        results.append((logps.detach(), gradients(adapted, (logps * weights()).sum())))
    (found, ours), (expected, theirs) = results
    assert (found - expected).abs().max() <= TRAINING * expected.abs().max()
    assert relative(ours, theirs) <= TRAINING


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_a_layer_of_the_real_width(kind):
    """Qwen2-VL-2B's down_proj, 8960 -> 1536, and the gradient that reaches its input."""
    torch.manual_seed(0)
    layer = bitsandbytes.nn.Linear4bit(8960, 1536, bias=False, compute_dtype=torch.float32, quant_type=kind)
    exact = layer.weight.data.clone()
    model = torch.nn.Sequential(layer.to("cpu"))
    reference = copy.deepcopy(model)
    dequantise(reference)
    x = torch.randn(5, 8960, requires_grad=True)
    (found,) = torch.autograd.grad(model(x).square().sum(), x)
    (expected,) = torch.autograd.grad(reference(x).square().sum(), x)
    assert (found - expected).norm() < TRAINING * expected.norm()
    error = (reference[0].weight - exact).norm() / exact.norm()
    assert 0.05 < error < 0.15


@pytest.mark.parametrize("name", ["nf4", "fp4", "int8"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_shared_prefix_is_exact(folder, name, checkpointing):
    model = with_lora(quantised(folder, name)).train()
    pixels, prompt, completions = group(model)
    expected = naive_logps(model, pixels, prompt.grid, prompt.ids, completions)
    expected_gradients = gradients(model, (expected * weights()).sum())
    if checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    found = group_logps(model, prompt, completions)
    found_gradients = gradients(model, (found * weights()).sum())
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert relative(found_gradients, expected_gradients) < 1e-5


@pytest.mark.parametrize("name", ["nf4", "int8"])
def test_answers_are_those_of_one_question_at_a_time(folder, name):
    model, (pixels, grid) = with_lora(quantised(folder, name).eval()), random_video(1)
    prompts = [random_prompt(i, 4 + i, grid) for i in range(4)]
    expected = [generate_one(model, pixels, grid, prompt, 5, EOS, SPECIAL) for prompt in prompts]
    assert answer_many(model, pixels, grid, prompts, 5, EOS, SPECIAL) == expected


@pytest.mark.parametrize("name", [name for name in quantize.QUANTIZATIONS if name != "none"])
def test_bytes_are_those_of_the_loaded_weights(name, tmp_path):
    from small import small_tokenizer

    from vsr.models.folders import build_config, save

    tokenizer = small_tokenizer()
    sizes = thin(width=128)
    sizes["text"].pop("vocab_size")
    save(Qwen2VLForConditionalGeneration(build_config(sizes, tokenizer)), tokenizer, tmp_path / "m")
    model = quantised(tmp_path / "m", name)
    assert quantize.held_bytes(model) == quantize.weight_bytes(model.config, torch.float32, name)
