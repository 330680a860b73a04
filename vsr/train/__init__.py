"""Training: GRPO on the engine; SFT and DPO on TRL's trainers."""
