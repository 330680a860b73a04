"""The doors to the same pins stay equal, and the citation file is valid."""

import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
FIXED = {"jupyterlab", "papermill", "torch", "transformers", "trl", "peft", "bitsandbytes", "datasets", "matplotlib"}


def names(wishes: list[str]) -> set[str]:
    return {re.match(r"[\w-]+", wish).group() for wish in wishes}


def test_conda_and_pip_install_the_same():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    pip = next(entry["pip"] for entry in conda if isinstance(entry, dict))
    assert pip == ["-c constraints.txt", "-e .[dev]"]  # so pyproject.toml and constraints.txt are the only lists
    python = next(entry for entry in conda if str(entry).startswith("python"))
    assert python.split("=")[1] == PROJECT["requires-python"].removeprefix(">=")


def test_every_dependency_is_pinned_and_the_fixed_ones_are_there():
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in (ROOT / "constraints.txt").read_text().split()}
    wishes = names(PROJECT["dependencies"])
    extras = {name for extra in PROJECT["optional-dependencies"].values() for name in names(extra)} - {"vsr"}
    assert {name.lower() for name in wishes | extras} <= pinned
    assert wishes >= FIXED | {"seaborn"}
    assert "torchvision" not in wishes


def test_citation_is_valid():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert all("name" in author or "family-names" in author for author in citation["authors"])
    assert citation["references"][0]["identifiers"][0]["value"] == "arXiv:2504.00883"
