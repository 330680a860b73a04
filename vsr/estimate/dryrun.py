"""What a phase of training or evaluation costs, found by running the engine's own code on tensors without data.

PyTorch's meta device knows shapes alone. Every operation is written down: the memory that lives at the worst moment,
and each operation's arithmetic and memory traffic, from which a device's rates give time. Two and three layers are
run; what a further layer costs is their difference, so that 28 take no longer than three.
"""

import functools
import weakref
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from transformers import PreTrainedConfig

from vsr.engine import slots
from vsr.engine.inputs import base_model, wide
from vsr.engine.logps import branch_logps, read
from vsr.estimate.devices import Cost, Trace
from vsr.models import add_lora
from vsr.models.precision import DTYPES, named
from vsr.models.quantize import skeleton
from vsr.profiles import Profile

aten = torch.ops.aten
FREE = {aten.empty.memory_format, aten.empty_like.default, aten.empty_strided.default, aten.new_empty.default}
# they touch what they take out or put in, not all that it lies in
GATHERS, SCATTERS = {aten.embedding.default, aten.index.Tensor}, {aten.index_put_.default}
META = torch.device("meta")
# a packed pass as `branch_logps` takes it: prefix and branch lengths by group
Shape = list[tuple[int, list[int]]]


def trace(computation: Callable[[], object], model: torch.nn.Module) -> Trace:
    """Run `computation` and write down what it does; the memory of the `model`'s weights is not counted."""
    recorder = _Recorder()
    recorder.known = {weight.untyped_storage()._cdata for weight in [*model.parameters(), *model.buffers()]}

    def attention(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, **_):
        return _Fused.apply(query, key, value, is_causal, recorder)

    def rms_norm(x, shape, weight, eps):
        return _FusedNorm.apply(x, weight, recorder)

    kernels = {"scaled_dot_product_attention": attention, "rms_norm": rms_norm}
    with mock.patch.multiple(torch.nn.functional, **kernels), recorder:
        _ = computation()  # held to the end: the caches that a pass returns count
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
            storage = tensor.untyped_storage()
            key = storage._cdata  # an address: a freed storage's may come again, so `_drop` forgets it at once
            if key not in self.alive and key not in self.known:
                self.alive[key] = storage.nbytes()
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._drop, key)
        if not func.is_view and func not in FREE:
            read = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
            read = made if func in GATHERS else read
            if func in SCATTERS:
                read, made = [args[2]], [args[2]]
            # PyTorch's formulas know matrix products; everything else is bound by memory
            formula = flop_registry.get(func.overloadpacket)
            self.note(formula(*args, **(kwargs or {}), out_val=output) if formula else 0.0, read + made)
        return output

    def note(self, flops: float, tensors: list[Tensor]) -> None:
        """One operation that touches `tensors`."""
        self.flops.append(flops)
        self.traffic.append(sum(t.numel() * t.itemsize for t in tensors))

    def _drop(self, key: int) -> None:
        self.now -= self.alive.pop(key)


class _Fused(torch.autograd.Function):
    """Attention's memory and arithmetic: forward two products, backward five, half of each where causal. Meta tensors
    have no fused kernel: PyTorch would write out every score, as no real device does."""

    @staticmethod
    def forward(ctx, query: Tensor, key: Tensor, value: Tensor, causal: bool, recorder: _Recorder) -> Tensor:
        output = torch.empty_like(query)
        sums = query.new_empty(query.shape[:-1], dtype=torch.float32)  # kept for backward, one a query
        ctx.save_for_backward(query, key, value, output, sums)
        ctx.recorder, ctx.product = recorder, 2 * query.numel() * key.shape[-2] * (0.5 if causal else 1.0)
        recorder.note(2 * ctx.product, [query, key, value, output])
        return output

    @staticmethod
    def backward(ctx, gradient: Tensor):
        query, key, value, output, _ = ctx.saved_tensors
        ctx.recorder.note(5 * ctx.product, [query, key, value, output, gradient] * 2)
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value), None, None


class _FusedNorm(torch.autograd.Function):
    """A norm is one kernel, and one for its backward."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor | None, recorder: _Recorder) -> Tensor:
        ctx.save_for_backward(x)
        ctx.recorder, output = recorder, torch.empty_like(x)
        recorder.note(0.0, [part for part in (x, weight, output) if part is not None])
        return output

    @staticmethod
    def backward(ctx, gradient: Tensor):
        ctx.recorder.note(0.0, [*ctx.saved_tensors, gradient, gradient])
        return torch.empty_like(gradient), None, None


class Model:
    """A base with the profile's adapter, without weights, in two and in three layers."""

    def __init__(self, config: PreTrainedConfig, profile: Profile):
        self.config, self.profile = config, profile
        self.dtype = DTYPES[named(profile.dtype)]
        self.layers = config.text_config.num_hidden_layers
        self.built = [self._build(layers) for layers in (2, 3)]
        two, three = (sum(w.numel() for w in m.parameters() if w.requires_grad) for m in self.built)
        self.trained = two + (self.layers - 2) * (three - two)  # weights of the whole adapter

    def _build(self, layers: int) -> torch.nn.Module:
        config = deepcopy(self.config)
        config.text_config.num_hidden_layers, config.vision_config.depth = layers, layers
        config.text_config.layer_types = ["full_attention"] * layers
        if hasattr(config.vision_config, "fullatt_block_indexes"):  # a bound: windows cost less
            config.vision_config.fullatt_block_indexes = list(range(layers))
        model = skeleton(config).to(self.dtype)
        layer = model.model.language_model.layers[0]
        self.linear = [m.weight.numel() for m in layer.modules() if isinstance(m, torch.nn.Linear)]
        with META:  # LoRA's weights too
            return add_lora(model, self.profile)

    def cost(
        self,
        work: Callable[[torch.nn.Module], object],
        passes: float = 0,
        layers: int | None = None,
        before: Callable[[torch.nn.Module], object] | None = None,
    ) -> Cost:
        """The cost of `work` over all layers, which reads the quantised weights `passes` times, the operations of what
        it does `before` left out."""
        traces = [trace(lambda model=model: work(model), model) for model in self.built]
        if before is not None:
            made = [len(trace(lambda model=model: before(model), model).flops) for model in self.built]
            traces = [Trace(t.peak, t.flops[n:], t.traffic[n:]) for t, n in zip(traces, made, strict=True)]
        cost = Cost(*traces, layers or self.layers)
        if self.profile.quantization == "none" or not passes:
            return cost
        written = self.dtype.itemsize  # by bitsandbytes: a layer's weights, before it multiplies with them
        reading = passes * self.layers * sum(self.linear) * (written + 0.5)
        return replace(cost, extra=max(self.linear) * written, reading=reading)

    def empty(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """A tensor of the model's dtype without data."""
        return torch.empty(shape, dtype=dtype or self.dtype, device=META)


def see(model: Model, frames: int, height: int, width: int) -> Cost:
    """The vision tower on a video of `frames` x `height` x `width` patches; blocks for layers."""
    count, patch = frames * height * width, model.config.vision_config.patch_size**2 * 6

    def work(built: torch.nn.Module) -> Tensor:
        tower, grid = base_model(built).model.visual, torch.tensor([[frames, height, width]])
        given = {"grid_thw": grid, "position_ids": model.empty(count, 2, dtype=torch.long)}
        # learnt places, each between four
        taps = {"interp_indices": model.empty(count, 4, dtype=torch.long), "interp_weights": model.empty(count, 4)}
        given |= taps if hasattr(tower, "pos_embed") else {}
        with torch.no_grad():
            return tower(model.empty(count, patch), **given)

    return model.cost(work, layers=model.config.vision_config.depth)


def prefill(model: Model, prompt: int, branches: tuple[int, ...] = ()) -> Cost:
    """The keys and values of one prompt, and of branches of these lengths that continue it."""

    def work(built: torch.nn.Module) -> list:
        tokens, sink = prompt + sum(branches), []
        places = model.empty(3, tokens, dtype=torch.long)
        with torch.no_grad():
            embeddings = model.empty(tokens, wide(built.config) * model.config.text_config.hidden_size)
            read(base_model(built), embeddings, places, [(prompt, list(branches))], sink=sink)
        return sink

    return model.cost(work, passes=1)


@functools.lru_cache(32)
def decode(model: Model, prompts: int, prompt: int, rows: int, seen: int, greedy: bool = False) -> Cost:
    """One step of decoding: `rows` branches on `prompts` prompts of `prompt` tokens, which look at `seen` tokens of
    their own; the keys and values are part of the memory, making them none of the operations."""
    shape, temperature = slots.Shape(prompts, rows // prompts, prompt, seen, seen), 0.0 if greedy else 1.0

    @torch.no_grad()
    def start(built: torch.nn.Module) -> slots.Slots:
        return slots.Slots(base_model(built), shape, 0, [0], temperature)

    def step(built: torch.nn.Module) -> slots.Slots:
        batch = start(built)
        with torch.no_grad():
            batch.step(seen)
        return batch

    return model.cost(step, passes=1, before=start)


def packed(model: Model, shape: Shape, gradients: int = 0, checkpointing: bool = False) -> Cost:
    """Log-probabilities of a packed pass: the reference's, or the policy's with `gradients` backward passes, as many
    as parts of the loss are measured."""
    tokens, branches = (sum(extra * prefix + sum(lengths) for prefix, lengths in shape) for extra in (1, 0))

    def logps(built: torch.nn.Module) -> Tensor:
        embeddings = model.empty(tokens, wide(built.config) * model.config.text_config.hidden_size)
        places, targets = (model.empty(*size, dtype=torch.long) for size in ((3, tokens), (branches,)))
        return branch_logps(base_model(built), embeddings, places, shape, targets, 1.0)[0]

    def work(built: torch.nn.Module) -> Tensor | None:
        if not gradients:
            with torch.no_grad(), built.disable_adapter():
                return logps(built)
        built.train()
        switch = built.activation_checkpointing_enable if checkpointing else built.activation_checkpointing_disable
        switch(*([{"use_reentrant": False}] if checkpointing else []))
        loss = logps(built).sum()  # GRPO's own arithmetic is a few numbers a token
        weights = [weight for weight in built.parameters() if weight.requires_grad]
        for left in reversed(range(gradients)):
            torch.autograd.backward(loss, inputs=weights, retain_graph=left > 0)
            built.zero_grad()
        built.eval()
        return None

    return model.cost(work, passes=1 + gradients * (2 if checkpointing else 1))
