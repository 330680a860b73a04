"""TRL's GRPOTrainer made to see the video in every forward: what a user who noticed the gap would patch.

TRL 1.16 takes images; a video reaches the rollout at most, never the reference and the loss. Here each of them gets
the video's pixels, or its cached features (`mm_encoder_outputs`), with the token types that M-RoPE needs."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import LongTensor, Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling
from trl import GRPOTrainer

from vsr.bench.clock import now


@dataclass(frozen=True)
class Seen:
    """A prompt's token ids (tokens,) and its video: grid (1, 3) with pixel values (patches, patch size) or features
    (video tokens, hidden size), all None for text alone; features are used where they are given."""

    ids: LongTensor
    grid: LongTensor | None = None
    pixels: Tensor | None = None
    features: Tensor | None = None


class SeeingGRPOTrainer(GRPOTrainer):
    """`seen` holds the prompt of each training row by the row's `prompt` text. `sample`, if given, replaces generation:
    called with the prompts' texts, it returns each one's completion ids. `seconds` adds up rollout, scoring, update."""

    def __init__(self, *args, seen: dict[str, Seen], sample: Callable | None = None, **kwargs):
        self.seen, self.sample = seen, sample
        self.seconds = {"rollout": 0.0, "scoring": 0.0, "update": 0.0}
        super().__init__(*args, **kwargs)

    def training_step(self, model, inputs, num_items_in_batch):
        """TRL's step, timed; what is neither rollout nor reference counts as update."""
        started, before = now(), self.seconds["rollout"] + self.seconds["scoring"]
        loss = super().training_step(model, inputs, num_items_in_batch)
        spent = self.seconds["rollout"] + self.seconds["scoring"] - before
        self.seconds["update"] += now() - started - spent
        return loss

    def _tokenize_prompts(self, prompts):
        self._texts = prompts
        seen = [self.seen[text] for text in prompts]
        fields = self._vision(seen)
        length = max(len(prompt.ids) for prompt in seen)
        types = [torch.nn.functional.pad(self._types(prompt.ids), (length - len(prompt.ids), 0)) for prompt in seen]
        if fields:
            fields["mm_token_type_ids"] = torch.stack(types)
        return [prompt.ids.tolist() for prompt in seen], None, fields

    def _generate_single_turn(self, prompt_ids, images, multimodal_fields, *args, **kwargs):
        started = now()
        if self.sample is None:
            cached = {key: multimodal_fields.pop(key) for key in ["mm_encoder_outputs"] if key in multimodal_fields}
            self.model.generate = partial(type(self.model).generate, self.model, **cached)  # TRL hands on tensors only
            found = super()._generate_single_turn(prompt_ids, images, multimodal_fields, *args, **kwargs)
            del self.model.generate
        else:
            found = self.sample(self._texts), None
        self.seconds["rollout"] += now() - started
        return found

    def _get_per_token_logps_and_entropies(self, model, input_ids, attention_mask, *args, **kwargs):
        def seeing(**inputs):
            rows = [row[kept.bool()] for row, kept in zip(inputs["input_ids"], inputs["attention_mask"], strict=True)]
            vision = self._vision([self._prompt_of(row) for row in rows])
            if vision:
                vision["mm_token_type_ids"] = self._types(inputs["input_ids"])
            return model(**inputs, **vision)

        started = now()
        found = super()._get_per_token_logps_and_entropies(seeing, input_ids, attention_mask, *args, **kwargs)
        if not torch.is_grad_enabled():
            self.seconds["scoring"] += now() - started
        return found

    def _prompt_of(self, row: LongTensor) -> Seen:
        return next(p for p in self.seen.values() if torch.equal(row[: len(p.ids)], p.ids.to(row.device)))

    def _types(self, ids: LongTensor) -> LongTensor:
        return (ids == self.model.config.video_token_id).int() * 2

    def _vision(self, prompts: list[Seen]) -> dict:
        shown = [prompt for prompt in prompts if prompt.grid is not None]
        if not shown:
            return {}
        device = self.accelerator.device
        grids = torch.cat([prompt.grid for prompt in shown]).to(device)
        if any(prompt.features is None for prompt in shown):
            pixels = torch.cat([prompt.pixels for prompt in shown]).to(device)
            return {"pixel_values_videos": pixels, "video_grid_thw": grids}
        output = BaseModelOutputWithPooling(pooler_output=[prompt.features.to(device) for prompt in shown])
        return {"mm_encoder_outputs": {"video": output}, "video_grid_thw": grids}
