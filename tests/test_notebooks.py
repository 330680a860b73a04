"""Notebooks: clean sources, one parameters cell, more prose than code, and every cell runs in profile smoke."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pages
import pytest

from vsr import cli, notebooks, paper, plan, profiles, workers
from vsr.errors import Stopped, VsrError
from vsr.estimate import devices
from vsr.files import read_json, write_json
from vsr.study import Study
from vsr.train import STAGES

ROOT = Path(__file__).resolve().parents[1]
BOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def cells(book: Path, kind: str) -> list[dict]:
    return [cell for cell in json.loads(book.read_text())["cells"] if cell["cell_type"] == kind]


@pytest.mark.parametrize("book", BOOKS, ids=lambda book: book.stem)
def test_sources_are_clean_and_readable(book: Path):
    whole = json.loads(book.read_text())
    assert (whole["nbformat"], whole["nbformat_minor"]) == (4, 5)
    assert whole["metadata"]["kernelspec"]["name"] == "python3"
    code = cells(book, "code")
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)
    assert sum("parameters" in cell["metadata"].get("tags", []) for cell in code) == 1
    words = [word for cell in cells(book, "markdown") for word in "".join(cell["source"]).split()]
    prose = sum(any(map(str.isalpha, word)) for word in words)
    lines = sum(len("".join(cell["source"]).splitlines()) for cell in code)
    assert 5 <= prose / lines <= 10, f"{prose / lines:.1f} words of prose a code line"
    assert 15 <= len(whole["cells"]) <= 45
    assert "**Try this**" in " ".join(words)


@pytest.mark.parametrize("book", BOOKS, ids=lambda book: book.stem)
def test_notebooks_hold_no_logic(book: Path):
    source = "\n".join("".join(cell["source"]) for cell in cells(book, "code"))
    assert "def " not in source
    assert "class " not in source
    assert "study.runs" not in source


@pytest.mark.parametrize("book", BOOKS, ids=lambda book: book.stem)
def test_imports_stand_in_the_first_cell(book: Path):
    first, *rest = ("".join(cell["source"]) for cell in cells(book, "code"))
    assert first.startswith(("import ", "from "))
    assert not [source for source in rest if re.search(r"^\s*(import|from) ", source, re.MULTILINE)]


@pytest.mark.parametrize("book", BOOKS, ids=lambda book: book.stem)
def test_every_parameter_is_documented(book: Path):
    known = notebooks.parameters(book)
    assert {"profile", "settings", "results"} <= set(known)
    assert all(known.values()), f"a parameter without help: {known}"
    (cell,) = (cell for cell in cells(book, "code") if "parameters" in cell["metadata"].get("tags", []))
    for line in map(str.rstrip, cell["source"]):
        assert re.fullmatch(r"\w+: (str|dict|list|int|float) = .*  # .{10,}", line), f"type, value, range: {line}"


def test_unknown_parameters_are_refused():
    with pytest.raises(VsrError, match=r"unknown parameter of .*'profil': did you mean 'profile'"):
        notebooks.check_parameters(BOOKS[0], {"profil": "tiny"})


def small_book(folder: Path, code: str) -> Path:
    """A notebook of a parameters cell and one cell of `code`."""
    folder.mkdir(parents=True, exist_ok=True)
    book = json.loads(BOOKS[0].read_text())
    first = [cell for cell in book["cells"] if "parameters" in cell["metadata"].get("tags", [])]
    book["cells"] = [*first, dict(book["cells"][-1], cell_type="code", source=code, outputs=[], execution_count=None)]
    (folder / "99_small.ipynb").write_text(json.dumps(book))
    return folder / "99_small.ipynb"


def test_a_failing_cell_is_named_and_the_partial_notebook_kept():
    folder = ROOT / "results" / "smoke" / "failing"
    source = small_book(folder, "1 / 0")
    with pytest.raises(VsrError, match=r"(?s)99_small.ipynb failed in cell .*ZeroDivisionError.*partial"):
        notebooks.run_all([source], profiles.get("smoke"), folder, {})
    assert (folder / "notebooks" / "99_small.partial.ipynb").is_file()
    assert not (folder / "notebooks" / "99_small.ipynb").exists()


def test_a_cell_that_hangs_is_ended():
    folder = ROOT / "results" / "smoke" / "hanging"
    source = small_book(folder, "import time\ntime.sleep(600)")
    with pytest.raises(VsrError, match=r"(?s)99_small.ipynb: a cell took longer than --cell-hours 0.001.*continues"):
        notebooks.run_all([source], profiles.get("smoke"), folder, {}, cell_hours=0.001)


def test_a_study_stops_in_time_and_the_same_command_continues(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(workers.UNTIL, "")  # what the command sets is gone after the test
    command = ["run", "--profile", "smoke", "--only", "00", "--out", str(tmp_path / "smoke")]
    assert cli.main([*command, "--max-hours", "1e-9"]) == 75
    assert capsys.readouterr().err == "vsr run: stopped (--max-hours); run it again to continue\n"
    source = small_book(tmp_path, "import time\nfrom vsr import workers\ntime.sleep(3)\nworkers.check_time()")
    monkeypatch.setattr(notebooks.runs, "ROOT", tmp_path)  # where a notebook's name is told from
    workers.stop_after(3 / 3600)
    with pytest.raises(Stopped, match=r"^99_small.ipynb: stopped \(--max-hours\); run it again to continue$"):
        notebooks.run_all([source], profiles.get("smoke"), tmp_path / "out", {})
    assert not (tmp_path / "out/notebooks/99_small.ipynb").exists()
    workers.stop_after(1)
    notebooks.run_all([source], profiles.get("smoke"), tmp_path / "out", {})
    assert (tmp_path / "out/notebooks/99_small.ipynb").is_file()


@pytest.mark.slow
def test_two_runs_in_one_checkout_both_finish(tmp_path):
    """Their kernels' sockets lie in a folder of each one's own."""
    source = small_book(ROOT / "results" / "smoke" / "twice", "import time\ntime.sleep(2)")
    code = (
        "import sys; from pathlib import Path; from vsr import notebooks, profiles; "
        "notebooks.run_all([Path(sys.argv[1])], profiles.get('smoke'), Path(sys.argv[2]), {})"
    )
    command, outs = [sys.executable, "-c", code, str(source)], [tmp_path / "a", tmp_path / "b"]
    started = [subprocess.Popen([*command, str(out)], cwd=ROOT) for out in outs]
    assert [process.wait(300) for process in started] == [0, 0]
    assert all((out / "notebooks" / "99_small.ipynb").is_file() for out in outs)
    assert not list(ROOT.glob("kernel-ipc*"))


@pytest.mark.slow
def test_the_whole_study_runs_in_profile_smoke_and_is_then_left_alone():
    command = [sys.executable, "-m", "vsr.cli", "run", "--profile", "smoke"]
    first = subprocess.run([*command, "--fresh"], cwd=ROOT, capture_output=True, text=True)
    assert first.returncode == 0, first.stdout + first.stderr
    executed = [json.loads((ROOT / "results/smoke/notebooks" / book.name).read_text()) for book in BOOKS]
    text = json.dumps(executed)
    assert str(ROOT) not in text
    assert os.uname().nodename not in text or len(os.uname().nodename) < 4
    second = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert second.stdout.count("unchanged, skipped") == len(BOOKS)
    # what was planned, and nothing else
    results = ROOT / "results" / "smoke"
    manifests = {path.parent: read_json(path) for path in results.glob("**/manifest.json")}
    made = {
        path for path, one in manifests.items() if one["stage"] in (*STAGES, "answer") and "earlier" not in path.parts
    }
    planned = [one for part in plan.planned(Study(profiles.get("smoke"), results)).values() for one in part]
    assert {one.folder for one in planned} == made
    assert f"smoke: {len(made)} trainings and evaluations, {len(made)} done" in second.stdout


@pytest.mark.slow
@pytest.mark.skipif(not (pages.CHROMIUM and pages.DRIVER), reason="needs chromium and chromedriver")
@pytest.mark.parametrize("profile", ["smoke", "published/tiny", "published/overnight"])
@pytest.mark.parametrize("book", BOOKS, ids=lambda book: book.stem)
def test_no_table_is_wider_than_the_page(book: Path, profile: str):
    """The test above makes smoke's."""
    shown = ROOT / "results" / profile / "notebooks" / book.name
    if not shown.is_file():
        pytest.skip(f"{profile} was not executed")
    found = pages.tables(shown)
    assert [one for one in found if one["width"] > pages.PAGE or one["columns"] > 10] == []


@pytest.mark.slow
def test_a_plan_counts_what_is_done_and_what_is_left(tmp_path, monkeypatch):
    """Eight GPUs share a step's groups, so that eight take more than an eighth of the time."""
    study = Study(profiles.get("qlora-2b", seeds=2), tmp_path)
    planned = plan.planned(study)
    assert list(planned) == ["01", "03", "04", "05", "07"]  # 08 by name
    some = profiles.get("qlora-2b", seeds=1, notebooks="3, 05_sft_dpo")
    assert list(plan.planned(Study(some, tmp_path))) == ["03", "05"]
    trained = [one for one in planned["03"] if one.method == "grpo"]
    assert [one.folder.name for one in trained] == [f"grpo-{m}-seed{s}" for m in paper.MODES for s in (0, 1)]
    monkeypatch.setattr(plan, "planned", lambda _: {"03": trained[-2:]})
    alone, eight = (plan.plan(study, devices.named("RTX 4090"), gpus) for gpus in (1, 8))
    assert hours_of(alone) / 8 < hours_of(eight) < hours_of(alone)
    write_json(trained[-1].folder / "manifest.json", {"finished": True})
    after = plan.plan(study, devices.named("RTX 4090"))
    assert "| 03 | 2 | 0 | 1 | " in after
    assert hours_of(after) == pytest.approx(hours_of(alone) / 2, abs=0.02)


def hours_of(plan: str) -> float:
    """At least, of all that is left."""
    said = next(line for line in plan.splitlines() if line.startswith("| all |")).split("|")[5]
    found = re.fullmatch(r" (?:(\d+) h )?(?:(\d+) min ?)?(?:\d+ s)? ?", said)
    return int(found[1] or 0) + int(found[2] or 0) / 60
