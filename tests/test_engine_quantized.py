"""The engine on 4-bit and 8-bit weights with an adapter: the same numbers as one completion at a time."""

import pytest
import torch
from naive import EOS, SPECIAL, generate_one, naive_logps, random_model, random_prompt, random_video, with_lora
from transformers import BitsAndBytesConfig, Qwen2VLForConditionalGeneration

from vsr.engine.decoding import answer_many
from vsr.engine.inputs import Prompt, video_features
from vsr.engine.logps import group_logps

QUANTIZED = {
    "nf4": BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32,
        llm_int8_skip_modules=["model.visual", "lm_head"],
    ),
    "int8": BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=["model.visual", "lm_head"]),
}  # fmt: skip


@pytest.fixture(params=QUANTIZED)
def model(request, tmp_path):
    random_model(4, hidden=64, layers=2, heads=4, kv=2).save_pretrained(tmp_path)
    config = QUANTIZED[request.param]
    base = Qwen2VLForConditionalGeneration.from_pretrained(tmp_path, quantization_config=config, device_map="cpu")
    return with_lora(base.eval())


def test_logps_and_gradients(model, request):
    pixels, grid = random_video(1)
    prompt = Prompt(random_prompt(1, 6, grid), video_features(model, pixels, grid), grid)
    completions = [torch.randint(7, 90, (n,), generator=torch.Generator().manual_seed(n)) for n in (5, 2, 5)]
    # int8 quantises activations a row at a time with an outlier threshold: rounding may fall differently
    tolerance = 1e-4 if "nf4" in request.node.name else 0.05
    expected = naive_logps(model, pixels, grid, prompt.ids, completions)
    expected.sum().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    found = group_logps(model, prompt, completions)
    found.sum().backward()
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)
    assert gradients
    for name, p in model.named_parameters():
        if name in gradients:
            assert (p.grad - gradients[name]).norm() < 2 * tolerance * gradients[name].norm()


def test_answers(model):
    pixels, grid = random_video(1)
    prompts = [random_prompt(i, 4 + i, grid) for i in range(4)]
    expected = [generate_one(model, pixels, grid, prompt, 5, EOS, SPECIAL) for prompt in prompts]
    assert answer_many(model, pixels, grid, prompts, 5, EOS, SPECIAL) == expected
