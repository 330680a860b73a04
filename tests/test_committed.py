"""What is committed of `tiny`: its tables are what its run folders say, whole, and the README says the same."""

import json
import re
from pathlib import Path

import pytest

from vsr.report import claims, tables
from vsr.report.tables import NOT_RUN

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results" / "published" / "tiny"


DECIMAL = re.compile(r"\d+\.\d+")


@pytest.fixture(scope="module")
def committed() -> dict[str, str]:
    return {path.name: path.read_text() for path in (RESULTS / "tables").iterdir() if path.stem != "compared"}


def alike(one: str, other: str) -> bool:
    """The same words, and decimals that differ by one in their last digit at most: another processor's sums may come
    out on the other side of a half. On the machine that wrote them, and most others, they are the same bytes."""
    pairs = zip(DECIMAL.findall(one), DECIMAL.findall(other), strict=False)
    near = (abs(float(a) - float(b)) < 1.5 * 10.0 ** -min(len(n.split(".")[1]) for n in (a, b)) for a, b in pairs)
    return DECIMAL.sub("#", one) == DECIMAL.sub("#", other) and all(near)


def test_committed_tables_are_those_of_the_runs(committed, tmp_path):
    paths = (*tables.write_all(RESULTS, tmp_path), *claims.write(RESULTS, tmp_path))
    written = {path.name: path.read_text() for path in paths}
    assert written.keys() == committed.keys()
    assert [name for name in written if not alike(written[name], committed[name])] == []
    assert not alike("1.2 of 3", "1.4 of 3")
    assert not alike("1.2 of 3", "1.2 of 4")


def test_nothing_is_left_to_run(committed):
    assert [name for name, content in committed.items() if NOT_RUN in content] == []


def test_the_readme_tells_the_ledgers_verdicts(committed):
    readme = (ROOT / "README.md").read_text()
    for entry in json.loads(committed["claims.json"]):
        (said,) = re.findall(rf"^\| {entry['claim']} .*\| \*\*(.*?)\*\*", readme, re.MULTILINE)
        assert entry["verdict"].startswith(said)


def test_the_readmes_effects_are_the_ledgers(committed):
    found = (ROOT / "README.md").read_text().partition("## What the miniature found")[2].partition("## Profiles")[0]
    ledger = [
        one for entry in json.loads(committed["claims.json"]) for one in entry["findings"] if one["low"] is not None
    ]
    known = {f"{one['value']:+.1f} [{one['low']:.1f}, {one['high']:.1f}]" for one in ledger}
    said = re.findall(r"[+-]\d+\.\d \[-?\d+\.\d, -?\d+\.\d\]", found)
    assert len(said) > 10
    assert set(said) - known == set()


def test_executed_notebooks_are_whole():
    sources = sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))
    assert sources
    for name in sources:
        cells = json.loads((RESULTS / "notebooks" / name).read_text())["cells"]
        code = [cell for cell in cells if cell["cell_type"] == "code" and cell["source"]]
        assert all(cell["execution_count"] for cell in code), name
        kinds = [out.get("name", out["output_type"]) for cell in code for out in cell["outputs"]]
        assert not {"stderr", "error"} & set(kinds), name
