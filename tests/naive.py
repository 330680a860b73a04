"""Random small Qwen2-VL models and the slow, obvious twins of the engine: one question, one completion at a time."""

import torch
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

from vsr.engine.decoding import answer_scenes
from vsr.engine.inputs import video_features
from vsr.engine.logps import packed_logps

VIDEO, VISION_START, VISION_END, EOS, PATCH = 5, 3, 4, 2, 4
SPECIAL = [VISION_START, VISION_END, VIDEO, 6]


def random_model(seed: int = 0, *, hidden: int = 32, layers: int = 2, heads: int = 4, kv: int = 2, vocab: int = 97):
    """A random Qwen2-VL, fp32, eval; its logits are spread enough for answers to differ between prompts."""
    torch.manual_seed(seed)
    eighth = hidden // heads // 8
    config = Qwen2VLConfig(
        text_config={
            "vocab_size": vocab,
            "hidden_size": hidden,
            "intermediate_size": 2 * hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": kv,
            "max_position_embeddings": 4096,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e4,
                "mrope_section": [2 * eighth, eighth, eighth],
            },
            "bos_token_id": 1,
            "eos_token_id": EOS,
        },
        vision_config={
            "depth": 1,
            "embed_dim": 16,
            "hidden_size": hidden,
            "num_heads": 2,
            "mlp_ratio": 2,
            "patch_size": PATCH,
        },
        image_token_id=6,
        video_token_id=VIDEO,
        vision_start_token_id=VISION_START,
        vision_end_token_id=VISION_END,
        tie_word_embeddings=True,
    )
    model = Qwen2VLForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(8)
    return model


def random_video(seed: int, grid: tuple[int, int, int] = (2, 4, 6)) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixel values (patches, 3 * 2 * PATCH^2) and their grid (1, 3)."""
    generator = torch.Generator().manual_seed(seed)
    t, h, w = grid
    return torch.randn(t * h * w, 3 * 2 * PATCH**2, generator=generator), torch.tensor([grid])


def random_prompt(seed: int, length: int, grid: torch.Tensor | None, *, head: int = 3) -> torch.Tensor:
    """Token ids: `head` tokens that are always the same, the video's tokens, `length` tokens of question."""
    generator = torch.Generator().manual_seed(seed)
    question = torch.randint(7, 90, (length,), generator=generator)
    start = torch.arange(10, 10 + head)
    if grid is None:
        return torch.cat([start, question])
    count = int(grid.prod()) // 4
    video = torch.tensor([VISION_START] + [VIDEO] * count + [VISION_END])
    return torch.cat([start, video, question])


def vision_inputs(ids: torch.Tensor, pixels: torch.Tensor | None, grid: torch.Tensor | None) -> dict:
    """The arguments by which transformers sees the video in a forward over `ids` (rows, tokens)."""
    if pixels is None:
        return {}
    rows = ids.shape[0]
    return {
        "pixel_values_videos": pixels.repeat(rows, 1),
        "video_grid_thw": grid.repeat(rows, 1),
        "mm_token_type_ids": (ids == VIDEO).int() * 2,
    }


@torch.no_grad()
def generate_one(model, pixels, grid, prompt: torch.Tensor, max_new_tokens: int, eos: int, suppress: list[int]):
    """The greedy answer of transformers' own `generate` to one prompt; ends with `eos` where the model ends."""
    ids = prompt[None].to(model.device)
    out = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        **vision_inputs(ids, pixels, grid),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=eos,
        pad_token_id=0,
        suppress_tokens=suppress,
    )
    return out[0, len(prompt) :].tolist()


def with_lora(model, seed: int = 0, rank: int = 4):
    """`model` with a random, non-zero LoRA on every projection of the language part."""
    from peft import LoraConfig, get_peft_model

    names = "q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj"
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=rf".*language_model.*\.({names})")
    wrapped = get_peft_model(model, config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
    return wrapped


def naive_logps(model, pixels, grid, prompt: torch.Tensor, completions: list[torch.Tensor]) -> torch.Tensor:
    """One forward of transformers' own a completion: log-probabilities (G, longest), 0 beyond a completion's end."""
    rows = []
    for completion in completions:
        ids = torch.cat((prompt, completion))[None]
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        base.model.rope_deltas = None
        vision = vision_inputs(ids, pixels, grid)
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, **vision).logits
        logps = logits[0, len(prompt) - 1 : -1].float().log_softmax(-1)
        rows.append(logps.gather(-1, completion[:, None])[:, 0])
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


def group_logps(model, prompt, completions: list[torch.Tensor]) -> torch.Tensor:
    """The engine's, of one group, in the form of `naive_logps`."""
    return packed_logps(model, [prompt], [completions])[0]


def answer_many(model, pixels, grid, prompts: list[torch.Tensor], *asked, step=None) -> list[list[int]]:
    """The engine's answers to questions on one video, or None."""
    features = None if pixels is None else video_features(model, pixels, grid)
    return answer_scenes(model, [(prompts, features, grid, step)], *asked)[0]
