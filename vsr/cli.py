"""The `vsr` command. Every option that is a setting has the name of the profile's field; work happens elsewhere."""

import argparse
import sys
from pathlib import Path

from vsr import commands
from vsr.errors import Stopped, VsrError
from vsr.profiles import PROFILES

EXAMPLES = """examples:
  vsr run                              the whole study in miniature, no GPU, no network
  vsr run --only 01 --set bench_rooms=50
  vsr build scannet --scenes ScanNet --dry-run
  vsr agree --scenes meta_info.json --questions vsibench.jsonl
  vsr evaluate --mode think --video shuffled
"""


def _common() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    group = common.add_argument_group("settings")
    group.add_argument("--profile", default="tiny", help=", ".join(PROFILES) + " (default: tiny)")
    group.add_argument("--out", type=Path, help="results folder (default: results/<profile>)")
    group.add_argument("--seed", type=int, help="seed of everything random (default: the profile's)")
    group.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a profile setting")
    return common


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(
        prog="vsr",
        description="A reproducible companion to 'Improved Visual-Spatial Reasoning via R1-Zero-Like Training'.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    every = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    common = _common()

    def add(name: str, function: object) -> argparse.ArgumentParser:
        added = every.add_parser(name, parents=[common], help=function.__doc__, description=function.__doc__)
        added.set_defaults(function=function)
        return added

    run = add("run", commands.cmd_run)
    run.add_argument("--only", metavar="NN", help="only these notebooks: a number or name, several with commas")
    run.add_argument("--from", dest="start", metavar="NN", help="start at this notebook")
    run.add_argument("--fresh", action="store_true", help="run even what is finished and unchanged")
    run.add_argument("--cell-hours", type=float, metavar="H", help="a cell that takes longer fails (default: no limit)")
    run.add_argument("--gpus", type=int, default=1, help="devices to train and, if GPUs, evaluate on")
    report = {
        "metavar": "NAME",
        "help": "also to trackio, tensorboard or wandb: log.jsonl's lines; several with commas",
    }
    run.add_argument("--report-to", **report)
    run.add_argument("--plan", action="store_true", help="only say what all notebooks would take")
    run.add_argument("--gpu", metavar="NAME", help="the same on a GPU by name, e.g. 'RTX 3060', and --gpus of it")
    books = add("notebooks", commands.cmd_notebooks)
    books.add_argument("--copy", type=Path, nargs="?", const=Path(), metavar="FOLDER", help="into it (default: here)")
    add("doctor", commands.cmd_doctor)
    build = add("build", commands.cmd_build)
    build.add_argument("door", choices=("procedural", "metainfo", "scannet", "vsi100k"), help="where scenes come from")
    build.add_argument("--scenes", type=Path, metavar="P", help="a meta_info json, or a copy of ScanNet or VSI-100k")
    build.add_argument("--rules", choices=("vsi100k", "vsibench"), default="vsi100k", help="the paper's or VSI-Bench's")
    build.add_argument("--split", choices=("train", "bench"), default="train", help="what the questions are for")
    build.add_argument("--rooms", type=int, help="how many rooms (default: the profile's)")
    raw = build.add_argument_group("door scannet")
    raw.add_argument("--list", type=Path, metavar="FILE", help="ids of the scans, one a line (default: all)")
    raw.add_argument("--labels", type=Path, metavar="TSV", help="the label table (default: beside the scans)")
    raw.add_argument("--paper-scenes", action="store_true", help="train on VSI-Bench's rooms too, with a warning")
    raw.add_argument("--paper-counts", action="store_true", help="at most as many questions a task as the paper has")
    raw.add_argument("--videos", action="store_true", help="export every scan's video to mp4")
    raw.add_argument("--workers", type=int, default=2, help="processes (default: 2)")
    raw.add_argument("--strict", action="store_true", help="fail if any scan cannot be read")
    raw.add_argument("--dry-run", action="store_true", help="list what would be read and what is missing")
    agree = add("agree", commands.cmd_agree)
    agree.add_argument("--scenes", type=Path, required=True, metavar="P", help="VSI-Bench's meta_info json")
    agree.add_argument("--questions", type=Path, required=True, metavar="Q", help="questions as jsonl")
    agree.add_argument("--rules", choices=("vsi100k", "vsibench"), default="vsibench", help="the questions' rules")
    check = add("check-video", commands.cmd_check_video)
    check.add_argument("file", type=Path, metavar="FILE", help="a video")
    check.add_argument("--model", metavar="M", help="'tiny', a folder or a hub id (default: one of each family)")
    evaluate = add("evaluate", commands.cmd_evaluate)
    evaluate.add_argument("--model", metavar="M", help="'tiny', a folder or a hub id (default: the profile's base)")
    evaluate.add_argument("--adapter", type=Path, help="a trained run's folder")
    evaluate.add_argument("--bench", metavar="B", help="a folder, VSI-Bench's archive or hub id (default: our rooms)")
    evaluate.add_argument("--config", choices=("full", "debiased", "pruned"), default="full", help="VSI-Bench's half")
    evaluate.add_argument("--subset", action="store_true", help="the bench is a part of VSI-Bench: do not count it")
    evaluate.add_argument("--mode", choices=("vanilla", "think", "observe"), default="vanilla", help="the prompt")
    evaluate.add_argument("--video", choices=("true", "none", "shuffled", "one"), default="true", help="what is shown")
    evaluate.add_argument("--limit", type=int, help="only the first questions")
    evaluate.add_argument("--gpus", type=int, default=1, help="devices, one process each (without a GPU: cores)")
    train = add("train", commands.cmd_train)
    train.add_argument("method", choices=("grpo", "sft", "dpo"), help="how to train")
    train.add_argument("--mode", choices=("vanilla", "think", "observe"), help="grpo's prompt and rewards (vanilla)")
    train.add_argument("--data", type=Path, metavar="D", help="questions and videos (default: the profile's)")
    train.add_argument("--compute-of", type=Path, metavar="RUN", help="sft, dpo: compute as much as this GRPO run")
    train.add_argument("--gpus", type=int, default=1, help="devices, one process each (without a GPU: cores)")
    train.add_argument("--accelerate-config", type=Path, metavar="FILE", help="accelerate's config for them")
    train.add_argument("--report-to", **report)
    for one in (run, evaluate, train):
        one.add_argument("--max-hours", type=float, metavar="H", help="then stop, what is done kept, with exit code 75")
    train.add_argument("--fresh", action="store_true", help="train again even if finished and unchanged")
    estimate = add("estimate", commands.cmd_estimate)
    estimate.add_argument("--gpu", metavar="NAME", help="a GPU by name, e.g. 'RTX 4090' (default: this machine's)")
    estimate.add_argument("--gpu-gib", type=float, metavar="N", help="the GPU's memory")
    estimate.add_argument("--mode", choices=("vanilla", "think", "observe"), default="vanilla", help="how it answers")
    rates = add("rates", commands.cmd_rates)
    rates.add_argument("--rooms", type=int, default=120, help="fresh rooms to score on (default: 120)")
    add("status", commands.cmd_status)
    export = add("export", commands.cmd_export)
    export.add_argument("what", nargs="?", choices=("adapter", "results"), default="adapter", help="(default: adapter)")
    export.add_argument("--adapter", type=Path, metavar="RUN", help="adapter: a trained run's folder")
    export.add_argument("--run", type=Path, help="results: an evaluation's folder")
    export.add_argument("--name", metavar="OWNER/MODEL", help="results: the model's on the leaderboard")
    add("report", commands.cmd_report)
    clean = add("clean", commands.cmd_clean)
    clean.add_argument("--yes", action="store_true", help="remove without asking")
    score = add("score", commands.cmd_score)
    score.add_argument("--predictions", type=Path, required=True, metavar="S", help="a samples.jsonl")
    score.add_argument("--rules", default="all", help="official, lmms-eval, ... or all")
    add("pretrain", commands.cmd_pretrain)
    diagnose = add("diagnose", commands.cmd_diagnose)
    diagnose.add_argument("--model", metavar="M", help="'tiny' or a folder of vsr pretrain (default: the profile's)")
    diagnose.add_argument("--rooms", type=int, default=300, help="fresh rooms to ask about (default: 300)")
    bench = add("bench", commands.cmd_bench)
    bench.add_argument("what", choices=("build", "grpo", "eval", "scale", "gpu", "full"), help="what to measure")
    return top


def main(words: list[str] | None = None) -> int:
    """Exit codes: 0 done; 2 an error, named in one message on stderr; 3 a run needs attention (`vsr status`); 75
    stopped in time, the same command continues (schedulers may requeue it); 130 interrupted."""
    args = parser().parse_args(words)
    try:
        commands.for_all_processes(args)
        args.function(args)
    except (VsrError, OSError) as error:
        named = getattr(error, "filename", None)  # a file that the system refuses: permissions, a full disk
        if isinstance(error, OSError) and not named:
            raise
        print(f"vsr {args.command}: {f'{named}: {error.strerror}' if named else error}", file=sys.stderr)
        return 2
    except Stopped as stop:
        print(f"vsr {args.command}: {stop}", file=sys.stderr)
        return 75
    except KeyboardInterrupt:
        print(f"vsr {args.command}: interrupted; run it again to continue", file=sys.stderr)
        return 130
    return getattr(args, "code", 0)


if __name__ == "__main__":
    sys.exit(main())
