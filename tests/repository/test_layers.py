"""What the source must keep to: its style, and imports that point one way (both are settings of pyproject.toml)."""

import ast
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[2]
OURS = ("tav", "peers", "measures", "studies", "publish", "benchmarks", "own", "footage", "miniature")


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


def test_what_is_imported_somewhere_inside_is_there():
    for path in ROOT.glob("*/*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module.partition(".")[0] in OURS:
                assert find_spec(node.module), f"{path.relative_to(ROOT)} imports {node.module}"
                assert hasattr(import_module(node.module), node.names[0].name) or find_spec(
                    f"{node.module}.{node.names[0].name}"
                )
