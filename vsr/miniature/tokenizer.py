"""The miniature's tokenizer: byte-level, so that any text survives, with the study's wording and numbers as tokens."""

import math
from string import Formatter

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from vsr import paper
from vsr.miniature.catalogue import CATALOGUE
from vsr.models.folders import END, PAD, VISION_TOKENS
from vsr.questions.held_out import TURNS
from vsr.questions.rules import RULES

SPECIAL = (PAD, "<|im_start|>", END, *VISION_TOKENS)
TAGS = tuple(f"<{slash}{name}>" for name in ("think", "observe", "answer") for slash in ("", "/"))
SIDES = ("left", "right", "back", "front-left", "front-right", "back-left", "back-right")
QUARTERS = ("east", "west", "north", "south")
STEPS = ("[please fill in]", "Go forward until the ")  # of a route
SYSTEM = "You are a helpful assistant."
TEMPLATE = (  # Qwen2-VL's, for one system line and video or text content
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
    + SYSTEM
    + "<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n{% if message['content'] is string %}"
    "{{ message['content'] }}{% else %}{% for content in message['content'] %}{% if content['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% elif content['type'] == 'video' %}"
    "<|vision_start|><|video_pad|><|vision_end|>{% else %}{{ content['text'] }}{% endif %}{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
STD = 0.06  # of token embeddings; larger ones learn more slowly
INTEGERS = tuple(str(n) for n in range(401))
DECIMALS = tuple(f"{n / 10:.1f}" for n in range(801))


def phrases(wordings: tuple[str, ...]) -> list[str]:
    """The literal pieces between the {fields} of some wordings, each once."""
    pieces = (literal for text in wordings for literal, *_ in Formatter().parse(text))
    return list(dict.fromkeys(piece for piece in pieces if len(piece) > 1))


def study_phrases() -> list[str]:
    """Every boilerplate piece of the study's prompts."""
    templates = tuple(template.text for rules in RULES.values() for template in rules.templates.values())
    suffixes = (*paper.EVALUATION_PROMPTS.values(), *paper.TRAINING_PROMPTS.values(), paper.HARNESS_CHOICE_POST)
    roles = (f"system\n{SYSTEM}", "user\n", "assistant\n", f"{paper.HARNESS_PRE}\n", "\nOptions:\n")
    return [*phrases(templates), *("\n" + suffix for suffix in suffixes), *roles, *TURNS, *STEPS, ". ", ", "]


def build(more: tuple[str, ...] = ()) -> PreTrainedTokenizerFast:
    """The tokenizer, with further phrases `more`."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    plain = (*TAGS, *CATALOGUE, *SIDES, *QUARTERS, *study_phrases(), *more, *INTEGERS[10:], *DECIMALS)
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in dict.fromkeys(plain)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        chat_template=TEMPLATE,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=list(SPECIAL[1:]),
        clean_up_tokenization_spaces=False,
        padding_side="left",
        model_max_length=4096,
    )


def numbers(tokenizer: PreTrainedTokenizerFast, decimal: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids (M,) of the positive whole numbers, or of those with one decimal, and the logarithms of their
    values."""
    texts = [text for text in (DECIMALS if decimal else INTEGERS) if float(text) > 0]
    ids = torch.tensor(tokenizer.convert_tokens_to_ids(texts))
    return ids, torch.tensor([math.log(float(text)) for text in texts])


def embeddings(tokenizer: PreTrainedTokenizerFast, width: int, generator: torch.Generator) -> torch.Tensor:
    """First token embeddings (vocabulary, width): random, but numbers of similar size start out similar (random Fourier
    features of the logarithm), so that what is learnt about 2.4 helps with 2.5."""
    table = torch.randn(len(tokenizer), width, generator=generator) * STD
    pitch = torch.randn(width, generator=generator) * 3
    phase = torch.rand(width, generator=generator) * 2 * math.pi
    for decimal in (False, True):
        ids, log = numbers(tokenizer, decimal)
        kind = torch.randn(width, generator=generator) * STD
        table[ids] = (torch.cos(log[:, None] * pitch + phase) * STD * 2**0.5 + kind) / 2**0.5
    return table
