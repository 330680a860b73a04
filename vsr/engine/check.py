"""`vsr check-video`: what the model of each family is given of a video, beside what transformers' own processor makes
of it, where torchvision is installed; what differs is named."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import LongTensor, Tensor
from transformers import PreTrainedTokenizerBase

from vsr import families, markdown, paper
from vsr.engine.inputs import Prompt, digest, pixels_hash, positions, times
from vsr.families import FAMILIES, PAIR, PUBLISHED, Family
from vsr.models import folders
from vsr.models.quantize import skeleton
from vsr.prompts import render
from vsr.video import Clip, patchify, sample

QUESTION = f"{paper.HARNESS_PRE}\nHow many chair(s) are in this room?"
CHAT = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": QUESTION}]}]
WORDS = {"frames": "frames", "grid": "grid", "pixels": "pixels", "ids": "ids", "step": "seconds a step"}
WORDS |= {"places": "positions"}


@dataclass(frozen=True)
class Reading:
    """What a model is given: how many `frames` of a video, patches `pixels`, their `grid` (1, 3), prompt `ids`
    (tokens,), seconds a `step` (1,) where positions know time, and positions `places` (3, tokens)."""

    frames: int
    pixels: Tensor
    grid: LongTensor
    ids: LongTensor
    step: Tensor | None
    places: LongTensor

    def differs(self, other: "Reading") -> list[str]:
        """What is not the same in both."""
        same = {name: _equal(getattr(self, name), getattr(other, name)) for name in WORDS}
        return [WORDS[name] for name in WORDS if not same[name]]


def _equal(ours: object, theirs: object) -> bool:
    if isinstance(ours, Tensor) and isinstance(theirs, Tensor):
        return ours.shape == theirs.shape and bool((ours == theirs).all())
    return ours is theirs or (not isinstance(ours, Tensor) and ours == theirs)


@dataclass(frozen=True)
class Checked:
    """A family, a model of it without weights, and a tokenizer."""

    family: Family
    model: torch.nn.Module
    tokenizer: PreTrainedTokenizerBase

    def ours(self, clip: Clip, max_pixels: int, name: str) -> Reading:
        """What the study gives the model. VsrError as the study's own."""
        pixels, grid = patchify(clip.frames, max_pixels, self.family)
        step, stamps = times(self.family, clip, name)
        ids = render(self.tokenizer, CHAT, grid, stamps)
        return Reading(len(clip.frames), pixels, grid, ids, step, positions(self.model, ids, grid, step))

    def theirs(self, clip: Clip, **how: object) -> Reading:
        """What transformers' processor gives it, called with the chosen frames and `how`."""
        import transformers

        kind = "Qwen3VL" if self.family.whole else "Qwen2VL"
        size = {"shortest_edge": self.family.min_pixels, "longest_edge": self.family.max_pixels}
        video = getattr(transformers, f"{kind}VideoProcessor")(size=size)
        image = transformers.Qwen2VLImageProcessor(patch_size=self.family.patch)
        build = getattr(transformers, f"{self.family.classes}Processor")
        processor = build(image, self.tokenizer, video, self.tokenizer.chat_template)
        text = self.tokenizer.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
        shown = torch.from_numpy(clip.frames).permute(0, 3, 1, 2)
        found = processor(text=[text], videos=[shown], return_tensors="pt", **how)
        ids, grid, step = found["input_ids"], found["video_grid_thw"], found.get("second_per_grid_ts")
        types = found["mm_token_type_ids"]
        step = None if step is None else torch.as_tensor(step)
        places, _ = self.model.model.get_rope_index(ids, types, video_grid_thw=grid, second_per_grid_ts=step)
        frames = min(len(clip.frames), PAIR * int(grid[0, 0]))
        return Reading(frames, found["pixel_values_videos"], grid, ids[0], step, places[:, 0])


def checked(base: str | None) -> list[Checked]:
    """The family of a base, with its own tokenizer; without one, the smallest published model of each family, with the
    miniature's tokenizer."""
    if base is not None:
        source, config = folders.find(base)
        tokenizer = folders.load_tokenizer(source.name, source.revision)
        folders.check_processor(source.name, config, tokenizer, source.revision)
        return [Checked(families.of(config, base), skeleton(config), tokenizer)]
    tokenizer = folders.load_tokenizer(folders.TINY_FOLDER)
    smallest = {sizes["family"]: sizes for sizes in reversed(PUBLISHED.values())}
    configs = {name: folders.build_config(smallest[name], tokenizer) for name in FAMILIES}
    return [Checked(FAMILIES[name], skeleton(config), tokenizer) for name, config in configs.items()]


def report(path: str | Path, base: str | None, frames: int, max_pixels: int) -> str:
    """Markdown: the frames that are picked, then a column for each family; VsrError for an unreadable video."""
    clip, subjects, compared = sample(path, frames), checked(base), bool(importlib.util.find_spec("torchvision"))
    ours = [one.ours(clip, max_pixels, str(path)) for one in subjects]
    columns = [_column(one, reading, clip) for one, reading in zip(subjects, ours, strict=True)]
    lines = [] if compared else ["transformers' own processor needs torchvision, which is not installed: not compared"]
    for one, reading, column in zip(subjects, ours, columns, strict=True):
        if compared:
            try:
                column["transformers, told the same"] = ", ".join(_told(one, clip, reading, max_pixels)) or "equal"
                lines += [f"{one.family.title}: {line}" for line in _as_it_comes(one, clip, reading)]
            except ValueError as error:  # Qwen3-VL's takes no single frame
                column["transformers, told the same"] = f"refused: {error}"
        lines += [f"{one.family.title}: {line}" for line in _continued(reading)]
    height, width = clip.frames.shape[1:3]
    seconds = ", ".join(f"{index / clip.fps:.2f}" for index in clip.indices) if clip.fps else "unknown"
    head = f"{Path(path).name}: {clip.total} frames of {width}x{height}, {clip.fps:.6g} a second\n"
    head += f"picked: {', '.join(map(str, clip.indices))}\nshown at (s): {seconds}\n\n"
    if base is None:
        lines.append("prompt tokens are counted by the miniature's tokenizer; --model takes a model's own")
    rows = [(name, *(column[name] for column in columns)) for name in columns[0]]
    table = markdown.table(("", *(one.family.title for one in subjects)), rows)
    return head + table + "".join(f"\n{line}" for line in lines)


def _column(one: Checked, reading: Reading, clip: Clip) -> dict[str, object]:
    """What is shown of a family."""
    t, h, w = reading.grid[0].tolist()
    video = (reading.ids == one.model.config.video_token_id).nonzero()[:, 0]
    steps = reading.places[0, video].unique_consecutive().tolist()
    stamps = one.family.stamps(clip.indices, clip.fps)
    prompt = Prompt(reading.ids, None, reading.grid, reading.step, pixels_hash(reading.pixels))
    return {
        "pixels a frame": f"{w * one.family.patch}x{h * one.family.patch}",
        "grid": f"{t} x {h} x {w}",
        "video tokens": len(video),
        "prompt tokens": len(reading.ids),
        "seconds a step": "none" if reading.step is None else f"{float(reading.step):.4g}",
        "times written": "none" if stamps is None else " ".join(f"{stamp:.1f}" for stamp in stamps),
        "positions in time": " ".join(map(str, steps)),
        "text goes on at": int(reading.places[0, video[-1] + 1]),
        "hash of the input": digest(one.model, prompt),
    }


def _told(one: Checked, clip: Clip, ours: Reading, max_pixels: int) -> list[str]:
    """What differs where transformers' processor is told all that we know: nothing should."""
    most = max_pixels * max(PAIR, len(clip.frames)) if one.family.whole else max_pixels
    how = {"size": {"shortest_edge": one.family.min_pixels, "longest_edge": most}, "do_sample_frames": False}
    times_ = {"fps": clip.fps or None, "total_num_frames": clip.total, "frames_indices": list(clip.indices)}
    return ours.differs(one.theirs(clip, video_metadata=[times_], cap_pixels_per_frame=False, **how))


def _as_it_comes(one: Checked, clip: Clip, ours: Reading) -> list[str]:
    """What differs where it is handed the picked frames alone, as many scripts do."""
    theirs = one.theirs(clip)
    if not (different := ours.differs(theirs)):
        return []
    why = []
    if theirs.frames != ours.frames:
        why.append(f"sampled a second time: {theirs.frames} of the {ours.frames} frames are left")
    if theirs.grid[0, 1:].tolist() != ours.grid[0, 1:].tolist():
        why.append(f"pixels capped at its own limits: {_grid(theirs)} instead of {_grid(ours)}")
    if one.family.times == "positions":
        steps = f"{float(theirs.step):.3g} s a step, not {float(ours.step):.3g}"
        why.append(f"24 frames a second assumed for any video: {steps}")
    if one.family.times == "text":
        why.append("24 frames a second assumed for any video: the times that are written are wrong")
    return [f"handed the frames alone, transformers' processor gives other {', '.join(different)} ({'; '.join(why)})"]


def _continued(reading: Reading) -> list[str]:
    """Where transformers' `generate` leaves the positions that training reads."""
    last, largest = int(reading.places[0, -1]), int(reading.places.max())
    if largest <= last:
        return []
    return [f"an answer goes on at position {last + 1}; transformers' `generate` would go on at {largest + 1}"]


def _grid(reading: Reading) -> str:
    return " x ".join(map(str, reading.grid[0].tolist()))
