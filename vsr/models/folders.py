"""A base model's files: where they are (the shipped miniature, a folder, the hub at one revision), what they hold
(tokenizer, configuration, preprocessing, weights; written whole, checked before use), and the sizes of the models."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, wraps
from pathlib import Path

import torch
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import cached_file
from transformers.utils.hub import extract_commit_hash

from vsr import families
from vsr.errors import VsrError
from vsr.families import FAMILIES, MERGE, PAIR, PUBLISHED, QWEN2_VL, Family
from vsr.files import as_the_umask_says, hash_files, read_json, write_json

TINY_FOLDER = Path(__file__).resolve().parents[1] / "miniature" / "base"
VISION_TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>")
END, PAD = "<|im_end|>", "<|endoftext|>"
MODEL_FILES = ("config.json", "*.safetensors", "tokenizer.json", "tokenizer_config.json", "chat_template.*")
PREPROCESSING, VIDEO_PREPROCESSING = "preprocessor_config.json", "video_preprocessor_config.json"
CONFIG_IDS = {  # the configuration's name of each special token's id
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
}


@dataclass(frozen=True)
class Source:
    """A folder, or a hub id at a revision (its commit, once known)."""

    name: str
    revision: str = "main"

    @property
    def local(self) -> bool:
        """Whether it is a folder."""
        return Path(self.name).is_dir()


def find(base: str) -> tuple[Source, PreTrainedConfig]:
    """Source and configuration of `base`: 'tiny', a folder with weights, owner/name or owner/name@revision. Only the
    configuration is read; VsrError for a family that is not supported."""
    source = _source(base)
    try:
        config = AutoConfig.from_pretrained(source.name, revision=source.revision)
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise VsrError(
            f"base '{base}': {str(error).splitlines()[0]} Check the name; without a network (or with HF_HUB_OFFLINE=1) "
            "the model must be in the hub cache already, or be given as a folder"
        ) from None
    families.of(config, base)
    if not source.local:  # everything else must come from the same commit
        file = cached_file(source.name, "config.json", revision=source.revision)
        source = Source(source.name, extract_commit_hash(file, None) or source.revision)
    return source, config


def configuration(base: str) -> PreTrainedConfig:
    """The configuration of `base`; of a published one without a look at its files."""
    known = PUBLISHED.get(base.partition("@")[0])
    return shape(known) if known else find(base)[1]


def _source(base: str) -> Source:
    if base == "tiny":
        if not (TINY_FOLDER / "model.safetensors").is_file():
            raise VsrError(f"{TINY_FOLDER}: the shipped miniature is missing; make it with 'vsr pretrain'")
        return Source(str(TINY_FOLDER))
    folder = Path(base)
    if folder.is_dir():
        if not list(folder.glob("*.safetensors")):
            raise VsrError(f"{base}: no *.safetensors in this folder; name the folder of a saved checkpoint")
        return Source(str(folder))
    name, _, revision = base.partition("@")
    if folder.is_absolute() or base.startswith((".", "~")) or name.count("/") != 1:
        raise VsrError(f"base '{base}': no such folder, and no hub id (owner/name); use 'tiny', a folder or a hub id")
    return Source(name, revision or "main")


def _once(read: Callable) -> Callable:
    """`read`, a function of a folder or hub id (and more), called once while the folder's files stay as they are: a
    real tokenizer takes a second, the hash of real weights reads gigabytes, and each evaluation asks for both."""
    kept = lru_cache(16)(lambda _, *asked: read(*asked))

    @wraps(read)
    def known(source: str | Path, *more):
        files = [(str(file), file.stat()) for file in sorted(Path(source).glob("*")) if file.is_file()]
        return kept(tuple((name, it.st_mtime_ns, it.st_size) for name, it in files), str(source), *more)

    return known


@_once
def load_tokenizer(source: str | Path, revision: str = "main") -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or hub id; one without a chat template or the special tokens is an error."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(source), revision=revision)
    except Exception as error:  # the tokenizers library raises nothing more special
        raise VsrError(f"{source}: no tokenizer ({str(error).splitlines()[0]}); copy tokenizer.json there") from None
    known = tokenizer.backend_tokenizer.token_to_id  # get_vocab() copies 150k entries
    lacking = [token for token in (*VISION_TOKENS, END, PAD) if known(token) is None]
    if lacking or not tokenizer.chat_template:
        what = f"special token '{lacking[0]}'" if lacking else "chat template"
        raise VsrError(f"{source}: its tokenizer has no {what}; use a Qwen-VL checkpoint")
    return tokenizer


@_once
def model_hash(folder: str | Path) -> str:
    """16 hex digits over the files that decide what the model in `folder` says."""
    return hash_files(*sorted(file for pattern in MODEL_FILES for file in Path(folder).glob(pattern)))


def preprocessing(family: Family = QWEN2_VL) -> dict[str, dict]:
    """A family's preprocessing files as `vsr.video.patchify` follows them, by name."""
    sizes = {"patch_size": family.patch, "temporal_patch_size": PAIR, "merge_size": MERGE}
    colours = {"image_mean": list(family.mean), "image_std": list(family.std)}
    names = {"image_processor_type": "Qwen2VLImageProcessor", "processor_class": f"{family.classes}Processor"}
    pixels = {"min_pixels": family.min_pixels, "max_pixels": family.max_pixels}
    if not family.whole:
        return {PREPROCESSING: pixels | sizes | colours | names}
    # videos have limits of their own there
    pixels = {"size": {"shortest_edge": family.min_pixels, "longest_edge": family.max_pixels}}
    video = pixels | sizes | colours | {"video_processor_type": f"{family.classes}VideoProcessor"}
    return {PREPROCESSING: sizes | colours | names, VIDEO_PREPROCESSING: video}


def check_processor(
    source: str, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase, revision: str = "main"
) -> None:
    """Raise VsrError where tokenizer, preprocessing and model of a folder or hub id do not belong together."""
    remedy, most = "use the tokenizer the model was trained with", config.text_config.vocab_size
    if len(tokenizer) > most:
        raise VsrError(f"{source}: its tokenizer has {len(tokenizer)} tokens, its model {most}; {remedy}")
    for name, token in CONFIG_IDS.items():
        ours, theirs = tokenizer.convert_tokens_to_ids(token), getattr(config, name)
        if ours != theirs:
            why = f"its tokenizer gives '{token}' the id {ours}, config.json says {name}={theirs}"
            raise VsrError(f"{source}: {why}; {remedy}")
    family = FAMILIES[config.model_type]
    sizes = {"patch_size": family.patch, "spatial_merge_size": MERGE, "temporal_patch_size": PAIR}
    for name, ours in sizes.items():
        if ours != (theirs := getattr(config.vision_config, name)):
            what = f"{family.title}'s video preprocessing has {ours}"
            raise VsrError(f"{source}: config.json says {name}={theirs}; {what}")
    for kind, known in preprocessing(family).items():
        file = cached_file(source, kind, revision=revision, _raise_exceptions_for_missing_entries=False)
        given = {} if file is None else read_json(file)
        for name in ("patch_size", "temporal_patch_size", "merge_size", "image_mean", "image_std"):
            if given.get(name, known[name]) != known[name]:
                raise VsrError(f"{source}: {kind} says {name}={given[name]}, {family.title}'s {known[name]}")


def shape(sizes: dict, **ids: int) -> PreTrainedConfig:
    """The configuration of some sizes (of the "family" they name, else Qwen2-VL), with the ids of special tokens where
    given."""
    family, text, tied = FAMILIES[sizes.get("family", QWEN2_VL.name)], dict(sizes["text"]), sizes.get("tied", True)
    sections = text.pop("mrope_section")
    width = text["hidden_size"]
    head = text.get("head_dim", width // text["num_attention_heads"])
    if 2 * sum(sections) != head:
        raise VsrError(f"mrope_section {sections}: must sum to half the head size, {head / 2:g}")
    rope = {"rope_type": "default", "rope_theta": family.theta, "mrope_section": sections}
    return family.config(
        text_config={"rms_norm_eps": 1e-6, "tie_word_embeddings": tied, "rope_parameters": rope, **text},
        # the width that its features leave it with has two names
        vision_config={"hidden_size" if family is QWEN2_VL else "out_hidden_size": width, **sizes["vision"]},
        tie_word_embeddings=tied,
        architectures=[family.model.__name__],
        **ids,
    )


def build_config(sizes: dict, tokenizer: PreTrainedTokenizerBase) -> PreTrainedConfig:
    """A configuration of the given sizes (such as `vsr.families.PUBLISHED`'s) with the tokenizer's ids and, unless the
    sizes name one, vocabulary."""
    special = {"bos_token_id": PAD, "eos_token_id": END, "pad_token_id": PAD}
    text = {name: tokenizer.convert_tokens_to_ids(token) for name, token in special.items()}
    # a published size keeps its own vocabulary, which is padded beyond the tokenizer's
    text = {"vocab_size": len(tokenizer)} | text | sizes["text"]
    return shape(sizes | {"text": text}, **{n: tokenizer.convert_tokens_to_ids(t) for n, t in CONFIG_IDS.items()})


def random_folder(
    path: str | Path, sizes: dict, tokenizer_from: str | Path, seed: int = 0, dtype: torch.dtype = torch.float32
) -> Path:
    """Write a loadable folder with random weights of the given sizes and the tokenizer of `tokenizer_from`."""
    path = Path(path)
    tokenizer = load_tokenizer(tokenizer_from)
    torch.manual_seed(seed)
    config = build_config(sizes, tokenizer)
    save(families.of(config).model(config).to(dtype), tokenizer, path)
    return path


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: str | Path) -> None:
    """Write weights (safetensors), configuration, tokenizer and preprocessing, as plain transformers loads them; an
    interrupted save leaves the old folder as it was."""
    folder = Path(folder)
    staging = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(staging, ignore_errors=True)
    generation = model.generation_config
    generation.bos_token_id = generation.pad_token_id = tokenizer.convert_tokens_to_ids(PAD)
    generation.eos_token_id = generation.eos_token_id or tokenizer.convert_tokens_to_ids(END)
    try:
        model.save_pretrained(staging)
        tokenizer.save_pretrained(staging)
        for name, settings in preprocessing(families.of(model.config)).items():
            write_json(staging / name, settings)
        as_the_umask_says(staging)
        shutil.rmtree(folder, ignore_errors=True)
        staging.rename(folder)
    except OSError as error:
        raise VsrError(f"{folder}: could not be written ({error.strerror}); free some space or choose --out") from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)
