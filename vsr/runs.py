"""Run folders: the only source of every number. Atomic writes, fingerprints, manifests, resume."""

import hashlib
import json
import os
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from vsr.errors import VsrError
from vsr.workers import locks

KEPT = {locks.NAME, ".launch"}  # what outlives a fresh start: see vsr.workers.locks and vsr.train.launch
PACKAGES = ("torch", "transformers", "trl", "peft", "bitsandbytes", "datasets", "numpy", "av", "matplotlib")
ROOT = Path(__file__).resolve().parents[1]


def atomic_write(path: str | Path, content: str | bytes) -> None:
    """Write `content` whole or not at all: a full disk or a killed process leaves the old file as it was."""
    path = Path(path)
    data = content.encode("utf-8") if isinstance(content, str) else content
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    except OSError as error:
        raise unwritable(path, error) from None
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        Path(temporary).unlink(missing_ok=True)
        raise unwritable(path, error) from None
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def unwritable(path: str | Path, error: OSError) -> VsrError:
    """What to say of a full disk or a folder that is read-only."""
    return VsrError(f"{path}: could not be written ({error.strerror}); free some space or choose another --out")


def write_json(path: str | Path, value: object) -> None:
    """Readable, key-ordered json; atomic."""
    atomic_write(path, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def read_text(path: str | Path) -> str:
    """The text of a file; one that is missing, cannot be read or is no text is an error that names it."""
    path = Path(path)
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise VsrError(f"{path}: no such file") from None
    except OSError as error:
        raise VsrError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise VsrError(f"{path}: not valid utf-8 ({error.reason} at byte {error.start}); is it another file?") from None


def read_json(path: str | Path) -> dict:
    """One json object; a missing or broken file is an error that names it."""
    found = read_json_value(path)
    if not isinstance(found, dict):
        raise VsrError(f"{path}: expected an object, found {type(found).__name__}")
    return found


def read_json_value(path: str | Path) -> object:
    """Whatever json a file holds; errors as for `read_json`."""
    try:
        return json.loads(read_text(path))
    except RecursionError:
        raise VsrError(f"{path}: not valid json (nested too deep); is it another file?") from None
    except ValueError as error:
        raise VsrError(f"{path}: not valid json ({error}); is the file cut short?") from None


def append_jsonl(path: str | Path, row: dict) -> None:
    """Add one line in one write, so that a killed process leaves at most one broken last line."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    except OSError as error:
        raise unwritable(path, error) from None


def read_jsonl(path: str | Path) -> Iterator[dict]:
    """The rows of a jsonl file. A last line cut short by a killed process is skipped; other broken lines are named."""
    lines = read_text(path).split("\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            if number == len(lines):  # no newline after it: an append that never ended
                return
            raise VsrError(f"{path}, line {number}: not valid json ({error})") from None
        if not isinstance(row, dict):
            raise VsrError(f"{path}, line {number}: expected an object, found {type(row).__name__}")
        yield row


def fingerprint(value: object) -> str:
    """sha256 of a json value, 16 hex digits; equal values give equal prints whatever their key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def hash_files(*paths: str | Path) -> str:
    """sha256 over the names and bytes of files, or of every file under folders, 16 hex digits."""
    digest = hashlib.sha256()
    for path in map(Path, paths):
        if not path.exists():
            raise VsrError(f"{path}: no such file or folder")
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in files:
            if file.name.startswith(".") or "__pycache__" in file.parts:  # numba, too, keeps what it compiled there
                continue
            digest.update(str(file.relative_to(path)).encode() if path.is_dir() else file.name.encode())
            with file.open("rb") as handle:
                digest.update(hashlib.file_digest(handle, "sha256").digest())
    return digest.hexdigest()[:16]


def git_state() -> dict:
    """The commit and whether code differs from it; both None outside a git checkout."""

    def ask(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, timeout=20)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    changed = ask("status", "--porcelain", "--", "vsr", "notebooks", "pyproject.toml", "constraints.txt")
    return {"sha": ask("rev-parse", "HEAD"), "dirty": None if changed is None else bool(changed)}


def versions() -> dict[str, str]:
    """Installed versions of what a number can depend on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


class Run:
    """One run folder. `finished` is true when this very run (same settings and inputs) was completed on this machine:
    the mark `.done` is not committed, so a fresh clone recomputes what it shows. Until then `lock` keeps others out."""

    def __init__(self, path: Path, manifest: dict, lock: locks.Lock | None = None):
        self.path = path
        self.manifest = manifest
        self.lock = lock
        self._started = time.monotonic()

    @classmethod
    def open(cls, out: str | Path, name: str, *, settings: dict, inputs: dict, seed: int, fresh: bool = False) -> "Run":
        """The folder `out/name`, kept to be continued if settings and inputs are unchanged, emptied otherwise. VsrError
        where another process works in it."""
        path = Path(out) / name
        settings = json.loads(json.dumps(settings, default=str))  # as it will read back
        mark = fingerprint({"settings": settings, "inputs": inputs, "seed": seed})
        current = None if fresh else _current(path, mark)
        if current and (path / ".done").is_file():
            return cls(path, current)
        lock = locks.hold(path)
        current = None if fresh else _current(path, mark)  # another process may just have ended
        if current is None:
            _empty(path)
            current = {
                "id": f"{name}-{mark[:8]}",
                "name": name,
                "fingerprint": mark,
                "seed": seed,
                "settings": settings,
                "inputs": inputs,
                "git": git_state(),
                "versions": versions(),
                "machine": {"system": platform.system(), "processor": platform.machine(), "cores": os.cpu_count()},
                "seconds": 0.0,
            }
            write_json(path / "manifest.json", current)
            atomic_write(path / ".here", mark)
        return cls(path, current, lock)

    @classmethod
    def read(cls, path: Path) -> "Run":
        """The run in a folder that another process writes."""
        return cls(path, read_json(path / "manifest.json"))

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return (self.path / ".done").is_file()

    def finish(self, **facts: object) -> None:
        """Add facts (hashes of what was made, device) to the manifest and mark the run complete."""
        self.manifest["seconds"] = round(self.manifest["seconds"] + time.monotonic() - self._started, 1)
        self.manifest.update(facts)
        write_json(self.path / "manifest.json", self.manifest)
        atomic_write(self.path / ".done", self.manifest["fingerprint"])
        if self.lock:
            self.lock.release()


def _current(path: Path, mark: str) -> dict | None:
    """The manifest of the very run `mark`, begun on this machine; None where there is another, or none."""
    if not (path / ".here").is_file() or (path / ".here").read_bytes().strip() != mark.encode():
        return None
    manifest = read_json(path / "manifest.json") if (path / "manifest.json").is_file() else {}
    return manifest if manifest.get("fingerprint") == mark else None


def _empty(folder: Path) -> None:
    """Remove everything but what tells who works in it, the marks of a current run first."""
    for mark in (".done", ".here"):
        (folder / mark).unlink(missing_ok=True)
    for child in folder.iterdir():
        if child.is_dir() and not child.is_symlink() and child.name not in KEPT:
            shutil.rmtree(child)
        elif child.name not in KEPT:
            child.unlink()
