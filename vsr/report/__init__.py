"""Run folders -> tables, figures and verdicts; nothing here imports torch."""
