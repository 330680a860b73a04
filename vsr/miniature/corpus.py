"""What the miniature reads: the study's kinds of questions about pre-training rooms, in several wordings, and its
tokenizer: byte-level, so that any text survives, with the study's wording and numbers as tokens."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from string import Formatter

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from vsr import paper
from vsr.files import atomic_write, read_text
from vsr.miniature import RECIPE
from vsr.miniature.procedural import STUDY
from vsr.miniature.rooms import LABELS, Rooms, read
from vsr.models.folders import END, PAD, VISION_TOKENS
from vsr.prompts import SUFFIXES
from vsr.questions import tasks
from vsr.questions.held_out import TURNS
from vsr.questions.rules import RULES
from vsr.scoring.rewards import TAGGED_MODES

OWN = RECIPE["wordings"]
PLACE = "Where is the {label}?"
PLAIN = "\nAnswer briefly."
SIDES = ((" west", " east"), (" south", " north"))
WORDINGS = (*OWN.values(), PLACE)
MARKS = (PLAIN, ": ", *(side + end for pair in SIDES for side in pair for end in (", ", ". ", ".")))
# share of think and observe prompts that are answered with tags, and of those thoughts that are empty
TAGGED = {"evaluate": 0.6, "train": 0.3}
EMPTY = 0.04
MOST_THOUGHTS = 4


@dataclass(frozen=True)
class Item:
    """One question to learn from: the user's text behind the harness's first line, and the response."""

    prompt: str
    response: str


def draft(rooms: Rooms, index: int, rng: np.random.Generator) -> list[dict]:
    """Questions of both rule sets about a room, as json rows."""
    scene = rooms.scene(index)
    seen = rooms.first_seen(index)
    rows = []
    for rules, kind, count in RECIPE["drafts"]:
        # a frame apart is apart
        rule_set = replace(RULES[rules], order_gap=0.5 / STUDY.fps)
        for found in islice(tasks.drafts(kind, scene, rule_set, rng, seen), count):
            rows.append(
                {"rules": rules, "kind": kind, "q": found.question, "a": found.answer, "choices": list(found.choices)}
            )
    return rows


def drafts(shards: Sequence[Path], seed: int) -> list[list[dict]]:
    """The drafted questions of every room of some shards, in the rooms' order; kept beside each shard."""
    found = []
    for shard in shards:
        path = shard.with_suffix(f".{seed}.jsonl")
        if not path.is_file():
            rooms = read([shard])
            rows = [draft(rooms, i, np.random.default_rng([seed, int(room)])) for i, room in enumerate(rooms.seed)]
            atomic_write(path, "\n".join(map(json.dumps, rows)) + "\n")
        found += map(json.loads, read_text(path).splitlines())
    return found


class Corpus:
    """Draws questions about one room after another; the same generator state draws the same."""

    def __init__(self, rooms: Rooms, drafts: list[list[dict]]):
        self.rooms = rooms
        self.drafts = [_by_kind(rows) for rows in drafts]

    def item(self, room: int, weights: Mapping[str, float], tags: float, rng: np.random.Generator) -> Item:
        """One question about a room. Its kind is drawn by `weights` among those that the room has; `tags` is the share
        of prompts in think and observe mode."""
        have = [kind for kind in weights if kind in self.drafts[room] or kind == "place"]
        odds = np.array([weights[kind] for kind in have])
        kind = have[rng.choice(len(have), p=odds / odds.sum())]
        if kind == "place":
            slot = rng.choice(self._slots(room, once=True))
            return Item(PLACE.format(label=self._label(room, slot)) + PLAIN, self._spot(room, slot).strip())
        row = self.drafts[room][kind][rng.integers(len(self.drafts[room][kind]))]
        mode = str(rng.choice(TAGGED_MODES)) if rng.random() < tags else "vanilla"
        stage = "evaluate" if rng.random() < 0.6 else "train"
        question, answer = row["q"], row["a"]
        suffix = "\n" + SUFFIXES[stage][mode]
        if row["choices"]:
            choices = [str(choice) for choice in rng.permutation(row["choices"])]
            question = question.replace("{options}", ", ".join(choices))
            if kind.startswith("letter"):
                answer = "ABCD"[choices.index(answer)]
                listed = "".join(f"\n{letter}. {choice}" for letter, choice in zip("ABCD", choices))  # noqa: B905
                question, suffix = f"{question}\nOptions:{listed}", f"{suffix}\n{paper.HARNESS_CHOICE_POST}"
        elif mode == "vanilla" and rng.random() < 0.4:
            question, suffix = _reworded(row), PLAIN
        if mode != "vanilla" and rng.random() < TAGGED[stage]:
            thought = self._thought(room, row["q"]) if rng.random() >= EMPTY else ""
            answer = f"<{mode}>{thought}</{mode}><answer>{answer}</answer>"
        return Item(question + suffix, answer)

    def _slots(self, room: int, once: bool = False) -> list[int]:
        kinds = self.rooms.kind[room]
        return [s for s, kind in enumerate(kinds) if kind >= 0 and (not once or (kinds == kind).sum() == 1)]

    def _label(self, room: int, slot: int) -> str:
        return LABELS[self.rooms.kind[room, slot]]

    def _spot(self, room: int, slot: int) -> str:
        x, y = self.rooms.box[room, slot, :2]
        return f"{self._label(room, slot)}: {abs(x):.1f}{SIDES[0][int(x > 0)]}, {abs(y):.1f}{SIDES[1][int(y > 0)]}. "

    def _thought(self, room: int, question: str) -> str:
        """Where the things are that a question names, in its order; else how far the walls are."""
        named = [(question.find(self._label(room, s)), s) for s in self._slots(room)]
        slots = [slot for place, slot in sorted(named) if place >= 0][:MOST_THOUGHTS]
        if slots:
            return "".join(self._spot(room, slot) for slot in slots).strip()
        east, north, west, south = self.rooms.walls[room]
        return f"{east:.1f} east, {west:.1f} west, {north:.1f} north, {south:.1f} south."


def _by_kind(rows: list[dict]) -> dict[str, list[dict]]:
    """Rows by what decides how often they are asked: 'free ' for the paper's rules; questions with options come both as
    'letter ' and, without the options, as 'word '."""
    out: dict[str, list[dict]] = {}
    for row in rows:
        kind = row["kind"].removeprefix("object_").removeprefix("obj_")
        names = ("letter ", "word ") if row["choices"] else ("free " if row["rules"] == "vsi100k" else "",)
        for name in names:
            out.setdefault(name + kind, []).append(row)
    return out


def _reworded(row: dict) -> str:
    fields = RULES[row["rules"]].templates[row["kind"]].read(row["q"])
    return OWN[("free " if row["rules"] == "vsi100k" else "") + row["kind"]].format(**fields)


SPECIAL = (PAD, "<|im_start|>", END, *VISION_TOKENS)
TAGS = tuple(f"<{slash}{name}>" for name in ("think", "observe", "answer") for slash in ("", "/"))
ANSWERS = ("left", "right", "back", "front-left", "front-right", "back-left", "back-right")
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


def new_tokenizer() -> PreTrainedTokenizerFast:
    """The miniature's tokenizer: bytes, and as one token each numbers, names of things and the boilerplate pieces of
    the study's prompts and of pre-training's own."""
    templates = tuple(template.text for rules in RULES.values() for template in rules.templates.values())
    suffixes = (*paper.EVALUATION_PROMPTS.values(), *paper.TRAINING_PROMPTS.values(), paper.HARNESS_CHOICE_POST)
    roles = (f"system\n{SYSTEM}", "user\n", "assistant\n", f"{paper.HARNESS_PRE}\n", "\nOptions:\n")
    study = [*phrases(templates), *("\n" + suffix for suffix in suffixes), *roles, *TURNS, *STEPS, ". ", ", "]
    own = [*phrases(WORDINGS), *MARKS]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    plain = (*TAGS, *LABELS, *ANSWERS, *QUARTERS, *study, *own, *INTEGERS[10:], *DECIMALS)
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
