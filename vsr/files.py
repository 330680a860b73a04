"""Files, written whole or not at all and read with errors that name them: text, json, json lines, archives, hashes."""

import gzip
import hashlib
import json
import lzma
import os
import shutil
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

from vsr.errors import VsrError

UMASK = os.umask(0o022)  # it can only be read by setting it
os.umask(UMASK)
# what zipfile and its decompressors raise over damaged archives
UNZIPPING = (zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, lzma.LZMAError, struct.error, RuntimeError, EOFError)
UNZIPPING += (OSError, ValueError, OverflowError)


def atomic_write(path: str | Path, content: str | bytes | Iterable[str | bytes]) -> None:
    """Write `content`, or its parts, whole or not at all: a full disk or a killed process leaves the old file as it
    was."""
    path = Path(path)
    parts = [content] if isinstance(content, str | bytes) else content
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    except OSError as error:
        raise unwritable(path, error) from None
    try:
        with os.fdopen(handle, "wb") as file:
            file.writelines(part.encode("utf-8") if isinstance(part, str) else part for part in parts)
            file.flush()
            os.fsync(file.fileno())
        as_the_umask_says(Path(temporary))
        os.replace(temporary, path)
    except OSError as error:
        Path(temporary).unlink(missing_ok=True)
        raise unwritable(path, error) from None
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def as_the_umask_says(path: Path) -> None:
    """Give a file, or all in a folder, the permissions of a plain `open`: tempfile and safetensors write 0600."""
    for file in (path, *path.rglob("*")):
        if file.is_file():
            file.chmod(0o666 & ~UMASK)


def unwritable(path: str | Path, error: OSError) -> VsrError:
    """What to say of a full disk or a folder that is read-only."""
    return VsrError(f"{path}: could not be written ({error.strerror}); free some space or choose another --out")


def write_json(path: str | Path, value: object) -> None:
    """Readable, key-ordered json; atomic."""
    atomic_write(path, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def read_text(path: str | Path, where_from: str = "") -> str:
    """The text of a file, without a byte order mark; one that is missing, cannot be read or is no text is an error that
    names it and, if it is missing, says `where_from` it comes."""
    path = Path(path)
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise VsrError(f"{path}: no such file" + (where_from and f"; {where_from}")) from None
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
    return _parsed(read_text(path), path)


def _parsed(text: str, where: str | Path) -> object:
    try:
        value = json.loads(text)
        if "\\u" in text:  # half of a surrogate pair is no text: it could not be written again
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except RecursionError:
        raise VsrError(f"{where}: not valid json (nested too deep); is it another file?") from None
    except ValueError as error:
        raise VsrError(f"{where}: not valid json ({error}); is the file cut short?") from None


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
    atomic_write(path, (json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_jsonl(path: str | Path) -> Iterator[dict]:
    """The rows of a jsonl file that we append to. A last line cut short by a killed process is skipped."""
    return (row for _, row in placed_jsonl(path, growing=True))


def placed_jsonl(path: str | Path, growing: bool = False) -> Iterator[tuple[str, dict]]:
    """The rows of a jsonl file, each with its place for errors, '<file>, line <number>'; of <file>.gz where only that
    is there, as in published runs. A broken line is an error that names it, in a `growing` file the last excepted."""
    packed = Path(f"{path}.gz")
    text = _unpacked(packed) if packed.is_file() and not Path(path).is_file() else read_text(path)
    lines = text.split("\n")  # not splitlines: U+2028 and the like may stand in a text
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = _parsed(line, where)
        except VsrError:
            if growing and number == len(lines):  # no newline after it: an append that never ended
                return
            raise
        if not isinstance(row, dict):
            raise VsrError(f"{where}: expected an object, found {type(row).__name__}")
        yield where, row


def _unpacked(path: Path) -> str:
    try:
        return gzip.decompress(path.read_bytes()).decode()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise VsrError(f"{path}: cannot be unpacked ({error}); get it again") from None


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


def extract(archive: str | Path, target: str | Path, scenes: set[str]) -> list[str]:
    """Write `<scene>.mp4` of the wanted scenes from an archive to the folder `target`; the scenes found there.

    Nothing else is unpacked. An archive with a name that leads out of its folder, with a wrong checksum or with a
    password is refused, naming the entry.
    """
    archive, target, found = Path(archive), Path(target), []
    try:
        with zipfile.ZipFile(archive) as opened:
            for name in opened.namelist():  # all of them before anything is written
                paths = PurePosixPath(name), PureWindowsPath(name)
                if any(".." in path.parts or path.anchor for path in paths):
                    why = f"entry '{name}' leads out of the folder: refused"
                    raise VsrError(f"{archive}: {why}; download it again")
            for entry in opened.infolist():
                name = PurePosixPath(entry.filename)  # __MACOSX/ holds ._scene.mp4, which no scene is called
                if name.suffix == ".mp4" and name.stem in scenes and not entry.is_dir():
                    _write_entry(opened, entry, target / name.name)
                    found.append(name.stem)
    except UNZIPPING as error:
        if getattr(error, "filename", None):  # the archive itself
            raise VsrError(f"{archive}: cannot be read ({error.strerror})") from None
        raise VsrError(f"{archive}: not a whole zip archive ({error}); download it again") from None
    return found


def _write_entry(opened: zipfile.ZipFile, entry: zipfile.ZipInfo, path: Path) -> None:
    temporary = path.with_name(f".{path.name}.zip.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with opened.open(entry) as source, temporary.open("wb") as file:
            shutil.copyfileobj(source, file, 1 << 20)
        temporary.replace(path)
    except OSError as error:
        if error.errno is None:  # bzip2's way to say that its stream is damaged
            raise
        raise unwritable(path, error) from None
    finally:
        temporary.unlink(missing_ok=True)
