"""The shape of the project: imports go one way, reports need no torch, notebooks hold no logic."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "vsr"
# lower floors never import higher ones; modules of one floor may import each other
FLOORS = [
    {"errors", "files", "markdown", "workers", "runs", "progress"},
    {"paper", "profiles"},
    {"scenes"},
    {"scoring", "questions"},
    {"video", "prompts"},
    {"models", "engine"},
    {"scannet"},
    {"train"},
    {"evaluate", "miniature"},
    {"report", "status"},
    {"estimate"},
    {"shards", "study", "variants"},
    {"bench", "notebooks"},
    {"cli", "commands"},
]
DOORS = {"build.py": {"miniature"}}  # where a lower floor asks a higher one in
NO_TORCH = [
    "report",
    "scoring",
    "paper.py",
    "profiles.py",
    "runs.py",
]


def imported(path: Path) -> set[str]:
    """The vsr modules a file imports, at any depth of its code."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "vsr":
            parts = node.module.split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("vsr.")}
    return found


def rooms() -> list[tuple[str, Path]]:
    files = [path for path in sorted(PACKAGE.rglob("*.py")) if path.name != "__init__.py" or path.parent != PACKAGE]
    return [(path.relative_to(PACKAGE).parts[0].removesuffix(".py"), path) for path in files]


def floor(name: str) -> int:
    return next(level for level, names in enumerate(FLOORS) if name in names)


@pytest.mark.parametrize(("name", "path"), rooms(), ids=lambda value: value.name if isinstance(value, Path) else value)
def test_imports_go_one_way(name: str, path: Path):
    above = {other for other in imported(path) if floor(other) > floor(name)} - DOORS.get(path.name, set())
    assert not above, f"{path.name} imports from a floor above its own: {sorted(above)}"


def test_reports_do_not_import_torch():
    files = [file for name in NO_TORCH for file in sorted((PACKAGE / name).rglob("*.py")) or [PACKAGE / name]]
    names = [".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts) for file in files]
    code = f"import sys, {', '.join(names)}; sys.exit('torch' in sys.modules)"
    assert len(names) > 15
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_files_read_in_one_sitting():
    long = {path.name: n for _, path in rooms() if (n := len(path.read_text().splitlines())) > 320}
    assert not long


def test_raw_scans_have_a_door():
    """The command line builds from them, a benchmark measures that; the core never reads them."""
    users = {path.relative_to(PACKAGE).as_posix() for _, path in rooms() if "scannet" in imported(path)}
    assert {name for name in users if not name.startswith("scannet/")} == {"commands.py", "bench/build.py"}
