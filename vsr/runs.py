"""Run folders: the only source of every number. Atomic writes, fingerprints, manifests, resume."""

import json
import os
import platform
import shutil
import subprocess
import time
from importlib import metadata
from pathlib import Path

from vsr.files import atomic_write, fingerprint, read_json, write_json
from vsr.workers import locks

KEPT = {locks.NAME, ".launch"}  # what outlives a fresh start: see vsr.workers.locks and vsr.train.launch
PACKAGES = ("torch", "transformers", "trl", "peft", "bitsandbytes", "datasets", "numpy", "av", "matplotlib")
ROOT = Path(__file__).resolve().parents[1]


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
