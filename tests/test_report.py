"""`vsr report`: from run folders alone, the same bytes every time, and never more than the runs say."""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from made_runs import write_run, write_training

from vsr.report import claims, tables, write_all
from vsr.report.tables import NOT_RUN

pytestmark = pytest.mark.slow  # every figure is drawn twice


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """results/tiny with a few runs, reported by another process that must not import torch."""
    project = tmp_path_factory.mktemp("project")
    results = project / "results" / "tiny"
    for name, skill in {"constant": 0.3, "base-vanilla-true": 0.3, "base-think-true": 0.2}.items():
        write_run(results, f"eval-{name}", skill, scenes=4)
    for seed in (0, 1):
        write_run(results, f"eval-sft-seed{seed}-vanilla-true", 0.9, scenes=4)
        write_training(results, f"grpo-think-seed{seed}", "think", 1e-4, seed, steps=20)
        write_training(results, f"grpo-think-seed{seed}-beta0", "think", 0.0, seed, steps=20, end=0.2)
    code = (
        "import sys; from vsr.report import write_all; write_all(sys.argv[1]); "
        "sys.exit('torch was imported' if 'torch' in sys.modules else 0)"
    )
    subprocess.run([sys.executable, "-c", code, str(results)], check=True)
    return project


def digests(project: Path) -> dict[str, str]:
    folders = (project / "results" / "tiny" / "tables", project / "figures" / "tiny")
    files = [file for folder in folders for file in sorted(folder.iterdir())]
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_a_second_call_writes_the_same_bytes_and_overwrites_edits(project):
    first = digests(project)
    assert {Path(name).suffix for name in first} == {".md", ".csv", ".tex", ".svg", ".png", ".json"}
    table = project / "results" / "tiny" / "tables" / "table2.md"
    table.write_text(table.read_text().replace("35.4", "99.9"))
    figure = project / "figures" / "tiny" / "before_after.png"
    figure.write_bytes(b"")
    assert digests(project) != first
    written = write_all(project / "results" / "tiny")
    assert digests(project) == first
    assert {path.name for path in written} == set(first)


def test_deleting_a_run_changes_what_it_fed_and_nothing_else(project, tmp_path):
    results = Path(shutil.copytree(project / "results" / "tiny", tmp_path / "tiny"))
    before = {path.name: path.read_text() for path in (results / "tables").iterdir()}
    for seed in (0, 1):
        shutil.rmtree(results / f"eval-sft-seed{seed}-vanilla-true")
    tables.write_all(results, results / "tables")
    claims.write(results, results / "tables")
    after = {path.name: path.read_text() for path in (results / "tables").iterdir()}
    changed = {Path(name).stem for name in after if after[name] != before[name]}
    assert changed == {"table2", "honesty", "compared"}  # no claim had all its runs
    lines = {when: files["table2.csv"].splitlines() for when, files in (("before", before), ("after", after))}
    gone = [line for line in lines["after"] if line.startswith("ours: SFT,vanilla")]
    assert len(gone) == len(tables.TABLE_2_COLUMNS)
    assert all(f",{NOT_RUN}," in line for line in gone)
    kept = [[line for line in each if not line.startswith("ours: SFT,vanilla")] for each in lines.values()]
    assert kept[0] == kept[1]
