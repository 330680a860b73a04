"""The doors to the same pins stay equal, and the citation file is valid."""

import json
import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = (ROOT / "requirements.lock").read_text()
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


def test_the_lock_has_the_pins_and_a_hash_of_every_file():
    """`make lock` writes it; what the pins lack is another platform's."""
    entries = re.findall(
        r"^([\w.-]+)(?:\[.*?\])?==([^\s;\\]+).*?\\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", LOCK, re.MULTILINE
    )
    assert len(entries) == len(re.findall(r"^[a-z]", LOCK, re.MULTILINE)) > 150
    locked = {name: version for name, version, _ in entries}
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())
    pins = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pins.items()}
    assert {name: locked[name] for name in pins if name in locked} == {n: v for n, v in pins.items() if n in locked}
    wishes = (
        PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"] + PROJECT["optional-dependencies"]["book"]
    )
    assert {name.lower() for name in names(wishes)} - {"vsr"} <= locked.keys()


def test_citation_is_valid():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert all("name" in author or "family-names" in author for author in citation["authors"])
    assert citation["references"][0]["identifiers"][0]["value"] == "arXiv:2504.00883"


def test_ci_runs_the_commands_of_the_readme_and_nothing_else():
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]
    commands = {name: [step["run"] for step in job["steps"] if "run" in step] for name, job in jobs.items()}
    assert commands == {"test": ["make test", "make book"], "reproduce": ["make reproduce"]}
    assert all(job["strategy"]["matrix"]["os"] == ["ubuntu-latest", "macos-latest"] for job in jobs.values())
    for python in jobs["test"]["strategy"]["matrix"]["python"]:
        assert tuple(map(int, python.split("."))) >= (3, 11)


def test_containers_install_as_make_does():
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    docker = (ROOT / "Dockerfile").read_text()
    (mark,) = re.findall(r"^\$\(VENV\)(/\S+): pyproject", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert container["postCreateCommand"] == f"make .venv{mark}"
    assert f"make .venv{mark}" in docker
    assert re.findall(r"^ARG (\w+)", docker, re.MULTILINE) == ["PYTHON", "TORCH"]


def test_issue_forms_are_forms():
    forms = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
    assert len(forms) == 4
    for form in (yaml.safe_load(path.read_text()) for path in forms if path.stem != "config"):
        assert form.keys() >= {"name", "description", "body"}
        ids = [part["id"] for part in form["body"]]
        assert len(set(ids)) == len(ids)
        assert all(part["type"] == "textarea" and part["attributes"]["label"] for part in form["body"])
