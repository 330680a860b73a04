"""The type that a model computes in: named, or by what the hardware has. float16, for cards without bfloat16 (a T4),
has few exponents: activations may overflow and gradients vanish, so the first is checked and the second scaled."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.autograd import Function
from transformers import PreTrainedModel

from vsr import families

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
AUTO = "auto"  # bfloat16 where there is hardware for it, else float16, or float32 where that overflows
SCALE = 16384.0  # of gradients in float16, whose smallest normal number is 6e-5; a mean over a step's tokens is less


def named(dtype: str) -> str:
    """One of DTYPES for it or for AUTO on this machine; a CPU computes in bfloat16."""
    if dtype != AUTO:
        return dtype
    plain = torch.cuda.is_available() and not torch.cuda.is_bf16_supported(including_emulation=False)
    return "float16" if plain else "bfloat16"


@torch.no_grad()
def overflows(model: PreTrainedModel, ids: list[int]) -> bool:
    """Whether a first forward, of a video of noise and text `ids` after it, gives numbers that are not finite."""
    family, merge = families.of(model.config), families.MERGE
    grid = torch.tensor([[2, 4 * merge, 4 * merge]], device=model.device)
    shape = int(grid.prod()), family.patch**2 * families.PAIR * 3
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(model.device, model.dtype)
    seen = torch.cat(tuple(model.model.get_video_features(noise, grid).pooler_output))
    text = model.get_input_embeddings()(torch.tensor(ids, device=model.device))
    logits = model(inputs_embeds=torch.cat((seen, text))[None], use_cache=False).logits
    return not logits.isfinite().all()


class _Amplified(Function):
    """The same number with SCALE times the gradient."""

    @staticmethod
    def forward(ctx, loss: Tensor) -> Tensor:
        return loss.view_as(loss)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return gradient * SCALE


def amplified(loss: Tensor, model: torch.nn.Module) -> Tensor:
    """`loss`, whose gradients on their way through a float16 model are SCALE times as large; `restored` undoes it."""
    return _Amplified.apply(loss) if model.dtype == torch.float16 else loss


def restored(weights: Iterable[Tensor], model: torch.nn.Module) -> None:
    """Have gradients of the float32 `weights` of a float16 model come out as if none had been amplified."""
    if model.dtype == torch.float16:
        for weight in weights:
            weight.register_hook(lambda gradient: gradient / SCALE)
