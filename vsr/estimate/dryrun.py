"""What a computation would cost, found by running it on tensors that have shapes but no data.

The code that will really run is executed on PyTorch's meta device while every operation is written down: the memory
that lives at its worst moment, and each operation's arithmetic and memory traffic, from which a device's rates give
time.
"""

import math
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten
FREE = {aten.empty.memory_format, aten.empty_like.default, aten.empty_strided.default, aten.new_empty.default}


@dataclass(frozen=True)
class Trace:
    """`peak` bytes alive at the worst moment, beyond what existed before; `flops` and `traffic` (bytes read and
    written) of each operation, both (operations,)."""

    peak: int
    flops: np.ndarray
    traffic: np.ndarray


def trace(computation: Callable[[], object], *given: torch.nn.Module | Tensor) -> Trace:
    """Run `computation` and write down what it does; the memory of `given` modules and tensors is not counted."""
    recorder = _Recorder()
    for thing in given:
        for tensor in [thing] if isinstance(thing, Tensor) else [*thing.parameters(), *thing.buffers()]:
            recorder.known.add(tensor.untyped_storage()._cdata)

    def attention(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, **_):
        return _Fused.apply(query, key, value, is_causal, recorder)

    with mock.patch.object(torch.nn.functional, "scaled_dot_product_attention", attention), recorder:
        result = computation()
    del result
    return Trace(recorder.peak, np.array(recorder.flops, dtype=float), np.array(recorder.traffic, dtype=float))


class _Recorder(TorchDispatchMode):
    """Sees every operation below autograd, backward and recomputation included."""

    def __init__(self):
        super().__init__()
        self.known: set[int] = set()
        self.alive: dict[int, int] = {}
        self.now = self.peak = 0
        self.flops: list[float] = []
        self.traffic: list[int] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        made = [t for t in tree_leaves(output) if isinstance(t, Tensor)]
        for tensor in made:
            self._keep(tensor.untyped_storage())
        if not func.is_view and func not in FREE:
            read = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
            self.note(_flops(func, args, output), read + made)
        return output

    def note(self, flops: float, tensors: list[Tensor]) -> None:
        """One operation that touches `tensors`."""
        self.flops.append(flops)
        self.traffic.append(sum(t.numel() * t.itemsize for t in tensors))

    def _keep(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self.alive and key not in self.known:
            self.alive[key] = storage.nbytes()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._drop, key)

    def _drop(self, key: int) -> None:
        self.now -= self.alive.pop(key)


class _Fused(torch.autograd.Function):
    """Attention's memory and arithmetic: forward two products, backward five, half of each where causal. Meta tensors
    have no fused kernel: PyTorch would write out every score, as no real device does."""

    @staticmethod
    def forward(ctx, query: Tensor, key: Tensor, value: Tensor, causal: bool, recorder: _Recorder) -> Tensor:
        output = torch.empty_like(query)
        sums = query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, output, sums)
        ctx.recorder, ctx.product = recorder, 2 * query.numel() * key.shape[-2] * (0.5 if causal else 1.0)
        recorder.note(2 * ctx.product, [query, key, value, output])
        return output

    @staticmethod
    def backward(ctx, gradient: Tensor):
        query, key, value, output, _ = ctx.saved_tensors
        ctx.recorder.note(5 * ctx.product, [query, key, value, output, gradient] * 2)
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value), None, None


def _flops(func, args: tuple, output: object) -> float:
    """Multiplications and additions of matrix products; everything else is bound by memory."""
    if func in (aten.mm.default, aten.bmm.default):
        return 2.0 * args[0].numel() * args[1].shape[-1]
    if func is aten.addmm.default:
        return 2.0 * args[1].numel() * args[2].shape[-1]
    if func is aten.convolution.default:
        return 2.0 * output.numel() * math.prod(args[1].shape[1:])
    return 0.0
