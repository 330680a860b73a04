"""JupyterLab as people use it: notebooks opened in a real browser, all cells run from the menu, the page looked at.

Needs chromium and chromedriver, else it skips. VSR_SCREENSHOTS names a folder to keep the screenshots in."""

import json
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import pages
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

ROOT = Path(__file__).resolve().parents[1]
START, RUN = 180, 900  # seconds: for a page or a server to come up, and for a notebook to run on a busy machine

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (pages.CHROMIUM and pages.DRIVER), reason="needs chromium and chromedriver (Debian: chromium-driver)"
    ),
]

# What the page shows of the notebook, one entry a code cell. Text by textContent: cells out of sight have no innerText.
LOOK = """
const all = (root, what) => [...root.querySelectorAll(what)];
const texts = (root, kind) => all(root, `[data-mime-type="application/vnd.jupyter.${kind}"]`).map(e => e.textContent);
return {
  status: document.querySelector('.jp-Notebook-ExecutionIndicator')?.dataset.status,
  cells: all(document, '.jp-Notebook .jp-CodeCell').map(cell => {
    const output = cell.querySelector('.jp-Cell-outputArea');
    return {
      prompt: cell.querySelector('.jp-InputPrompt').textContent,
      text: output.textContent,
      images: all(output, 'img').filter(image => image.naturalWidth > 0).map(image => image.src),
      tables: all(output, 'table').length,
      errors: texts(output, 'error'),
      stderr: texts(output, 'stderr'),
    };
  }),
};
"""


def wait(ready: Callable[[], object], what: str, seconds: float, every: float = 0.5) -> object:
    """Poll until `ready` gives something; otherwise fail with `what` was waited for."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if found := ready():
            return found
        time.sleep(every)
    pytest.fail(f"waited {seconds:.0f} s for {what}")


def _no_news(config: Path) -> None:
    """Answer JupyterLab's question for it: whether to fetch news. It hides a corner of the page."""
    settings = config / "lab/user-settings/@jupyterlab/apputils-extension/notification.jupyterlab-settings"
    settings.parent.mkdir(parents=True)
    settings.write_text('{"fetchNews": "false"}')


class Lab:
    """A JupyterLab server on a free port, with settings, kernels' files and notebooks in a temporary folder."""

    def __init__(self, folder: Path):
        self.books, self.results, self.token = folder / "notebooks", folder / "results/smoke", secrets.token_hex(16)
        self.books.mkdir(parents=True)
        self.log = folder / "server.log"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{free.getsockname()[1]}"
        options = {"ServerApp.port": self.url.rpartition(":")[2], "ServerApp.port_retries": 0}
        options |= {"ServerApp.ip": "127.0.0.1", "ServerApp.root_dir": self.books, "IdentityProvider.token": self.token}
        options |= {"LabApp.extension_manager": "readonly"}  # the other one asks PyPI
        _no_news(folder / "config")
        command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
        own = {"PYTHONPATH": str(ROOT), "IPYTHONDIR": str(folder / "ipython")}
        own |= {f"JUPYTER_{name}_DIR": str(folder / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")}
        self.process = subprocess.Popen(
            [*command, *(f"--{name}={value}" for name, value in options.items())],
            env=os.environ | own,
            cwd=folder,
            stdout=self.log.open("w"),
            stderr=subprocess.STDOUT,
        )

    def answers(self) -> bool:
        """Whether the server is up; a failure, with its log, if it has ended."""
        assert self.process.poll() is None, f"JupyterLab did not start:\n{self.log.read_text()[-3000:]}"
        try:
            return urllib.request.urlopen(f"{self.url}/api?token={self.token}", timeout=10).status == 200
        except (urllib.error.URLError, TimeoutError):
            return False

    def connected(self, name: str) -> bool:
        """Whether the page of a notebook talks to an idle kernel; the page itself says idle before it does."""
        with urllib.request.urlopen(f"{self.url}/api/sessions?token={self.token}", timeout=60) as reply:
            kernels = [session["kernel"] for session in json.load(reply) if session["path"] == f"{name}.ipynb"]
        return any(kernel["connections"] and kernel["execution_state"] == "idle" for kernel in kernels)

    def close(self) -> None:
        """End the server, which ends its kernels."""
        self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def add(self, name: str) -> list[str]:
        """A copy of a notebook with other parameters; the sources of its code cells."""
        book = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
        cell = next(cell for cell in book.cells if "parameters" in cell.metadata.get("tags", []))
        cell.source += f'\nprofile, results = "smoke", {json.dumps(str(self.results))}'
        nbformat.write(book, self.books / f"{name}.ipynb")
        return [cell.source for cell in book.cells if cell.cell_type == "code"]


class Page:
    """One notebook, open in the browser."""

    def __init__(self, browser: webdriver.Chrome, lab: Lab, name: str, pictures: Path):
        self.browser, self.name, self.pictures = browser, name, pictures
        browser.get(f"{lab.url}/lab/workspaces/{name}/tree/{name}.ipynb?token={lab.token}")
        book = nbformat.read(lab.books / f"{name}.ipynb", as_version=4)
        code = sum(cell.cell_type == "code" for cell in book.cells)
        wait(lambda: len(self.look()["cells"]) == code, f"the {code} code cells of {name} to appear", START)
        wait(lambda: lab.connected(name) and self.look()["status"] == "idle", f"the kernel of {name} to start", START)

    def look(self) -> dict:
        """What LOOK sees."""
        return self.browser.execute_script(LOOK)

    def run_all(self) -> None:
        """The menu's Run > Run All Cells; returns when it has begun."""
        self._click("//*[contains(@class, 'lm-MenuBar-itemLabel') and text()='Run']")
        self._click("//li[@data-command='runmenu:run-all']")
        begun = "[*]:", "[1]:"
        wait(lambda: self.look()["cells"][0]["prompt"] in begun, f"{self.name} to begin", START)

    def _click(self, path: str) -> None:
        WebDriverWait(self.browser, START).until(lambda browser: browser.find_element(By.XPATH, path).is_displayed())
        self.browser.find_element(By.XPATH, path).click()

    def watch(self, see: Callable[[list[dict]], object] = lambda cells: None) -> list[dict]:
        """Show `see` the code cells again and again until the last has run; the cells then."""

        def finished() -> list[dict] | None:
            seen = self.look()
            see(seen["cells"])
            errors = [error for cell in seen["cells"] for error in cell["errors"]]
            assert not errors, f"{self.name}: {errors[0][-2000:]}"
            last = seen["cells"][-1]["prompt"].strip("[]: ")
            return seen["cells"] if seen["status"] == "idle" and last.isdigit() else None

        return wait(finished, f"{self.name} to run all its cells", RUN)

    def picture(self, label: str, cell: int) -> None:
        """A screenshot of the page, scrolled to the output of code cell number `cell`."""
        self.browser.execute_script(
            "document.querySelectorAll('.jp-Notebook .jp-CodeCell')[arguments[0]].scrollIntoView()", cell
        )
        self.browser.save_screenshot(str(self.pictures / f"{self.name}-{label}.png"))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    folder = Path(os.environ.get("VSR_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Iterator[Lab]:
    server = Lab(tmp_path_factory.mktemp("lab"))
    try:
        wait(server.answers, "JupyterLab to answer", START)
        yield server
    finally:
        server.close()


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[webdriver.Chrome]:
    chrome = pages.browser(tmp_path_factory.mktemp("chromium"), 1440, 1000)
    chrome.set_script_timeout(START)
    try:
        yield chrome
    finally:
        chrome.quit()


def shows_what_its_code_says(page: Page, sources: list[str], cells: list[dict]) -> None:
    """No error, no warning; a picture, a table or "not run" in every cell that ends with one; a screenshot of each
    output."""
    assert len(cells) == len(sources)
    for number, (source, cell) in enumerate(zip(sources, cells, strict=True)):
        if cell["text"] or cell["images"]:
            page.picture(f"{number:02}", number)
        assert not cell["stderr"], f"{page.name}: {source}\n{cell['stderr'][0][-2000:]}"
        last = source.splitlines()[-1]
        if last.startswith(("here.figure(", "plotting.room(", "plotting.film(")):
            assert len(cell["images"]) == 1, source
        elif last.startswith("show.") and not last.startswith("show.source("):
            said = "not run" in cell["text"] or "No published run" in cell["text"]
            assert cell["tables"] or said, source


@pytest.fixture(scope="module")
def start_here(lab, browser, pictures) -> tuple[Page, list[str], list[dict], set[str]]:
    """Notebook 00, executed: the page, its code, what it shows, and the lines of progress that were seen."""
    sources = lab.add("00_start_here")
    page, progress = Page(browser, lab, "00_start_here", pictures), set()

    def see(cells: list[dict]) -> None:
        for number, cell in enumerate(cells):
            if "evaluations: " in cell["text"]:
                if not progress:
                    page.picture("live", number)
                progress.add(cell["text"])

    page.run_all()
    return page, sources, page.watch(see), progress


def test_notebook_00_runs_and_shows_its_progress(start_here):
    page, sources, cells, progress = start_here
    shows_what_its_code_says(page, sources, cells)
    assert any("evaluations: 0/3" in line for line in progress), progress  # while it worked
    assert any("evaluations: 3/3 in " in cell["text"] for cell in cells)  # and at its end, in the same place
    assert sum("evaluations: " in cell["text"] for cell in cells) == 1


def test_notebook_06_runs(lab, browser, pictures, start_here):
    sources = lab.add("06_paper_tables")
    page = Page(browser, lab, "06_paper_tables", pictures)
    page.run_all()
    shows_what_its_code_says(page, sources, page.watch())


CURVES = """
import time
from pathlib import Path
from vsr.files import append_jsonl
from vsr.report.plotting import Curves
curves = Curves([Path("run")], steps=4)
for step in range(4):
    append_jsonl("run/log.jsonl", {"reward": step / 4, "seconds": 1.0})
    curves(0)
    time.sleep(2)
"""


def test_training_curves_grow_in_place(lab, browser, pictures):
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CURVES.strip())])
    book.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(book, lab.books / "curves.ipynb")
    page, seen = Page(browser, lab, "curves", pictures), []
    page.run_all()
    page.watch(lambda cells: seen.append(cells[0]["images"]))
    page.picture("end", 0)
    assert max(map(len, seen)) == 1  # one picture at any time,
    assert len({picture for images in seen for picture in images}) >= 3  # and not the same
