"""What code says: a digest of functions and of all they use of our packages, without comments and docstrings."""

import ast
import hashlib
import sys
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

PACKAGES = ("tav", "measures", "peers", "studies", "benchmarks", "own")


@cache
def digest_of_code(*roots: Callable | str) -> str:
    """A digest of functions or classes and, by their names, of every function, class and constant of ours they use.

    roots: the functions and classes, or "module.name" of one, which is not imported for it.
    It changes when what they say changes, wherever that stands: not with comments, docstrings, annotations or layout,
    nor with code that they do not reach. What is reached through an object alone counts where its class is named.
    """
    found: dict[str, str] = {}
    for root in roots:
        if isinstance(root, str):
            module, _, name = root.rpartition(".")
        else:
            module, name = root.__module__, root.__qualname__.partition(".")[0]
        if module == "__main__":  # run by `python -m`
            module = sys.modules[module].__spec__.name
        _follow(module, name, found)
    return hashlib.sha256(repr(sorted(found.items())).encode()).hexdigest()


class _Module(NamedTuple):
    """What a module defines, {name: statements}, and what it imports of ours, {name: (module, name there or None)}."""

    definitions: dict[str, list[ast.stmt]]
    imports: dict[str, tuple[str, str | None]]


def _follow(module: str, name: str | None, found: dict[str, str]) -> None:
    """Adds what `module` says of `name`, or all that it says where `name` is None, and what that uses."""
    content = _read(module)
    for wanted in [name] if name else [*content.definitions, *content.imports]:
        if wanted in content.definitions:
            key = f"{module}.{wanted}"
            if key in found:
                continue
            statements = content.definitions[wanted]
            found[key] = "".join(map(ast.dump, statements))
            used = {node.id for statement in statements for node in ast.walk(statement) if isinstance(node, ast.Name)}
            for other in sorted(used):
                if other in content.definitions or other in content.imports:
                    _follow(module, other, found)
        elif wanted in content.imports:
            key = f"import {wanted} of {module}"
            if key not in found:
                found[key] = repr(content.imports[wanted])
                _follow(*content.imports[wanted], found)


@cache
def _read(module: str) -> _Module:
    tree = _Bare().visit(ast.parse(Path(find_spec(module).origin).read_text()))
    definitions: dict[str, list[ast.stmt]] = {}
    imports = {}
    for node in tree.body:
        for name in _defined(node):
            definitions.setdefault(name, []).append(node)
    for node in ast.walk(tree):  # also those inside functions
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] in PACKAGES:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                imports[alias.asname or alias.name] = (inner, None) if _is_module(inner) else (node.module, alias.name)
    return _Module(definitions, imports)


def _defined(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return [name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)]
    return []


@cache
def _is_module(name: str) -> bool:
    package = find_spec(name.rpartition(".")[0])
    return bool(package and package.submodule_search_locations) and find_spec(name) is not None


class _Bare(ast.NodeTransformer):
    """Takes away what changes nothing: docstrings and the annotations of functions."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self._without_docstring(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        return self._without_docstring(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def _without_docstring(self, node):
        self.generic_visit(node)
        first = node.body[0]
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
            node.body = node.body[1:] or [ast.Pass()]
        return node
