"""The scoring rules of eight public harnesses and their averages, so that one file can be scored under each of them.

They are written from the harnesses' behaviour; `source` names the repository and, where its code was read, the commit.
Where a harness does not look for answer tags the tag's content is given to it (see `vsr.scoring.answers`), so that the
differences shown are those of the rules. No harness has free-form questions: those are always compared as text.

Averages work on `Sums`: question type -> (sum of scores, number of questions), for the sample itself and for bootstrap
draws, whatever their shape. A draw without any question of a type has no mean for it (nan), never 0.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vsr.errors import unknown
from vsr.paper import TASKS, TRAINED
from vsr.questions.question import NUMERICAL
from vsr.scoring.answers import final_answer, mean_relative_accuracy, read_letter, read_number, to_float

DIRECTION = "object_rel_direction"
LEVELS = tuple(f"{DIRECTION}_{level}" for level in ("easy", "medium", "hard"))
MEMBERS = {"overall": tuple(TASKS), "trained": TRAINED}  # the tasks an average is over

Means = dict[str, np.ndarray]
Sums = dict[str, tuple[np.ndarray, np.ndarray]]


# --- averages: a share of nothing is nan, without a warning ---
_quiet = np.errstate(invalid="ignore", divide="ignore")


@_quiet
def means(sums: Sums) -> Means:
    """The mean score by question type."""
    return {kind: np.asarray(total / count) for kind, (total, count) in sums.items()}


@_quiet
def mean_of(parts: list[np.ndarray]) -> np.ndarray:
    """The mean over parts, those without a value left out; nan if none has one."""
    stacked = np.stack(parts)
    present = ~np.isnan(stacked)
    return np.asarray(np.where(present, stacked, 0.0).sum(0) / present.sum(0))


@_quiet
def pooled(sums: Sums, numerical: bool | None = None) -> np.ndarray:
    """The mean over all questions, or over those that ask (not) for a number; nan if there are none."""
    part = [pair for kind, pair in sums.items() if numerical in (None, kind in NUMERICAL)]
    if not part:
        return np.full_like(next(iter(sums.values()))[0], np.nan, dtype=float)
    return np.asarray(sum(total for total, _ in part) / sum(count for _, count in part))


def levels(sums: Sums) -> np.ndarray:
    """The mean of the levels' means."""
    return mean_of(list(means(sums).values()))


def task_means(sums: Sums, direction: Callable[[Sums], np.ndarray] = levels) -> Means:
    """Means by official task, in the official order; relative direction's levels become one by `direction`."""
    found = means({kind: pair for kind, pair in sums.items() if not kind.startswith(DIRECTION)})
    directions = {kind: pair for kind, pair in sums.items() if kind.startswith(DIRECTION)}
    if directions:
        found[DIRECTION] = direction(directions)
    return {task: found[task] for task in TASKS if task in found}


def mean_over(tasks: Means, over: str = "overall") -> np.ndarray:
    """The mean of the tasks' means: of all tasks (overall), the paper's six (trained) or one; nan if not asked."""
    found = [tasks[task] for task in MEMBERS.get(over, (over,)) if task in tasks]
    return mean_of(found or [np.full_like(next(iter(tasks.values())), np.nan)])


# --- what several harnesses share ---
_UNITS = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
seventeen eighteen nineteen twenty""".split()
_TENS = ["thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_VALUE = {word: i for i, word in enumerate(_UNITS)} | {word: 10 * i for i, word in enumerate(_TENS, 3)}
_UP_TO_TWENTY = re.compile(r"\b(" + "|".join(_UNITS) + r")\b", re.IGNORECASE)
_NUMBER_WORD = re.compile(r"\b(" + "|".join(_VALUE) + r")\b", re.IGNORECASE)
_NUMBER = re.compile(r"[-+]?(?:\d*\.\d+|\d+)(?:[eE][-+]?\d+)?")


def _found(match: re.Match | None) -> float | None:
    return to_float(match.group()) if match else None


def _digits(text: str, words: re.Pattern = _NUMBER_WORD) -> str:
    return words.sub(lambda match: str(_VALUE[match.group().lower()]), text)


def float32_accuracy(pred: float, truth: float, compare: np.ufunc = np.less) -> float:
    """Mean relative accuracy in float32, as torch computes it; with `<` in Video-R1 and Spatial-MLLM."""
    with np.errstate(over="ignore"):
        error = np.abs(np.float32(pred) - np.float32(truth)) / (np.abs(np.float32(truth)) + np.float32(1e-8))
    thresholds = (0.5 + 0.05 * np.arange(10)).astype(np.float32)
    return float(compare(error, np.float32(1) - thresholds).mean())


# --- lmms-eval: the first number, number words composed, without exponents ---
_SCALE = {"hundred": 100, "thousand": 1000}
_NAMED = re.compile(rf"\b(?:{(words := '|'.join((*_VALUE, *_SCALE)))})(?:[\s-]+(?:{words}))*\b", re.IGNORECASE)


def _composed(match: re.Match) -> str:
    total = part = 0
    for word in re.split(r"[\s-]+", match.group().lower()):
        part = part + _VALUE[word] if word in _VALUE else (part or 1) * _SCALE[word]
        if word == "thousand":
            total, part = total + part, 0
    return str(total + part)


def _lmms_eval_number(text: str, question_type: str) -> float | None:
    return _found(re.search(r"[-+]?(?:\d*\.\d+|\d+)", _NAMED.sub(_composed, final_answer(text))))


# --- VLMEvalKit: the number that opens an answer tag, else the last one after the reasoning, else the last of all ---
def _vlmevalkit_number(text: str, question_type: str) -> float | None:
    text = _digits(text.strip(), _UP_TO_TWENTY)
    for content in re.findall(r"<\s*answer\b[^>]*>\s*([^<]*)<\s*/\s*answer\s*>", text, re.IGNORECASE):
        found = _NUMBER.match(content)
        if found:
            return _found(found)
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
_BEFORE = re.compile(r"(?<![A-Za-z])([A-F])\s*[)\]}]?\s*<\s*/\s*think\s*>", re.IGNORECASE)
_LONE_LETTER = re.compile(r"[\s*_`>()\[\]]*([A-F])[\s*_`()\[\]]*", re.IGNORECASE)
_LABEL = re.compile(r"([A-F])\s*[.:)\]-]\s+", re.IGNORECASE)
_CAPITAL = re.compile(r"(?<![A-Za-z])([A-F])(?=$|[\s.,:;!?)\]*_`}])")
_PHRASE = re.compile(r"(?i:answer(?:\s*is)?|answer\s*:)\s*[:>=]?\s*[(\[{]?\s*([A-Fa-f])\s*[)\]}]?(?:\b|[.)])")


def _vlmevalkit_letter(text: str) -> str:
    # an opening tag counts only before the last closing one
    ends = [found.start() for found in _CLOSED.finditer(text)]
    tagged = _TAGGED_LETTER.search(text, 0, ends[-1]) if ends else None
    if tagged:
        return tagged.group(1).upper()
    thought = _BEFORE.search(text[-800:])  # the letter that reasoning ends with goes before what is said after it
    if thought:
        return thought.group(1).upper()
    # from the last line up: a line's lone, leading or only capital letter
    for line in reversed([line.strip() for line in _after_reasoning(text.strip()).splitlines()[-6:] if line.strip()]):
        found = _LONE_LETTER.fullmatch(line) or _LABEL.match(line)
        if found:
            return found.group(1).upper()
        if len(set(_CAPITAL.findall(line))) == 1:
            return _CAPITAL.findall(line)[0]
    # 'answer is X', else the only capital letter of all
    phrase, letters = _PHRASE.search(text), set(_CAPITAL.findall(text))
    if phrase:
        return phrase.group(1).upper()
    return letters.pop() if len(letters) == 1 else ""


# --- SpaceR: number words come first, in this order, articles included ---
_SPACER_WORDS = {word: _VALUE[word] for word in (*_UNITS[1:], *_TENS, "zero")} | {"a": 1, "an": 1}


def _spacer_number(text: str, question_type: str) -> float | None:
    text = final_answer(text).lower()
    for word, value in _SPACER_WORDS.items():
        if re.search(rf"\b{word}\b", text):
            return float(value)
    return _found(re.search(r"\d+(?:\.\d+)?", text))


def _spacer_choice(text: str, truth: str) -> bool:
    text = final_answer(text).strip().replace("Answer:", "")
    token = text.split(" ")[0].strip()
    return (token[:1] if re.fullmatch(r"[A-D]\.?", token) else text.strip()).lower() == truth.lower()


# --- Spatial-MLLM: the last answer tag, one line, lower case, no full stop at the end ---
def _spatial_mllm_clean(text: str) -> str:
    tags = re.findall(r"<answer>(.*?)</answer>", text[: text.rfind("</answer>") + len("</answer>")], re.DOTALL)
    return " ".join((tags[-1] if tags else text).split()).rstrip(".").lower()


# --- TsT: the first number, words and units understood, in the unit that the question asks for ---
def _tst_number(text: str, question_type: str) -> float | None:
    text = final_answer(text).lower()
    number = _found(re.search(r"[-+]?\d+\.?\d*", _digits(text).replace(",", "")))
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


Average = Callable[[Sums, Means], np.ndarray]  # of the sums by question type and the means by task
_MACRO: tuple[str, Average] = ("macro", lambda sums, tasks: mean_over(tasks))
_MICRO: tuple[str, Average] = ("micro", lambda sums, tasks: pooled(sums))


@dataclass(frozen=True)
class Harness:
    """One harness: `number(response, question_type)`, `choice(response, letter)`, `accuracy(pred, truth)` and how
    scores are averaged. The first of `overall` is its headline. The defaults are the official ones."""

    name: str
    source: str
    number: Callable[[str, str], float | None] = lambda text, question_type: read_number(text)
    choice: Callable[[str, str], bool] = lambda text, truth: read_letter(text) == truth.lower()
    accuracy: Callable[[float, float], float] = mean_relative_accuracy
    direction: Callable[[Sums], np.ndarray] = levels
    overall: tuple[tuple[str, Average], ...] = (_MACRO,)


_HARNESSES = (
    Harness("official", "vision-x-nyu/thinking-in-space@e6a72f39"),
    Harness(
        "lmms-eval",
        "EvolvingLMMs-Lab/lmms-eval@75571cfe (compared side by side)",
        number=_lmms_eval_number,
    ),
    Harness(
        "VLMEvalKit",
        "open-compass/VLMEvalKit@160057c6, letters as @e8e78f05",
        number=_vlmevalkit_number,
        choice=lambda text, truth: _vlmevalkit_letter(text) == truth.upper(),
    ),
    Harness(
        "Video-R1",
        "tulerfeng/Video-R1 src/eval_bench.py (read in a fork); it prints two means, no overall: their mean here",
        number=lambda text, question_type: to_float(final_answer(text).replace(",", "")),
        choice=lambda text, truth: final_answer(text).strip() == truth.strip(),
        accuracy=float32_accuracy,
        overall=(
            ("mean of both", lambda sums, tasks: mean_of([pooled(sums, True), pooled(sums, False)])),
            ("accuracy", lambda sums, tasks: pooled(sums, numerical=False)),
            ("mra", lambda sums, tasks: pooled(sums, numerical=True)),
        ),
    ),
    Harness(
        "SpaceR",
        "OuyangKun10/SpaceR@33805775",
        number=_spacer_number,
        choice=_spacer_choice,
        # a level without a question makes the whole task 0 there
        direction=lambda sums: levels(sums) if set(LEVELS) <= set(sums) else np.zeros_like(levels(sums)),
        overall=(_MICRO,),
    ),
    Harness(
        "ViLaSR",
        "AntResearchNLP/ViLaSR@61669c0 (compared side by side)",
        number=lambda text, question_type: to_float(final_answer(text).replace(",", "")),
        choice=lambda text, truth: final_answer(text).strip()[:1].lower() == truth.lower(),
        accuracy=lambda pred, truth: float32_accuracy(pred, truth, np.less_equal),
        direction=pooled,
    ),
    Harness(
        "Spatial-MLLM",
        "diankun-wu/Spatial-MLLM@9fc47382",
        number=lambda text, question_type: to_float(_spatial_mllm_clean(text).replace(",", "")),
        choice=lambda text, truth: _spatial_mllm_clean(text) == truth.lower(),
        accuracy=float32_accuracy,
        overall=(_MACRO, _MICRO),
    ),
    Harness(
        "TsT",
        "vision-x-nyu/test-set-training@472257c9 reproduce/; letters as lmms-eval's",
        number=_tst_number,
        overall=(_MICRO,),
    ),
)
RULES: dict[str, Harness] = {harness.name: harness for harness in _HARNESSES}


def get(name: str | Harness) -> Harness:
    """The harness by name, or as it is; an unknown name is an error with the nearest known one."""
    if isinstance(name, Harness):
        return name
    if name not in RULES:
        raise unknown("scoring rules", name, RULES)
    return RULES[name]
