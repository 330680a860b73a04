"""What the frozen vision tower sees in a video, computed once and kept on disk."""

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import LongTensor, Tensor

from vsr.engine.inputs import base_model, video_features
from vsr.errors import VsrError
from vsr.files import atomic_write
from vsr.video import decode, patchify


class FeatureCache:
    """Vision features by video file. One safetensors file each in `folder`, named by the sha256 of the video's bytes,
    `frames`, `max_pixels` and the vision weights: whatever changes the features changes the name. Files are written
    whole or not at all, so several processes may share a folder; a damaged one is made again."""

    def __init__(self, model: torch.nn.Module, folder: str | Path, frames: int, max_pixels: int):
        self.model, self.folder, self.frames, self.max_pixels = model, Path(folder), frames, max_pixels
        self.weights = vision_hash(model)

    def __call__(self, video: str | Path) -> tuple[Tensor, LongTensor]:
        """Features (video tokens, hidden size) on the CPU and patch grid (1, 3); VsrError for an unreadable video."""
        path = self.folder / f"{self._key(Path(video))}.safetensors"
        if path.is_file():
            try:
                found = load_file(path)
                return found["features"], found["grid"]
            except (SafetensorError, KeyError):
                path.unlink(missing_ok=True)
        pixel_values, grid = patchify(decode(video, self.frames), self.max_pixels)
        features = video_features(self.model, pixel_values, grid).cpu().contiguous()
        atomic_write(path, save({"features": features, "grid": grid}))
        return features, grid

    def _key(self, video: Path) -> str:
        try:
            with video.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise VsrError(f"{video}: video could not be read ({error.strerror}); make or download it again") from None
        settings = f"{content} {self.frames} {self.max_pixels} {self.weights}"
        return hashlib.sha256(settings.encode()).hexdigest()


def vision_hash(model: torch.nn.Module) -> str:
    """sha256 of the vision tower's weights, names and types."""
    digest = hashlib.sha256()
    for name, weight in sorted(base_model(model).model.visual.state_dict().items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
