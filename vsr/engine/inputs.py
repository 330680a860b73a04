"""What a Qwen2-VL language model reads: embeddings with the video in place, and M-RoPE positions, always explicit."""

from dataclasses import dataclass

import torch
from torch import LongTensor, Tensor
from transformers import Qwen2VLForConditionalGeneration

from vsr.errors import VsrError


@dataclass(frozen=True)
class Prompt:
    """One prompt. `ids` (tokens,) holds one video token for every row of `features` (video tokens, hidden size);
    `grid` (videos, 3) is each video's patch grid (time, height, width). A text prompt has neither features nor grid."""

    ids: LongTensor
    features: Tensor | None = None
    grid: LongTensor | None = None


def base_model(model: torch.nn.Module) -> Qwen2VLForConditionalGeneration:
    """The Qwen2-VL inside a PEFT or DDP wrapper; its layers still carry the adapter."""
    model = getattr(model, "module", model)
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def video_features(model: torch.nn.Module, pixel_values: Tensor, grid: LongTensor) -> Tensor:
    """The frozen vision tower's output (video tokens, hidden size) for patches and their grid (videos, 3)."""
    base = base_model(model)
    with torch.no_grad():
        output = base.model.get_video_features(pixel_values.to(base.device), grid.to(base.device))
    return torch.cat(tuple(output.pooler_output))


def positions(model: torch.nn.Module, ids: LongTensor, grid: LongTensor | None) -> LongTensor:
    """M-RoPE positions (3, tokens) as transformers' `get_rope_index` gives them for one sequence of `ids` (tokens,).
    Raises VsrError where `ids` does not hold the video tokens that `grid` (videos, 3) asks for."""
    base = base_model(model)
    if grid is None:
        return torch.arange(len(ids)).expand(3, -1)
    types = (ids == base.config.video_token_id).int().cpu() * 2
    expected = int(grid.prod(-1).sum()) // base.config.vision_config.spatial_merge_size**2
    if int(types.bool().sum()) != expected:
        raise _mismatch(int(types.bool().sum()), expected)
    found, _ = base.model.get_rope_index(ids[None].cpu(), mm_token_type_ids=types[None], video_grid_thw=grid.cpu())
    return found[:, 0]


def embed(model: torch.nn.Module, ids: LongTensor, features: Tensor | None) -> Tensor:
    """Embeddings (tokens, hidden size) of `ids` (tokens,), the video tokens replaced by `features` in order.
    Raises VsrError where the two do not match in number."""
    base = base_model(model)
    ids = ids.to(base.device)
    embeddings = base.get_input_embeddings()(ids)
    video = ids == base.config.video_token_id
    count, given = int(video.sum()), 0 if features is None else len(features)
    if count != given:
        raise _mismatch(count, given)
    if given:
        embeddings = embeddings.index_put((video.nonzero()[:, 0],), features.to(embeddings))
    return embeddings


def _mismatch(prompt: int, video: int) -> VsrError:
    return VsrError(f"the prompt has {prompt} video tokens, the video {video}: were frames or max_pixels changed?")


def shared_length(prompts: list[LongTensor]) -> int:
    """How many leading tokens all prompts share, leaving each at least one of its own."""
    length = min(len(prompt) for prompt in prompts) - 1
    first = prompts[0][:length]
    for prompt in prompts[1:]:
        differ = (prompt[:length] != first[:length]).nonzero()
        length = int(differ[0]) if len(differ) else length
    return length
