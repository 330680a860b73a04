"""What is committed: tables are what the run folders say, whole, and the README tells what `overnight` found."""

import json
import re
from pathlib import Path

import pytest

from vsr.report import claims, tables
from vsr.report.tables import NOT_RUN

ROOT = Path(__file__).resolve().parents[1]
PUBLISHED = ROOT / "results" / "published"
TOLD = PUBLISHED / "overnight"  # by the README


DECIMAL = re.compile(r"\d+\.\d+")


@pytest.fixture(scope="module", params=["tiny", "overnight"])
def results(request) -> Path:
    return PUBLISHED / request.param


def tables_of(results: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in (results / "tables").iterdir() if path.stem != "compared"}


@pytest.fixture
def ledger() -> list[dict]:
    return json.loads(tables_of(TOLD)["claims.json"])


def alike(one: str, other: str) -> bool:
    """The same words, and decimals that differ by one in their last digit at most: another processor's sums may come
    out on the other side of a half. On the machine that wrote them, and most others, they are the same bytes."""
    pairs = zip(DECIMAL.findall(one), DECIMAL.findall(other), strict=False)
    near = (abs(float(a) - float(b)) < 1.5 * 10.0 ** -min(len(n.split(".")[1]) for n in (a, b)) for a, b in pairs)
    return DECIMAL.sub("#", one) == DECIMAL.sub("#", other) and all(near)


@pytest.mark.slow
def test_committed_tables_are_those_of_the_runs(results, tmp_path):
    committed = tables_of(results)
    paths = (*tables.write_all(results, tmp_path), *claims.write(results, tmp_path))
    written = {path.name: path.read_text() for path in paths}
    assert written.keys() == committed.keys()
    assert [name for name in written if not alike(written[name], committed[name])] == []
    assert not alike("1.2 of 3", "1.4 of 3")
    assert not alike("1.2 of 3", "1.2 of 4")


def test_nothing_is_left_to_run(results):
    drawn = {path.name: path.read_text() for path in (ROOT / "figures" / "published" / results.name).glob("*.svg")}
    assert len(drawn) > 10
    assert [name for name, content in (tables_of(results) | drawn).items() if NOT_RUN in content] == []


def test_the_readme_tells_the_ledgers_verdicts(ledger):
    readme = (ROOT / "README.md").read_text()
    for entry in ledger:
        (said,) = re.findall(rf"^\| {entry['claim']} .*\| \*\*(.*?)\*\*", readme, re.MULTILINE)
        assert entry["verdict"].startswith(said)


def test_the_readmes_effects_are_the_ledgers():
    found = (ROOT / "README.md").read_text().partition("## What the miniature found")[2].partition("## Profiles")[0]
    printed = (TOLD / "tables" / "claims.md").read_text()  # "+4.5 [+1.8, +7.2]", "+1.1 % of runs [..."
    known = set(re.findall(r"([+-]\d+\.\d)(?: %[^[<|]*)? \[\+?(-?\d+\.\d), \+?(-?\d+\.\d)\]", printed))
    said = re.findall(r"([+-]\d+\.\d) \[(-?\d+\.\d), (-?\d+\.\d)\]", found)
    assert len(said) > 10
    assert set(said) - known == set()


def test_executed_notebooks_are_whole(results):
    sources = sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))
    assert sources
    for name in sources:
        cells = json.loads((results / "notebooks" / name).read_text())["cells"]
        code = [cell for cell in cells if cell["cell_type"] == "code" and cell["source"]]
        assert all(cell["execution_count"] for cell in code), name
        kinds = [out.get("name", out["output_type"]) for cell in code for out in cell["outputs"]]
        assert not {"stderr", "error"} & set(kinds), name
