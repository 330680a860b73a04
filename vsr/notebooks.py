"""Executes the notebooks in order with papermill: parameters checked, finished ones skipped, failures kept."""

import json
import os
import sys
import tempfile
import time
from contextlib import chdir
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

from vsr import runs, workers
from vsr.errors import Stopped, VsrError, unknown
from vsr.files import atomic_write, fingerprint, hash_files
from vsr.profiles import Profile
from vsr.progress import EXECUTED, duration

FOLDER = runs.ROOT / "notebooks"


def find(only: str | None = None, start: str | None = None) -> list[Path]:
    """Notebook sources in order; `only` is one number or name or several with commas, `start` the first to run."""
    books = sorted(FOLDER.glob("[0-9][0-9]_*.ipynb"))
    if not books:
        raise VsrError(f"{FOLDER}: no notebooks; 'vsr notebooks --copy' puts them into the working folder")

    def pick(word: str) -> Path:
        for book in books:
            if book.stem == word or book.stem.startswith(word.zfill(2) + "_"):
                return book
        raise unknown("notebook", word, [book.stem for book in books])

    wanted = {pick(word.strip()) for word in only.split(",")} if only else set(books)
    first = pick(start) if start else books[0]
    return [book for book in books if book in wanted and book >= first]


def shipped() -> list[Path]:
    """The clean sources, in order: the checkout's, or what the wheel put beside the package (pyproject.toml)."""
    if (runs.PACKAGE.parent / runs.FIRST).is_file():
        return sorted((runs.PACKAGE.parent / "notebooks").glob("*.ipynb"))
    files = (Path(file.locate()) for file in metadata.files("vsr") or () if file.suffix == ".ipynb")
    if not (found := sorted(file.resolve() for file in files)):
        raise VsrError(f"{runs.PACKAGE}: no notebooks came with it; install the wheel again with pip")
    return found


def copy(folder: Path) -> list[Path]:
    """Copy the notebooks to folder/notebooks; the copies. What is there and differs is somebody's work: a VsrError."""
    pairs = [(book, folder / "notebooks" / book.name) for book in shipped()]
    for book, target in pairs:
        if target.exists() and target.read_bytes() != book.read_bytes():
            raise VsrError(f"{target}: differs from the notebook to come; move it away, or name another folder")
    for book, target in pairs:
        atomic_write(target, book.read_bytes())
    return [target for _, target in pairs]


def parameters(book: Path) -> dict[str, str]:
    """Names and help texts of a notebook's parameters cell."""
    import papermill

    return {name: info["help"] for name, info in papermill.inspect_notebook(str(book)).items()}


def check_parameters(book: Path, given: dict) -> None:
    """papermill only warns about names a notebook does not have; here they are errors."""
    known = parameters(book)
    for name in given:
        if name not in known:
            raise unknown(f"parameter of {book.name}", name, known)


def _inputs(book: Path, profile: Profile, given: dict) -> str:
    """What a finished notebook depends on: its source, the package, profile and data."""
    data = Path(profile.data) / "manifest.json"
    return fingerprint({
        "notebook": hash_files(book),
        "package": hash_files(runs.PACKAGE),
        "profile": asdict(profile),
        "data": hash_files(data) if data.is_file() else profile.data,
        "given": given,
    })  # fmt: skip


def _expected_seconds(executed: Path) -> float | None:
    """How long the last execution took, read from the executed copy."""
    try:
        return json.loads(executed.read_text(encoding="utf-8"))["metadata"]["papermill"]["duration"]
    except (OSError, ValueError, KeyError):
        return None


def run_all(
    books: list[Path],
    profile: Profile,
    out: Path,
    changes: dict,
    fresh: bool = False,
    cell_hours: float | None = None,
) -> None:
    """Execute `books` into `out/notebooks`, one line each; a cell that takes longer than `cell_hours` is a failure."""
    folder = out / "notebooks"
    folder.mkdir(parents=True, exist_ok=True)
    given = {"profile": profile.name, "settings": changes, "results": os.path.relpath(out, runs.ROOT)}
    for book in books:
        check_parameters(book, given)
    expected = {book: _expected_seconds(folder / book.name) for book in books}
    started = time.monotonic()
    for number, book in enumerate(books, 1):
        head = f"[{number}/{len(books)}] {book.stem}"
        mark = _inputs(book, profile, given)
        stamp = folder / f".{book.stem}.done"
        if not fresh and stamp.is_file() and stamp.read_text() == mark and (folder / book.name).is_file():
            print(f"{head}: unchanged, skipped", flush=True)
            continue
        workers.check_time()
        guess = expected[book]
        print(f"{head}: running" + (f", {duration(guess)} last time" if guess else ""), flush=True)
        seconds = _execute(book, folder, given, cell_hours)
        atomic_write(stamp, mark)
        rest = [expected[later] for later in books[number:]]
        left = f", about {duration(sum(filter(None, rest)))} left" if any(rest) else ""
        print(f"{head}: done in {duration(seconds)}, {duration(time.monotonic() - started)} in all{left}", flush=True)


def _execute(book: Path, folder: Path, given: dict, cell_hours: float | None) -> float:
    """One notebook; on failure the partial copy stays beside the others and the message names the cell."""
    import papermill
    from nbclient.exceptions import CellTimeoutError
    from traitlets.config import Config

    partial = folder / f"{book.stem}.partial.ipynb"
    (folder / f".{book.stem}.done").unlink(missing_ok=True)
    started = time.monotonic()
    old = os.environ.get(EXECUTED)
    os.environ[EXECUTED] = "1"
    try:
        # notebooks name files relative to the repository, so that executed copies carry no machine's path; sockets have
        # a folder of their own: in the working directory those of two runs would be one another's
        with chdir(runs.ROOT), tempfile.TemporaryDirectory(prefix="vsr-") as sockets:
            papermill.execute_notebook(
                str(book.relative_to(runs.ROOT)),
                os.path.relpath(partial),
                parameters=given,
                kernel_name="python3",
                progress_bar=sys.stderr.isatty(),
                log_output=False,
                execution_timeout=cell_hours and max(1, round(3600 * cell_hours)),
                cwd=str(runs.ROOT),
                config=Config({"KernelManager": {"transport": "ipc", "ip": f"{sockets}/kernel"}}),
            )
    except papermill.PapermillExecutionError as error:
        if error.ename == Stopped.__name__:
            raise Stopped(f"{book.name}: {error.evalue}") from None
        message = "\n".join(str(error).strip().splitlines()[-12:])
        raise VsrError(
            f"{book.name} failed in cell {error.cell_index} [{error.exec_count}]: {error.ename}: {error.evalue}\n"
            f"{message}\nthe notebook up to there: {partial}\nmend the cause and run the same command: it continues"
        ) from None
    except CellTimeoutError:
        raise VsrError(
            f"{book.name}: a cell took longer than --cell-hours {cell_hours:g}; the notebook up to there: {partial}\n"
            "'vsr status' shows how far its runs are; the same command continues"
        ) from None
    finally:
        os.environ.pop(EXECUTED) if old is None else os.environ.update({EXECUTED: old})
    _tidy(partial)
    os.replace(partial, folder / book.name)
    return time.monotonic() - started


def _tidy(path: Path) -> None:
    """Keep of metadata and paths only what is the same on every machine, and the duration."""
    book = json.loads(path.read_text(encoding="utf-8"))
    book["metadata"]["papermill"] = {"duration": round(book["metadata"]["papermill"]["duration"], 1)}
    for cell in book["cells"]:
        cell["metadata"].pop("papermill", None)
        cell["metadata"].pop("execution", None)
    text = json.dumps(book, indent=1, ensure_ascii=False) + "\n"
    atomic_write(path, text.replace(json.dumps(f"{runs.ROOT}{os.sep}")[1:-1], ""))
