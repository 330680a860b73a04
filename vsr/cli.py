"""The `vsr` command. Every option that is a setting has the name of the profile's field; work happens elsewhere."""

import argparse
import sys
from pathlib import Path

from vsr import profiles
from vsr.errors import VsrError
from vsr.notebooks import profile_changes

EXAMPLES = """examples:
  vsr run                              the whole study in miniature, no GPU, no network
  vsr run --only 01 --set bench_rooms=50
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
    notebooks.run_all(books, _profile(args), _out(args).resolve(), _changes(args), fresh=args.fresh)


def cmd_doctor(args: argparse.Namespace) -> None:
    """what this machine has and what each profile can do here"""
    from vsr import doctor

    print(doctor.report())


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
    run.add_argument("--gpus", type=int, default=1, help="devices to train on")
    add("doctor", cmd_doctor)
    return top


def main(words: list[str] | None = None) -> int:
    """Exit code 0, or 2 after one message on stderr that names what to mend."""
    args = parser().parse_args(words)
    try:
        args.function(args)
    except VsrError as error:
        print(f"vsr {args.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"vsr {args.command}: interrupted; run it again to continue", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
