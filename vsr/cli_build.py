"""`vsr build`: its options and its doors."""

import argparse
import sys
from pathlib import Path

from vsr.errors import VsrError
from vsr.profiles import Profile


def options(build: argparse.ArgumentParser) -> None:
    """Add them."""
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


def run(args: argparse.Namespace, profile: Profile) -> None:
    """Build by the door that `args` names."""
    from vsr.questions import build

    if args.door == "procedural":
        number = args.rooms or (profile.train_rooms if args.split == "train" else profile.bench_rooms)
        folder = args.out or Path("data") / f"{args.split}-{number}-{args.rules}"
        build.build_rooms(folder, args.split, number, args.rules, seed=profile.seed)
    elif args.door == "scannet":
        folder = _build_scannet(args, profile.seed)
        if folder is None:
            return
    elif args.door == "vsi100k":
        from vsr.questions import vsi100k

        folder = args.out or Path("data") / "vsi100k"
        vsi100k.build(args.scenes or "OPPOer/VSI-100k", folder, paper_scenes=args.paper_scenes, seed=profile.seed)
    else:
        from vsr.scenes import metainfo

        if args.scenes is None:
            raise VsrError("vsr build metainfo: --scenes FILE is missing, VSI-Bench's meta_info json")
        folder = args.out or Path("data") / f"{args.scenes.stem}-{args.rules}"
        questions = build.build(metainfo.read_scenes(args.scenes), args.rules, seed=profile.seed)
        build.write(folder, questions, args.rules, profile.seed)
    print(f"{folder}: {build.describe(folder)}")


def _build_scannet(args: argparse.Namespace, seed: int) -> Path | None:
    """The folder built from raw scans, with what went wrong on stderr; None after a dry run."""
    from vsr.scannet import from_scans

    if args.scenes is None:
        raise VsrError("vsr build scannet: --scenes FOLDER is missing, a copy of ScanNet v2")
    plan = from_scans.plan(args.scenes, args.list, split=args.split, paper_scenes=args.paper_scenes)
    if args.dry_run:
        print(from_scans.dry_run(plan, args.labels))
        return None
    folder = args.out or Path("data") / f"scannet-{args.rules}"
    failed = from_scans.build_scans(
        folder,
        plan,
        args.rules,
        seed=seed,
        labels=args.labels,
        workers=args.workers,
        paper_counts=args.paper_counts,
        videos=args.videos,
        strict=args.strict,
    )
    if plan.left_out:
        print(f"left out, rooms of VSI-Bench: {len(plan.left_out)} scans", file=sys.stderr)
    if plan.warning:
        print(f"warning: {plan.warning}", file=sys.stderr)
    if failed:
        total = len(plan.folders)
        print(f"{len(failed)} of {total} scans had errors:\n{from_scans.summary(failed)}", file=sys.stderr)
    return folder
