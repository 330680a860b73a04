"""The leak guard: VSI-Bench's scenes, and other scans of the same rooms, stay out of training sets."""

import re
from collections.abc import Iterable
from pathlib import Path

from vsr.errors import VsrError
from vsr.files import read_json

# The rooms behind VSI-Bench's 88 ScanNet scenes: a scan is scene<room>_<scan of that room>. All are in ScanNet's
# validation split, 207 of its 312 scans show one of them; no training scan does.
ROOMS = frozenset(
    """
    0025 0030 0046 0050 0077 0081 0086 0088 0095 0100 0144 0146 0149 0153 0164 0169 0193 0196 0203 0207 0208 0221 0222
    0231 0246 0251 0277 0304 0307 0316 0328 0338 0353 0354 0356 0357 0378 0412 0426 0435 0441 0458 0461 0462 0474 0488
    0494 0496 0500 0518 0550 0553 0565 0568 0574 0575 0580 0591 0593 0598 0608 0616 0621 0629 0633 0643 0645 0647 0648
    0651 0653 0658 0663 0664 0665 0671 0684 0685 0686 0693 0695 0696 0697 0699 0700 0701 0702 0704
    """.split()
)
SCAN = re.compile(r"scene(\d{4})_\d{2}")
REMEDY = "take them out, or say --paper-scenes to train on them as the paper seems to have done"


def leaked(scenes: Iterable[str], bench: Iterable[str] = ()) -> list[str]:
    """Those of the scenes that show a room of VSI-Bench, in their order. `bench` adds scene ids of a benchmark at
    hand, so that its ScanNet++ and ARKitScenes scenes are known too."""
    # a ScanNet scan leaks with its room, however often that was scanned; other benches' scenes by their id alone
    names = set(bench)
    rooms = ROOMS | {match[1] for name in names if (match := SCAN.fullmatch(name))}
    shown = {name: SCAN.fullmatch(name) for name in dict.fromkeys(scenes)}
    return [name for name, scan in shown.items() if name in names or (scan and scan[1] in rooms)]


def check(scenes: Iterable[str], where: str | Path, *, allowed: bool = False, bench: Iterable[str] = ()) -> str | None:
    """Refuse training scenes that are VSI-Bench's, naming them; None if there are none. With `allowed`, the warning
    that has to go with the data, and with every number made from it."""
    found = leaked(scenes, bench)
    if not found:
        return None
    what = f"{len(found)} scenes that show" if len(found) > 1 else "1 scene that shows"
    what += " rooms of VSI-Bench (" + ", ".join(found[:5]) + (f" and {len(found) - 5} more)" if found[5:] else ")")
    if not allowed:
        raise VsrError(f"{where}: to be trained on, but has {what}; {REMEDY}")
    return f"trained on {what}: scores on VSI-Bench are inflated"


def warning(folder: str | Path) -> str | None:
    """The warning that goes with a built folder or a run: `warning` in its manifest.json."""
    path = Path(folder) / "manifest.json"
    return read_json(path).get("warning") if path.is_file() else None


def check_folder(folder: str | Path, scenes: Iterable[str]) -> str | None:
    """Before training on the questions in a folder: its warning if it was built with --paper-scenes, None if it shows
    no room of VSI-Bench; anything else is refused."""
    known = warning(folder)
    return check(scenes, folder, allowed=known is not None)
