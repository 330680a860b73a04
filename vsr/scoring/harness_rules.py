"""The scoring rules of eight public harnesses, so that one predictions file can be scored under each of them.

Each rule object says how its harness reads a number, judges a choice, compares a number with the truth and averages.
They are written from the harnesses' behaviour; `source` names the repository and, where its code was read, the commit.
Where a harness does not look for answer tags the tag's content is given to it (see `vsr.scoring.answers`), so that the
differences shown are those of the rules. No harness has free-form questions: those are always compared as text.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vsr.errors import unknown
from vsr.scoring import averages
from vsr.scoring.answers import final_answer, mean_relative_accuracy, read_letter, read_number, to_float

_UNITS = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
seventeen eighteen nineteen twenty""".split()
_TENS = ["thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_VALUE = {word: i for i, word in enumerate(_UNITS)} | {word: 10 * i for i, word in enumerate(_TENS, 3)}
_UP_TO_TWENTY = re.compile(r"\b(" + "|".join(_UNITS) + r")\b", re.IGNORECASE)
_NUMBER_WORD = re.compile(r"\b(" + "|".join(_VALUE) + r")\b", re.IGNORECASE)
_NUMBER = re.compile(r"[-+]?(?:\d*\.\d+|\d+)(?:[eE][-+]?\d+)?")


def _digits(text: str, words: re.Pattern = _NUMBER_WORD) -> str:
    return words.sub(lambda match: str(_VALUE[match.group().lower()]), text)


def _first_number(text: str, question_type: str) -> float | None:
    found = _NUMBER.search(_digits(final_answer(text)))
    return to_float(found.group()) if found else None


def _whole(text: str, question_type: str) -> float | None:
    return to_float(final_answer(text))


def _whole_without_commas(text: str, question_type: str) -> float | None:
    return to_float(final_answer(text).replace(",", ""))


def _same_token(text: str, truth: str) -> bool:
    return read_letter(text) == truth.lower()


def _same_string(text: str, truth: str) -> bool:
    return final_answer(text) == truth.strip()


def _first_character(text: str, truth: str) -> bool:
    return final_answer(text)[:1] == truth


# VLMEvalKit: the number that opens an answer tag, else the last one after the reasoning, else the last of all
def _vlmevalkit_number(text: str, question_type: str) -> float | None:
    text = _digits(text.strip(), _UP_TO_TWENTY)
    for content in re.findall(r"<\s*answer\b[^>]*>\s*([^<]*)<\s*/\s*answer\s*>", text, re.IGNORECASE):
        found = _NUMBER.match(content)
        if found:
            return to_float(found.group())
    found = _NUMBER.findall(_after_reasoning(text)) or _NUMBER.findall(text)
    return to_float(found[-1]) if found else None


def _after_reasoning(text: str) -> str:
    for tag in (r"<\s*/\s*think\s*>", r"<\s*think\s*>"):
        parts = re.split(tag, text, flags=re.IGNORECASE)
        if len(parts) > 1:
            return parts[-1].strip()
    return text


_TAGGED_LETTER = re.compile(r"<\s*answer\b[^>]*>\s*([A-J])", re.IGNORECASE)
_CLOSED = re.compile(r"<\s*/\s*answer\s*>", re.IGNORECASE)
_LONE_LETTER = re.compile(r"[\s*_`>()\[\]]*([A-F])[\s*_`()\[\]]*", re.IGNORECASE)
_LABEL = re.compile(r"([A-F])\s*[.:)\]-]\s+", re.IGNORECASE)
_CAPITAL = re.compile(r"(?<![A-Za-z])([A-F])(?=$|[\s.,:;!?)\]*_`}])")
_PHRASE = re.compile(r"(?i:answer(?:\s*is)?|answer\s*:)\s*[:>=]?\s*[(\[{]?\s*([A-Fa-f])\s*[)\]}]?(?:\b|[.)])")


def _vlmevalkit_letter(text: str) -> str:
    """The letter that opens an answer tag; else, from the last line up, a line's lone, leading or only capital letter;
    else 'answer is X'; else the only capital letter of all."""
    ends = [found.start() for found in _CLOSED.finditer(text)]
    tagged = _TAGGED_LETTER.search(text, 0, ends[-1]) if ends else None
    if tagged:
        return tagged.group(1).upper()
    for line in reversed([line.strip() for line in _after_reasoning(text.strip()).splitlines()[-6:] if line.strip()]):
        found = _LONE_LETTER.fullmatch(line) or _LABEL.match(line)
        if found:
            return found.group(1).upper()
        if len(set(_CAPITAL.findall(line))) == 1:
            return _CAPITAL.findall(line)[0]
    phrase = _PHRASE.search(text)
    if phrase:
        return phrase.group(1).upper()
    letters = set(_CAPITAL.findall(text))
    return letters.pop() if len(letters) == 1 else ""


# SpaceR: number words come first, in this order, articles included
_SPACER_WORDS = {word: _VALUE[word] for word in (*_UNITS[1:], *_TENS, "zero")} | {"a": 1, "an": 1}


def _spacer_number(text: str, question_type: str) -> float | None:
    text = final_answer(text).lower()
    for word, value in _SPACER_WORDS.items():
        if re.search(rf"\b{word}\b", text):
            return float(value)
    found = re.search(r"\d+(?:\.\d+)?", text)
    return to_float(found.group()) if found else None


def _spacer_choice(text: str, truth: str) -> bool:
    text = final_answer(text).replace("Answer:", "")
    token = text.split(" ")[0].strip()
    return (token[:1] if re.fullmatch(r"[A-D]\.?", token) else text.strip()).lower() == truth.lower()


# Spatial-MLLM: the last answer tag, one line, lower case, no full stop at the end
def _spatial_mllm_clean(text: str) -> str:
    tags = re.findall(r"<answer>(.*?)</answer>", text[: text.rfind("</answer>") + len("</answer>")], re.DOTALL)
    return " ".join((tags[-1] if tags else text).split()).rstrip(".").lower()


def _spatial_mllm_number(text: str, question_type: str) -> float | None:
    return to_float(_spatial_mllm_clean(text).replace(",", ""))


def _spatial_mllm_choice(text: str, truth: str) -> bool:
    return _spatial_mllm_clean(text) == truth.lower()


# TsT: the first number, words and units understood, in the unit that the question asks for
def _tst_number(text: str, question_type: str) -> float | None:
    text = final_answer(text).lower()
    found = re.search(r"[-+]?\d+\.?\d*", _digits(text).replace(",", ""))
    number = to_float(found.group()) if found else None
    if number is None:
        return None
    centimetres = bool(re.search(r"centimeter|\bcm\b", text))
    millimetres = bool(re.search(r"millimeter|\bmm\b", text))
    if question_type == "object_abs_distance":
        return number / 100 if centimetres else number / 1000 if millimetres else number
    if question_type == "object_size_estimation" and not centimetres:
        metres = re.search(r"meter|\bm\b", text)  # 'millimeter' matches too, as it does there
        return number * 100 if metres else number / 10 if millimetres else number
    return number


def strict_float32_accuracy(pred: float, truth: float) -> float:
    """Mean relative accuracy with `<`, in float32, as Video-R1 and Spatial-MLLM compute it in torch."""
    with np.errstate(over="ignore"):
        error = np.abs(np.float32(pred) - np.float32(truth)) / (np.abs(np.float32(truth)) + np.float32(1e-8))
    thresholds = (0.5 + 0.05 * np.arange(10)).astype(np.float32)
    return float((error < np.float32(1) - thresholds).mean())


@dataclass(frozen=True)
class Rules:
    """One harness: `number(response, question_type)`, `choice(response, letter)`, `accuracy(pred, truth)` and how
    scores are averaged. The first of `overall` is its headline."""

    name: str
    source: str
    number: Callable[[str, str], float | None] = lambda text, question_type: read_number(text)
    choice: Callable[[str, str], bool] = _same_token
    accuracy: Callable[[float, float], float] = mean_relative_accuracy
    direction: Callable[[averages.Sums], np.ndarray] = averages.levels
    overall: tuple[tuple[str, averages.Average], ...] = (("macro", averages.macro),)


RULES: dict[str, Rules] = {
    rules.name: rules
    for rules in (
        Rules("official", "vision-x-nyu/thinking-in-space@e6a72f39"),
        Rules(
            "lmms-eval", "EvolvingLMMs-Lab/lmms-eval since July 2026 (as reported; code not read)", number=_first_number
        ),
        Rules(
            "VLMEvalKit",
            "open-compass/VLMEvalKit@160057c6",
            number=_vlmevalkit_number,
            choice=lambda text, truth: _vlmevalkit_letter(text) == truth.upper(),
        ),
        Rules(
            "Video-R1",
            "tulerfeng/Video-R1 src/eval_bench.py (read in a fork); it prints two means, no overall: their mean here",
            number=_whole_without_commas,
            choice=_same_string,
            accuracy=strict_float32_accuracy,
            overall=(
                ("mean of both", averages.mean_of_micros),
                ("accuracy", averages.choice_micro),
                ("mra", averages.numerical_micro),
            ),
        ),
        Rules(
            "SpaceR",
            "OuyangKun10/SpaceR@33805775",
            number=_spacer_number,
            choice=_spacer_choice,
            direction=averages.levels_or_zero,
            overall=(("micro", averages.micro),),
        ),
        Rules(
            "ViLaSR",
            "AntResearchNLP/ViLaSR (as reported; code not read)",
            number=_whole,
            choice=_first_character,
            direction=averages.pooled,
        ),
        Rules(
            "Spatial-MLLM",
            "diankun-wu/Spatial-MLLM@9fc47382",
            number=_spatial_mllm_number,
            choice=_spatial_mllm_choice,
            accuracy=strict_float32_accuracy,
            overall=(("macro", averages.macro), ("micro", averages.micro)),
        ),
        Rules(
            "TsT",
            "vision-x-nyu/test-set-training@472257c9 reproduce/; letters as lmms-eval's",
            number=_tst_number,
            overall=(("micro", averages.micro),),
        ),
    )
}


def get(name: str | Rules) -> Rules:
    """The rules by name, or rules as they are; an unknown name is an error with the nearest known one."""
    if isinstance(name, Rules):
        return name
    if name not in RULES:
        raise unknown("scoring rules", name, RULES)
    return RULES[name]
