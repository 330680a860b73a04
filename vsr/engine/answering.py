"""Greedy answers to many questions on one video, which is seen and read once."""

import torch
from torch import LongTensor, Tensor

from vsr.engine.decoding import Group, decode
from vsr.engine.inputs import Prompt, base_model, positions, shared_length, video_features
from vsr.errors import VsrError


def answer_many(
    model: torch.nn.Module,
    pixel_values: Tensor | None,
    grid: LongTensor | None,
    prompts: list[LongTensor],
    max_new_tokens: int,
    eos: int,
    suppress: list[int],
    *,
    features: Tensor | None = None,
) -> list[list[int]]:
    """Token ids of the greedy answer to each prompt, `eos` kept where the model ended; equal to `generate` one by one.

    `prompts` are 1-D token ids that agree up to and including the video's tokens; `pixel_values` (patches, patch
    size) and `grid` (1, 3) are what `vsr.video.patchify` gives, both None for text alone. `features` (video tokens,
    hidden size) replaces the vision tower's pass where they are known. Raises VsrError where a video token is not
    shared by all prompts."""
    if not prompts or max_new_tokens < 1:
        raise VsrError(f"{len(prompts)} prompts, max_new_tokens={max_new_tokens}: nothing to answer; give at least 1")
    shared = shared_length(prompts)
    if shared == 0:
        raise VsrError("the prompts share no first token: render them with the chat template")
    if grid is not None and any((p[shared:] == base_model(model).config.video_token_id).any() for p in prompts):
        raise VsrError("the prompts differ before the end of the video: ask about different videos in separate calls")
    if pixel_values is not None and features is None:
        features = video_features(model, pixel_values, grid)
    places = [positions(model, prompt, grid) for prompt in prompts]
    group = Group(
        prefix=Prompt(prompts[0][:shared], features, grid),
        prefix_positions=places[0][:, :shared],
        branches=[prompt[shared:] for prompt in prompts],
        positions=[place[:, shared:] for place in places],
    )
    return decode(model, [group], lambda logits, *_: logits.argmax(-1), max_new_tokens, eos, suppress)
