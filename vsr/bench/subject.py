"""What the benchmarks measure on: a model with random weights, one video, prompts of given length."""

import os
import platform
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from peft import PeftModel
from torch import LongTensor, Tensor
from transformers import PreTrainedTokenizerBase, Qwen2VLForConditionalGeneration

from vsr import profiles
from vsr.engine.inputs import video_features
from vsr.miniature.corpus import new_tokenizer
from vsr.models import Loaded, add_lora, suppressed
from vsr.models.folders import QWEN2_VL, build_config, tiny_config
from vsr.prompts import render
from vsr.runs import versions

# patch grids (time, height, width) whose video tokens leave room for a question in a prompt of so many tokens
GRIDS = {300: (8, 8, 12), 1200: (8, 22, 24)}
PATCH = 3 * 2 * 14 * 14


@dataclass(frozen=True)
class Subject:
    """Random weights and the study's tokenizer; `name` says which sizes."""

    model: Qwen2VLForConditionalGeneration
    tokenizer: PreTrainedTokenizerBase
    name: str

    def row(self, length: int, question: int = 0) -> dict:
        """A training row whose prompt has `length` tokens; `question` varies the text after the video."""
        rest = length - len(render(self.tokenizer, chat(0, question), self.grid(length)))
        return {"id": f"{length}-{question}", "prompt": chat(rest, question), "video": str(length)}

    def questions(self, length: int, count: int) -> list[LongTensor]:
        """Prompts on the video of `length`, each with 20 to 30 tokens of its own."""
        return [render(self.tokenizer, chat(20 + i % 11, i), self.grid(length)) for i in range(count)]

    def grid(self, length: int) -> LongTensor:
        """(1, 3)."""
        return torch.tensor([GRIDS[length]])

    def pixels(self, length: int) -> Tensor:
        """(patches, patch size)."""
        return torch.randn(int(self.grid(length).prod()), PATCH, generator=torch.Generator().manual_seed(length))

    @cached_property
    def features(self) -> dict[int, Tensor]:
        """Vision features (video tokens, hidden size) by prompt length."""
        return {length: video_features(self.model, self.pixels(length), self.grid(length)).cpu() for length in GRIDS}

    def see(self, video: Path) -> tuple[Tensor, LongTensor]:
        """The cache a trainer asks."""
        return self.features[int(video.name)], self.grid(int(video.name))

    @property
    def forbidden(self) -> list[int]:
        """Tokens never sampled: vision's and, so that every completion has the length asked for, the end."""
        return [*suppressed(self.tokenizer), self.tokenizer.eos_token_id, self.tokenizer.pad_token_id]

    def adapted(self, seed: int = 0) -> Loaded:
        """The model with a LoRA of the study's rank that has left its start; call `unload` on it before the next."""
        torch.manual_seed(seed)
        model: PeftModel = add_lora(self.model, profiles.get("tiny"))
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "lora_B" in name:
                    weight.normal_(0, 0.02)
        return Loaded(model, self.tokenizer, {"device": str(self.model.device)})


def chat(tokens: int, question: int) -> list[dict]:
    """A question of `tokens` random letters about a video."""
    letters = torch.randint(4, (tokens,), generator=torch.Generator().manual_seed(question)).tolist()
    text = "".join("jqxz"[i] for i in letters)  # a token each
    return [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": text}]}]


def subject(seed: int = 0) -> Subject:
    """The miniature's sizes in fp32 on the CPU; Qwen2-VL-2B's in bf16 where there is a GPU."""
    gpu, tokenizer = torch.cuda.is_available(), new_tokenizer()
    config = build_config(QWEN2_VL["Qwen/Qwen2-VL-2B-Instruct"] if gpu else tiny_config(), tokenizer)
    torch.manual_seed(seed)
    with torch.device("cuda" if gpu else "cpu"):
        model = Qwen2VLForConditionalGeneration(config).to(torch.bfloat16 if gpu else torch.float32)
    return Subject(model.eval(), tokenizer, "Qwen2-VL-2B's sizes, bf16" if gpu else "the miniature's sizes, fp32")


def machine() -> dict:
    """Where the numbers come from."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    facts = {"system": platform.system(), "processor": platform.machine(), "cores": os.cpu_count(), "device": device}
    return facts | {"threads": torch.get_num_threads(), "versions": versions()}
