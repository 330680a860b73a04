"""The `vsr` command. Every option that is a setting has the name of the profile's field; work happens elsewhere."""

import argparse
import dataclasses
import sys
import time
from pathlib import Path

from vsr import cli_build, profiles
from vsr.errors import Stopped, VsrError
from vsr.files import read_json, write_json
from vsr.notebooks import profile_changes

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
    group.add_argument("--profile", default="tiny", help="smoke, tiny (default), qlora-2b, paper-2b or paper-7b")
    group.add_argument("--out", type=Path, help="results folder (default: results/<profile>)")
    group.add_argument("--seed", type=int, help="seed of everything random (default: the profile's)")
    group.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a profile setting")
    return common


def _changes(args: argparse.Namespace) -> dict:
    changes: dict = profile_changes(args.set)
    if args.seed is not None:
        changes["seed"] = args.seed
    return changes


def _profile(args: argparse.Namespace) -> profiles.Profile:
    return profiles.get(args.profile, **_changes(args))


def _out(args: argparse.Namespace) -> Path:
    return args.out or Path("results") / args.profile


def cmd_run(args: argparse.Namespace) -> None:
    """execute the notebooks in order"""
    from vsr import notebooks

    books = notebooks.find(args.only, args.start)
    if args.gpus > 1:
        from vsr.train import launch

        launch.offer(args.gpus)
    notebooks.run_all(books, _profile(args), _out(args).resolve(), _changes(args), args.fresh, args.cell_hours)


def cmd_doctor(args: argparse.Namespace) -> None:
    """what this machine has and what each profile can do here"""
    from vsr.estimate import doctor

    print(doctor.report())


def cmd_build(args: argparse.Namespace) -> None:
    """build questions from scenes: questions.jsonl, a parquet table and a manifest"""
    cli_build.run(args, _profile(args))


def cmd_agree(args: argparse.Namespace) -> None:
    """our ground truth against given questions, task by task"""
    from vsr import study
    from vsr.questions import agree

    run = study.agreement(args.scenes, args.questions, _out(args), args.rules)
    print(agree.table(read_json(run.path / "agreement.json")))
    print(f"\nwritten to {run.path / 'agreement.json'}")


def cmd_evaluate(args: argparse.Namespace) -> None:
    """a model's answers to a bench, scored with intervals"""
    from vsr import shards, study
    from vsr.models import adapters, cards
    from vsr.questions import vsibench
    from vsr.report import show
    from vsr.train import launch

    profile = _profile(args)
    launch.check(args.gpus)
    if args.model:
        profile = dataclasses.replace(profile, base=args.model)
    model = str(adapters.adapter_folder(args.adapter)) if args.adapter else "base"
    given = args.bench and vsibench.open_bench(args.bench, args.config, args.subset)
    chosen = given or study.Study(profile, _out(args)).bench
    if given and given.missing:
        print(f"{len(given.missing)} videos are missing, their questions count as wrong", file=sys.stderr)
    run = shards.evaluate(model, chosen, args.mode, args.video, profile, _out(args), args.gpus, args.limit)
    if args.adapter:
        cards.refresh(args.adapter)
    print(show.scores({run.path.name: read_json(run.path / "summary.json")}).data)
    print(f"\nwritten to {run.path}")


def cmd_train(args: argparse.Namespace) -> None:
    """train an adapter: vsGRPO, or the baselines SFT and DPO on the same questions"""
    if args.method == "grpo" and args.compute_of:
        raise VsrError("--compute-of: it is for sft and dpo, which are measured against a GRPO run")
    if args.method != "grpo" and args.mode not in (None, "vanilla"):
        raise VsrError(f"--mode {args.mode}: it is for grpo; sft and dpo learn the bare answer")
    from vsr import estimate, study
    from vsr.questions import bench
    from vsr.train import compute, dpo, grpo, launch, sft

    profile, out = _profile(args), _out(args)
    launch.check(args.gpus, args.accelerate_config)
    estimate.require(profile, args.mode or "vanilla")
    budget = compute.token_passes(args.compute_of) if args.compute_of else None
    deadline = None if args.max_hours is None else time.monotonic() + 3600 * args.max_hours
    how = {"fresh": args.fresh, "deadline": deadline}
    data = bench.load(args.data) if args.data else study.Study(profile, out).train
    if args.gpus > 1:
        what = (profile, args.mode or "vanilla", str(data.folder.resolve()), str(out.resolve()), profile.seed)
        how = {"fresh": args.fresh, "max_hours": args.max_hours, "method": args.method, "budget": budget}
        training = launch.Training(*what, **how)
        print(f"written to {launch.train(training, args.gpus, args.accelerate_config)}")
        return
    if args.method == "grpo":
        run = grpo.run_grpo(profile, args.mode or "vanilla", data.folder, out, profile.seed, **how)
    else:
        train = {"sft": sft.run_sft, "dpo": dpo.run_dpo}[args.method]
        run = train(profile, data, out, profile.seed, budget=budget, **how)
    print(f"written to {run.path}")


def cmd_status(args: argparse.Namespace) -> None:
    """what the runs of a results folder are doing; exit code 3 if one has died, fallen silent or stopped in time"""
    from vsr import status

    found = status.statuses(_out(args))
    print(status.table(found), end="")
    args.code = 3 if any(one.state in status.ATTENTION for one in found) else 0


def cmd_estimate(args: argparse.Namespace) -> None:
    """memory, time, disk and the smallest effect of a profile's run; nothing is run"""
    from vsr import estimate
    from vsr.estimate import devices

    device = devices.named(args.gpu, args.gpu_gib) if args.gpu else args.gpu_gib and devices.of_size(args.gpu_gib)
    print(estimate.estimate(_profile(args), device or None, args.mode).table())


def cmd_report(args: argparse.Namespace) -> None:
    """tables, figures and the claims ledger, from the run folders alone"""
    from vsr.report.write import write_all

    for path in write_all(_out(args)):
        print(path)


def cmd_export(args: argparse.Namespace) -> None:
    """merge a trained adapter into its base: a folder that plain transformers loads"""
    from vsr.models import export

    if args.out is None:
        raise VsrError("vsr export: --out FOLDER is missing, the new folder for the merged model")
    print(f"written to {export.export(args.adapter, args.out, **_changes(args))}")


def cmd_score(args: argparse.Namespace) -> None:
    """one predictions file under several harnesses' rules; with all of them, a figure of what makes the differences"""
    from vsr import scoring
    from vsr.files import read_jsonl
    from vsr.report import figures_rosetta, plotting
    from vsr.report.write import figures_folder

    samples = list(read_jsonl(args.predictions))
    print(scoring.rosetta_table(samples, args.rules))
    if args.rules == "all":
        drawn = figures_rosetta.waterfall(samples, f"{args.predictions.parent.name}/{args.predictions.name}")
        for path in plotting.savefig(drawn, figures_folder(_out(args)) / "rosetta"):
            print(path)


def cmd_pretrain(args: argparse.Namespace) -> None:
    """make the miniature's base model from nothing: rooms, vision, language, gates after each stage"""
    from vsr.miniature import pretrain

    out = args.out or Path("data") / f"pretrain-seed{args.seed or 0}"
    pretrain.pretrain(out=out, seed=args.seed or 0, smoke=args.profile == "smoke")


def cmd_diagnose(args: argparse.Namespace) -> None:
    """does a base model see, and does it leave room to learn? on fresh rooms, beside what needs no eyes"""
    from vsr import study
    from vsr.miniature import diagnose
    from vsr.report import show

    profile = _profile(args)
    here = study.Study(profile, _out(args))
    run = diagnose.diagnose(args.model or profile.base, here.fresh(args.rooms), here.train, here.results, profile)
    print(show.diagnosis(here.results).data)
    print(f"\nwritten to {run.path / 'diagnosis.json'}")


def cmd_bench(args: argparse.Namespace) -> None:
    """side-by-side measurements: ours, the naive way, TRL; on a GPU, what was estimated"""
    import importlib

    result = importlib.import_module(f"vsr.bench.{args.what}").main()
    path = _out(args) / "bench" / f"{args.what}.json"
    write_json(path, result)
    print(f"\nwritten to {path}")


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(
        prog="vsr",
        description="A reproducible companion to 'Improved Visual-Spatial Reasoning via R1-Zero-Like Training'.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    common = _common()

    def add(name: str, function: object) -> argparse.ArgumentParser:
        added = commands.add_parser(name, parents=[common], help=function.__doc__, description=function.__doc__)
        added.set_defaults(function=function)
        return added

    run = add("run", cmd_run)
    run.add_argument("--only", metavar="NN", help="only these notebooks: a number or name, several with commas")
    run.add_argument("--from", dest="start", metavar="NN", help="start at this notebook")
    run.add_argument("--fresh", action="store_true", help="run even what is finished and unchanged")
    run.add_argument("--cell-hours", type=float, metavar="H", help="a cell that takes longer fails (default: no limit)")
    run.add_argument("--gpus", type=int, default=1, help="devices to train and, if GPUs, evaluate on")
    add("doctor", cmd_doctor)
    cli_build.options(add("build", cmd_build))
    agree = add("agree", cmd_agree)
    agree.add_argument("--scenes", type=Path, required=True, metavar="P", help="VSI-Bench's meta_info json")
    agree.add_argument("--questions", type=Path, required=True, metavar="Q", help="questions as jsonl")
    agree.add_argument("--rules", choices=("vsi100k", "vsibench"), default="vsibench", help="the questions' rules")
    evaluate = add("evaluate", cmd_evaluate)
    evaluate.add_argument("--model", metavar="M", help="'tiny', a folder or a hub id (default: the profile's base)")
    evaluate.add_argument("--adapter", type=Path, help="a trained run's folder")
    evaluate.add_argument("--bench", metavar="B", help="a folder, VSI-Bench's archive or hub id (default: our rooms)")
    evaluate.add_argument("--config", choices=("full", "debiased", "pruned"), default="full", help="VSI-Bench's half")
    evaluate.add_argument("--subset", action="store_true", help="the bench is a part of VSI-Bench: do not count it")
    evaluate.add_argument("--mode", choices=("vanilla", "think", "observe"), default="vanilla", help="the prompt")
    evaluate.add_argument("--video", choices=("true", "none", "shuffled", "one"), default="true", help="what is shown")
    evaluate.add_argument("--limit", type=int, help="only the first questions")
    evaluate.add_argument("--gpus", type=int, default=1, help="devices, one process each (without a GPU: cores)")
    train = add("train", cmd_train)
    train.add_argument("method", choices=("grpo", "sft", "dpo"), help="how to train")
    train.add_argument("--mode", choices=("vanilla", "think", "observe"), help="grpo's prompt and rewards (vanilla)")
    train.add_argument("--data", type=Path, metavar="D", help="questions and videos (default: the profile's)")
    train.add_argument("--compute-of", type=Path, metavar="RUN", help="sft, dpo: compute as much as this GRPO run")
    train.add_argument("--gpus", type=int, default=1, help="devices, one process each (without a GPU: cores)")
    train.add_argument("--accelerate-config", type=Path, metavar="FILE", help="accelerate's config for them")
    train.add_argument("--max-hours", type=float, metavar="H", help="then stop with a checkpoint and exit code 75")
    train.add_argument("--fresh", action="store_true", help="train again even if finished and unchanged")
    estimate = add("estimate", cmd_estimate)
    estimate.add_argument("--gpu", metavar="NAME", help="a GPU by name, e.g. 'RTX 4090' (default: this machine's)")
    estimate.add_argument("--gpu-gib", type=float, metavar="N", help="the GPU's memory")
    estimate.add_argument("--mode", choices=("vanilla", "think", "observe"), default="vanilla", help="how it answers")
    add("status", cmd_status)
    export = add("export", cmd_export)
    export.add_argument("--adapter", type=Path, required=True, metavar="RUN", help="a trained run's folder")
    add("report", cmd_report)
    score = add("score", cmd_score)
    score.add_argument("--predictions", type=Path, required=True, metavar="S", help="a samples.jsonl")
    score.add_argument("--rules", default="all", help="official, lmms-eval, ... or all")
    add("pretrain", cmd_pretrain)
    diagnose = add("diagnose", cmd_diagnose)
    diagnose.add_argument(
        "--model", metavar="M", help="'tiny' or a folder made by vsr pretrain (default: the profile's)"
    )
    diagnose.add_argument("--rooms", type=int, default=300, help="fresh rooms to ask about (default: 300)")
    bench = add("bench", cmd_bench)
    bench.add_argument("what", choices=("render", "build", "grpo", "eval", "scale", "gpu"), help="what to measure")
    return top


def main(words: list[str] | None = None) -> int:
    """Exit codes: 0 done; 2 an error, named in one message on stderr; 3 a run needs attention (`vsr status`); 75
    stopped in time, the same command continues (schedulers may requeue it); 130 interrupted."""
    args = parser().parse_args(words)
    try:
        args.function(args)
    except VsrError as error:
        print(f"vsr {args.command}: {error}", file=sys.stderr)
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
