"""The book: the claims, the executed notebooks, the documents and the package's reference as static HTML.

    python docs/book.py [--results results/published/overnight] [--out build/book]

Everything in it was made before: `vsr run` executed the notebooks, `vsr report` wrote tables and figures.
"""

import argparse
import json
import re
import shutil
import sys
import tempfile
from pathlib import Path

from sphinx.cmd.build import main as sphinx

from vsr import paper, profiles
from vsr.errors import VsrError
from vsr.report import figures_folder

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = {  # of the repository: their pages in the book, and what the menu calls them
    "README.md": ("readme", "README"),
    "docs/walks.md": ("walks", "Where to change it"),
    "CONTRIBUTING.md": ("contributing", "Contributing"),
    "CHANGELOG.md": ("changelog", "Changelog"),
    "docs/log.md": ("log", "What did not work"),
}
SEEN = {  # claim: the notebook that tests it, and the picture that shows it
    1: ("01_cot_prompting", "table1_modes"),
    2: ("03_grpo", "gains"),
    3: ("06_paper_tables", None),
    4: ("03_grpo", "honesty"),
    5: ("04_kl_ablation", "figure3_left"),
    6: ("05_sft_dpo", "before_after"),
    7: ("06_paper_tables", "before_after"),
    8: ("03_grpo", "figure3_right"),
    9: ("04_kl_ablation", None),
    10: ("06_paper_tables", None),
}
SMALL = (
    " Ours are of a miniature, a few million parameters on rendered rooms. They cannot tell how Qwen2-VL behaves: "
    "compare rows within ours and within the paper's, never across."
)
TABLES = ("claims", "table1", "table2", "honesty", "audit")
PICTURE = re.compile(r"!\[([^\]]*)\]\(([^)]+)\)")


def build(results: Path, out: Path) -> int:
    """Write the book about the runs in `results` to `out`; Sphinx's exit status, 1 where it warned of anything.
    VsrError where the runs lack a part of the book."""
    with tempfile.TemporaryDirectory(prefix="vsr-book-") as name:
        pages = Path(name)
        _gather(results.resolve(), pages)
        return sphinx(["-q", "-W", "--keep-going", "-d", f"{pages}/.doctrees", str(pages), str(out)])


def _gather(results: Path, pages: Path) -> None:
    """Every page's source, as Sphinx wants them: in one folder."""
    for name in ("conf.py", "site.css"):
        shutil.copy(ROOT / "docs" / name, pages)
    for name, (page, _) in DOCUMENTS.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        for _, picture in PICTURE.findall(text):
            _copy(ROOT / picture, pages / picture, "make reproduce")
        (pages / f"{page}.md").write_text(text, encoding="utf-8")
    books = [path.name for path in sorted((ROOT / "notebooks").glob("*.ipynb"))]
    for name in books:
        _copy(results / "notebooks" / name, pages / "notebooks" / name, "vsr run")
    texts = []
    for name in TABLES:
        path = results / "tables" / f"{name}.md"
        if not path.is_file():
            raise VsrError(f"{path}: not there; 'vsr report --out {results}' writes it")
        texts.append(path.read_text(encoding="utf-8"))
    (pages / "tables.md").write_text("# Tables and ledger\n\n" + "\n\n".join(texts), encoding="utf-8")
    parts = _reference(pages / "reference")
    _front(results, pages)
    trees = [
        ("Notebooks", [f"notebooks/{Path(name).stem}" for name in books] + ["tables"]),
        ("About", [f"{title} <{page}>" for page, title in DOCUMENTS.values()]),
        ("Reference", parts),
    ]
    with (pages / "index.md").open("a", encoding="utf-8") as index:
        for caption, entries in trees:
            index.write(f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n" + "\n".join(entries) + "\n```\n")


def _copy(source: Path, target: Path, command: str) -> None:
    if not source.is_file():
        raise VsrError(f"{source}: not there; '{command}' makes it")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)


def _front(results: Path, pages: Path) -> None:
    """index.md: each claim with the paper's figure, ours, the verdict, the picture and the notebook."""
    ledger = {entry["claim"]: entry for entry in json.loads((results / "tables" / "claims.json").read_text())}
    rows, cards = [], []
    for claim in paper.CLAIMS:
        entry, (book, picture) = ledger[claim.number], SEEN[claim.number]
        verdict = f"[{entry['verdict']}]{{.verdict .{entry['verdict'].split()[0]}}}"
        rows.append(f"| [{claim.number}](#claim-{claim.number}) | {claim.text} | {verdict} |")
        ours = [_told(found) for found in entry["findings"] if found["verdict"]]
        ours += [entry["note"]] if entry["note"] else []
        parts = {
            "The paper": f"{claim.figure} ({claim.where})".replace("<", "&lt;"),
            "Here": verdict + "".join(f"\n- {line}" for line in ours),
            "Notebook": f"[{book}](notebooks/{book}.ipynb)",
        }
        shown = "".join(f"**{name}**: {text}\n\n" for name, text in parts.items())
        if picture:
            _copy(figures_folder(results) / f"{picture}.png", pages / "pictures" / f"{picture}.png", "vsr report")
            shown += f"![{claim.text}](pictures/{picture}.png)\n"
        title = f"(claim-{claim.number})=\n## {claim.number}. {claim.text}"
        cards.append(f"{title}\n\n:::{{container}} claim\n{shown}:::\n")
    small = profiles.PROFILES.get(results.name, profiles.PROFILES["tiny"]).base == "tiny"
    head = (ROOT / "docs" / "front.md").read_text(encoding="utf-8")
    head = head.replace("PROFILE", results.name).replace("SMALL", SMALL * small)
    table = "\n".join(["|  | the paper's claim | here |", "|---|---|---|", *rows])
    (pages / "index.md").write_text(f"{head}\n{table}\n\n" + "\n".join(cards), encoding="utf-8")


def _told(found: dict) -> str:
    """A finding that has a vote, in words."""
    unit = "" if found["unit"] == "points" else f" {found['unit']}"
    value = "" if found["value"] is None else f": {found['value']:+.1f}{unit}"
    interval = "" if found["low"] is None else f" [{found['low']:+.1f}, {found['high']:+.1f}]"
    return f"{found['what']}{value}{interval}, {found['verdict']}"


def _reference(folder: Path) -> list[str]:
    """A page for each module or subpackage of vsr; their names."""
    folder.mkdir()
    for path in sorted((ROOT / "vsr").iterdir()):
        if path.name in ("__init__.py", "__pycache__") or (path.is_file() and path.suffix != ".py"):
            continue
        files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
        names = [".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for file in files]
        name = f"vsr.{path.stem}"
        heads = {one: f"## {one}\n\n" * (one != name) for one in names}
        text = "".join(f"{head}```{{eval-rst}}\n.. automodule:: {one}\n```\n\n" for one, head in heads.items())
        (folder / f"{path.stem}.md").write_text(f"# {name}\n\n{text}", encoding="utf-8")
    return sorted(f"reference/{path.stem}" for path in folder.iterdir())


if __name__ == "__main__":
    given = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    given.add_argument("--results", type=Path, default=ROOT / "results" / "published" / "overnight")
    given.add_argument("--out", type=Path, default=ROOT / "build" / "book")
    asked = given.parse_args()
    try:
        status = build(asked.results, asked.out)
    except VsrError as error:
        sys.exit(f"book: {error}")
    print(f"{asked.out / 'index.html'}")
    sys.exit(status)
