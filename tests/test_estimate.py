"""Dry runs against real ones: memory, arithmetic, layers; and what an estimate says and advises."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small import small_tokenizer
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity
from torch.profiler import profile as profiler
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

from vsr import cli, estimate, models, plan, profiles, study
from vsr.engine import logps
from vsr.errors import VsrError
from vsr.estimate import devices, dryrun
from vsr.estimate.workload import workload
from vsr.families import PUBLISHED
from vsr.models import folders, quantize
from vsr.scoring import intervals

SIZES = {
    "text": {
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "mrope_section": [4, 6, 6],
    },
    "vision": {"embed_dim": 64, "depth": 4, "num_heads": 2, "mlp_ratio": 2},
}
SHAPE = [(300, [40] * 6), (150, [20, 60])]
PHASES = {
    "prefill": lambda m: dryrun.prefill(m, 500),
    "decode": lambda m: dryrun.decode(m, 2, 300, 12, 30),
    "scoring": lambda m: dryrun.packed(m, SHAPE),
    "update": lambda m: dryrun.packed(m, SHAPE, 1),
    "update in parts": lambda m: dryrun.packed(m, SHAPE, 2),
    "checkpointed": lambda m: dryrun.packed(m, SHAPE, 2, True),
}
# short prompts: PyTorch counts a causal product as a whole one, and no recomputation in its backward
BRIEF = [(2, [3] * 40)]
COUNTED = {
    "prefill": lambda m: dryrun.prefill(m, 2),
    "scoring": lambda m: dryrun.packed(m, BRIEF),
    "update": lambda m: dryrun.packed(m, BRIEF, 1),
    "checkpointed": lambda m: dryrun.packed(m, BRIEF, 1, True),
    "vision": lambda m: dryrun.see(m, 4, 8, 12),
}
SHORT = {"max_completion_length": 32, "num_generations": 4, "questions_per_step": 2}
TINY = profiles.get("tiny", lora_r=8)


class Real(dryrun.Model):
    """The same phases on a model with weights: `cost` runs `work` and returns what `measure` makes of it."""

    def __init__(self, folder, quantization, measure):
        super().__init__(Qwen2VLConfig.from_pretrained(folder), TINY)
        self.measure = measure
        model = Qwen2VLForConditionalGeneration.from_pretrained(
            folder, dtype=torch.float32, quantization_config=quantize.bits_and_bytes(quantization, torch.float32)
        )
        quantize.keep_precision(model)
        self.model = models.add_lora(model, TINY)

    def empty(self, *shape, dtype=None):
        return torch.zeros(shape, dtype=dtype or torch.float32)

    def cost(self, work, passes=0, layers=None, before=None):
        work(self.model)  # kernels may set themselves up
        return self.measure(lambda: work(self.model))


def allocated(work) -> int:
    """Bytes alive at the worst moment by PyTorch's profiler: what its allocator handed out and got back."""
    with profiler(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        work()
    events = [event for event in found.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


def counted(work) -> int:
    """Operations by PyTorch's counter, which does not know the CPU's fused attention: it is written out."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path, tokenizer = tmp_path_factory.mktemp("model"), small_tokenizer()
    small_tokenizer().save_pretrained(path / "tokenizer")
    sizes = SIZES | {"text": SIZES["text"] | {"vocab_size": 5000}}
    model = Qwen2VLForConditionalGeneration(folders.build_config(sizes, tokenizer))
    folders.save(model, tokenizer, path / "model")
    return path / "model"


def dry_model(folder, profile=TINY):
    return dryrun.Model(Qwen2VLConfig.from_pretrained(folder), profile)


@pytest.mark.parametrize("phase", PHASES)
def test_dry_memory_is_what_the_allocator_hands_out(folder, phase):
    dry = PHASES[phase](dry_model(folder)).peak
    assert dry == pytest.approx(PHASES[phase](Real(folder, "none", allocated)), rel=0.05)


def test_dry_memory_of_4_bit_layers(folder):
    """Their weights are written out one at a time."""
    dry, real = dry_model(folder, replace(TINY, quantization="nf4")), Real(folder, "nf4", allocated)
    for phase in ("scoring", "update", "checkpointed"):
        assert PHASES[phase](dry).peak == pytest.approx(PHASES[phase](real), rel=0.15)


def test_dry_arithmetic_is_what_pytorch_counts(folder, monkeypatch):
    monkeypatch.setattr(logps, "CHUNK", logps.CHUNK_GPU)  # a dry run is a GPU's
    dry, real = dry_model(folder), Real(folder, "none", counted)
    for phase in COUNTED.values():
        assert phase(dry).flops == pytest.approx(phase(real), rel=0.03)


def test_layers_are_extrapolated_exactly(folder):
    model, whole = dry_model(folder), dry_model(folder)
    whole.built = [whole._build(4)] * 2
    for phase in ("decode", "scoring", "update", "checkpointed"):
        short, found = PHASES[phase](model), PHASES[phase](whole)
        assert short.flops == pytest.approx(found.two.flops.sum(), rel=1e-6)
        assert short.peak == pytest.approx(found.two.peak, rel=0.02)


def test_a_device_is_as_slow_as_its_worse_rate():
    trace = devices.Trace(0, flops=torch.tensor([1e12, 0.0]).numpy(), traffic=torch.tensor([1e9, 4e9]).numpy())
    device = devices.Device("d", 1e9, flops=1e13, bandwidth=1e11, overhead=1e-3, asynchronous=True, source="test")
    assert device.seconds(trace) == pytest.approx(0.1 + 0.04)
    assert replace(device, overhead=1.0).seconds(trace) == pytest.approx(2.0)
    assert replace(device, asynchronous=False).seconds(trace) == pytest.approx(0.142)


def test_this_machine_is_measured():
    device = devices.this(torch.float32, 64)
    assert device.source == "measured here"
    assert device.memory > 2**30
    assert 1e8 < device.flops < 1e16
    assert 1e7 < device.bandwidth < 1e14
    assert 1e-7 < device.overhead < 1e-2


@pytest.fixture(scope="module")
def student():
    return estimate.estimate(profiles.get("qlora-2b"), devices.of_size(24))


def test_the_student_s_profile_fits_its_gpus(student):
    assert "2,208,985,600, 18,464,768 of them trained" in student.table()
    assert student.model.trained == 16 * 28 * (2 * 1536 + 2 * (1536 + 256) + 1536 * 2 + 3 * (1536 + 8960))
    assert student.work.video == 936
    assert student.fits
    assert student.needed < 16 * devices.GIB
    assert student.memory["weights"] < 2.6 * devices.GIB
    assert student.disk["cached features"] == 1513 * 936 * 1536 * 2
    assert "estimated" in student.device.source
    assert all(seconds > 0 for seconds in student.step.values())


def test_what_does_not_fit_says_what_to_change():
    seven = profiles.get("paper-7b", **SHORT)
    device = devices.of_size(16)
    found = estimate.estimate(seven, device)
    assert not found.fits
    assert "--set quantization=nf4" in found.changes
    settings = dict(change.removeprefix("--set ").split("=") for change in found.changes)
    assert estimate.estimate(
        profiles.get("paper-7b", max_completion_length=64, num_generations=4, **settings), device
    ).fits
    hopeless = estimate.estimate(seven, devices.of_size(2))
    assert "no setting is enough" in hopeless.changes[0]
    small = estimate.estimate(profiles.get("smoke"), devices.of_size(0.61))
    assert f"| to make it fit | {small.changes[0]} |" in small.table()


def test_a_gpu_that_is_too_small_is_refused_before_training(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    monkeypatch.setattr(devices, "this", lambda *_: devices.of_size(12))
    with pytest.raises(VsrError, match=r"paper-7b needs about .* 12.0 GiB; --set token_budget=.*quantization=nf4"):
        estimate.require(profiles.get("paper-7b", **SHORT))
    estimate.require(profiles.get("qlora-2b", **SHORT))


def test_what_a_pass_keeps_is_what_a_dry_run_finds():
    """`pass_budget`'s bytes of a token, by which the trainer chooses, against the engine itself at 2B's sizes."""
    profile = profiles.get("paper-2b")
    model = dryrun.Model(folders.shape(PUBLISHED[profile.base]), profile)
    shape = [(998, [256] * 14)] * 2
    tokens = sum(prefix + sum(lengths) for prefix, lengths in shape)
    kept = dryrun.packed(model, shape, 1)
    layers = model.layers * (kept.three.peak - kept.two.peak)  # the head's share is no layer's
    assert logps.pass_budget(model.config, 2, 1.05 * layers, tokens, 0) == (tokens, False)
    assert logps.pass_budget(model.config, 2, 0.9 * layers, tokens, 0)[0] < tokens
    assert logps.pass_budget(model.config, 2, 0.5 * layers, tokens, 0)[1] is False
    assert logps.pass_budget(model.config, 2, 0.5 * layers, tokens, tokens) == (tokens, True)
    assert logps.pass_budget(model.config, 2, 0.1 * layers, tokens, 0) == (tokens, True)


@pytest.mark.slow
def test_the_doctor_s_numbers_are_the_estimate_s():
    for name, needed in devices.NEEDED.items():
        found = estimate.estimate(profiles.get(name), devices.named("A100"), mode="think")
        assert needed == pytest.approx(found.needed / devices.GIB, rel=0.1)


def test_the_passes_are_the_trainer_s():
    work = workload(profiles.get("qlora-2b"), "think")
    for counts in work.passes(512, 1 << 14):
        assert sum(work.prompt + 512 * count for count in counts) <= 1 << 14
    assert sum(map(sum, work.passes(512, 1 << 14))) == 8 * 14
    assert workload(profiles.get("qlora-2b"), "vanilla").completion == 6


def test_the_smallest_effect_is_that_of_a_paired_test():
    found = estimate.estimate(profiles.get("paper-2b"), devices.named("A100"))
    tasks = [565, 834, 953, 288, 710, 217 + 378 + 373, 194, 618]  # VSI-Bench's questions
    naive = 100 * intervals.detectable(0.5 * sum(1 / n for n in tasks) ** 0.5 / 8)
    assert naive < found.work.effect < 1.1 * naive
    assert replace(found.work, bench={kind: 4 * n for kind, n in found.work.bench.items()}).effect < found.work.effect


def test_the_command(capsys):
    assert cli.main(["estimate", "--profile", "smoke", "--gpu-gib", "24"]) == 0
    printed = capsys.readouterr().out
    for word in (
        "3,845,248",
        "weights",
        "optimiser",
        "keys and values",
        "estimated",
        "smallest effect",
        "24.0 GiB",
    ):
        assert word in printed
    assert cli.main(["estimate", "--gpu", "H1000"]) == 2
    assert "unknown GPU 'H1000': did you mean 'H100'" in capsys.readouterr().err


def test_a_notebook_shows_it_before_it_trains():
    text = study.setup("smoke").estimate("think").data.replace("\u00a0", " ")
    assert text.startswith("<details><summary>Estimated: a run needs ")
    assert "| smoke, think |" in text
    assert "memory needed" in text


@pytest.mark.slow
def test_the_paper_s_study_fits_in_half_a_day_on_a_node(tmp_path):
    """And the README says what the plan says."""
    readme = (Path(__file__).resolve().parents[1] / "README.md").read_text()
    told = next(line for line in readme.splitlines() if line.startswith("| 8 x H100"))
    found = plan.plan(study.Study(profiles.get("paper-2b"), tmp_path), devices.named("H100"), 8)
    cells = next(line for line in found.splitlines() if line.startswith("| all")).split(" | ")
    hours = [
        int(h) + int(m) / 60 for h, m in (re.fullmatch(r"(\d+) h (\d+) min.*", cell).groups() for cell in cells[4:6])
    ]
    assert hours[0] <= hours[1] < 12
    assert f"{hours[0]:.1f} to {hours[1]:.0f} h" in told
