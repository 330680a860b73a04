"""GRPO on any rows with videos (paper, section 3.2): `trl.GRPOConfig` as we read it, with what equation 1 requires,
what is honoured, and everything else refused by name. `vsr.train.train` makes the study's vsGRPO-V, -T and -O of it."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

from peft import PeftModel
from transformers.trainer_utils import SchedulerType as Rates
from transformers.training_args import OptimizerNames
from trl import GRPOConfig

from vsr.errors import VsrError, unknown
from vsr.models import Loaded
from vsr.profiles import CHOICES, Profile
from vsr.runs import Settings
from vsr.train import OnStep
from vsr.train.data import See, check_rows
from vsr.train.fit import fit
from vsr.train.group_trainer import GroupTrainer
from vsr.train.objective import LOSS_LEVELS, RewardFunction

TOKEN_BUDGET = 1 << 14  # tokens a forward pass: 28 layers of Qwen2-VL-2B keep 1.4 GB of checkpoints for it in bf16
# what equation 1 asks for where TRL's default is another objective
REQUIRED = {"loss_type": "grpo", "use_bias_correction_kl": False}  # how far apart: `loss_level` of `make`
HONOURED = {
    # GRPO
    *("num_generations", "max_completion_length", "temperature", "beta", "epsilon", "num_iterations"),
    *("reward_weights", "scale_rewards", "shuffle_dataset"),
    # batches, schedule and optimiser
    *("per_device_train_batch_size", "num_train_epochs", "max_steps", "learning_rate", "lr_scheduler_type"),
    *("lr_scheduler_kwargs", "warmup_steps", "optim", "optim_args", "weight_decay", "adam_beta1", "adam_beta2"),
    *("adam_epsilon", "max_grad_norm"),
    # precision, memory, determinism
    *("bf16", "tf32", "activation_checkpointing", "activation_checkpointing_kwargs", "gradient_checkpointing"),
    *("gradient_checkpointing_kwargs", "seed", "data_seed", "full_determinism", "use_cpu"),
    # where, how often, how loudly
    *("output_dir", "run_name", "save_strategy", "save_steps", "save_total_limit", "logging_strategy"),
    *("logging_steps", "logging_first_step", "log_level", "log_level_replica", "log_on_each_node", "disable_tqdm"),
    *("report_to", "accelerator_config", "dataloader_pin_memory"),
    # several devices
    *("local_rank", "ddp_backend", "ddp_timeout"),
}
SHARDED = {"ACCELERATE_USE_FSDP": "FSDP", "ACCELERATE_USE_DEEPSPEED": "DeepSpeed"}
DERIVED = {"generation_batch_size", "steps_per_generation", "pad_to_multiple_of", "debug"}  # set by GRPOConfig itself


def config(profile: Profile | Settings, output_dir: str | Path, *, seed: int = 0, **changes: object) -> GRPOConfig:
    """The paper's settings (section 3.2) from `profile`, one step being `questions_per_step` groups, shared out among
    the processes of `accelerate launch`; `changes` replace any of GRPOConfig's arguments. Raises VsrError for values
    that cannot train."""
    settings = {
        "output_dir": str(output_dir),
        "num_generations": profile.num_generations,
        "max_completion_length": profile.max_completion_length,
        "temperature": profile.temperature,
        "beta": profile.beta,
        "epsilon": profile.epsilon,
        "scale_rewards": profile.scale_rewards,
        "num_iterations": profile.num_iterations,
        "learning_rate": profile.learning_rate,
        **optimiser(profile),
        "max_steps": profile.max_steps,
        "per_device_train_batch_size": questions_a_process(profile) * profile.num_generations,
        "bf16": False,  # the model's own dtype rules; this would add autocast
        "activation_checkpointing": profile.dtype != "float32",  # real models; the miniature fits as it is
        "save_steps": profile.num_iterations * max(1, profile.max_steps // 10 // max(1, profile.num_iterations)),
        "save_total_limit": 2,
        "logging_strategy": "no",  # log.jsonl has a line a step
        "disable_tqdm": True,
        "dataloader_pin_memory": False,  # rows are text
        "report_to": "none",
        "seed": seed,
        **REQUIRED,
        **changes,
    }
    _check_values(settings)
    return GRPOConfig(**settings)


def optimiser(profile: Profile | Settings) -> dict[str, object]:
    """What every trainer is told of the optimiser beside its learning rate, under the names of TrainingArguments."""
    for name, value, known in (("optim", profile.optim, OptimizerNames), ("lr_scheduler", profile.lr_scheduler, Rates)):
        if value not in (values := [one.value for one in known]):
            raise unknown(name, value, values)
    return {
        "optim": profile.optim,
        "lr_scheduler_type": profile.lr_scheduler,
        "warmup_steps": profile.warmup_steps,
        "weight_decay": profile.weight_decay,
        "max_grad_norm": profile.max_grad_norm,
    }


def questions_a_process(profile: Profile | Settings) -> int:
    """Groups that each process samples in a step; a group is never shared among processes."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if profile.questions_per_step % processes:
        raise VsrError(
            f"questions_per_step={profile.questions_per_step} cannot be shared out evenly among {processes} processes: "
            "choose a number of devices that divides it, or --set questions_per_step"
        )
    return profile.questions_per_step // processes


def train_grpo(
    loaded: Loaded,
    rows: list[dict],
    reward_functions: Sequence[RewardFunction],
    args: GRPOConfig,
    see: See,
    **how: object,
) -> None:
    """Train the adapter of `loaded.model` in place: `make`'s trainer (`how` are its options), from the last whole
    checkpoint in `args.output_dir` to the end, to the same adapter as without the break. Raises VsrError, naming the
    sample where one is at fault, after saving a checkpoint of the last whole step; Stopped where it stopped in time,
    see `vsr.train.fit`."""
    try:
        fit(make(loaded, rows, reward_functions, args, see, **how))
    finally:
        loaded.model.eval()


def make(
    loaded: Loaded,
    rows: list[dict],
    reward_functions: Sequence[RewardFunction],
    args: GRPOConfig,
    see: See,
    *,
    token_budget: int = TOKEN_BUDGET,
    split_every: int = 1,
    loss_level: str = "token_mean",
    on_step: OnStep | None = None,
) -> GroupTrainer:
    """The trainer of GRPO.

    rows: one dict a question with `id`, `prompt` (a conversation, or text), `video` (a path or None) and the columns
    that `reward_functions` read, which have TRL's signature. args: see `config`; `output_dir` receives log.jsonl,
    completions.jsonl and checkpoints. see: features and grid of a video, e.g. `vsr.engine.FeatureCache`. VsrError for
    options that are not followed and rows that cannot be read."""
    check(args)
    check_rows(rows)
    if not isinstance(loaded.model, PeftModel):
        raise VsrError("the model has no adapter: GRPO's reference is the model without it; use vsr.models.add_lora")
    if not reward_functions or len(args.reward_weights or reward_functions) != len(reward_functions):
        raise VsrError(f"{len(reward_functions)} reward functions, reward_weights={args.reward_weights}: give one each")
    if loss_level not in LOSS_LEVELS:
        raise unknown("loss level", loss_level, LOSS_LEVELS)
    how = {"token_budget": token_budget, "split_every": split_every, "loss_level": loss_level}
    return GroupTrainer(loaded, rows, reward_functions, args, see, on_step=on_step, **how)


def check(args: GRPOConfig) -> None:
    """Raise VsrError naming the first option of `args` that this trainer would not follow."""
    _check_values(vars(args))
    for name, value in REQUIRED.items():
        if getattr(args, name) != value:
            raise VsrError(f"{name}={getattr(args, name)!r}: only {value!r} is equation 1; set {name}={value!r}")
    for field in dataclasses.fields(args):
        default = field.default_factory() if field.default is dataclasses.MISSING else field.default
        value = getattr(args, field.name)
        if field.name not in HONOURED | DERIVED | REQUIRED.keys() and value != default:
            raise VsrError(f"GRPOConfig.{field.name}={value!r} is not supported here; leave it at {default!r}")
    if args.steps_per_generation != 1:
        raise VsrError(f"steps_per_generation={args.steps_per_generation}: a step uses all its rollouts; leave it out")
    if args.save_strategy == "steps" and args.save_steps % args.num_iterations:
        raise VsrError(
            f"save_steps={args.save_steps} must be a multiple of num_iterations={args.num_iterations}: "
            "rollouts that are still in use are not saved"
        )
    check_devices(args, "grpo")


def check_devices(args: object, method: str) -> None:
    """VsrError where accelerate was told to shard the weights, or one process is to use several GPUs."""
    for flag, name in SHARDED.items():
        if os.environ.get(flag, "").lower() in ("1", "true"):
            raise VsrError(
                f"{name} in accelerate's config is not supported: the engine calls the model's layers itself, which "
                "sharded weights do not allow; an adapter on a frozen base fits without: choose MULTI_GPU"
            )
    if args.n_gpu > 1:
        raise VsrError(
            f"{args.n_gpu} GPUs in one process; start one process a GPU: vsr train {method} --gpus {args.n_gpu}"
        )


def _check_values(settings: dict) -> None:
    group, batch = settings["num_generations"], settings["per_device_train_batch_size"]
    if group < 2:
        raise VsrError(f"num_generations={group}: a group of one has no advantage; set it to 2 or more (the paper: 14)")
    if settings["max_completion_length"] < 1:
        raise VsrError(f"max_completion_length={settings['max_completion_length']}: set a budget of 1 token or more")
    if settings["beta"] < 0:
        raise VsrError(f"beta={settings['beta']}: would reward drifting from the base; set 0 or more (the paper: 1e-4)")
    if settings["num_iterations"] < 1:
        raise VsrError(f"num_iterations={settings['num_iterations']}: set 1 or more updates a batch of rollouts")
    if settings["scale_rewards"] not in (known := CHOICES["scale_rewards"]):
        raise unknown("scale_rewards", settings["scale_rewards"], known)
    if settings["temperature"] <= 0:
        raise VsrError(f"temperature={settings['temperature']}: every rollout would be the same; set it above 0")
    if batch % group:
        raise VsrError(
            f"per_device_train_batch_size={batch} counts completions and must be a multiple of num_generations={group}"
        )
