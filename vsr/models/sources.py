"""Where a base model's files are: the shipped miniature, a folder, or the hub at one revision."""

from dataclasses import dataclass
from pathlib import Path

from transformers import AutoConfig, Qwen2VLConfig
from transformers.utils import cached_file
from transformers.utils.hub import extract_commit_hash

from vsr.errors import VsrError

TINY_FOLDER = Path(__file__).resolve().parents[1] / "miniature" / "base"


@dataclass(frozen=True)
class Source:
    """A folder, or a hub id at a revision (its commit, once known)."""

    name: str
    revision: str = "main"

    @property
    def local(self) -> bool:
        """Whether it is a folder."""
        return Path(self.name).is_dir()


def find(base: str) -> tuple[Source, Qwen2VLConfig]:
    """Source and configuration of `base`: 'tiny', a folder with weights, owner/name or owner/name@revision. Only the
    configuration is read; VsrError for anything that is no Qwen2-VL."""
    source = _source(base)
    try:
        config = AutoConfig.from_pretrained(source.name, revision=source.revision)
    except (OSError, ValueError) as error:
        raise VsrError(
            f"base '{base}': {str(error).splitlines()[0]} Check the name; without a network (or with HF_HUB_OFFLINE=1) "
            "the model must be in the hub cache already, or be given as a folder"
        ) from None
    if config.model_type != "qwen2_vl":
        raise VsrError(f"base '{base}': model type '{config.model_type}'; this study needs qwen2_vl")
    if not source.local:  # everything else must come from the same commit
        file = cached_file(source.name, "config.json", revision=source.revision)
        source = Source(source.name, extract_commit_hash(file, None) or source.revision)
    return source, config


def _source(base: str) -> Source:
    if base == "tiny":
        if not (TINY_FOLDER / "model.safetensors").is_file():
            raise VsrError(f"{TINY_FOLDER}: the shipped miniature is missing; make it with 'vsr pretrain'")
        return Source(str(TINY_FOLDER))
    folder = Path(base)
    if folder.is_dir():
        if not list(folder.glob("*.safetensors")):
            raise VsrError(f"{base}: no *.safetensors in this folder; name the folder of a saved Qwen2-VL checkpoint")
        return Source(str(folder))
    name, _, revision = base.partition("@")
    if folder.is_absolute() or base.startswith((".", "~")) or name.count("/") != 1:
        raise VsrError(f"base '{base}': no such folder, and no hub id (owner/name); use 'tiny', a folder or a hub id")
    return Source(name, revision or "main")
