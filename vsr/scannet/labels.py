"""What a scan's objects are called under each rule set: the annotator's words, or VSI-Bench's categories."""

import csv
from pathlib import Path

from vsr.errors import VsrError

TABLE = "scannetv2-labels.combined.tsv"
COLUMNS = ("raw_category", "category", "nyu40class")
Labels = dict[str, tuple[str, str]]  # raw category -> (category, nyu40 class)

# VSI-Bench's ScanNet categories, as VLM-3R's copy of the generation scripts lists them: some by NYU40 class, the
# others by ScanNet200 category.
NYU40 = frozenset({"bed", "chair", "sofa", "table", "window", "bookshelf", "counter", "desk", "refrigerator"})
SCANNET200 = frozenset(
    {"pillow", "monitor", "door", "lamp", "printer", "towel", "tv", "nightstand", "plant", "keyboard", "backpack"}
    | {"trash bin", "trash can", "recycling bin", "closet", "microwave", "fan", "washing machine", "mirror", "piano"}
    | {"radiator", "telephone", "clock", "guitar", "bicycle", "oven", "mouse"}
)
MERGED = {
    "desk": "table",
    "trash can": "trash bin",
    "recycling bin": "trash bin",
    "mouse": "computer mouse",
    "refridgerator": "refrigerator",  # the table's spelling of the NYU40 class
}


def read_labels(path: str | Path) -> Labels:
    """The label table of ScanNet v2. Rows may lack their last columns, as one of the real 607 does."""
    path = Path(path)
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    except FileNotFoundError:
        raise VsrError(f"{path}: no such file; it comes with ScanNet ({TABLE}), or name it with --labels") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise VsrError(f"{path}: not a tab-separated text in utf-8 ({error}); copy or download it again") from None
    missing = [name for name in COLUMNS if not rows or name not in rows[0]]
    if missing:
        raise VsrError(f"{path}: column '{missing[0]}' is missing; expected ScanNet's {TABLE}")
    raw, category, nyu40 = (rows[0].index(name) for name in COLUMNS)
    labels: Labels = {}
    for number, row in enumerate(rows[1:], 2):
        if not row:
            continue
        if len(row) <= max(raw, category, nyu40) or not row[raw].strip():
            raise VsrError(f"{path}, line {number}: {len(row)} columns, no {COLUMNS[2]}; copy or download it again")
        labels.setdefault(" ".join(row[raw].split()), (row[category].strip(), row[nyu40].strip()))
    if not labels:
        raise VsrError(f"{path}: holds no labels; copy or download it again")
    return labels


def bench_label(raw: str, labels: Labels) -> str | None:
    """VSI-Bench's name for an annotated label, None for what it does not ask about."""
    category, nyu40 = labels.get(raw, (raw, ""))
    for name, known in ((nyu40, NYU40), (category, SCANNET200), (raw, SCANNET200)):
        name = "refrigerator" if name == "refridgerator" else name
        if name in known:
            return MERGED.get(name, name)
    return None
