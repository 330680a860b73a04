"""What the paper says, as data: prompts, settings, tables and claims, each with its place.

Liao et al., *Improved Visual-Spatial Reasoning via R1-Zero-Like Training*, arXiv 2504.00883 v2 (14 Apr 2025).
Scores are percentages as printed. Nothing here is computed, and nothing here is ours.
"""

from dataclasses import dataclass

# VSI-Bench's eight tasks by their official names, in the order of the paper's columns, with the names it prints.
TASKS: dict[str, str] = {
    "object_counting": "count",
    "object_abs_distance": "abs dist",
    "object_size_estimation": "obj size",
    "room_size_estimation": "room size",
    "object_rel_distance": "rel dist",
    "object_rel_direction": "rel dir",
    "route_planning": "route",
    "obj_appearance_order": "order",
}
TRAINED: tuple[str, ...] = tuple(TASKS)[:6]  # section 3.1: VSI-100k has six tasks; the last two are held out
HELD_OUT: tuple[str, ...] = tuple(TASKS)[6:]
MODES = ("think", "observe", "vanilla")
QUESTIONS = 117_000  # section 3.1: what VSI-100k's six tasks add up to
GPU_HOURS = 120.0  # training vsGRPO-2B

# Section 2: appended to the question when a model is evaluated by prompting.
EVALUATION_PROMPTS = {
    "think": "Let's think step by step and then answer the question using a single word or phrase.",
    "observe": "Please observe the video first and then answer the question using a single word or phrase.",
    "vanilla": "Please answer the question using a single word or phrase.",
}

# Section 3.2: appended to the question in GRPO training and when the trained model is evaluated in its own mode.
TRAINING_PROMPTS = {
    "think": "Please think step by step and enclose your thinking process in <think> </think> tags and then provide "
    "the short answer with one or two words or a number in <answer> </answer>.",
    "observe": "Please observe carefully and analyze what you see that helps you to solve the question in the video "
    "and enclose it in <observe> </observe> tag, and then provide the short answer with one or two words or a number "
    "in <answer> </answer>.",
    "vanilla": "Please provide the short answer with one or two words or a number.",
}

# VSI-Bench's own harness (vision-x-nyu/thinking-in-space), which the paper's templates follow.
HARNESS_PRE = "These are frames of a video."
HARNESS_NUMERICAL_POST = "Please answer the question using a single word or phrase."
HARNESS_CHOICE_POST = "Answer with the option's letter from the given choices directly."


@dataclass(frozen=True)
class Setting:
    """One training setting; `value` is None where the paper is silent."""

    name: str
    value: float | str | None
    where: str


SETTINGS: tuple[Setting, ...] = (
    Setting("base", "Qwen2-VL-2B-Instruct, Qwen2-VL-7B-Instruct", "section 3.2"),
    Setting("adapter", "LoRA", "section 3.2"),
    Setting("LoRA rank and targets", None, "not given"),
    Setting("learning rate, 2B", 1e-5, "section 3.2"),
    Setting("learning rate, 7B", 5e-6, "section 3.2"),
    Setting("rollouts per question", 14, "section 3.2"),
    Setting("temperature", 1.0, "section 3.2"),
    Setting("KL coefficient beta", 1e-4, "section 3.2; 0 in the ablation of Figure 3"),
    Setting("KL estimator", "k3: pi_ref/pi - log(pi_ref/pi) - 1", "equation 1"),
    Setting("advantage", "(r_i - mean r) / std r over the group", "equation 1"),
    Setting("loss", "clipped ratio and KL of whole responses, pi(o_i|q), mean over the group", "equation 1"),
    Setting("format reward", "1 if the response follows the tags, else 0; none in vanilla mode", "section 3.2"),
    Setting("format rule", "<think> </think> <answer>xx</answer> is 'technically correct'", "section 3.3.3"),
    Setting("accuracy reward, other answers", "1 if the characters match, else 0", "section 3.2"),
    Setting(
        "accuracy reward, numbers",
        "from the absolute difference over the smaller of truth and prediction",
        "section 3.2",
    ),
    Setting("length reward", "tried against reward hacking in observe mode; form not given", "section 3.2"),
    Setting("SFT", "on VSI-100k directly", "baselines of Table 2"),
    Setting("DPO", "the less-preferred answer is the correct one modified to be wrong", "baselines of Table 2"),
    Setting("clip range, batch size, steps, optimiser and its schedule, frames, pixels", None, "not given"),
    Setting("prompts that score the trained models' vanilla rows of Table 2", None, "not given"),
)


@dataclass(frozen=True)
class DatasetPart:
    """One task of VSI-100k (section 3.1); `samples` as printed, `example` is (question, answer) from Figure 2."""

    task: str
    samples: str
    rule: str
    example: tuple[str, str]


VSI_100K: tuple[DatasetPart, ...] = (
    DatasetPart(
        "object_counting",
        "6.4k",
        "labels of the annotation document",
        ("How many trash can(s)in the room?", "3"),
    ),
    DatasetPart(
        "object_abs_distance",
        "75k",
        "objects that appear once; distance between the geometric centres of their point clouds, metres",
        ("What is the distance between the shower and the kitchen counter (in meters)?", "6.1"),
    ),
    DatasetPart(
        "object_rel_distance",
        "13k",
        "a target object and four others, distances as above; no options given",
        ("Which of these objects (sink, pillow, bed, guitar)is the closest to the bicycle?", "sink"),
    ),
    DatasetPart(
        "object_rel_direction",
        "8k",
        "one object faced as the front, direction of another from the centres; no options given",
        (
            "If I am standing by the shelf and facing the shower is the bicycle to the left or the right of "
            "the shower?",
            "left",
        ),
    ),
    DatasetPart(
        "object_size_estimation",
        "13k",
        "longest side of the 3D bounding box, centimetres",
        (
            "What is the length of the longest dimension (length,width, or height) of the coffee table, "
            "measured in centimeters?",
            "113",
        ),
    ),
    DatasetPart(
        "room_size_estimation",
        "1.5k",
        "alpha shape over the scene's points, square metres",
        ("What is the size of this room (in square meters)?", "47.9"),
    ),
)


@dataclass(frozen=True)
class PrintedRow:
    """One printed row: `average` and the eight `scores` in the order of TASKS, in percent. `where` names the table."""

    where: str
    backbone: str
    method: str
    mode: str
    average: float
    scores: tuple[float, ...]

    def score(self, task: str) -> float:
        """The printed score of one of TASKS."""
        return self.scores[list(TASKS).index(task)]


def _row(where: str, backbone: str, method: str, mode: str, average: float, *scores: float) -> PrintedRow:
    return PrintedRow(where, backbone, method, mode, average, scores)


_2B, _7B = "Qwen2-VL-2B", "Qwen2-VL-7B"

TABLE_1: tuple[PrintedRow, ...] = (
    _row("Table 1", _2B, "base", "think", 22.9, 18.4, 4.3, 31.5, 17.3, 28.3, 22.9, 26.2, 16.8),
    _row("Table 1", _2B, "base", "observe", 21.8, 16.8, 1.7, 32.7, 22.7, 28.8, 27.6, 26.2, 18.1),
    _row("Table 1", _2B, "base", "vanilla", 23.3, 21.4, 3.4, 32.3, 31.1, 26.7, 27.7, 24.7, 18.9),
    _row("Table 1", _7B, "base", "think", 31.3, 44.8, 26.1, 25.3, 23.4, 34.7, 30.9, 32.9, 31.5),
    _row("Table 1", _7B, "base", "observe", 32.0, 29.9, 19.0, 39.6, 32.0, 34.6, 40.0, 36.0, 24.4),
    _row("Table 1", _7B, "base", "vanilla", 32.2, 39.4, 25.0, 25.8, 43.2, 32.6, 30.9, 27.8, 32.6),
)

TABLE_2: tuple[PrintedRow, ...] = (
    _row("Table 2", _2B, "base", "vanilla", 23.3, 21.4, 3.4, 32.3, 31.1, 26.7, 27.7, 24.7, 18.9),
    _row("Table 2", _2B, "SFT", "vanilla", 29.6, 29.6, 23.5, 47.4, 33.5, 26.9, 28.3, 28.8, 18.6),
    _row("Table 2", _2B, "DPO", "vanilla", 23.9, 21.7, 3.7, 34.8, 32.4, 27.1, 28.5, 24.2, 18.6),
    _row("Table 2", _2B, "vsGRPO-T", "vanilla", 26.1, 24.7, 10.7, 37.4, 36.2, 27.3, 29.5, 25.7, 17.9),
    _row("Table 2", _2B, "vsGRPO-O", "vanilla", 28.0, 26.2, 16.4, 44.8, 38.2, 27.0, 29.3, 24.2, 18.2),
    _row("Table 2", _2B, "vsGRPO-T", "think", 29.6, 35.0, 28.2, 34.7, 25.2, 28.0, 38.5, 28.5, 18.7),
    _row("Table 2", _2B, "vsGRPO-O", "observe", 31.2, 34.6, 22.5, 44.8, 33.7, 29.4, 41.8, 26.8, 15.8),
    _row("Table 2", _2B, "vsGRPO-V", "vanilla", 35.4, 53.6, 29.0, 52.7, 43.4, 28.1, 30.9, 26.8, 18.9),
    _row("Table 2", _7B, "base", "vanilla", 32.2, 39.4, 25.0, 25.8, 43.2, 32.6, 30.9, 27.8, 32.6),
    _row("Table 2", _7B, "SFT", "vanilla", 38.1, 44.7, 27.6, 46.1, 50.4, 34.0, 35.7, 33.0, 33.4),
    _row("Table 2", _7B, "DPO", "vanilla", 32.6, 39.1, 25.2, 26.5, 44.2, 32.6, 30.9, 29.3, 33.3),
    _row("Table 2", _7B, "vsGRPO-V", "vanilla", 40.7, 59.9, 29.6, 50.8, 48.3, 35.4, 35.6, 34.0, 31.5),
    _row("Table 2", "InternVL2-2B", "base", "vanilla", 27.4, 21.8, 24.9, 22.0, 35.0, 33.8, 44.2, 30.5, 7.1),
    _row("Table 2", "LLaVA-NeXT-Video-7B", "base", "vanilla", 35.6, 48.5, 14.0, 47.8, 24.2, 43.5, 42.4, 34.0, 30.6),
    _row("Table 2", "InternVL2-40B", "base", "vanilla", 36.0, 34.9, 26.9, 46.5, 31.8, 42.1, 32.2, 34.0, 39.6),
    _row("Table 2", "LLaVA-NeXT-Video-72B", "base", "vanilla", 40.9, 48.9, 22.8, 57.4, 35.3, 42.4, 36.7, 35.0, 48.6),
    _row("Table 2", "GPT-4o", "base", "vanilla", 34.0, 46.2, 5.3, 43.8, 38.2, 37.0, 41.3, 31.5, 28.5),
    _row("Table 2", "Gemini-1.5 Pro", "base", "vanilla", 48.8, 49.6, 28.8, 58.6, 49.4, 46.0, 48.1, 42.0, 68.0),
)
# What VSI-Bench's own paper prints (arXiv 2412.14171, Table 1) and this one leaves out: its baseline that always gives
# a task's most frequent answer, and Gemini on all questions. The row above is VSI-Bench *tiny*: 400 questions.
VSI_BENCH: tuple[PrintedRow, ...] = (
    _row("VSI-Bench", "most frequent answer", "blind", "", 34.0, 62.1, 32.0, 29.9, 33.1, 25.1, 47.9, 28.4, 25.2),
    _row(
        "VSI-Bench", "Gemini-1.5 Pro, all questions", "base", "", 45.4, 56.2, 30.9, 64.1, 43.6, 51.3, 46.3, 36.0, 34.6
    ),
)


def published(backbone: str, method: str, mode: str, table: tuple[PrintedRow, ...] = TABLE_2) -> PrintedRow:
    """The printed row of one backbone, method and mode; KeyError if the table has none."""
    for row in table:
        if (row.backbone, row.method, row.mode) == (backbone, method, mode):
            return row
    raise KeyError((backbone, method, mode))


@dataclass(frozen=True)
class Claim:
    """One claim to check: its sentence, its place and the paper's figure for it."""

    number: int
    text: str
    where: str
    figure: str


CLAIMS: tuple[Claim, ...] = (
    Claim(
        1,
        "CoT prompts do not activate visual-spatial reasoning: vanilla beats think and observe on average.",
        "Table 1",
        "2B: vanilla 23.3, think 22.9 (its row's mean is 20.7), observe 21.8; 7B: 32.2, 31.3, 32.0",
    ),
    Claim(
        2,
        "GRPO on VSI-100k lifts Qwen2-VL-2B by 12.1 points, above GPT-4o.",
        "Table 2",
        "23.3 -> 35.4; GPT-4o 34.0 (and so does VSI-Bench's baseline, the most frequent answer)",
    ),
    Claim(
        3,
        "GRPO lifts Qwen2-VL-7B next to LLaVA-NeXT-Video-72B.",
        "Table 2",
        "32.2 -> 40.7; LLaVA-NeXT-Video-72B 40.9",
    ),
    Claim(
        4,
        "GRPO with the vanilla prompt is best; a model trained with a CoT prompt does better with its own prompt "
        "than with the vanilla one.",
        "Table 2",
        "vsGRPO-V 35.4; vsGRPO-T 29.6 (own) against 26.1 (vanilla); vsGRPO-O 31.2 against 28.0",
    ),
    Claim(
        5,
        "Without the KL term training easily collapses; beta = 1e-4 is enough to prevent it.",
        "Figure 3 left",
        "format reward falls at beta 0 and stays at 1 at beta 1e-4",
    ),
    Claim(
        6,
        "GRPO > SFT > DPO > base on the VSI-Bench average; DPO's gain is small.",
        "Table 2",
        "2B: 35.4, 29.6, 23.9, 23.3; 7B: 40.7, 38.1, 32.6, 32.2",
    ),
    Claim(
        7,
        "Of the held-out tasks route planning improves and appearance order does not.",
        "Table 2",
        "2B: route 24.7 -> 26.8, order 18.9 -> 18.9; 7B: route 27.8 -> 34.0, order 32.6 -> 31.5",
    ),
    Claim(
        8,
        "The format reward converges to 1 early; the accuracy reward rises slowly to an upper bound.",
        "Figure 3 right",
        "curves",
    ),
    Claim(
        9,
        "Reward hacking: some observe-mode rollouts are empty shells; a length reward is then gamed by repeated tags.",
        "section 3.2",
        "<think> </think> <answer>xx</answer>",
    ),
    Claim(10, "About 120 GPU hours train vsGRPO-2B.", "text", "120 GPU hours"),
)
