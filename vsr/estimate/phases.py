"""The phases of training and evaluation as dry runs: the engine's own code on a model without weights.

Two and three layers are run; what a further layer costs is their difference, so that 28 take no longer than three.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import DynamicCache, Qwen2VLConfig

from vsr.engine.attention import UNMASKED, Decoding, install
from vsr.engine.decoding import sampler
from vsr.engine.inputs import base_model
from vsr.engine.logps import branch_logps, read
from vsr.estimate.devices import Device
from vsr.estimate.dryrun import Trace, trace
from vsr.models import DTYPES, add_lora
from vsr.models.quantize import skeleton
from vsr.profiles import Profile

META = torch.device("meta")
Work = Callable[[torch.nn.Module], object]


@dataclass(frozen=True)
class Cost:
    """What a phase costs: traces with two and with three layers of the `layers` there are; `extra` bytes of memory and
    `reading` bytes of traffic that a dry run does not see."""

    two: Trace
    three: Trace
    layers: int
    extra: float = 0.0
    reading: float = 0.0

    @property
    def peak(self) -> float:
        """Bytes at the worst moment beyond weights."""
        return self._extrapolated(self.two.peak, self.three.peak) + self.extra

    @property
    def flops(self) -> float:
        """Operations of matrix products."""
        return self._extrapolated(self.two.flops.sum(), self.three.flops.sum())

    def seconds(self, device: Device) -> float:
        """On a device."""
        return self._extrapolated(*map(device.seconds, (self.two, self.three))) + self.reading / device.bandwidth

    def _extrapolated(self, two: float, three: float) -> float:
        return two + (self.layers - 2) * (three - two)


class Model:
    """A base with the profile's adapter, without weights, in two and in three layers."""

    def __init__(self, config: Qwen2VLConfig, profile: Profile):
        self.config, self.profile = config, profile
        self.dtype = DTYPES[profile.dtype]
        self.layers = config.text_config.num_hidden_layers
        self.built = [self._build(layers) for layers in (2, 3)]

    def _build(self, layers: int) -> torch.nn.Module:
        config = type(self.config).from_dict(self.config.to_dict())
        config.text_config.num_hidden_layers, config.vision_config.depth = layers, layers
        config.text_config.layer_types = ["full_attention"] * layers
        model = skeleton(config).to(self.dtype)
        layer = model.model.language_model.layers[0]
        self.linear = [m.weight.numel() for m in layer.modules() if isinstance(m, torch.nn.Linear)]
        with META:
            model = add_lora(model, self.profile)
        install(model)
        return model

    @property
    def trained(self) -> int:
        """Weights of the whole adapter."""
        two, three = (sum(w.numel() for w in m.parameters() if w.requires_grad) for m in self.built)
        return two + (self.layers - 2) * (three - two)

    def cost(self, work: Work, passes: float = 0, layers: int | None = None) -> Cost:
        """The cost of `work` over all layers, which reads the quantised weights `passes` times."""
        traces = [trace(lambda model=model: work(model), model) for model in self.built]
        cost = Cost(*traces, layers or self.layers)
        if self.profile.quantization == "none" or not passes:
            return cost
        written = self.dtype.itemsize  # bitsandbytes writes a layer's weights out before it multiplies with them
        reading = passes * self.layers * sum(self.linear) * (written + 0.5)
        return replace(cost, extra=max(self.linear) * written, reading=reading)

    def empty(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """A tensor of the model's dtype without data."""
        return torch.empty(shape, dtype=dtype or self.dtype, device=META)


def see(model: Model, frames: int, height: int, width: int) -> Cost:
    """The vision tower on a video of `frames` x `height` x `width` patches; blocks for layers."""

    def work(built: torch.nn.Module) -> Tensor:
        grid = torch.tensor([[frames, height, width]])
        count, patch = frames * height * width, built.config.vision_config.patch_size**2 * 6
        places = model.empty(count, 2, dtype=torch.long)
        with torch.no_grad():
            return base_model(built).model.visual(model.empty(count, patch), grid_thw=grid, position_ids=places)

    return model.cost(work, layers=model.config.vision_config.depth)


def prefill(model: Model, prompt: int, branches: list[int] | None = None) -> Cost:
    """One prompt read into a cache, with branches of these lengths that continue it."""
    branches = branches or []

    def work(built: torch.nn.Module) -> DynamicCache:
        base, tokens = base_model(built), prompt + sum(branches)
        cache = DynamicCache(config=base.config.text_config)
        embeddings = model.empty(tokens, base.config.text_config.hidden_size)
        with torch.no_grad():
            read(base, embeddings, model.empty(3, tokens, dtype=torch.long), [(prompt, branches)], cache)
        return cache

    return model.cost(work, passes=1)


def decode(model: Model, prompts: int, prompt: int, rows: int, past: int) -> Cost:
    """One step of decoding: `rows` branches on `prompts` prompts of `prompt` tokens, `past` tokens of their own each,
    one more now; the caches are part of the memory."""

    def work(built: torch.nn.Module) -> Tensor:
        base = base_model(built)
        text = base.config.text_config
        heads, size = text.num_key_value_heads, text.hidden_size // text.num_attention_heads
        layers = range(text.num_hidden_layers)

        def keys(*shape: int) -> Tensor:
            return model.empty(*shape, size)

        shared = [[(keys(1, heads, prompt), keys(1, heads, prompt)) for _ in layers] for _ in range(prompts)]
        layout = Decoding(shared, [rows // prompts] * prompts)
        layout.seen = model.empty(rows, past + 1, dtype=torch.bool)
        cache = DynamicCache(config=text)
        for layer in layers:
            cache.update(keys(rows, heads, past), keys(rows, heads, past), layer)
        with torch.no_grad():
            hidden = base.model.language_model(
                inputs_embeds=base.get_input_embeddings()(model.empty(rows, 1, dtype=torch.long)),
                position_ids=model.empty(3, rows, 1, dtype=torch.long),
                attention_mask=UNMASKED,
                past_key_values=cache,
                use_cache=True,
                layout=layout,
            ).last_hidden_state[:, -1]
            logits = base.lm_head(hidden).float()
            draws = torch.zeros(len(layout.group), 1, dtype=torch.float64)
            return sampler(draws, 1.0)(logits, list(range(len(layout.group))), 0)

    return model.cost(work, passes=1)


def score(model: Model, shape: list[tuple[int, list[int]]]) -> Cost:
    """Log-probabilities of a packed pass without gradient; `shape` as in `branch_logps`."""

    def work(built: torch.nn.Module) -> Tensor:
        with torch.no_grad(), built.disable_adapter():
            return _logps(model, built, shape)

    return model.cost(work, passes=1)


def update(model: Model, shape: list[tuple[int, list[int]]], checkpointing: bool, gradients: int = 1) -> Cost:
    """A packed pass with `gradients` backward passes, as many as parts of the loss are measured."""

    def work(built: torch.nn.Module) -> None:
        built.train()
        switch = built.activation_checkpointing_enable if checkpointing else built.activation_checkpointing_disable
        switch(*([{"use_reentrant": False}] if checkpointing else []))
        logps = _logps(model, built, shape)
        weights = [weight for weight in built.parameters() if weight.requires_grad]
        for left in reversed(range(gradients)):
            torch.autograd.backward(logps.sum(), inputs=weights, retain_graph=left > 0)
            built.zero_grad()
        built.eval()

    return model.cost(work, passes=1 + gradients * (2 if checkpointing else 1))


def _logps(model: Model, built: torch.nn.Module, shape: list[tuple[int, list[int]]]) -> Tensor:
    tokens = sum(prefix + sum(lengths) for prefix, lengths in shape)
    completion = sum(sum(lengths) for _, lengths in shape)
    embeddings = model.empty(tokens, built.config.text_config.hidden_size)
    places = model.empty(3, tokens, dtype=torch.long)
    targets = model.empty(completion, dtype=torch.long)
    return branch_logps(base_model(built), embeddings, places, shape, targets, 1.0)[0]
