"""What the source must keep to: its style, and imports that point one way (both are settings of pyproject.toml)."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(*command: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    return done.returncode, done.stdout


def test_the_source_is_in_the_projects_style():
    assert run("-m", "ruff", "check", ".")[0] == 0, run("-m", "ruff", "check", ".")[1]


def test_imports_point_one_way():
    code, said = run("-c", "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports())")
    assert code == 0, said
