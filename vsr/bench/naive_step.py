"""GRPO's step as the equation reads, in our own code: every completion carries its own copy of the prompt.

The video's features are cached here too, so what differs from the engine is sharing alone."""

from dataclasses import dataclass

import torch
from torch import LongTensor, Tensor
from transformers import DynamicCache

from vsr.engine.inputs import Prompt, base_model, embed, positions


@dataclass(frozen=True)
class Naive:
    """A model, one prompt and how many completions of how many tokens."""

    model: torch.nn.Module
    prompt: Prompt
    group: int
    length: int

    @torch.no_grad()
    def rollout(self, forbidden: list[int], generator: torch.Generator) -> LongTensor:
        """Sampled completions (group, length), each row reading the whole prompt."""
        base = base_model(self.model)
        cache = DynamicCache(config=base.config.get_text_config())
        places = positions(base, self.prompt.ids, self.prompt.grid)[:, None].expand(-1, self.group, -1).to(base.device)
        inputs = embed(base, self.prompt.ids, self.prompt.features).expand(self.group, -1, -1)
        chosen: list[Tensor] = []
        for _ in range(self.length):
            hidden = base.model.language_model(
                inputs_embeds=inputs, position_ids=places, past_key_values=cache, use_cache=True
            ).last_hidden_state[:, -1]
            logits = base.lm_head(hidden).float()
            logits[:, forbidden] = -torch.inf
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
