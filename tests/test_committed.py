"""What is committed of `tiny`: its tables are what its run folders say, whole, and the README says the same."""

import json
import re
from pathlib import Path

import pytest

from vsr.report import claims, tables
from vsr.report.tables import NOT_RUN

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results" / "published" / "tiny"


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> dict[str, bytes]:
    """Tables and ledger written anew from the committed run folders."""
    out = tmp_path_factory.mktemp("tables")
    return {path.name: path.read_bytes() for path in (*tables.write_all(RESULTS, out), *claims.write(RESULTS, out))}


def test_committed_tables_are_those_of_the_runs(written):
    committed = {path.name: path.read_bytes() for path in (RESULTS / "tables").iterdir() if path.stem != "compared"}
    assert [name for name in sorted(committed | written) if committed.get(name) != written.get(name)] == []


def test_nothing_is_left_to_run(written):
    assert [name for name, content in written.items() if NOT_RUN.encode() in content] == []


def test_the_readme_tells_the_ledgers_verdicts(written):
    readme = (ROOT / "README.md").read_text()
    for entry in json.loads(written["claims.json"]):
        (said,) = re.findall(rf"^\| {entry['claim']} .*\| \*\*(.*?)\*\*", readme, re.MULTILINE)
        assert entry["verdict"].startswith(said)


def test_the_readmes_gains_are_the_ledgers(written):
    readme, entries = (ROOT / "README.md").read_text(), json.loads(written["claims.json"])
    for number, places in ((2, (0, 1)), (7, (0, 1))):
        for found in (entries[number - 1]["findings"][place] for place in places):
            assert f"{found['value']:+.1f} [{found['low']:.1f}, {found['high']:.1f}]" in readme


def test_executed_notebooks_are_whole():
    sources = sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))
    assert sources
    for name in sources:
        cells = json.loads((RESULTS / "notebooks" / name).read_text())["cells"]
        code = [cell for cell in cells if cell["cell_type"] == "code" and cell["source"]]
        assert all(cell["execution_count"] for cell in code), name
        kinds = [out.get("name", out["output_type"]) for cell in code for out in cell["outputs"]]
        assert not {"stderr", "error"} & set(kinds), name
