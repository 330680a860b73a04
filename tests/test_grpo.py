"""Training with GRPO: the gradient is equation 1's, rewards rise, a broken run ends where an unbroken one does."""

import json

import pytest
import torch
from grpo_setup import ROWS, adapted, adapter_of, arguments, letters, row, see, small_folder
from naive import naive_logps

from vsr.engine.inputs import base_model
from vsr.engine.logps import pass_budget
from vsr.errors import VsrError
from vsr.train.data import read_prompt
from vsr.train.fit import APART
from vsr.train.group_trainer import GroupTrainer
from vsr.train.grpo import train_grpo
from vsr.train.objective import LOSS_LEVELS, group_advantages, grpo_loss


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return small_folder(tmp_path_factory.mktemp("model"))


def log_of(path) -> list[dict]:
    return [json.loads(line) for line in (path / "log.jsonl").read_text().splitlines()]


def trainer_of(folder, out, **changes):
    loaded = adapted(folder)
    with torch.no_grad():  # a policy that has left its reference
        for name, p in loaded.model.named_parameters():
            if "lora_B" in name:
                p.normal_(0, 0.05)
    budget = changes.pop("token_budget", 10_000)
    how = {"split_every": changes.pop("split_every", 1), "loss_level": changes.pop("loss_level", "token_mean")}
    args = arguments(out, **changes)
    trainer = GroupTrainer(loaded, ROWS, [letters], args, see, token_budget=budget, **how)
    trainer.create_optimizer_and_scheduler(args.max_steps)
    return trainer


def gradients_of(trainer, rows=ROWS[:3]) -> dict[str, torch.Tensor]:
    trainer.model.zero_grad()
    trainer.training_step(trainer.model, rows)
    return {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.requires_grad}


def furthest(ours: dict, theirs: dict) -> float:
    return max(float((ours[n] - theirs[n]).norm() / theirs[n].norm()) for n in theirs)


def test_a_gpus_memory_decides_what_is_made_again_and_changes_no_gradient(folder, tmp_path):
    found, chosen = [], []
    config = base_model(trainer_of(folder, tmp_path / "x").model).config
    some = next(
        size for size in range(1 << 16, 1 << 30, 1 << 16) if not pass_budget(config, 4, 0.8 * size, 600, 200)[1]
    )
    for number, memory in enumerate((1 << 40, some, 1)):  # as if on a GPU with so many bytes
        trainer = trainer_of(folder, tmp_path / str(number), beta=0.5, activation_checkpointing=True, token_budget=600)
        trainer.model.activation_checkpointing_enable({"use_reentrant": False})
        trainer.device_memory = memory
        found.append(gradients_of(trainer))
        layers = base_model(trainer.model).model.language_model.layers
        chosen.append((trainer.budget, {layer.gradient_checkpointing for layer in layers}))
    assert chosen[0] == (600, {False})
    assert 150 <= chosen[1][0] < 600
    assert chosen[1][1] == {False}
    assert chosen[2] == (600, {True})
    assert furthest(found[1], found[0]) < 1e-5
    assert furthest(found[2], found[0]) < 1e-5


@pytest.mark.parametrize(("checkpointing", "level"), [(True, "token_mean"), *((False, level) for level in LOSS_LEVELS)])
def test_a_steps_gradient_is_the_naive_one(folder, tmp_path, checkpointing, level):
    how = {"activation_checkpointing": checkpointing, "loss_level": level, "token_budget": 200}  # several passes
    trainer = trainer_of(folder, tmp_path, beta=0.5, **how)
    if checkpointing:
        trainer.model.activation_checkpointing_enable({"use_reentrant": False})
    found = gradients_of(trainer)
    model, batch = trainer.model, trainer.batch
    model.zero_grad()
    rewards = torch.tensor([letters([[{"content": text}] for text in texts], ["e"] * 4) for texts in batch.texts])
    rows, ref = [], []
    for g, asked in enumerate(ROWS[:3]):
        prompt = read_prompt(asked, trainer.tokenizer, see)
        for completion in batch.completions[g]:  # features instead of pixels: embeddings are handed over
            rows.append(embedded_logps(model, prompt, completion))
        with torch.no_grad(), model.disable_adapter():
            ref += [embedded_logps(model, prompt, completion) for completion in batch.completions[g]]
    pad = torch.nn.utils.rnn.pad_sequence
    logps, ref = pad(rows, batch_first=True), pad(ref, batch_first=True)
    mask = pad([torch.ones(len(row)) for row in rows], batch_first=True)
    grpo_loss(logps, logps.detach(), ref, group_advantages(rewards).flatten(), mask, 0.2, 0.5, level).backward()
    expected = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert furthest(found, expected) < 1e-5


def embedded_logps(model, prompt, completion):
    """transformers' own forward over [prompt | completion], the features put in place by hand."""
    base = model.get_base_model()
    ids = torch.cat((prompt.ids, completion))
    if prompt.features is None:
        return naive_logps(model, None, None, prompt.ids, [completion])[0]
    embeddings = base.get_input_embeddings()(ids).clone()
    video = ids == base.config.video_token_id
    embeddings[video] = prompt.features
    places, _ = base.model.get_rope_index(ids[None], (video.int() * 2)[None], video_grid_thw=prompt.grid)
    logits = model(inputs_embeds=embeddings[None], position_ids=places, use_cache=False).logits[0]
    logps = logits[len(prompt.ids) - 1 : -1].log_softmax(-1)
    return logps.gather(-1, completion[:, None])[:, 0]


def test_neither_budget_nor_split_changes_the_gradient(folder, tmp_path):
    expected = gradients_of(trainer_of(folder, tmp_path / "a"))
    small = trainer_of(folder, tmp_path / "b", token_budget=60)
    assert furthest(gradients_of(small), expected) < 1e-5
    assert max(len({g for g, _ in keys}) for keys in small.batch.plan) == 1
    assert len(small.batch.plan) > 3
    whole = trainer_of(folder, tmp_path / "c", split_every=7)
    whole.state.global_step = 1
    whole.batch = small.batch
    _, facts = whole._update(whole.model.train(), small.batch)
    assert "grad_norm/live" in facts
    assert furthest({n: p.grad for n, p in whole.model.named_parameters() if p.requires_grad}, expected) < 1e-5


def test_kl_gradient_of_groups_without_spread_is_told_apart(folder, tmp_path):
    def one_sided(completions, ground_truth, **_):
        return [0.5] * 4 + letters(completions[4:], ground_truth[4:])

    trainer = trainer_of(folder, tmp_path)
    trainer.reward_functions = [one_sided]
    gradients_of(trainer)
    (line,) = log_of(tmp_path)
    assert line["frac_reward_zero_std"] == pytest.approx(1 / 3)
    assert min(line[f"grad_norm/{part}"] for part in ("policy", "kl_live", "kl_flat")) > 0
    assert not trainer.batch.advantages[0].any()
    trainer.reward_functions = [lambda completions, **_: [0.5] * len(completions)]
    gradients_of(trainer)
    line = log_of(tmp_path)[-1]
    assert line["grad_norm/policy"] == line["grad_norm/kl_live"] == 0 < line["grad_norm/kl_flat"] == line["grad_norm"]


def test_rewards_rise(folder, tmp_path):
    loaded = adapted(folder)
    groups = {"num_generations": 8, "per_device_train_batch_size": 24, "learning_rate": 3e-3, "beta": 1e-3}
    train_grpo(loaded, ROWS, [letters], arguments(tmp_path, max_steps=30, save_strategy="no", **groups), see)
    lines = log_of(tmp_path)
    assert [line["step"] for line in lines] == list(range(1, 31))
    first, last = (sum(line["reward"] for line in part) for part in (lines[:6], lines[-6:]))
    assert last > 2 * first
    assert lines[0]["kl"] < 1e-9 < lines[-1]["kl"]  # not 0: with and without gradients, kernels may differ
    kept = (tmp_path / "completions.jsonl").read_text().splitlines()
    assert len(kept) == 4 * len(lines)


def test_int8_learns_from_what_it_has_drawn(folder, tmp_path, monkeypatch):
    """On a CPU, bitsandbytes' layers round their inputs in eval mode alone: an update in the other one would move
    another policy than was sampled, and in eval mode a token's log-probability hangs on the tokens beside it."""
    monkeypatch.setattr("vsr.train.group_trainer.suppressed", lambda _: [])  # drawn from less than is scored
    loaded = adapted(folder, quantization="int8")
    train_grpo(loaded, ROWS, [letters], arguments(tmp_path, max_steps=1, save_strategy="no"), see)
    (line,) = log_of(tmp_path)
    assert line["kl"] < 1e-9
    assert line[APART] < 1e-4


class KilledError(Exception):
    pass


def die_at(step):
    def on_step(line):
        if line["step"] == step:
            raise KilledError

    return on_step


@pytest.mark.parametrize(("save_steps", "died"), [(1, 1), (1, 3), (2, 4), (3, 2)])
def test_a_broken_run_ends_with_the_same_adapter(folder, tmp_path, save_steps, died):
    changes = {"max_steps": 5, "save_steps": save_steps}
    whole = adapted(folder)
    train_grpo(whole, ROWS, [letters], arguments(tmp_path / "whole", **changes), see)
    with pytest.raises(KilledError):
        train_grpo(
            adapted(folder), ROWS, [letters], arguments(tmp_path / "broken", **changes), see, on_step=die_at(died)
        )
    resumed = adapted(folder, seed=99)  # its weights come from the checkpoint, if there is one
    if died <= save_steps:
        resumed = adapted(folder)
    train_grpo(resumed, ROWS, [letters], arguments(tmp_path / "broken", **changes), see)
    ours, theirs = adapter_of(resumed), adapter_of(whole)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)  # same machine, same shapes: same bits
    ours, theirs = log_of(tmp_path / "broken"), log_of(tmp_path / "whole")
    assert [line["step"] for line in ours] == [1, 2, 3, 4, 5]
    assert [(line["reward"], line["loss"]) for line in ours] == [(line["reward"], line["loss"]) for line in theirs]


def test_a_half_written_checkpoint_is_passed_over(folder, tmp_path):
    args = arguments(tmp_path, max_steps=3)
    train_grpo(adapted(folder), ROWS, [letters], args, see)
    state = tmp_path / "checkpoint-3" / "trainer_state.json"
    state.write_text(state.read_text()[:50])
    train_grpo(adapted(folder), ROWS, [letters], args, see)
    assert [line["step"] for line in log_of(tmp_path)] == [1, 2, 3]


def test_rollouts_are_reused_for_several_updates(folder, tmp_path):
    changes = {"num_iterations": 2, "max_steps": 4, "save_steps": 2, "learning_rate": 0.1, "epsilon": 0.01}
    train_grpo(adapted(folder), ROWS, [letters], arguments(tmp_path, **changes), see)
    lines = log_of(tmp_path)
    assert [line["reward"] for line in lines[::2]] == [line["reward"] for line in lines[1::2]]
    assert ["seconds/rollout" in line for line in lines] == [True, False, True, False]
    assert lines[0]["clip_ratio/region_mean"] == lines[2]["clip_ratio/region_mean"] == 0
    assert lines[1]["clip_ratio/region_mean"] > 0
    with pytest.raises(VsrError, match="save_steps=3"):
        train_grpo(adapted(folder), ROWS, [letters], arguments(tmp_path, num_iterations=2, save_steps=3), see)


def broken_video(path):
    if path.stem == "b":
        raise VsrError(f"{path}: no such video; download or render it")
    return see(path)


def fails(completions, ground_truth, **_):
    if "x" in ground_truth:
        raise ZeroDivisionError("division by zero")
    return [0.0] * len(completions)


def not_a_number(completions, ground_truth, **_):
    return [float("nan") if t == "x" else 1.0 for t in ground_truth]


def silent(completions, ground_truth, **_):
    return [None if t == "x" else 1.0 for t in ground_truth]


def too_few(completions, **_):
    return [1.0]


BAD_ROWS = [*(row(i, "a") for i in range(6)), row(6, "a", truth="x"), *(row(i, "a") for i in range(7, 9))]


@pytest.mark.parametrize(
    ("rows", "reward", "eyes", "message"),
    [
        (BAD_ROWS, fails, see, "reward 'fails' failed on sample 'q6': ZeroDivisionError"),
        (BAD_ROWS, not_a_number, see, "reward 'not_a_number' gave nan.* sample 'q6'"),
        (BAD_ROWS, silent, see, "reward 'silent' gave None.* sample 'q6'"),
        (BAD_ROWS, too_few, see, "reward 'too_few' gave 1 values for 12"),
        ([*BAD_ROWS[:6], row(9, "b"), *BAD_ROWS[7:]], letters, broken_video, r"sample 'q9': b\.mp4: no such video"),
    ],
)
def test_a_bad_sample_is_named_and_the_last_step_kept(folder, tmp_path, rows, reward, eyes, message):
    args = arguments(tmp_path, shuffle_dataset=False, max_steps=4, save_steps=4)
    with pytest.raises(VsrError, match=message):
        train_grpo(adapted(folder), rows, [reward], args, eyes)
    kept = [path.name for path in tmp_path.glob("checkpoint-*")]
    assert kept == ([] if reward is too_few else ["checkpoint-2"])
    if kept:  # mended, it goes on from there
        train_grpo(adapted(folder), BAD_ROWS[:6] * 0 + [row(i, "a") for i in range(9)], [letters], args, see)
        assert [line["step"] for line in log_of(tmp_path)] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_generations": 1, "per_device_train_batch_size": 3}, "num_generations=1"),
        ({"max_completion_length": 0}, "max_completion_length=0"),
        ({"beta": -0.1}, "beta=-0.1"),
        ({"temperature": 0.0}, "temperature=0"),
        ({"per_device_train_batch_size": 10}, "multiple of num_generations=4"),
        ({"loss_type": "dapo"}, "loss_type='dapo'"),
        ({"use_bias_correction_kl": True}, "use_bias_correction_kl=True"),
        ({"top_p": 0.9}, "top_p"),
        ({"repetition_penalty": 1.1}, "repetition_penalty"),
        ({"mask_truncated_completions": True}, "mask_truncated_completions"),
        ({"scale_rewards": "batch"}, "scale_rewards"),
        ({"num_iterations": 0}, "num_iterations=0"),
        ({"importance_sampling_level": "sequence"}, "importance_sampling_level"),
        ({"entropy_coef": 0.1}, "entropy_coef"),
        ({"use_vllm": True}, "use_vllm"),
        ({"delta": 4.0}, "delta"),
        ({"epsilon_high": 0.3}, "epsilon_high"),
        ({"fp16": True}, "fp16"),
        ({"save_only_model": True}, "save_only_model"),
        ({"neftune_noise_alpha": 5.0}, "neftune_noise_alpha"),
        ({"gradient_accumulation_steps": 2}, "gradient_accumulation_steps"),
        ({"generation_batch_size": 24}, "steps_per_generation"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor"),
    ],
)
def test_what_is_not_followed_is_refused_by_name(folder, tmp_path, changes, message):
    with pytest.raises(VsrError, match=message):
        train_grpo(adapted(folder), ROWS, [letters], arguments(tmp_path, **changes), see)
    assert not (tmp_path / "log.jsonl").exists()


@pytest.mark.parametrize(
    ("rows", "message"),
    [([], "no training samples"), ([ROWS[0], ROWS[0]], "'q0' occurs twice"), ([{"id": "q"}], "column 'prompt'")],
)
def test_bad_rows_are_refused(folder, tmp_path, rows, message):
    with pytest.raises(VsrError, match=message):
        train_grpo(adapted(folder), rows, [letters], arguments(tmp_path), see)


def test_a_model_without_an_adapter_is_refused(folder, tmp_path):
    from vsr import models

    with pytest.raises(VsrError, match="no adapter"):
        train_grpo(models.load(str(folder)), ROWS, [letters], arguments(tmp_path), see)


def test_too_long_a_prompt_names_the_budget(folder, tmp_path):
    with pytest.raises(VsrError, match="token_budget=20"):
        train_grpo(adapted(folder), ROWS, [letters], arguments(tmp_path), see, token_budget=20)
