"""What can be known without running anything: ruff, mypy, type hints of the packages that have them."""

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TYPED = [path for package in ("parallel", "pretrain", "transfer", "results")
         for path in sorted((ROOT / package).rglob("*.py"))]


@pytest.mark.parametrize("command", [("ruff", "check", "."), ("mypy",)], ids=lambda command: command[0])
def test_the_checker_finds_nothing(command):
    if importlib.util.find_spec(command[0]) is None:
        pytest.skip(f"needs {command[0]}; pip install -e .[test]")
    found = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr


def unhinted(tree):
    """Yield the names of public functions, and of methods of public classes, that lack a hint."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef) and node.name[0] != "_":
            yield from unhinted(node)
        elif isinstance(node, ast.FunctionDef) and node.name[0] != "_":
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs,
                         *filter(None, (node.args.vararg, node.args.kwarg))]
            bare = [one for one in arguments if one.annotation is None and one.arg not in ("self", "cls")]
            if node.returns is None or bare:
                yield node.name


@pytest.mark.parametrize("path", TYPED, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_public_functions_have_type_hints(path):
    assert not list(unhinted(ast.parse(path.read_text())))
