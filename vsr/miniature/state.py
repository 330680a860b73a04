"""What a pre-training run holds: model, read-outs and checkpoints that a killed run continues from."""

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, Qwen2VLForConditionalGeneration

from vsr.files import atomic_write
from vsr.miniature import corpus, tokenizer
from vsr.miniature.catalogue import CATALOGUE
from vsr.miniature.recipe import SIZES
from vsr.models.folders import build_config

OUTWARD = ("o_proj", "down_proj")  # they write into the residual stream
OUTWARD_SCALE = 0.3
WORD_NORM = 0.1  # root mean square of the categories' embeddings


def new_tokenizer() -> PreTrainedTokenizerFast:
    """The miniature's tokenizer with the wording of pre-training."""
    return tokenizer.build((*tokenizer.phrases(corpus.WORDINGS), *corpus.MARKS))


def new_model(tokens: PreTrainedTokenizerFast, seed: int) -> Qwen2VLForConditionalGeneration:
    """A Qwen2-VL of the miniature's size with weights that keep the scale of what passes through them."""
    torch.manual_seed(seed)
    model = Qwen2VLForConditionalGeneration(build_config(SIZES, tokens))
    for name, p in model.named_parameters():
        if p.ndim >= 2:
            scale = OUTWARD_SCALE if any(part in name for part in OUTWARD) else 1.0
            nn.init.normal_(p, std=scale / math.sqrt(p[0].numel()))
    table = tokenizer.embeddings(tokens, SIZES["text"]["hidden_size"], torch.Generator().manual_seed(seed))
    with torch.no_grad():
        model.get_input_embeddings().weight.copy_(table)
    return model


def category_ids(tokens: PreTrainedTokenizerFast) -> Tensor:
    """Token ids of the catalogue's categories, (C,)."""
    return torch.tensor(tokens.convert_tokens_to_ids(list(CATALOGUE)))


def keep(path: Path, step: int, modules: Mapping[str, nn.Module], state: Mapping[str, Tensor]) -> None:
    """Write a checkpoint: the modules' weights, the optimisers' state and the number of steps taken."""
    tensors = {f"{name}/{key}": value for name, module in modules.items() for key, value in module.state_dict().items()}
    tensors |= {f"optimiser/{key}": value for key, value in state.items()}
    tied = {}
    for key, value in tensors.items():
        tied[key] = value.detach().cpu().contiguous().clone()
    atomic_write(path, save(tied, metadata={"step": str(step)}))


def take_up(path: Path, modules: Mapping[str, nn.Module]) -> tuple[int, dict[str, Tensor]]:
    """Load a checkpoint into `modules`; returns the steps taken and the optimisers' state; (0, {}) without a file."""
    if not path.is_file():
        return 0, {}
    tensors = load_file(str(path))
    for name, module in modules.items():
        module.load_state_dict({k.removeprefix(f"{name}/"): v for k, v in tensors.items() if k.startswith(f"{name}/")})
    state = {k.removeprefix("optimiser/"): v for k, v in tensors.items() if k.startswith("optimiser/")}
    return int(steps_of(path)), state


def steps_of(path: Path) -> int:
    """The number of steps that a checkpoint has seen."""
    from safetensors import safe_open

    with safe_open(str(path), "pt") as file:
        return int(file.metadata()["step"])
