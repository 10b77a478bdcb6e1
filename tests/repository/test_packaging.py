"""The environments that people install: one set of versions, whichever tool installs them."""

import json
import re
import tomllib
from pathlib import Path

from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def name(requirement: str) -> str:
    return re.sub("[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()


def wanted() -> dict[str, str]:
    extras = (r for extra, needs in PROJECT["optional-dependencies"].items() if extra != "all" for r in needs)
    return {name(requirement): requirement for requirement in (*PROJECT["dependencies"], *extras)}


def locked() -> dict[str, str]:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    return {name(line): line.split(";")[0] for line in lines if not line.startswith("#")}


def test_every_dependency_is_locked_to_one_version_by_name_alone():
    assert wanted().keys() <= locked().keys()
    for line in locked().values():
        assert re.fullmatch(r"[\w.-]+==[\w.+!]+", line), line


def test_conda_users_get_the_dependencies_of_pyproject_in_the_locked_versions():
    dependencies = YAML(typ="safe").load(ROOT / "environment.yml")["dependencies"]
    constraint, *pinned = next(entry["pip"] for entry in dependencies if isinstance(entry, dict))
    assert constraint == "--constraint requirements.lock"
    assert {name(line): line for line in pinned} == {key: locked()[key] for key in wanted()}
    assert "python=3.11" in dependencies and PROJECT["requires-python"] == ">=3.11"


def test_the_dev_container_and_the_citation_are_of_this_version():
    container = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text())
    assert container["image"].startswith("python:3.11-") and container["postCreateCommand"] == "make inputs"
    citation = YAML(typ="safe").load(ROOT / "CITATION.cff")
    assert citation["version"] == PROJECT["version"] and citation["license"] == PROJECT["license"]
    assert "arXiv:2212.11565" in [identifier["value"] for identifier in citation["references"][0]["identifiers"]]


def test_diffusers_and_transformers_have_an_upper_bound():
    assert "<" in wanted()["diffusers"] and "<" in wanted()["transformers"]


def test_the_tests_run_on_the_locked_versions_of_what_the_method_depends_on():
    import diffusers
    import torch
    import transformers

    for module in (diffusers, torch, transformers):
        assert locked()[module.__name__] == f"{module.__name__}=={module.__version__.split('+')[0]}"
