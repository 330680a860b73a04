"""Many scans, read in parallel and kept, each in one file, so that a killed build goes on where it was."""

import json
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import cache
from pathlib import Path

from vsr.errors import VsrError
from vsr.progress import track
from vsr.runs import atomic_write, fingerprint, hash_files, read_json
from vsr.scenes import store
from vsr.scenes.scannet import Scan, ScanFiles, read_scan, scan_files

HERE = Path(__file__).resolve().parent
CODE = [
    HERE / f"{name}.py"
    for name in ("alpha", "annotations", "geometry", "mesh", "minimal_box", "scan_cache", "scannet", "scene", "store")
]
AHEAD = 4  # scans handed to each worker in advance


def read_all(folders: dict[str, Path], kept: Path, workers: int) -> dict[str, str]:
    """Read every scan whose result is not in `kept` yet; the errors by scan id. One scan's damage harms no other."""
    files = {name: scan_files(folder) for name, folder in folders.items()}
    todo = [name for name in files if not is_kept(files[name], kept)]
    failed: dict[str, str] = {}
    for name, error in track(_each([(files[name], kept) for name in todo], workers), "scans", len(todo)):
        if error:
            failed[name] = error
    return dict(sorted(failed.items()))


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


def _each(tasks: list[tuple[ScanFiles, Path]], workers: int) -> Iterator[tuple[str, str]]:
    """Results in the order in which they are done; workers are fresh processes (spawned, not forked)."""
    if workers <= 1 or len(tasks) <= 1:
        yield from map(_read, tasks)
        return
    threads = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    os.environ.update(dict.fromkeys(threads, "1"))  # one thread a worker; inherited when they start
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
    try:
        queue, running = iter(tasks), set[Future]()
        while True:
            for task in queue:
                running.add(pool.submit(_read, task))
                if len(running) >= AHEAD * workers:
                    break
            if not running:
                return
            done, running = wait(running, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done)
    except BrokenProcessPool:
        raise VsrError("a worker process died (out of memory?); run it again, with --workers 1 if need be") from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        for name, value in threads.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _read(task: tuple[ScanFiles, Path]) -> tuple[str, str]:
    """Read and keep one scan; its id, and what is wrong with it or ''."""
    files, kept = task
    try:
        scan = read_scan(files)
        row = {
            "mark": _mark(files),
            "hash": hash_files(*files.present()),
            "scene": store.to_row(scan.scene),
            "areas": scan.areas,
            "notes": scan.notes,
        }
        atomic_write(kept / f"{files.id}.json", json.dumps(row, ensure_ascii=False) + "\n")
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
