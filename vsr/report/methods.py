"""What is compared: the base and every way to train it, with the names of their runs; `*` stands for the seed.

A trained model is evaluated with the prompt it was trained with, unless Table 2 says otherwise.
"""

from dataclasses import dataclass

VIDEOS = {"true": "true video", "one": "one frame", "shuffled": "shuffled video", "none": "no video"}


@dataclass(frozen=True)
class Method:
    """`label` as Table 2 has it, `mode` the prompt of the evaluation, `run` the training run or "base"."""

    label: str
    mode: str
    run: str

    def evaluation(self, video: str = "true") -> str:
        """The name of its evaluations."""
        return f"eval-{self.run}-{self.mode}-{video}"


BASE = Method("base", "vanilla", "base")
SFT = Method("SFT", "vanilla", "sft-seed*")
DPO = Method("DPO", "vanilla", "dpo-seed*")
SFT_COMPUTE = Method("SFT, GRPO's compute", "vanilla", "sft-compute-seed*")
DPO_COMPUTE = Method("DPO, GRPO's compute", "vanilla", "dpo-compute-seed*")
GRPO_T_PLAIN = Method("vsGRPO-T", "vanilla", "grpo-think-seed*")
GRPO_O_PLAIN = Method("vsGRPO-O", "vanilla", "grpo-observe-seed*")
GRPO_T = Method("vsGRPO-T", "think", "grpo-think-seed*")
GRPO_O = Method("vsGRPO-O", "observe", "grpo-observe-seed*")
GRPO_V = Method("vsGRPO-V", "vanilla", "grpo-vanilla-seed*")
CONSTANT = "eval-constant"

TABLE_2 = (BASE, SFT, DPO, SFT_COMPUTE, DPO_COMPUTE, GRPO_T_PLAIN, GRPO_O_PLAIN, GRPO_T, GRPO_O, GRPO_V)
LADDER = (BASE, DPO, SFT, GRPO_V)  # the paper's ladder, claim 6
SEEING = (BASE, DPO, SFT, GRPO_T, GRPO_O, GRPO_V)  # each with its own prompt
