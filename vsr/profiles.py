"""Profiles: every setting of a run in one frozen record, each with its source."""

import dataclasses
import math
import sys
import types
import typing
from dataclasses import dataclass, field

from vsr.errors import VsrError, unknown

UNSTATED = "unstated in the paper: "
VIDEOS = {"true": "true video", "one": "one frame", "shuffled": "shuffled video", "none": "no video"}  # to evaluate on


CHOICES = {  # of settings with few values
    "format_rule": ("lenient", "strict"),
    "loss_level": ("token_mean", "sequence", "token"),
    "scale_rewards": ("group", "none"),
    "trained_prompts": ("train", "evaluate"),
    "train_rules": ("vsi100k", "vsibench"),
}


def setting(default: object, source: str) -> typing.Any:
    """A field whose value comes from `source`: the paper's words, or why we chose it."""
    return field(default=default, metadata={"source": source})


@dataclass(frozen=True)
class Profile:
    """All settings of the study. `dataclasses.fields(Profile)` carries the source of each."""

    name: str = setting("tiny", "ours")
    base: str = setting("tiny", "'tiny' is the shipped miniature; else a hub id or a folder")
    quantization: str = setting("none", UNSTATED + "none, nf4, fp4 or int8; the paper trains bf16 LoRA")
    dtype: str = setting("float32", UNSTATED + "bf16 is slower than fp32 on CPU")
    attention: str = setting("sdpa", UNSTATED + "of the vision tower: sdpa, eager or flash_attention_2")
    seed: int = setting(0, UNSTATED + "reported with every number")
    seeds: int = setting(3, UNSTATED + "the paper shows one run a row; we train several")
    # data
    data: str = setting("rooms", "'rooms' (procedural), or a folder made by 'vsr build'")
    train_rooms: int = setting(200, "ours; the paper has about 1.5k scans (section 3.1)")
    train_rules: str = setting("vsi100k", "section 3.1; 'vsibench': the rules that score, see notebook 08")
    bench_rooms: int = setting(60, "ours; VSI-Bench has 288 scenes")
    route_questions: int = setting(1, "of route planning a room, at most; VSI-Bench has 0.7")
    order_questions: int = setting(2, "of appearance order a room, at most; VSI-Bench has 2.1")
    frames: int = setting(16, UNSTATED + "uniform over the video; reported with every number")
    max_pixels: int = setting(84 * 56, UNSTATED + "pixels a frame at most")
    # evaluation
    max_new_tokens: int = setting(8, "section 2: 'a single word or phrase'")
    max_new_tokens_reasoning: int = setting(48, UNSTATED + "room for the chain of thought")
    trained_prompts: str = setting("train", UNSTATED + "of Table 2: section 3.2's; 'evaluate': section 2's")
    bootstrap: int = setting(2000, "resamples of scenes for 95 % intervals")
    # adapter
    lora_r: int = setting(16, UNSTATED + "'LoRA'; rank 16 is common practice")
    lora_alpha: int = setting(32, UNSTATED + "twice the rank")
    lora_targets: str = setting("q,k,v,o,gate,up,down", UNSTATED + "every linear layer of the language model")
    lora_dropout: float = setting(0.0, UNSTATED + "0 keeps policy and reference exact")
    # GRPO, section 3.2
    num_generations: int = setting(14, "section 3.2: 14 rollouts per question")
    temperature: float = setting(1.0, "section 3.2: temperature 1")
    beta: float = setting(1e-4, "section 3.2: KL coefficient 1e-4")
    epsilon: float = setting(0.2, UNSTATED + "TRL's and PPO's default clip range")
    learning_rate: float = setting(3e-4, "ours: the paper's 1e-5 is for 2B; a miniature needs larger steps")
    questions_per_step: int = setting(8, UNSTATED + "prompts per optimiser step")
    max_steps: int = setting(80, UNSTATED + "the paper: 117k questions")
    max_completion_length: int = setting(48, UNSTATED + "tokens a rollout at most")
    num_iterations: int = setting(1, UNSTATED + "updates on one batch of rollouts; at 1 the clip never acts")
    loss_level: str = setting("token_mean", "equation 1 prints whole answers, 'sequence'; this is R1-V's reading")
    scale_rewards: str = setting("group", "equation 1: divided by the group's deviation; 'none' is Dr. GRPO's")
    format_rule: str = setting("lenient", "section 3.3.3: an empty shell is 'technically correct'; 'strict' is ours")
    length_weight: float = setting(0.0, "section 3.3.3: a length reward was tried, its form is not given; 0 is without")
    # the optimiser of GRPO, SFT and DPO
    optim: str = setting("adamw_torch_fused", UNSTATED + "transformers' default, betas 0.9 and 0.999, epsilon 1e-8")
    lr_scheduler: str = setting("constant", UNSTATED + "one that decays to 0 hides what would come later")
    warmup_steps: int = setting(0, UNSTATED + "transformers' default")
    weight_decay: float = setting(0.0, UNSTATED + "transformers' default")
    max_grad_norm: float = setting(1.0, UNSTATED + "transformers' default")
    # answers sampled while vsGRPO is trained
    probe_every: int = setting(40, "ours: steps between two probes; 0 is none")
    probe_questions: int = setting(24, "ours: asked 14 times each, of rooms that nothing else uses")
    # claim 5's grid of learning rates and KL coefficients, in think mode; claim 9's runs with a length reward
    grid_betas: str = setting("0,1e-4,1e-2", "section 3.3: 0 and 1e-4; ours: one at which the term is no longer small")
    grid_rates: str = setting("10", "ours: in multiples of learning_rate, where pilots saw something happen")
    grid_steps: int = setting(60, "ours: of claim 9's runs too")
    grid_questions: int = setting(2, "ours: noisier steps fail sooner")
    grid_seeds: int = setting(2, "ours: of claim 9's runs and of those at GRPO's compute too")
    # which of the study's runs a profile makes
    notebooks: str = setting("", "ours: those that 'vsr run' executes, e.g. '01,03'; all where empty, else by --only")
    extra_runs: str = setting("compute,length", "ours: SFT and DPO at GRPO's compute; vsGRPO-O with a length reward")
    # notebook 08: other objectives, rollouts, rules, rooms, frames
    beyond_steps: int = setting(20, "ours: a look; profile overnight measures")
    beyond_seeds: int = setting(1, "ours: a look; profile overnight measures")
    token_budget: int = setting(1 << 14, "ours: tokens a forward pass at most; bounds memory, changes no result")
    split_every: int = setting(8, "ours: steps between measurements of the gradient's parts")
    # SFT and DPO, on GRPO's questions and steps
    sft_learning_rate: float = setting(3e-4, UNSTATED + "GRPO's in the miniature; about 1e-4 is usual for adapters")
    dpo_learning_rate: float = setting(3e-4, UNSTATED + "GRPO's in the miniature; about 1e-5 is usual for adapters")
    dpo_beta: float = setting(0.1, UNSTATED + "TRL's default")


EXTRA_RUNS = ("compute", "length")
Given = dict[str, tuple[object, str]]  # setting -> value, source

SMALLEST = "ours: as little as runs every cell"
SMOKE: Given = {
    "seeds": (1, SMALLEST),
    "train_rooms": (6, SMALLEST),
    "bench_rooms": (6, SMALLEST),
    "bootstrap": (200, SMALLEST),
    "num_generations": (4, SMALLEST),
    "questions_per_step": (2, SMALLEST),
    "max_steps": (2, SMALLEST),
    "max_new_tokens_reasoning": (12, SMALLEST),
    "max_completion_length": (12, SMALLEST),
    "split_every": (1, SMALLEST),
    "grid_steps": (3, SMALLEST),
    "grid_questions": (1, SMALLEST),
    "grid_seeds": (1, SMALLEST),
    "probe_every": (1, SMALLEST),
    "probe_questions": (6, SMALLEST),
    "beyond_steps": (1, SMALLEST),
}
NARROW = "ours: so that a difference of a point and a half between methods shows"
CHOSEN = "ours: the best of 1e-4, 3e-4 and 9e-4 on 120 fresh rooms ('vsr rates'); vsGRPO-T and -O take vsGRPO-V's"
OVERNIGHT: Given = {
    "bench_rooms": (240, NARROW),
    "route_questions": (9, "ours: so that two points of route planning show"),
    "order_questions": (10, "ours: so that two points of appearance order show"),
    "seeds": (5, NARROW),
    **{name: (3e-4, CHOSEN) for name in ("learning_rate", "sft_learning_rate", "dpo_learning_rate")},
    "max_steps": (160, "ours: twice as long as tiny, at a constant rate"),
    "probe_every": (20, "ours: nine looks at each training"),
    "probe_questions": (66, "ours: eleven of each trained task"),
    "grid_rates": ("3,10", "ours: in multiples of learning_rate, from 'nothing happens' to 'the form is lost'"),
    "grid_steps": (120, "ours: twice tiny's"),
    "grid_seeds": (3, "ours: nine runs a rate"),
    "beyond_steps": (60, "ours: a third of the study's, for twenty-two trainings"),
    "beyond_seeds": (2, "ours: enough to see that seeds differ"),
}
QWEN: Given = {
    "dtype": ("auto", UNSTATED + "bfloat16, the released weights' own, where the hardware has it, else float16"),
    "seeds": (1, "the paper shows one run a row"),
    "data": ("data/vsi100k", "section 3.1: a folder with train/ (VSI-100k) and bench/ (VSI-Bench); see the README"),
    "train_rooms": (1513, "section 3.1: about 1.5k scans; ScanNet v2 has 1,513"),
    "bench_rooms": (288, "VSI-Bench's scenes"),
    "max_pixels": (128 * 28 * 28, UNSTATED + "16 frames of 480x640 become 936 tokens"),
    "max_new_tokens": (16, UNSTATED + "VSI-Bench's harness"),
    "max_new_tokens_reasoning": (512, UNSTATED + "room for the chain of thought"),
    "questions_per_step": (8, UNSTATED + "112 completions a step"),
    "max_steps": (14625, UNSTATED + "section 3.1's 117k questions once, 8 a step"),
    "lr_scheduler": ("linear", UNSTATED + "transformers' default, which R1-V's scripts leave"),
    "max_completion_length": (360, UNSTATED + "room for a thought; keeps a study on 8 H100 below 12 hours"),
    "split_every": (50, "ours: a diagnostic that costs a backward pass"),
    "grid_betas": ("0,1e-4", "section 3.3: the ablation's two"),
    "grid_rates": ("1", "section 3.2: at the paper's rate"),
    "grid_steps": (2000, "ours: 16,000 questions; figure 3's axis is not labelled"),
    "grid_questions": (8, UNSTATED + "as in training"),
    "grid_seeds": (1, "the paper shows one run a row"),
    "probe_every": (0, "ours: 900 more answers each time"),
    "notebooks": ("00,01,02,03,04,05,06", "the paper's rows and its one ablation; 07 and 08 by name"),
    "extra_runs": ("", "the paper has neither; 'compute,length' makes them"),
    "sft_learning_rate": (1e-4, UNSTATED + "usual for adapters"),
    "dpo_learning_rate": (1e-5, UNSTATED + "usual for adapters"),
}
TWO: Given = {
    "base": ("Qwen/Qwen2-VL-2B-Instruct", "section 3.2"),
    "learning_rate": (1e-5, "section 3.2: 1e-5 for 2B"),
}
SEVEN: Given = {
    "base": ("Qwen/Qwen2-VL-7B-Instruct", "section 3.2"),
    "learning_rate": (5e-6, "section 3.2: 5e-6 for 7B"),
}
STUDENT: Given = {
    "quantization": ("nf4", "ours: QLoRA's (Dettmers et al. 2023), for a GPU of 16 to 24 GB; the paper has plain LoRA"),
    "max_steps": (1000, "ours: 8,000 questions; 'vsr estimate' says how long that takes"),
    "grid_steps": (250, "ours: 2,000 questions"),
    "notebooks": ("00,01,02,03,04,05,06,07", "ours: the quantised bases side by side too; 08 by name"),
}
NEWER = "ours: the paper has Qwen2-VL alone; its "
TODAY: Given = {"max_steps": (1000, STUDENT["max_steps"][1])}
QWEN3: Given = {"max_pixels": (128 * 32 * 32, UNSTATED + "16 frames of 480x640 become 936 tokens, as Qwen2-VL's")}
GIVEN: dict[str, Given] = {
    "tiny": {},
    "overnight": OVERNIGHT,
    "smoke": SMOKE,
    "qlora-2b": QWEN | TWO | STUDENT,
    "paper-2b": QWEN | TWO,
    "paper-7b": QWEN | SEVEN,
    # today's models: profile -> hub id, learning rate
    **{
        name: QWEN
        | TODAY
        | (QWEN3 if "3-VL" in base else {})
        | {"base": (f"Qwen/{base}-Instruct", NEWER + "successor"), "learning_rate": (rate, NEWER + f"rate for {size}")}
        for name, base, rate, size in (
            ("qwen2.5-3b", "Qwen2.5-VL-3B", 1e-5, "2B"),
            ("qwen2.5-7b", "Qwen2.5-VL-7B", 5e-6, "7B"),
            ("qwen3-2b", "Qwen3-VL-2B", 1e-5, "2B"),
            ("qwen3-4b", "Qwen3-VL-4B", 1e-5, "2B"),
            ("qwen3-8b", "Qwen3-VL-8B", 5e-6, "7B"),
        )
    },
}
PROFILES: dict[str, Profile] = {
    name: Profile(name=name, **{key: value for key, (value, _) in given.items()}) for name, given in GIVEN.items()
}


def get(name: str, /, **changes: object) -> Profile:
    """A profile by name with some fields changed, text read as the field's type. Unknown names are errors."""
    if name not in PROFILES:
        raise unknown("profile", name, PROFILES)
    types_ = typing.get_type_hints(Profile)
    read = {}
    for key, value in changes.items():
        if key not in types_ or key == "name":
            raise unknown("setting", key, set(types_) - {"name"})
        read[key] = _cast(key, value, types_[key])
        if read[key] not in CHOICES.get(key, (read[key],)):
            raise unknown(key, read[key], CHOICES[key])
        if key in ("grid_betas", "grid_rates"):
            numbers(key, read[key])
        for word in filter(None, read[key].split(",")) if key == "extra_runs" else ():
            if word not in EXTRA_RUNS:
                raise unknown("word in extra_runs", word, EXTRA_RUNS)
    return dataclasses.replace(PROFILES[name], **read)


def numbers(name: str, text: str) -> list[float]:
    """The numbers of a setting that lists several, as '0,1e-4'."""
    try:
        found = [float(word) for word in text.split(",")]
    except ValueError:
        found = [math.nan]
    if not all(0 <= number < math.inf for number in found):
        raise VsrError(f"setting {name}='{text}': expected numbers of 0 or more with commas between, like '0,1e-4'")
    return found


def changes(words: list[str]) -> dict[str, str]:
    """`key=value` words, as `--set` takes them, as a dict; anything else is an error."""
    found = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise VsrError(f"--set {word}: expected key=value, e.g. --set num_generations=8")
        found[key] = value
    return found


def _cast(key: str, value: object, kind: type) -> object:
    if isinstance(kind, types.UnionType):
        raise TypeError(f"setting {key}: unions are not supported")
    if isinstance(value, str) and kind is not str:
        try:
            number = float(value)
        except ValueError:
            raise VsrError(f"setting {key}='{value}': expected {kind.__name__}, e.g. --set {key}=1") from None
        value = number
    if kind is int and isinstance(value, float) and value.is_integer():
        value = int(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) < sys.float_info.max else math.inf
    finite = not isinstance(value, float) or math.isfinite(value)
    if not isinstance(value, kind) or isinstance(value, bool) or not finite:
        raise VsrError(f"setting {key}={value!r}: expected {kind.__name__}")
    return value


def sources(name: str = "tiny") -> dict[str, str]:
    """Where each setting of a profile comes from."""
    return {f.name: GIVEN[name].get(f.name, (None, f.metadata["source"]))[1] for f in dataclasses.fields(Profile)}
