"""Many scans, read in parallel and kept, each in one file, so that a killed build goes on where it was."""

import json
from functools import cache
from pathlib import Path

from vsr.errors import VsrError
from vsr.files import atomic_write, fingerprint, hash_files, read_json
from vsr.progress import track
from vsr.scannet.pool import each
from vsr.scannet.scans import Scan, ScanFiles, read_scan, scan_files
from vsr.scenes import store

HERE = Path(__file__).resolve().parent
CODE = [
    *(HERE / f"{name}.py" for name in ("annotations", "mesh", "minimal_box", "scan_cache", "scans")),
    *(HERE.parent / "scenes" / f"{name}.py" for name in ("alpha", "geometry", "scene", "store")),
]


def read_all(folders: dict[str, Path], kept: Path, workers: int) -> dict[str, str]:
    """Read every scan whose result is not in `kept` yet; the errors by scan id. One scan's damage harms no other."""
    files = {name: scan_files(folder) for name, folder in folders.items()}
    todo = [(scan, kept) for scan in files.values() if not is_kept(scan, kept)]
    results = track(each(_read, todo, workers), "scans", len(todo))
    return dict(sorted((name, error) for name, error in results if error))


def is_kept(files: ScanFiles, kept: Path) -> bool:
    """Whether the scan's result is there, from these very files and by this code."""
    try:
        return read_json(kept / f"{files.id}.json").get("mark") == _mark(files)
    except (VsrError, AttributeError):
        return False


def load(kept: Path, name: str) -> tuple[Scan, str]:
    """A kept scan and the hash of the files that it was read from."""
    path = kept / f"{name}.json"
    row = read_json(path)
    try:
        return Scan(store.from_row(row["scene"]), row["areas"], tuple(row["notes"])), row["hash"]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise VsrError(f"{path}: no kept scan ({error}); delete the file and build again") from None


def keep(kept: Path, scan: Scan, mark: str, content: str) -> None:
    """Write a scan's result; `mark` tells whether it is still up to date, `content` is the hash of its files."""
    row = {"mark": mark, "hash": content, "scene": store.to_row(scan.scene), "areas": scan.areas, "notes": scan.notes}
    atomic_write(kept / f"{scan.scene.id}.json", json.dumps(row, ensure_ascii=False) + "\n")


def _read(task: tuple[ScanFiles, Path]) -> tuple[str, str]:
    """Read and keep one scan; its id, and what is wrong with it or ''."""
    files, kept = task
    try:
        scan = read_scan(files)
        keep(kept, scan, mark=_mark(files), content=hash_files(*files.present()))
    except VsrError as error:
        return files.id, str(error)
    except (ArithmeticError, LookupError, MemoryError, OSError, RecursionError, TypeError, ValueError) as error:
        return files.id, f"{files.mesh.parent}: {type(error).__name__}: {error}"
    return files.id, ""


def _mark(files: ScanFiles) -> str:
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files.present()]
    return fingerprint([stats, _code()])


@cache
def _code() -> str:
    return hash_files(*CODE)
