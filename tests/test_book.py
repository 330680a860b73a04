"""The book builds without a warning, and every link and picture of every page is there, also from a file URL."""

import json
import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from vsr import paper

ROOT = Path(__file__).resolve().parents[1]


class Links(HTMLParser):
    """What a page refers to, and the places in it that may be referred to."""

    def __init__(self, page: Path):
        super().__init__()
        self.named, self.asked, self.text = set(), [], page.read_text(encoding="utf-8")
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]):
        given = dict(attrs)
        self.named |= {given[name] for name in ("id", "name") if given.get(name)}
        loads = tag in ("img", "script", "link", "source", "iframe")
        self.asked += [(loads, given[name]) for name in ("href", "src") if given.get(name)]


def broken(book: Path) -> list[str]:
    """Links that lead nowhere, and whatever a page would load from a network."""
    pages = {path: Links(path) for path in book.rglob("*.html")}
    found = []
    for page, links in pages.items():
        for loads, asked in links.asked:
            url = urlsplit(asked)
            if url.scheme or url.netloc:
                found += [f"{page.name} loads {asked}"] if loads and url.scheme != "data" else []
                continue
            target = (page.parent / unquote(url.path)).resolve() if url.path else page
            there = target.is_file() and (
                not url.fragment or target not in pages or url.fragment in pages[target].named
            )
            if not there and asked not in ("#", ""):
                found.append(f"{page.name}: {asked}")
    return found


def test_a_broken_link_is_found(tmp_path):
    (tmp_path / "a.html").write_text(
        '<p id="x"><a href="b.html#y"><img src="c.png"><a href="#x"><a href="https://a.b">'
    )
    (tmp_path / "b.html").write_text('<script src="https://a.b/c.js">')
    assert sorted(broken(tmp_path)) == ["a.html: b.html#y", "a.html: c.png", "b.html loads https://a.b/c.js"]


@pytest.mark.slow
def test_the_book_is_whole(tmp_path):
    pytest.importorskip("myst_nb")
    command = [sys.executable, "docs/book.py", "--out", tmp_path / "book"]
    built = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert built.returncode == 0, built.stdout + built.stderr
    assert broken(tmp_path / "book") == []
    assert {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")} == {
        path.stem for path in (tmp_path / "book" / "notebooks").iterdir()
    }
    front = (tmp_path / "book" / "index.html").read_text()
    ledger = json.loads((ROOT / "results/published/overnight/tables/claims.json").read_text())
    for claim, entry in zip(paper.CLAIMS, ledger, strict=True):
        card = front.partition(f'id="claim-{claim.number}"')[2].partition("<section")[0]
        assert claim.where in card
        assert f">{entry['verdict']}</span>" in card
        assert "notebooks/" in card
        told = [found for found in entry["findings"] if found["verdict"] and found["value"] is not None]
        assert all(f"{found['value']:+.1f}" in card for found in told)
    assert front.count("<img") >= 7


@pytest.mark.slow
def test_a_book_about_runs_that_are_not_there_says_what_makes_them(tmp_path):
    pytest.importorskip("myst_nb")
    command = [sys.executable, "docs/book.py", "--results", tmp_path, "--out", tmp_path / "book"]
    built = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert built.returncode == 1
    assert "00_start_here.ipynb: not there; 'vsr run' makes it" in built.stderr
