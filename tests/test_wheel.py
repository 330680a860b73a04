"""Without a checkout: the wheel brings the notebooks and all that they need, and only the reader's folder and the home
folder are written."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from vsr import cli, notebooks

ROOT = Path(__file__).resolve().parents[1]
BOOKS = sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))


def test_copied_notebooks_are_the_sources_and_nobodys_work_is_overwritten(tmp_path, capsys):
    assert cli.main(["notebooks", "--copy", str(tmp_path)]) == 0
    copies = sorted((tmp_path / "notebooks").iterdir())
    assert [path.name for path in copies] == BOOKS
    assert copies[0].read_bytes() == notebooks.shipped()[0].read_bytes()
    copies[-1].write_text("mine")
    copies[0].unlink()
    assert cli.main(["notebooks", "--copy", str(tmp_path)]) == 2
    assert "differs from the notebook to come" in capsys.readouterr().err
    assert copies[-1].read_text() == "mine"
    assert not copies[0].exists()


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """`vsr` of a virtual environment with the wheel, built from sources alone; the other packages are this
    environment's. Nobody may write there."""
    place = tmp_path_factory.mktemp("wheel")
    sources = place / "sources"
    for name in ("vsr", "notebooks"):
        shutil.copytree(ROOT / name, sources / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    how = ["--no-deps", "--no-index"]
    subprocess.run([*pip, "wheel", *how, "--no-build-isolation", "-w", place, sources], check=True, cwd=place)
    shutil.rmtree(sources)
    venv.create(place / "venv", with_pip=False)
    python = place / "venv" / "bin" / "python"
    (site,) = (place / "venv").glob("lib/python*/site-packages")
    others = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    (site / "others.pth").write_text("".join(f"{path}\n" for path in others))
    subprocess.run([*pip, "--python", python, "install", *how, *place.glob("*.whl")], check=True, cwd=place)
    for path in [site, *site.rglob("*")]:
        path.chmod(path.stat().st_mode & ~0o222)
    return python.with_name("vsr")


@pytest.mark.slow
def test_a_wheel_is_all_that_a_reader_needs(installed, tmp_path):
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    home.mkdir()
    elsewhere.mkdir(mode=0o555)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "XDG", "NUMBA"))}
    # root may write everywhere, unless this right is taken away
    bound = ["setpriv", "--bounding-set=-dac_override"] if os.geteuid() == 0 and shutil.which("setpriv") else []

    def vsr(*words: str, cwd: Path, program: str = "vsr") -> str:
        how = {"env": kept | {"HOME": str(home)}, "capture_output": True, "text": True}
        done = subprocess.run([*bound, installed.with_name(program), *words], cwd=cwd, **how)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    copied = vsr("notebooks", "--copy", str(home / "study"), cwd=elsewhere).splitlines()
    assert [Path(line).name for line in copied[:-1]] == BOOKS
    # from the notebooks' own folder, where JupyterLab starts their kernels
    code = "from vsr import study; print(study.setup('smoke').results)"
    found = vsr("-c", code, cwd=home / "study" / "notebooks", program="python")
    assert Path(found.strip()) == home / "study" / "results" / "smoke"
    book = home / "study" / "results" / "smoke" / "notebooks" / BOOKS[0]
    vsr("run", "--profile", "smoke", "--only", "00", "--out", "../results/smoke", cwd=home / "study" / "notebooks")
    cells = json.loads(book.read_text())["cells"]
    assert all(cell["execution_count"] for cell in cells if cell["cell_type"] == "code" and cell["source"])
    manifests = [json.loads(path.read_text()) for path in (home / "study" / "results").rglob("manifest.json")]
    assert manifests
    assert all(one["git"] == {"sha": None, "dirty": None} for one in manifests)
    assert (home / "study" / "data").is_dir()
    assert "skipped" in vsr("run", "--profile", "smoke", "--only", "00", cwd=home / "study")
    assert not list(elsewhere.iterdir())
