"""Files, written whole or not at all and read with errors that name them: text, json, json lines, hashes."""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from vsr.errors import VsrError


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


def write_jsonl(path: str | Path, rows: Iterable[dict]) -> None:
    """All rows of a jsonl file; atomic."""
    atomic_write(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


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
