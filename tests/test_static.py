"""What is known without running anything: ruff, mypy, type hints, the grammar of each Python supported."""

import ast
import importlib.util
import os
import re
import shutil
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


def test_the_checkers_expect_the_oldest_python():
    """Then ruff names newer syntax, that of f-strings included, and mypy newer names of the library."""
    text = (ROOT / "pyproject.toml").read_text()
    oldest, = re.findall(r'^requires-python = ">=3\.(\d+)"', text, re.M)
    assert f'target-version = "py3{oldest}"' in text and f'python_version = "3.{oldest}"' in text


@pytest.mark.parametrize("version", ["3.10", "3.11", "3.12", "3.13"])
def test_every_file_compiles(version):
    """By an interpreter of the version, on the path or of pyenv."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    for python in [shutil.which(f"python{version}"), *sorted(pyenv.glob(f"{version}.*/bin/python"))]:
        if python and not subprocess.run([python, "--version"], capture_output=True).returncode:
            break
    else:
        pytest.skip(f"needs an interpreter of Python {version}")
    program = ("import subprocess; names = subprocess.check_output(['git', 'ls-files', '*.py'], text=True)\n"
               "for name in names.split(): compile(open(name, encoding='utf-8').read(), name, 'exec')\n"
               "print(len(names.split()))")
    done = subprocess.run([python, "-W", "error", "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and int(done.stdout) > 100, done.stderr


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
