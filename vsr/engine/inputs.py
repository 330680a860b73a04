"""What a language model reads: a video's features, seen once and kept on disk; embeddings with the video in place;
M-RoPE positions, always explicit; and how many tokens go through the model at once."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import LongTensor, Tensor, nn
from torch.nn import functional
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures

from vsr import families
from vsr.errors import VsrError
from vsr.files import atomic_write
from vsr.video import Clip, patchify, sample

Part = tuple[int, list[int]]  # a group and which of its completions


@dataclass(frozen=True)
class Prompt:
    """One prompt. `ids` (tokens,) holds one video token for every row of `features` (video tokens, hidden size times
    `wide`); `grid` (videos, 3) is each video's patch grid (time, height, width), `step` (videos,) the seconds of a step
    on it, where positions know time; `pixels` (32,) is the sha256 of the patches that the features are of. A text
    prompt has none of them."""

    ids: LongTensor
    features: Tensor | None = None
    grid: LongTensor | None = None
    step: Tensor | None = None
    pixels: Tensor | None = None


class Seen(NamedTuple):
    """What a video becomes, see `Prompt`; `stamps` (t,) are the seconds that are written into a prompt, where any
    are. Nothing of it where there is no video."""

    features: Tensor | None = None
    grid: LongTensor | None = None
    step: Tensor | None = None
    stamps: Tensor | None = None
    pixels: Tensor | None = None

    def prompt(self, ids: LongTensor) -> Prompt:
        """The prompt of `ids` about this video."""
        return Prompt(ids, self.features, self.grid, self.step, self.pixels)


def base_model(model: nn.Module) -> PreTrainedModel:
    """The base inside a PEFT or DDP wrapper; its layers still carry the adapter."""
    model = getattr(model, "module", model)
    return model.get_base_model() if hasattr(model, "get_base_model") else model


class FeatureCache:
    """Vision features by video file. One safetensors file each in `folder`, named by the sha256 of the video's bytes,
    `frames`, `max_pixels` and the vision weights: whatever changes the features changes the name. Files are written
    whole or not at all, so several processes may share a folder; a damaged one is made again."""

    def __init__(self, model: nn.Module, folder: str | Path, frames: int, max_pixels: int):
        self.model, self.folder, self.frames, self.max_pixels = model, Path(folder), frames, max_pixels
        self.weights = vision_hash(model)

    def __call__(self, video: str | Path) -> Seen:
        """What the model sees in a video, on the CPU; VsrError for an unreadable video."""
        try:
            known = Path(video).stat()
            content = _file_hash(video, known.st_mtime_ns, known.st_size)
        except OSError as error:
            raise VsrError(f"{video}: video could not be read ({error.strerror}); make or download it again") from None
        name = hashlib.sha256(f"{content} {self.frames} {self.max_pixels} {self.weights}".encode()).hexdigest()
        path = self.folder / f"{name}.safetensors"
        if path.is_file():
            try:
                found = Seen(**load_file(path))
                if found.pixels is not None:
                    return found
            except (SafetensorError, TypeError):
                pass
            path.unlink(missing_ok=True)  # damaged, or of a version that did not say what its pixels were
        seen = self.look(sample(video, self.frames), str(video))
        atomic_write(path, save({name: part for name, part in seen._asdict().items() if part is not None}))
        return seen

    def look(self, clip: Clip, name: str) -> Seen:
        """What the model sees in given frames of the video `name`, not kept; VsrError where it is to be told times and
        the video has none."""
        family = families.of(base_model(self.model).config)
        pixel_values, grid = patchify(clip.frames, self.max_pixels, family)
        with one_thread():  # two give other last bits, and its file's name says nothing of threads
            features = video_features(self.model, pixel_values, grid).cpu().contiguous()
        return Seen(features, grid, *times(family, clip, name), pixels_hash(pixel_values))


def times(family: families.Family, clip: Clip, name: str) -> tuple[Tensor | None, Tensor | None]:
    """`step` (1,) float32 and `stamps` (t,) float64 of `Seen`."""
    if family.times and not clip.fps > 0:
        raise VsrError(f"{name}: says no frame rate, which {family.title} reads times from; encode it again with one")
    step, stamps = family.step(clip.indices, clip.total, clip.fps), family.stamps(clip.indices, clip.fps)
    as_step = None if step is None else torch.tensor([step])
    return as_step, None if stamps is None else torch.tensor(stamps, dtype=torch.float64)


def pixels_hash(pixel_values: Tensor) -> Tensor:
    """sha256 of patches, uint8 (32,)."""
    return torch.tensor(list(hashlib.sha256(pixel_values.contiguous().numpy().tobytes()).digest()), dtype=torch.uint8)


def digest(model: nn.Module, prompt: Prompt) -> str:
    """16 hex digits over all that a model is given to read: pixels, grid, ids (with the times that are written there),
    seconds a step, positions. Whoever reads the same has the same."""
    mark = hashlib.sha256()
    for part in (prompt.pixels, prompt.grid, prompt.ids, prompt.step, placed(model, prompt)):
        mark.update(f"{None if part is None else tuple(part.shape)}".encode())
        mark.update(b"" if part is None else part.cpu().contiguous().numpy().tobytes())
    return mark.hexdigest()[:16]


def as_number(mark: str) -> int:
    """The first 48 bits of a `digest`, for logs and for processes to gather."""
    return int(mark[:12], 16)


@cache  # a video is asked about many times, and its bytes are read for its name only once
def _file_hash(path: str | Path, modified: int, size: int) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def vision_hash(model: nn.Module) -> str:
    """sha256 of the vision tower's weights, names and types."""
    digest = hashlib.sha256()
    for name, weight in sorted(base_model(model).model.visual.state_dict().items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def video_features(model: nn.Module, pixel_values: Tensor, grid: LongTensor) -> Tensor:
    """The frozen vision tower's output (video tokens, hidden size times `wide`) for patches and their grid (videos,
    3): what takes the tokens' place, and beside it what is added after each of the first layers."""
    base = base_model(model)
    with torch.no_grad(), _embedding_as_product(base.model.visual.patch_embed.proj):
        output = base.model.get_video_features(pixel_values.to(base.device), grid.to(base.device))
    parts = (output.pooler_output, *(getattr(output, "deepstack_features", None) or ()))
    return torch.cat([torch.cat(tuple(part)) for part in parts], -1)


@contextmanager
def one_thread() -> Iterator[None]:
    """torch on one thread, as before afterwards."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _embedding_as_product(conv: nn.Conv3d) -> Iterator[None]:
    """Its patches do not overlap: one product, on a processor three times as fast as torch's convolution, which was a
    quarter of the miniature's tower."""
    conv.forward = lambda patches: functional.linear(patches.flatten(1), conv.weight.flatten(1), conv.bias)
    try:
        yield
    finally:
        del conv.forward


def wide(config: PreTrainedConfig) -> int:
    """How many hidden sizes a video's features, and with them all embeddings, are wide: one, and one for each of the
    first layers that a video's features are added after."""
    return 1 + len(getattr(config.vision_config, "deepstack_visual_indexes", ()))


def encoder_outputs(model: nn.Module, features: list[Tensor]) -> BaseModelOutputWithPooling:
    """What transformers' own forward takes in place of its vision tower, of each video's features."""
    number = wide(base_model(model).config)
    first, *deep = zip(*(video.chunk(number, -1) for video in features), strict=True)
    if not deep:
        return BaseModelOutputWithPooling(pooler_output=list(first))
    return BaseModelOutputWithDeepstackFeatures(pooler_output=list(first), deepstack_features=[*map(list, deep)])


def positions(model: nn.Module, ids: LongTensor, grid: LongTensor | None, step: Tensor | None = None) -> LongTensor:
    """M-RoPE positions (3, tokens) as transformers' `get_rope_index` gives them for one sequence of `ids` (tokens,).
    Raises VsrError where `ids` does not hold the video tokens that `grid` (videos, 3) asks for, and where the family
    needs a video's times and has not got them: the library would take a second for the `step`."""
    # Always passed to the model: a forward with `inputs_embeds` alone would reuse the `rope_deltas` that an earlier
    # sequence left there. A video of t x h x w merged patches takes up max(h, w)/2 positions, not t * h * w: the text
    # behind it starts anew there, with its three coordinates equal and rising by 1 a token.
    base = base_model(model)
    if grid is None:
        return torch.arange(len(ids)).expand(3, -1)
    types = (ids == base.config.video_token_id).int().cpu() * 2
    expected = int(grid.prod(-1).sum()) // base.config.vision_config.spatial_merge_size**2
    _check_count(int(types.bool().sum()), expected)
    family = families.of(base.config)
    starts = int((types.diff(prepend=types.new_zeros(1)) > 0).sum())
    if (family.times == "positions" and step is None) or (family.times == "text" and starts != int(grid[:, 0].sum())):
        raise VsrError(f"a prompt for {family.title} needs the video's times: see `Prompt.step` and `Seen.stamps`")
    found, _ = base.model.get_rope_index(
        ids[None].cpu(), mm_token_type_ids=types[None], video_grid_thw=grid.cpu(), second_per_grid_ts=step
    )
    return found[:, 0]


def placed(model: nn.Module, prompt: Prompt) -> LongTensor:
    """A prompt's `positions`, found once: whoever samples, scores and learns from it asks in turn."""
    known = vars(prompt)
    if "places" not in known:
        known["places"] = positions(model, prompt.ids, prompt.grid, prompt.step)
    return known["places"]


def embed(model: nn.Module, ids: LongTensor, features: Tensor | None) -> Tensor:
    """Embeddings (tokens, hidden size times `wide`) of `ids` (tokens,), the video tokens replaced by `features` in
    order; what is wider than the hidden size is 0 for text. Raises VsrError where the two do not match in number."""
    base = base_model(model)
    ids = ids.to(base.device)
    embeddings = base.get_input_embeddings()(ids)
    video = ids == base.config.video_token_id
    _check_count(int(video.sum()), 0 if features is None else len(features))
    embeddings = functional.pad(embeddings, (0, embeddings.shape[-1] * (wide(base.config) - 1)))
    if features is not None:
        embeddings = embeddings.index_put((video.nonzero()[:, 0],), features.to(embeddings))
    return embeddings


def _check_count(prompt: int, video: int) -> None:
    if prompt != video:
        raise VsrError(f"the prompt has {prompt} video tokens, the video {video}: were frames or max_pixels changed?")


def batches(sizes: list[int], budget: int) -> list[list[int]]:
    """Consecutive indices in lists whose `sizes` sum to at most `budget`; one that is larger alone stands alone."""
    found: list[list[int]] = []
    room = 0
    for index, size in enumerate(sizes):
        if not found or size > room:
            found, room = [*found, []], budget
        found[-1].append(index)
        room -= size
    return found


def passes(prompts: list[int], completions: list[list[int]], budget: int) -> list[list[Part]]:
    """Forward passes of at most `budget` tokens over all groups, given the length of each prompt and completion:
    `parts`, where small ones share a pass."""
    found = parts(prompts, completions, budget)
    sizes = [prompts[group] + sum(completions[group][i] for i in members) for group, members in found]
    return [[found[i] for i in batch] for batch in batches(sizes, budget)]


def parts(prompts: list[int], completions: list[list[int]], budget: int) -> list[Part]:
    """The groups, one that is larger than `budget` tokens in several parts, its prompt repeated. Raises VsrError where
    a prompt with a single completion is too large."""
    found: list[Part] = []
    for group, (prompt, lengths) in enumerate(zip(prompts, completions, strict=True)):
        if prompt + max(lengths) > budget:
            raise VsrError(
                f"a prompt of {prompt} tokens with a completion of {max(lengths)} exceeds token_budget={budget}; "
                "raise it, or lower frames, max_pixels or max_completion_length"
            )
        found += [(group, members) for members in batches(lengths, budget - prompt)]
    return found
