"""docs/walks.md: the files and names it mentions are there, and its changes, applied as printed, do what it says."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs" / "walks.md").read_text(encoding="utf-8")
WALKS = re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("document", ["docs/walks.md", "CONTRIBUTING.md"])
def test_the_files_are_there(document):
    named = set(re.findall(r"`((?:vsr|tests|docs)/[\w/.*]+)`", (ROOT / document).read_text(encoding="utf-8")))
    assert len(named) > 10
    assert [name for name in sorted(named) if not list(ROOT.glob(name))] == []


def test_the_names_are_in_the_files():
    """``name` in `file``, or ``name` (`file`)`` where a name stands alone."""
    pairs = re.findall(r"`(\w+)` (?:in|\()\s*`(vsr/[\w/]+\.py)`", TEXT)
    assert len(pairs) >= 7
    defined = r"^(?:def {0}\b|class {0}\b|{0}\b.* = )"
    lost = [one for one in pairs if not re.search(defined.format(one[0]), (ROOT / one[1]).read_text(), re.MULTILINE)]
    assert lost == []


def apply(change: str, folder: Path) -> None:
    """A change as diff writes it: each hunk's old lines, which stand once in the file, become its new ones."""
    for part in re.split(r"^\+\+\+ ", change, flags=re.MULTILINE)[1:]:
        name, *hunks = re.split(r"\n@@.*\n", part)
        text = (folder / name).read_text(encoding="utf-8")
        for hunk in hunks:
            lines = hunk.strip("\n").split("\n")
            old, new = ("\n".join(line[1:] for line in lines if line[:1] != sign) for sign in "+-")
            assert text.count(old) == 1, f"{name} has changed, and docs/walks.md has not:\n{hunk}"
            text = text.replace(old, new)
        (folder / name).write_text(text, encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("walk", WALKS, ids=[name for name, _ in WALKS])
def test_a_walk_leads_where_it_says(walk, tmp_path):
    shutil.copytree(ROOT / "vsr", tmp_path / "vsr", ignore=shutil.ignore_patterns("__pycache__"))
    change, check = (re.search(rf"```{kind}\n(.*?)```", walk[1], re.DOTALL)[1] for kind in ("diff", "python"))
    apply(change, tmp_path)
    how = {"env": {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}, "capture_output": True, "text": True}
    done = subprocess.run([sys.executable, "-c", check], cwd=tmp_path, **how)
    assert done.returncode == 0, done.stderr
    assert subprocess.run([sys.executable, "-c", check], cwd=ROOT, **how).returncode == 1  # as the package is
