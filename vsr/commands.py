"""What each `vsr` command does, from its parsed options; the work itself is elsewhere."""

import argparse
import dataclasses
import shutil
import sys
from pathlib import Path

from vsr import markdown, profiles, runs, workers
from vsr.errors import VsrError
from vsr.files import read_json, write_json

SCENES = {  # what a door cannot do without
    "scannet": "FOLDER is missing, a copy of ScanNet v2",
    "metainfo": "FILE is missing, VSI-Bench's meta_info json",
}


def _changes(args: argparse.Namespace) -> dict:
    return profiles.changes(args.set) | ({} if args.seed is None else {"seed": args.seed})


def _profile(args: argparse.Namespace) -> profiles.Profile:
    return profiles.get(args.profile, **_changes(args))


def _out(args: argparse.Namespace) -> Path:
    return args.out or Path("results") / args.profile


def for_all_processes(args: argparse.Namespace) -> None:
    """What a command and the processes that it starts have in common."""
    if getattr(args, "max_hours", None) is not None:
        workers.stop_after(args.max_hours)
    if getattr(args, "report_to", None):
        from vsr.train import trackers

        trackers.offer(args.report_to)


def cmd_run(args: argparse.Namespace) -> None:
    """execute the notebooks in order"""
    from vsr import notebooks, plan, study

    here = study.Study(_profile(args), _out(args).resolve())
    books = notebooks.find(args.only or here.profile.notebooks, args.start)
    if args.plan or args.gpu:
        from vsr.estimate import devices

        print(plan.plan(here, devices.named(args.gpu) if args.gpu else None, args.gpus))
        return
    if here.profile.data != "rooms":  # what is missing is said now, not by the first notebook
        here.train, here.bench  # noqa: B018
    if args.gpus > 1:
        from vsr.train import launch

        launch.offer(args.gpus)
    print(plan.ahead(here, args.gpus), flush=True)
    notebooks.run_all(books, here.profile, here.results, _changes(args), args.fresh, args.cell_hours)


def cmd_notebooks(args: argparse.Namespace) -> None:
    """the notebooks, listed, or copied to FOLDER/notebooks, where they run beside their results without a checkout"""
    from vsr import notebooks

    for book in notebooks.shipped() if args.copy is None else notebooks.copy(args.copy):
        print(book)
    if args.copy is not None:
        print(f"next: cd {args.copy} && vsr run --profile smoke, or: jupyter lab {runs.FIRST}")


def cmd_doctor(args: argparse.Namespace) -> None:
    """what this machine has and what each profile can do here"""
    from vsr.estimate import devices

    print(devices.doctor())


def cmd_build(args: argparse.Namespace) -> None:
    """build questions from scenes: questions.jsonl, a parquet table and a manifest"""
    from vsr.questions import build, dataset
    from vsr.scenes import metainfo

    profile, data = _profile(args), Path("data")
    if args.scenes is None and args.door in SCENES:
        raise VsrError(f"vsr build {args.door}: --scenes {SCENES[args.door]}")
    if args.door == "procedural":
        number = args.rooms or (profile.train_rooms if args.split == "train" else profile.bench_rooms)
        folder = args.out or data / f"{args.split}-{number}-{args.rules}"
        held_out = profile.route_questions, profile.order_questions
        build.build_rooms(folder, args.split, number, args.rules, seed=profile.seed, held_out=held_out)
    elif args.door == "vsi100k":
        folder, hub = args.out or data / "vsi100k", args.scenes or "OPPOer/VSI-100k"
        dataset.build_vsi100k(hub, folder, paper_scenes=args.paper_scenes, seed=profile.seed)
    elif args.door == "metainfo":
        folder = args.out or data / f"{args.scenes.stem}-{args.rules}"
        questions = build.build(metainfo.read_scenes(args.scenes), args.rules, seed=profile.seed)
        build.write(folder, questions, args.rules, profile.seed)
    else:
        folder = args.out or data / f"scannet-{args.rules}"
        if not _build_scannet(args, folder, profile.seed):
            return
    print(f"{folder}: {build.describe(folder)}")


def _build_scannet(args: argparse.Namespace, folder: Path, seed: int) -> bool:
    """Build from raw scans, what went wrong on stderr; False after a dry run."""
    from vsr.scannet import from_scans

    plan = from_scans.plan(args.scenes, args.list, split=args.split, paper_scenes=args.paper_scenes)
    if args.dry_run:
        print(from_scans.dry_run(plan, args.labels))
        return False
    how = {name: getattr(args, name) for name in ("labels", "workers", "paper_counts", "videos", "strict")}
    failed = from_scans.build_scans(folder, plan, args.rules, seed=seed, **how)
    said = {f"left out, rooms of VSI-Bench: {len(plan.left_out)} scans": plan.left_out}
    said |= {f"warning: {plan.warning}": plan.warning}
    said |= {f"{len(failed)} of {len(plan.folders)} scans had errors:\n{from_scans.summary(failed)}": failed}
    print(*(f"{line}\n" for line, true in said.items() if true), sep="", end="", file=sys.stderr)
    return True


def cmd_agree(args: argparse.Namespace) -> None:
    """our ground truth against given questions, task by task"""
    from vsr import study
    from vsr.questions import agree

    run = study.agreement(args.scenes, args.questions, _out(args), args.rules)
    print(agree.table(read_json(run.path / "agreement.json")))
    print(f"\nwritten to {run.path / 'agreement.json'}")


def cmd_check_video(args: argparse.Namespace) -> None:
    """what a model of each family is given of a video: frames, times, grid, tokens, positions"""
    from vsr.engine import check

    profile = _profile(args)
    print(check.report(args.file, args.model, profile.frames, profile.max_pixels))


def cmd_evaluate(args: argparse.Namespace) -> None:
    """a model's answers to a bench, scored with intervals"""
    from vsr import shards, study
    from vsr.models import adapters, cards
    from vsr.questions import dataset
    from vsr.report import show
    from vsr.train import launch

    profile = _profile(args)
    launch.check(args.gpus)
    if args.model:
        profile = dataclasses.replace(profile, base=args.model)
    model = str(adapters.adapter_folder(args.adapter)) if args.adapter else "base"
    given = args.bench and dataset.open_bench(args.bench, args.config, args.subset)
    chosen = given or study.Study(profile, _out(args)).bench
    if chosen.missing:
        print(f"{len(chosen.missing)} videos are missing, their questions count as wrong", file=sys.stderr)
    run = shards.evaluate(model, chosen, args.mode, args.video, profile, _out(args), args.gpus, args.limit)
    if args.adapter:
        cards.refresh(args.adapter)
    print(show.scores({run.path.name: read_json(run.path / "summary.json")}))
    print(f"\nwritten to {run.path}")


def cmd_train(args: argparse.Namespace) -> None:
    """train an adapter: vsGRPO, or the baselines SFT and DPO on the same questions"""
    if args.method == "grpo" and args.compute_of:
        raise VsrError("--compute-of: it is for sft and dpo, which are measured against a GRPO run")
    if args.method != "grpo" and args.mode not in (None, "vanilla"):
        raise VsrError(f"--mode {args.mode}: it is for grpo; sft and dpo learn the bare answer")
    from vsr import estimate, study
    from vsr.questions import dataset
    from vsr.train import launch, token_passes, train

    profile, out, mode = _profile(args), _out(args), args.mode or "vanilla"
    launch.check(args.gpus, args.accelerate_config)
    estimate.require(profile, mode)
    budget = token_passes(args.compute_of) if args.compute_of else None
    how = {"seed": profile.seed, "mode": mode, "budget": budget, "fresh": args.fresh}
    data = dataset.load(args.data) if args.data else study.Study(profile, out).train
    if args.gpus > 1:
        where = str(data.folder.resolve()), str(out.resolve())
        training = launch.Training(args.method, profile, *where, **how)
        folder = launch.train(training, args.gpus, args.accelerate_config)
    else:
        folder = train(args.method, profile, data, out, **how).path
    print(f"written to {folder}")


def cmd_rates(args: argparse.Namespace) -> None:
    """choose the methods' learning rates: one training a rate, scored on fresh rooms"""
    from vsr import study

    rows = study.Study(_profile(args), _out(args)).rates(args.rooms)
    print(markdown.table(("method", "learning rate", "trained six"), [(m, f"{r:.2g}", value) for m, r, value in rows]))


def cmd_status(args: argparse.Namespace) -> None:
    """what the runs of a results folder are doing; exit code 3 if one has died, fallen silent or stopped in time"""
    from vsr import status

    found = status.statuses(_out(args))
    print(status.table(found), end="")
    args.code = 3 * any(one.state in status.ATTENTION for one in found)


def cmd_clean(args: argparse.Namespace) -> None:
    """list the runs and rooms that no current setting uses (those that stepped aside), then remove them"""
    places = [_out(args)] + [runs.ROOT / "data"] * (args.out is None)  # rooms of other settings step aside too
    found = [path for place in places for path in runs.earlier(place)]
    for path in found:
        print(f"{sum(file.stat().st_size for file in path.rglob('*') if file.is_file()) / 2**20:8.1f} MiB  {path}")
    if not found:
        return print(f"{_out(args)}: nothing to remove")
    question = f"remove these {len(found)} for good? [y/N] "
    if args.yes or (sys.stdin.isatty() and input(question).strip().lower() == "y"):
        for path in found:
            if path.exists():  # not one inside another that has just gone
                shutil.rmtree(path)
        print(f"removed {len(found)}")
    else:
        print("nothing was removed; 'vsr clean --yes' does it")


def cmd_estimate(args: argparse.Namespace) -> None:
    """memory, time, disk and the smallest effect of a profile's run; nothing is run"""
    from vsr import estimate
    from vsr.estimate import devices

    sized = devices.of_size(args.gpu_gib) if args.gpu_gib else None
    device = devices.named(args.gpu, args.gpu_gib) if args.gpu else sized
    print(estimate.estimate(_profile(args), device, args.mode).table())


def cmd_report(args: argparse.Namespace) -> None:
    """tables, figures and the claims ledger, from the run folders alone"""
    from vsr.report import write_all

    for path in write_all(_out(args)):
        print(path)


def cmd_export(args: argparse.Namespace) -> None:
    """an adapter merged into its base, for plain transformers; or an evaluation in lmms-eval's and EASI's files"""
    option, given = ("--run", args.run) if args.what == "results" else ("--adapter", args.adapter)
    for name, value in ((f"{option} RUN", given), ("--out FOLDER", args.out)):
        if value is None:
            raise VsrError(f"vsr export {args.what}: {name} is missing")
    if args.what == "results":
        from vsr.report import exports

        for path in exports.results(args.run, args.out, args.name):
            print(path)
        return
    from vsr.models import adapters

    print(f"written to {adapters.export(args.adapter, args.out, **_changes(args))}")


def cmd_score(args: argparse.Namespace) -> None:
    """one predictions file under several harnesses' rules; with all of them, a figure of what makes the differences"""
    from vsr import scoring
    from vsr.report import figures_answers, figures_folder, plotting

    samples = scoring.read_samples(args.predictions)
    print(scoring.rosetta_table(samples, args.rules))
    if args.rules == "all":
        drawn = figures_answers.waterfall(samples, f"{args.predictions.parent.name}/{args.predictions.name}")
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

    here = study.Study(_profile(args), _out(args))
    base = args.model or here.profile.base
    run = diagnose.diagnose(base, here.fresh(args.rooms), here.train, here.results, here.profile)
    print(show.diagnosis(here.results))
    print(f"\nwritten to {run.path / 'diagnosis.json'}")


def cmd_bench(args: argparse.Namespace) -> None:
    """side-by-side measurements: ours, the naive way, TRL; on a GPU, what was estimated"""
    import importlib

    result = importlib.import_module(f"vsr.bench.{args.what}").main()
    write_json(path := _out(args) / "bench" / f"{args.what}.json", result)
    print(f"\nwritten to {path}")
