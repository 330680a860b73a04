"""Nothing that a file holds is ever executed: no pickle, no remote code, no archive that writes where it likes."""

import ast
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "vsr").rglob("*.py"))
PICKLES = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}


def calls(path: Path) -> list[tuple[str, set[str]]]:
    """Dotted name and keywords of every call."""
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    return [(ast.unparse(node.func), {keyword.arg for keyword in node.keywords}) for node in nodes]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_no_module_unpickles_or_runs_text(path):
    tree = ast.parse(path.read_text())
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert not {name.split(".")[0] for name in names} & PICKLES
    for name, keywords in calls(path):
        assert name not in ("eval", "exec", "os.system"), name
        assert not name.endswith(("read_pickle", "to_pickle")), name
        if name == "torch.load":
            assert "weights_only" in keywords
        if name.endswith(("np.load", "numpy.load")):
            assert "allow_pickle" not in keywords
        if name.startswith("subprocess."):
            assert "shell" not in keywords
        assert "trust_remote_code" not in keywords, name


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_archives_are_read_member_by_member(path):
    for name, keywords in calls(path):
        if name.endswith(".extractall") or name.endswith("unpack_archive"):
            assert "filter" in keywords, f"{name} writes wherever the archive says"


def test_dependencies_are_pinned():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert len(lines) > 50
    assert all(re.match(r"[\w.\-\[\]]+==\S+", line) for line in lines)


SECRETS = re.compile(r"hf_[A-Za-z0-9]{30,}|ghp_[A-Za-z0-9]{30,}|AKIA[A-Z0-9]{16}|-----BEGIN [A-Z ]*PRIVATE KEY")
PATHS = re.compile(r"/(home|Users|root)/\w+")


def test_notebooks_and_manifests_name_no_user_and_no_secret():
    kept = [*ROOT.glob("notebooks/**/*.ipynb"), *ROOT.glob("results/published/**/*.ipynb")]
    kept += [
        *ROOT.glob("results/published/**/manifest.json"),
        *ROOT.glob("results/published/**/summary.json"),
    ]
    assert kept
    for path in kept:
        text = json.dumps(json.loads(path.read_text()))
        assert not SECRETS.search(text), path
        assert not PATHS.search(text), path
