"""The two ways that ours is compared to: GRPO's step as the equation reads, and TRL's trainer made to see the video.

TRL 1.16 takes images; a video reaches the rollout at most, never the reference and the loss. Here each of them gets
the video's pixels, or its cached features (`mm_encoder_outputs`), with the token types that M-RoPE needs: what a user
who noticed the gap would patch."""

from dataclasses import dataclass
from functools import partial

import torch
from torch import LongTensor, Tensor
from torch.nn.functional import pad
from transformers import DynamicCache
from transformers.modeling_outputs import BaseModelOutputWithPooling
from trl import GRPOTrainer

from vsr.engine.inputs import Prompt, base_model, embed, positions


@dataclass(frozen=True)
class Naive:
    """A model, one prompt with its cached features, and how many completions of how many tokens; every completion
    carries its own copy of the prompt, so that what differs from the engine is sharing alone."""

    model: torch.nn.Module
    prompt: Prompt
    group: int
    length: int

    @torch.no_grad()
    def rollout(self, forbidden: list[int], generator: torch.Generator) -> LongTensor:
        """Sampled completions (group, length), each row reading the whole prompt."""
        base = base_model(self.model)
        cache = DynamicCache(config=base.config.get_text_config())
        # (3, group, tokens) and (group, tokens, hidden size): views, copied by the first layer as any batch is
        places = positions(base, self.prompt.ids, self.prompt.grid)[:, None].expand(-1, self.group, -1).to(base.device)
        inputs = embed(base, self.prompt.ids, self.prompt.features).expand(self.group, -1, -1)
        chosen: list[Tensor] = []
        for _ in range(self.length):
            hidden = base.model.language_model(
                inputs_embeds=inputs, position_ids=places, past_key_values=cache, use_cache=True
            ).last_hidden_state[:, -1]
            logits = base.lm_head(hidden).float()
            logits[:, forbidden] = -torch.inf
            # drawn on the CPU, so that the tokens do not depend on the device
            chosen.append(torch.multinomial(logits.softmax(-1).cpu(), 1, generator=generator).to(logits.device))
            inputs, places = base.get_input_embeddings()(chosen[-1]), places[:, :, -1:] + 1
        return torch.cat(chosen, 1)

    def logps(self, completions: LongTensor) -> Tensor:
        """Log-probabilities (group, length) of completions (group, length)."""
        base = base_model(self.model)
        places = positions(base, self.prompt.ids, self.prompt.grid)
        places = torch.cat((places, places[:, -1:] + 1 + torch.arange(self.length)), 1)
        prompt = embed(base, self.prompt.ids, self.prompt.features).expand(self.group, -1, -1)
        completions = completions.to(base.device)
        hidden = base.model.language_model(
            inputs_embeds=torch.cat((prompt, base.get_input_embeddings()(completions)), 1)[:, :-1],
            position_ids=places[:, None, :-1].expand(-1, self.group, -1).to(base.device),
            use_cache=False,
        ).last_hidden_state[:, -self.length :]
        logps = base.lm_head(hidden).float().log_softmax(-1)
        return logps.gather(-1, completions[..., None])[..., 0]


class SeeingGRPOTrainer(GRPOTrainer):
    """`seen` holds the prompt of each training row by the row's `prompt` text. Features are shown where a prompt has
    them, else `pixels` (patches, patch size), the same video for every prompt."""

    def __init__(self, *args, seen: dict[str, Prompt], pixels: Tensor | None = None, **kwargs):
        self.seen, self.pixels = seen, pixels
        super().__init__(*args, **kwargs)

    def _tokenize_prompts(self, prompts):
        seen = [self.seen[text] for text in prompts]
        fields = self._vision(seen)
        length = max(len(prompt.ids) for prompt in seen)
        if fields:  # M-RoPE needs each token's type; TRL pads prompts at the left
            types = [pad(self._types(prompt.ids), (length - len(prompt.ids), 0)) for prompt in seen]
            fields["mm_token_type_ids"] = torch.stack(types)
        return [prompt.ids.tolist() for prompt in seen], None, fields

    def _generate_single_turn(self, prompt_ids, images, multimodal_fields, *args, **kwargs):
        cached = {key: multimodal_fields.pop(key) for key in ["mm_encoder_outputs"] if key in multimodal_fields}
        # TRL hands on tensors only, and features come as an output object
        self.model.generate = partial(type(self.model).generate, self.model, **cached)
        found = super()._generate_single_turn(prompt_ids, images, multimodal_fields, *args, **kwargs)
        del self.model.generate
        return found

    def _get_per_token_logps_and_entropies(self, model, input_ids, attention_mask, *args, **kwargs):
        def seeing(**inputs):
            # TRL gives ids alone: a row without its padding tells which prompt, and so which video, it has
            rows = [row[kept.bool()] for row, kept in zip(inputs["input_ids"], inputs["attention_mask"], strict=True)]
            seen = self.seen.values()
            vision = self._vision([next(p for p in seen if torch.equal(r[: len(p.ids)], p.ids.to(r))) for r in rows])
            if vision:
                vision["mm_token_type_ids"] = self._types(inputs["input_ids"])
            return model(**inputs, **vision)

        return super()._get_per_token_logps_and_entropies(seeing, input_ids, attention_mask, *args, **kwargs)

    def _types(self, ids: LongTensor) -> LongTensor:
        return (ids == self.model.config.video_token_id).int() * 2

    def _vision(self, prompts: list[Prompt]) -> dict:
        shown = [prompt for prompt in prompts if prompt.grid is not None]
        if not shown:
            return {}
        device = self.accelerator.device
        grids = torch.cat([prompt.grid for prompt in shown]).to(device)
        if any(prompt.features is None for prompt in shown):
            return {"pixel_values_videos": self.pixels.repeat(len(shown), 1).to(device), "video_grid_thw": grids}
        output = BaseModelOutputWithPooling(pooler_output=[prompt.features.to(device) for prompt in shown])
        return {"mm_encoder_outputs": {"video": output}, "video_grid_thw": grids}
