"""Executed notebooks as a browser shows them: how wide their tables are."""

import json
import shutil
import tempfile
from pathlib import Path

from nbconvert import HTMLExporter
from selenium import webdriver

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
# no sandbox: it refuses to run as root, as containers do; their /dev/shm is too small for it
SWITCHES = ("headless=new", "no-sandbox", "disable-dev-shm-usage", "disable-gpu", "hide-scrollbars")
PAGE = 1000  # pixels of a text column
LOOK = """return [...document.querySelectorAll('.jp-RenderedHTMLCommon table')].map(table => ({
  says: table.textContent.trim().slice(0, 60), column: table.parentElement.clientWidth, width: table.scrollWidth,
  columns: Math.max(...[...table.rows].map(row => row.cells.length))}))"""


def browser(folder: str | Path, *size: int) -> webdriver.Chrome:
    """Headless Chromium of `size` (width, height) with its own `folder`; somebody has to quit it."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for switch in (*SWITCHES, f"window-size={','.join(map(str, size))}", f"user-data-dir={folder}"):
        options.add_argument(f"--{switch}")
    return webdriver.Chrome(options, webdriver.ChromeService(DRIVER))


def tables(book: Path) -> list[dict]:
    """Every table of an executed notebook on a page whose text column has PAGE pixels: what it `says`, its `width` in
    pixels, how many `columns` it has."""
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page.html"
        page.write_text(HTMLExporter().from_filename(str(book))[0])
        chrome = browser(Path(folder) / "chromium", PAGE + 122, 1000)
        try:
            chrome.get(page.as_uri())
            found = chrome.execute_script(LOOK)
        finally:
            chrome.quit()
    assert abs(max(one["column"] for one in found) - PAGE) < 25, json.dumps(found[:2])
    return found
