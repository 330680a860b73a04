"""Run folders: the only source of every number, and never destroyed.

A run is what its stage reads: the settings that the stage declares, its version, its inputs' hashes and the seed. Asked
for another identity, the folder's earlier run steps aside to `earlier/<name>/<identity>`; asked for that one again, it
comes back as it was, finished or half done. Only `--fresh` and `vsr clean` remove anything.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from vsr import workers
from vsr.errors import VsrError
from vsr.files import fingerprint, read_json, write_json

EARLIER = "earlier"  # beside the runs: those of other identities
MANIFEST = "manifest.json"
PACKAGES = ("torch", "transformers", "trl", "peft", "bitsandbytes", "datasets", "numpy", "av", "matplotlib")
PACKAGE = Path(__file__).resolve().parent
FIRST = Path("notebooks") / "00_start_here.ipynb"


def root() -> Path:
    """Where notebooks/, results/ and figures/ lie: the checkout; of a package installed without one, the nearest folder
    with a copy of the notebooks, the working folder or one above it; else the working folder."""
    if (PACKAGE.parent / FIRST).is_file():
        return PACKAGE.parent
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if (folder / FIRST).is_file()), here)


ROOT = root()


def data_folder() -> Path:
    """Where rooms and cached features go: the checkout's data/, or the user's cache where nobody may write there."""
    here = ROOT / "data"
    return here if os.access(here if here.exists() else ROOT, os.W_OK) else Path.home() / ".cache" / "vsr"


def git_state() -> dict:
    """The commit and whether code differs from it; both None outside a git checkout."""

    def ask(*words: str) -> str | None:
        try:
            # this very folder's: a package that is installed inside another project is not that project's commit
            where = ["--git-dir", str(PACKAGE.parent / ".git"), "--work-tree", str(PACKAGE.parent)]
            done = subprocess.run(["git", *where, *words], capture_output=True, text=True, timeout=20)
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


@dataclass(frozen=True)
class Stage:
    """What makes a kind of run what it is: `version`, an integer bumped when its results change, and the names of the
    profile's `settings` that decide them. `free` settings are read too but change no result (a memory budget)."""

    name: str
    version: int
    settings: tuple[str, ...]
    free: tuple[str, ...] = ()

    def view(self, profile: object) -> "Settings":
        """The only settings that the stage may read, with their values in `profile`."""
        return Settings(self, {name: getattr(profile, name) for name in (*self.settings, *self.free)})


class Settings:
    """A profile as one stage sees it: the settings it declares, as attributes; `read` collects those it asked for."""

    def __init__(self, stage: Stage, values: dict):
        self.stage, self.values, self.read = stage, values, set()

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):  # copying and pickling ask for these before there are any values
            raise AttributeError(name)
        if name not in self.values:
            raise AttributeError(f"stage '{self.stage.name}' reads the setting '{name}' without declaring it")
        self.read.add(name)
        return self.values[name]


class Run:
    """One run folder. `about` says in plain words what it is (method, mode, beta, video ...), so that nobody parses its
    name; `settings` are those its stage reads. Until it is `finished` its `lock` keeps other writers out."""

    def __init__(self, path: Path, manifest: dict, settings: Settings | None = None, lock: workers.Lock | None = None):
        self.path, self.manifest, self.settings, self.lock = path, manifest, settings, lock
        self._started = time.monotonic()

    @classmethod
    def open(
        cls,
        out: str | Path,
        name: str,
        stage: Stage,
        profile: object,
        *,
        about: dict,
        inputs: dict,
        seed: int,
        fresh: bool = False,
    ) -> "Run":
        """The run `out/name` of `stage` under `profile`, continued where it stopped.

        `about` and `inputs` (names -> hashes) belong to its identity. A run of another identity steps aside, and one
        line says what differs; `fresh` removes a run of this very identity. VsrError where another process has it."""
        path, settings = Path(out) / name, stage.view(profile)
        decides = {key: settings.values[key] for key in stage.settings}
        if "base" in decides and Path(str(decides["base"])).is_dir():  # a folder's place decides nothing, its hash does
            decides["base"] = Path(str(decides["base"])).name
        who = {"stage": stage.name, "version": stage.version, "settings": decides, "about": about}
        who = json.loads(json.dumps(who | {"inputs": inputs, "seed": seed}, default=str))  # as it will read back
        identity = fingerprint(who)[:12]
        if not fresh and (found := _ours(path)).get("identity") == identity and found["finished"]:
            return cls(path, found, settings)
        lock = workers.hold(path)
        found = _ours(path)  # read again: another process may just have ended
        if found.get("identity") != identity:
            if path.is_dir() and any(path.iterdir()):
                why = "; ".join(differences(found, who)) or "it has no manifest of this version"
                step_aside(path, found.get("identity", "unnamed"), why)
            come_back(path, identity)
            found = _ours(path)
        if fresh and found:
            shutil.rmtree(path)
            found = {}
        if not found:
            found = who | {
                "id": f"{name}-{identity[:8]}",
                "name": name,
                "identity": identity,
                "finished": False,
                "free": {key: settings.values[key] for key in stage.free},
                "git": git_state(),
                "versions": versions(),
                "machine": {"system": platform.system(), "processor": platform.machine(), "cores": os.cpu_count()},
                "seconds": 0.0,
            }
            write_json(path / MANIFEST, found)
        elif found["finished"]:
            lock.release()
        return cls(path, found, settings, lock)

    @classmethod
    def read(cls, path: str | Path, settings: Settings | None = None) -> "Run":
        """The run in a folder that another process writes, or that is only looked at."""
        if not (manifest := _manifest(Path(path))):
            raise VsrError(f"{path}: no manifest.json, so it is no run folder")
        return cls(Path(path), manifest, settings)

    @property
    def about(self) -> dict:
        """Method, mode, seed, beta, video ...: what `find` looks for."""
        return self.manifest["about"]

    def of(self, stage: str | None, about: dict) -> bool:
        """Whether it is one of a `stage` (None: any) with these values in `about`."""
        return stage in (None, self.manifest["stage"]) and all(self.about.get(key) == about[key] for key in about)

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return self.manifest["finished"]

    def finish(self, **facts: object) -> None:
        """Add facts (hashes of what was made, device) to the manifest and mark the run complete."""
        self.manifest["seconds"] = round(self.manifest["seconds"] + time.monotonic() - self._started, 1)
        self.manifest |= facts | {"finished": True}
        write_json(self.path / MANIFEST, self.manifest)
        if self.lock:
            self.lock.release()


def find(out: str | Path, stage: str | None = None, **about: object) -> list[Run]:
    """The finished runs directly in `out`, by name: those of one `stage` whose manifests have these values in `about`
    (None also finds a manifest that says nothing)."""
    found = ((path.parent, _manifest(path.parent)) for path in sorted(Path(out).glob(f"*/{MANIFEST}")))
    runs = [Run(path, manifest) for path, manifest in found if manifest.get("finished")]  # {}: gone in between
    return [run for run in runs if run.of(stage, about)]


def earlier(results: str | Path) -> list[Path]:
    """What stepped aside below a folder of runs, or of rooms: what `vsr clean` offers to remove."""
    return sorted(path for path in Path(results).glob(f"**/{EARLIER}/*/*") if path.is_dir())


def _manifest(path: Path) -> dict:
    """The manifest in a run folder; {} without one. VsrError where it is none of ours."""
    path = path / MANIFEST
    if not path.is_file():
        return {}
    found = read_json(path)
    kinds = {"id": str, "stage": str, "identity": str, "about": dict, "settings": dict, "finished": bool}
    for key, kind in kinds.items():
        if not isinstance(found.get(key), kind):
            raise VsrError(f"{path}: '{key}' is missing or no {kind.__name__}; is it another version's? move it away")
    return found


def _ours(path: Path) -> dict:
    """The manifest in a run folder; {} without one, or where it is no manifest of this version."""
    try:
        return _manifest(path)
    except VsrError:
        return {}


def step_aside(path: Path, identity: str, why: str) -> None:
    """Move a folder to where its identity finds it again, and say in one line `why` and where."""
    aside = path.parent / EARLIER / path.name / identity
    while aside.exists():  # a folder whose manifest was lost, or one copied here by hand
        aside = aside.with_name(f"{aside.name}-again")
    _move(path, aside)
    print(f"{path.name}: {why}; the earlier one is kept in {aside}", file=sys.stderr, flush=True)


def come_back(path: Path, identity: str) -> None:
    """Move the folder of that identity, if one stepped aside, to where it was."""
    aside = path.parent / EARLIER / path.name / identity
    if aside.is_dir():
        _move(aside, path)
        print(f"{path.name}: the earlier one of these settings is back", file=sys.stderr, flush=True)


def _move(path: Path, target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, target)
    except OSError as error:
        raise VsrError(f"{path}: could not be moved to {target} ({error.strerror}); choose another --out") from None


def differences(before: dict, after: dict) -> list[str]:
    """What makes two manifests different runs, as 'beta: 0.0001 -> 0.01'."""

    def flat(value: object, name: str = "") -> Iterator[tuple[str, object]]:
        if not isinstance(value, dict):
            yield name, value
            return
        for key, part in value.items():
            yield from flat(part, key)

    kinds = ("stage", "version", "settings", "about", "inputs", "seed")
    old, new = (dict(pair for kind in kinds for pair in flat(one.get(kind), kind)) for one in (before, after))
    return [f"{key}: {old.get(key)} -> {new.get(key)}" for key in sorted(old | new) if old.get(key) != new.get(key)]
