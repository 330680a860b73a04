"""4- and 8-bit weights through bitsandbytes, on CUDA and on the CPU; how many bytes they take.

The language model's linear layers are quantised; embeddings, head, norms and the vision tower keep the model's dtype.
"""

import logging
import math

import bitsandbytes
import torch
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedConfig, PreTrainedModel

from vsr import families
from vsr.errors import VsrError

QUANTIZATIONS = ("none", "nf4", "nf4-double", "fp4", "fp4-double", "int8")  # double: block scales in 8 bit too
UNQUANTIZED = ("model.visual", "lm_head")
BLOCK, NESTED_BLOCK = 64, 256  # weights that share a scale; scales that share one (bitsandbytes' defaults)


def bits_and_bytes(name: str, compute: torch.dtype) -> BitsAndBytesConfig | None:
    """What transformers takes for one of QUANTIZATIONS; matrix products of 4-bit weights run in `compute`."""
    if name == "none":
        return None
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns at every layer of every forward
    if name == "int8":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=list(UNQUANTIZED))
    kind, _, double = name.partition("-")
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=kind,
        bnb_4bit_use_double_quant=bool(double),
        bnb_4bit_compute_dtype=compute,
        llm_int8_skip_modules=list(UNQUANTIZED),
    )


def stored_as(config: PreTrainedConfig, base: str) -> str:
    """In which of QUANTIZATIONS the weights of a checkpoint are kept already; VsrError for other libraries' ways."""
    given = getattr(config, "quantization_config", None)
    if given is None:
        return "none"
    given = given if isinstance(given, dict) else {}
    kind = f"{given.get('bnb_4bit_quant_type')}{'-double' if given.get('bnb_4bit_use_double_quant') else ''}"
    name = "int8" if given.get("load_in_8bit") else kind
    if given.get("quant_method") != "bitsandbytes" or name not in QUANTIZATIONS:
        what = given.get("quant_method") if given.get("quant_method") != "bitsandbytes" else name
        raise VsrError(f"base '{base}': its weights are kept as {what}; use the checkpoint without quantization")
    return name


def keep_precision(model: nn.Module) -> None:
    """Stop 4-bit layers on a CPU from repacking themselves in bf16 at their first forward in eval mode."""
    for layer in model.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False


def rounding_error(name: str, rows: int = 64, width: int = 4096) -> float:
    """How far normally distributed weights (rows, width) are off once rounded by the kernels of one of QUANTIZATIONS:
    the root mean square error, as a share of the weights' own."""
    exact = torch.randn(rows, width, generator=torch.Generator().manual_seed(0))
    if name == "int8":
        values, scales, _ = bitsandbytes.functional.int8_vectorwise_quant(exact)
        rounded = values.float() * scales[:, None] / 127
    else:
        kind, _, double = name.partition("-")
        values, state = bitsandbytes.functional.quantize_4bit(exact, quant_type=kind, compress_statistics=bool(double))
        rounded = bitsandbytes.functional.dequantize_4bit(values, state)
    return float((rounded - exact).norm() / exact.norm())


def skeleton(config: PreTrainedConfig) -> PreTrainedModel:
    """The model without weights: every shape, no memory."""
    with torch.device("meta"):
        model = families.of(config).model(config)
    model.tie_weights()
    return model


def weight_bytes(config: PreTrainedConfig, dtype: torch.dtype, quantization: str) -> int:
    """Bytes of the loaded weights, scales included."""
    model = skeleton(config)
    quantised = {
        id(layer.weight): layer_bytes(layer, quantization)
        for layer in model.model.language_model.modules()
        if isinstance(layer, nn.Linear) and quantization != "none"
    }
    return sum(quantised.get(id(p), p.numel() * dtype.itemsize) for p in model.parameters())


def held_bytes(model: nn.Module) -> int:
    """Bytes that the weights of a freshly loaded model really take, scales included."""
    held = 0
    for weight in model.parameters():
        held += weight.numel() * weight.itemsize
        if (state := getattr(weight, "quant_state", None)) is not None:
            nested = (state.state2.absmax, state.state2.code) if state.nested else ()
            held += sum(part.numel() * part.itemsize for part in (state.absmax, *nested))
        if getattr(weight, "SCB", None) is not None:
            held += weight.SCB.numel() * weight.SCB.itemsize
    return held


def layer_bytes(layer: nn.Linear, quantization: str) -> int:
    """Bytes of one quantised weight: its values and their scales."""
    count = layer.weight.numel()
    if quantization == "int8":
        return count + 4 * layer.out_features
    scales = math.ceil(count / BLOCK)
    nested = scales + 4 * math.ceil(scales / NESTED_BLOCK) + 4 * NESTED_BLOCK  # and the table of 8-bit values
    return math.ceil(count / 2) + (nested if quantization.endswith("-double") else 4 * scales)
