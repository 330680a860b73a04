"""What the benchmarks share: a clock, the machine's facts, a table that grows while it is measured, and the subject, a
model with random weights, one video and prompts of given length."""

import os
import platform
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from peft import PeftModel
from torch import LongTensor, Tensor
from transformers import PreTrainedTokenizerBase, Qwen2VLConfig, Qwen2VLForConditionalGeneration

from vsr import profiles
from vsr.engine.inputs import one_thread, video_features
from vsr.families import PUBLISHED
from vsr.models import Loaded, add_lora, suppressed
from vsr.models.folders import TINY_FOLDER, build_config, find, load_tokenizer
from vsr.prompts import render
from vsr.runs import versions

QWEN2_VL_2B = PUBLISHED["Qwen/Qwen2-VL-2B-Instruct"]
PHASES = ("rollout", "scoring", "update")
NEVER = 1 << 30
# patch grids (time, height, width) whose video tokens leave room for a question in a prompt of so many tokens
GRIDS = {300: (8, 8, 12), 1200: (8, 22, 24)}
PATCH = 3 * 2 * 14 * 14  # channels, frames, height, width


def now() -> float:
    """Seconds: on the CPU, where everything runs on one thread, the processor's, which other programs do not stretch;
    on a GPU the wall's, after all work handed to it."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def seconds(work: Callable[[], object], repeats: int = 1) -> float:
    """How long some work takes, the shortest of `repeats` times."""
    best = float("inf")
    for _ in range(repeats):
        started = now()
        work()
        best = min(best, now() - started)
    return best


def machine() -> dict:
    """Where the numbers come from."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    facts = {"system": platform.system(), "processor": platform.machine()}
    facts |= {"cores": os.cpu_count(), "device": device}
    return facts | {"threads": torch.get_num_threads(), "versions": versions()}


def tabulate(
    model: str,
    title: str,
    points: Iterable[tuple],
    measure: Callable[..., dict],
    line: Callable[[dict], str],
) -> dict:
    """`{"machine", "model", "rows"}`: a row for every point, measured on one thread and printed at once as a `line`
    under the `title`."""
    with one_thread(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        print(f"{model}, {machine()['device']}, one thread; {title}", flush=True)
        rows = []
        for point in points:
            rows.append(measure(*point))
            print(line(rows[-1]), flush=True)
        return {"machine": machine(), "model": model, "rows": rows}


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
        generator = torch.Generator().manual_seed(length)
        return torch.randn(int(self.grid(length).prod()), PATCH, generator=generator)

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
        tokenizer = self.tokenizer
        return [*suppressed(tokenizer), tokenizer.eos_token_id, tokenizer.pad_token_id]

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
    generator = torch.Generator().manual_seed(question)
    letters = torch.randint(4, (tokens,), generator=generator).tolist()
    text = "".join("jqxz"[i] for i in letters)  # a token each
    return [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": text}]}]


def subject() -> Subject:
    """The shipped miniature's sizes in fp32 on the CPU; Qwen2-VL-2B's in bf16 where there is a GPU."""
    if torch.cuda.is_available():
        return _random(build_config(QWEN2_VL_2B, load_tokenizer(TINY_FOLDER)), "Qwen2-VL-2B's sizes, bf16")
    return _random(find("tiny")[1], "the miniature's sizes, fp32")


def wide() -> Subject:
    """Qwen2-VL-2B's widths in two layers, fp32."""
    config = build_config(QWEN2_VL_2B, load_tokenizer(TINY_FOLDER))
    config.text_config.num_hidden_layers = config.vision_config.depth = 2
    config.text_config.layer_types = ["full_attention"] * 2
    return _random(config, "Qwen2-VL-2B's widths in two layers, fp32")


def _random(config: Qwen2VLConfig, name: str) -> Subject:
    """Weights are random: what is measured hangs on shapes alone, and no answer ends early."""
    gpu = torch.cuda.is_available()
    torch.manual_seed(0)
    with torch.device("cuda" if gpu else "cpu"):
        model = Qwen2VLForConditionalGeneration(config).to(torch.bfloat16 if gpu else torch.float32)
    return Subject(model.eval(), load_tokenizer(TINY_FOLDER), name)
