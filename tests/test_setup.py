"""The doors to the same pins stay equal, and the citation file is valid."""

import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]


def test_conda_and_pip_install_the_same():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())
    pip = next(entry["pip"] for entry in conda["dependencies"] if isinstance(entry, dict))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert pip == ["-c constraints.txt", "-e .[dev]"]  # so pyproject.toml and constraints.txt are the only lists
    python = next(entry for entry in conda["dependencies"] if str(entry).startswith("python"))
    assert python.split("=")[1] == project["requires-python"].removeprefix(">=")


def test_every_dependency_is_pinned():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in (ROOT / "constraints.txt").read_text().split()}
    for wish in project["dependencies"] + project["optional-dependencies"]["dev"]:
        assert re.match(r"[\w-]+", wish).group().lower() in pinned, wish


def test_the_fixed_packages_are_there():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wishes = {re.match(r"[\w-]+", wish).group() for wish in project["dependencies"]}
    fixed = "jupyterlab papermill torch transformers trl peft bitsandbytes datasets matplotlib seaborn"
    assert set(fixed.split()) <= wishes
    assert "torchvision" not in wishes


def test_citation_is_valid():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert all("name" in author or "family-names" in author for author in citation["authors"])
    assert citation["references"][0]["identifiers"][0]["value"] == "arXiv:2504.00883"
