"""`trl.GRPOConfig` as we read it: what is honoured, what is required, and everything else refused by name."""

import dataclasses
import os
from pathlib import Path

from trl import GRPOConfig

from vsr.errors import VsrError
from vsr.profiles import Profile

# what equation 1 asks for where TRL's default is another objective
REQUIRED = {"loss_type": "grpo", "use_bias_correction_kl": False}
HONOURED = {
    # GRPO
    *("num_generations", "max_completion_length", "temperature", "beta", "epsilon", "num_iterations"),
    *("reward_weights", "shuffle_dataset"),
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


def config(profile: Profile, output_dir: str | Path, *, seed: int = 0, **changes: object) -> GRPOConfig:
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
        "learning_rate": profile.learning_rate,
        "max_steps": profile.max_steps,
        "per_device_train_batch_size": questions_a_process(profile) * profile.num_generations,
        "bf16": False,  # the model's own dtype rules; this would add autocast
        "activation_checkpointing": profile.dtype != "float32",  # real models; the miniature fits as it is
        "save_steps": max(1, profile.max_steps // 10),
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


def questions_a_process(profile: Profile) -> int:
    """Groups that each process samples in a step; a group is never shared among processes."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if profile.questions_per_step % processes:
        raise VsrError(
            f"questions_per_step={profile.questions_per_step} cannot be shared out evenly among {processes} processes: "
            "choose a number of devices that divides it, or --set questions_per_step"
        )
    return profile.questions_per_step // processes


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
    for flag, name in SHARDED.items():
        if os.environ.get(flag, "").lower() in ("1", "true"):
            raise VsrError(
                f"{name} in accelerate's config is not supported: the engine calls the model's layers itself, which "
                "sharded weights do not allow; an adapter on a frozen base fits without: choose MULTI_GPU"
            )
    if args.n_gpu > 1:
        raise VsrError(f"{args.n_gpu} GPUs in one process; start one process a GPU: vsr train grpo --gpus {args.n_gpu}")


def _check_values(settings: dict) -> None:
    group, batch = settings["num_generations"], settings["per_device_train_batch_size"]
    if group < 2:
        raise VsrError(f"num_generations={group}: a group of one has no advantage; set it to 2 or more (the paper: 14)")
    if settings["max_completion_length"] < 1:
        raise VsrError(f"max_completion_length={settings['max_completion_length']}: set a budget of 1 token or more")
    if settings["beta"] < 0:
        raise VsrError(f"beta={settings['beta']}: would reward drifting from the base; set 0 or more (the paper: 1e-4)")
    if settings["temperature"] <= 0:
        raise VsrError(f"temperature={settings['temperature']}: every rollout would be the same; set it above 0")
    if batch % group:
        raise VsrError(
            f"per_device_train_batch_size={batch} counts completions and must be a multiple of num_generations={group}"
        )
