"""The language part in few operations, on the weights of transformers' and PEFT's modules.

Called one by one those modules launch some 400 operations a layer and token, and autograd keeps what each of them
returns. Here layers that read the same input are one product, a float32 adapter is merged into it (its backward gives
the adapter's gradients alone), and norm, rotation and SwiGLU have backward passes of their own. What comes out is the
modules' own result: to rounding in float32; elsewhere the adapter joins in the weights' type, from float32 masters.
"""

from collections.abc import Callable

import torch
from peft.tuners.lora import LoraLayer
from torch import LongTensor, Tensor, nn
from torch.autograd import Function
from torch.nn import functional
from transformers import PreTrainedConfig

from vsr.errors import VsrError

# queries (n, heads, d), keys and values (n, kv heads, d) of the tokens at hand -> (n, heads, d)
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


class Layer:
    """One layer, read from its module now: later changes of float32 weights are not seen."""

    def __init__(self, module: nn.Module):
        attention, mlp = module.self_attn, module.mlp
        self.d, self.eps = attention.head_dim, module.input_layernorm.variance_epsilon
        self.before, self.between = module.input_layernorm.weight, module.post_attention_layernorm.weight
        self.heads = attention.q_proj.out_features // self.d
        self.kv = attention.k_proj.out_features // self.d
        self.each = None  # Qwen3-VL's norms of every head's queries and keys, (heads + kv heads, d)
        if hasattr(attention, "q_norm"):
            both = (attention.q_norm.weight, self.heads), (attention.k_norm.weight, self.kv)
            self.each = torch.cat([weight.detach().expand(number, -1) for weight, number in both])
        self.qkv = product(attention.q_proj, attention.k_proj, attention.v_proj)
        self.o, self.gate_up, self.down = (
            product(attention.o_proj),
            product(mlp.gate_proj, mlp.up_proj),
            product(mlp.down_proj),
        )

    def __call__(self, x: Tensor, cos: Tensor, sin: Tensor, attend: Attend, kept: LongTensor | None = None) -> Tensor:
        """Hidden states (n, D) after the layer, of the `kept` tokens that `attend` gives where those are not all; `cos`
        and `sin` (n, 1, d) turn queries and keys."""
        mixed = attend(*self.inputs(x, cos, sin))
        return self.outputs(x if kept is None else x.index_select(0, kept), mixed)

    def inputs(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, ...]:
        """Queries (n, heads, d), keys and values (n, kv heads, d)."""
        parts = self.qkv(norm(x, self.before, self.eps)).view(len(x), -1, self.d)
        # split, not slices: a slice's backward writes zeros as long as the whole
        both, value = parts.split((self.heads + self.kv, self.kv), 1)
        both = both if self.each is None else norm(both, self.each, self.eps)
        return *rotated(both, cos, sin).split((self.heads, self.kv), 1), value

    def outputs(self, x: Tensor, mixed: Tensor) -> Tensor:
        """Hidden states (n, D) from those before the layer and what attention has mixed (n, heads, d)."""
        x = x + self.o(mixed.reshape(len(x), -1))
        return x + self.down(swiglu(self.gate_up(norm(x, self.between, self.eps))))


def language_part(base) -> nn.Module:
    """The text model of a base; VsrError for one whose layers see a window only, or activate by anything but SiLU."""
    text = base.model.language_model
    if text.config.hidden_act != "silu":
        raise VsrError(f"hidden_act={text.config.hidden_act!r}: the engine knows 'silu' alone; take another base")
    if getattr(text, "has_sliding_layers", False):
        raise VsrError("use_sliding_window=true: the engine shares whole prefixes; set it to false in config.json")
    return text


def head_size(config: PreTrainedConfig) -> int:
    """Of the language part's attention."""
    text = config.text_config
    return getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads


def rotation(text: nn.Module, places: LongTensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines (n, 1, d), these with the sign that `_turn` wants, of the M-RoPE positions `places` (3, n), in
    the type of `like`."""
    cos, sin = text.rotary_emb(like, places[:, None])
    half = sin.shape[-1] // 2
    return cos[0][:, None], torch.cat((-sin[0, :, :half], sin[0, :, half:]), -1)[:, None]


# --- products ---
def product(*modules: nn.Module) -> Callable[[Tensor], Tensor]:
    """Linear layers that read the same input as one function (n, in) -> (n, sum of their outputs), adapters included.

    float32 adapters are merged into a copy of the weights. In bf16 rounding would swallow a young adapter (at a
    learning rate of 1e-5 it is 99 % of the adapter's effect after one step) and quantised weights cannot take it:
    there it is two thin products beside them."""
    adapters = [_adapter(module) for module in modules]
    bases = [module.get_base_layer() if isinstance(module, LoraLayer) else module for module in modules]
    exact = all(type(base) is nn.Linear and base.weight.dtype == torch.float32 for base in bases)
    device = bases[0].weight.device.type
    autocast = device != "meta" and torch.is_autocast_enabled(device)
    if not exact or autocast or any(adapter and adapter[3] for adapter in adapters):
        return _beside(bases, adapters)
    with torch.no_grad():
        weights = [
            base.weight if adapter is None else torch.addmm(base.weight, adapter[1], adapter[0], alpha=adapter[2])
            for base, adapter in zip(bases, adapters, strict=True)
        ]
        weight = torch.cat(weights) if len(weights) > 1 else weights[0]
        bias = None if bases[0].bias is None else torch.cat([base.bias for base in bases])
    if not any(adapters) or not torch.is_grad_enabled():
        return lambda x: functional.linear(x, weight, bias)
    sizes, scales = [base.out_features for base in bases], [adapter and adapter[2] for adapter in adapters]
    tensors = [tensor for adapter in adapters if adapter for tensor in adapter[:2]]
    return lambda x: _Merged.apply(x, weight, bias, sizes, scales, *tensors)


def _adapter(module: nn.Module) -> tuple[Tensor, Tensor, float, Callable | None] | None:
    """A module's A (r, in), B (out, r), their scale and its dropout where that does anything; None without adapter."""
    if not isinstance(module, LoraLayer) or module.disable_adapters or module.merged:
        return None
    (name,) = module.active_adapters
    dropout = module.lora_dropout[name]
    active = isinstance(dropout, nn.Dropout) and dropout.training
    return module.lora_A[name].weight, module.lora_B[name].weight, module.scaling[name], dropout if active else None


def _beside(bases: list[nn.Module], adapters: list[tuple | None]) -> Callable[[Tensor], Tensor]:
    def plain(x: Tensor) -> Tensor:
        return torch.cat([base(x) for base in bases], -1) if len(bases) > 1 else bases[0](x)

    if not any(adapters):
        return plain
    down = torch.cat([adapter[0] for adapter in adapters if adapter])  # (sum of r, in)
    ups = [
        adapter[1] * adapter[2] if adapter else down.new_zeros(base.out_features, 0)
        for base, adapter in zip(bases, adapters, strict=True)
    ]
    up = torch.block_diag(*ups)  # (sum of outputs, sum of r)
    dropout = next((adapter[3] for adapter in adapters if adapter and adapter[3]), nn.Identity())
    cast: dict[torch.dtype, tuple[Tensor, Tensor]] = {}

    def apply(x: Tensor) -> Tensor:
        if x.dtype not in cast:
            cast[x.dtype] = down.to(x.dtype), up.to(x.dtype).T
        thin, back = cast[x.dtype]
        return torch.addmm(plain(x), functional.linear(dropout(x), thin), back)

    return apply


class _Merged(Function):
    """x @ weight.T + bias, weight = base + scale * B @ A of some layers stacked, `scales` None where one has no
    adapter; gradients of x and of every A (r, in) and B (out, r) in turn."""

    @staticmethod
    def forward(ctx, x, weight, bias, sizes, scales, *adapters):
        ctx.save_for_backward(x, weight, *adapters)
        ctx.sizes, ctx.scales = sizes, scales
        return functional.linear(x, weight, bias)

    @staticmethod
    def backward(ctx, gradient):
        x, weight, *adapters = ctx.saved_tensors
        downs, ups = adapters[::2], adapters[1::2]
        ranks = [down.shape[0] for down in downs]
        outputs = zip(gradient.split(ctx.sizes, 1), ctx.scales, strict=True)
        adapted = [(part, scale) for part, scale in outputs if scale is not None]
        thin = (x @ torch.cat(downs).T).split(ranks, 1)  # x A, (n, r) each
        back = [(part @ up).mul_(scale) for (part, scale), up in zip(adapted, ups, strict=True)]
        of_downs = (torch.cat(back, 1).T @ x).split(ranks)
        of_ups = [(part.T @ inner).mul_(scale) for (part, scale), inner in zip(adapted, thin, strict=True)]
        pairs = [found for pair in zip(of_downs, of_ups, strict=True) for found in pair]
        return gradient @ weight if ctx.needs_input_grad[0] else None, None, None, None, None, *pairs


# --- what stands between the products; frozen weights get no gradient, and without any gradient all is plain ---
def norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm over the last dimension of x, with one weight for all (D,) or each head's own (heads, d)."""
    if x.device.type == "cpu" and x.dtype == torch.float32 and torch.is_grad_enabled():
        return _Norm.apply(x, weight, eps)
    if weight.ndim > 1:
        return functional.rms_norm(x, x.shape[-1:], None, eps) * weight
    return functional.rms_norm(x, x.shape[-1:], weight, eps)  # one kernel, on a GPU with one for its backward


class _Norm(Function):
    @staticmethod
    def forward(ctx, x, weight, eps):
        scale = x.square().mean(-1, keepdim=True).add_(eps).rsqrt_()
        ctx.save_for_backward(x, scale, weight)
        return (x * scale).mul_(weight)

    @staticmethod
    def backward(ctx, gradient):
        x, scale, weight = ctx.saved_tensors
        gradient, unit = gradient * weight, x * scale
        return (gradient - unit * (gradient * unit).mean(-1, keepdim=True)).mul_(scale), None, None


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x (n, heads, d) turned by what `rotation` gives (n, 1, d)."""
    return _Rotated.apply(x, cos, sin) if torch.is_grad_enabled() else _turn(x, cos, sin)


class _Rotated(Function):
    @staticmethod
    def forward(ctx, x, cos, sin):
        ctx.save_for_backward(cos, sin)
        return _turn(x, cos, sin)

    @staticmethod
    def backward(ctx, gradient):
        cos, sin = ctx.saved_tensors
        return _turn(gradient, cos, -sin), None, None  # the way back is the opposite angle


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return torch.addcmul(x * cos, torch.cat((second, first), -1), sin)


def swiglu(both: Tensor) -> Tensor:
    """silu(gate) * up of (n, 2 * width)."""
    if torch.is_grad_enabled():
        return _SwiGLU.apply(both)
    gate, up = both.chunk(2, -1)
    return functional.silu(gate).mul_(up)


class _SwiGLU(Function):
    """The product's parts are made again in backward, not kept."""

    @staticmethod
    def forward(ctx, both):
        ctx.save_for_backward(both)
        gate, up = both.chunk(2, -1)
        return functional.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx, gradient):
        (both,) = ctx.saved_tensors
        (gate, up), found = both.chunk(2, -1), torch.empty_like(both)
        of_gate, of_up = found.chunk(2, -1)  # written in place: joining two halves would copy both
        torch.ops.aten.silu_backward.grad_input(gradient * up, gate, grad_input=of_gate)
        torch.mul(gradient, functional.silu(gate), out=of_up)
        return found
