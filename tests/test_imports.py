"""Who may import whom (see docs/tour.md); the wings meet in files, not in imports."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
OURS = ("parallel", "pretrain", "transfer", "results", "tools")

# Of parallel, what results may import
TORCH_FREE = ("parallel.attachments", "parallel.files", "parallel.listing", "parallel.mappings",
              "parallel.pixels", "parallel.places", "parallel.process", "parallel.reading")


def imported(path, inside_functions=True):
    """Return the dotted module names that a file imports, at module level only if asked."""
    tree = ast.parse(path.read_text())
    nodes = ast.walk(tree) if inside_functions else top_level(tree)
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def top_level(tree):
    """Yield the nodes outside function bodies."""
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield node
            yield from top_level(node)


def ours(path):
    return {name for name in imported(path) if name.split(".")[0] in OURS}


def allowed(path):
    """Return the prefixes of ours that a file may import, by the folder it lies in."""
    place = path.relative_to(ROOT).as_posix()
    if place.startswith("parallel/"):
        return ("parallel",)
    if place.startswith("pretrain/"):
        return ("pretrain", "parallel")
    if place.startswith("results/"):
        return ("results", *TORCH_FREE)
    if place.startswith("transfer/weights/"):
        return ("transfer.weights", "transfer.settings", "parallel.files", "parallel.pixels",
                "parallel.reading", "parallel.resnets")
    for wing in ("classification", "detection"):
        if place.startswith(f"transfer/{wing}/"):
            return (f"transfer.{wing}", "transfer.weights", "transfer.settings", "transfer.limits",
                    "transfer.precision", "parallel")
    if place in (f"transfer/{name}.py" for name in ("execution", "suite", "hub", "doctor")):  # of records
        return ("transfer", "results", "parallel")
    return ("transfer", "parallel")


FILES = sorted(path for wing in ("parallel", "pretrain", "transfer", "results")
               for path in (ROOT / wing).rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_file_imports_only_what_its_wing_may(path):
    for name in ours(path):
        if name in ("parallel", "pretrain", "transfer"):  # the dotted name beside it says which module
            continue
        assert any(name == prefix or name.startswith(f"{prefix}.") for prefix in allowed(path)), name


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_detectron2_is_reached_only_from_detection_and_lazily_from_weights(path):
    place = path.relative_to(ROOT).as_posix()
    uses = {name for name in imported(path) if name.split(".")[0] == "detectron2"}
    if uses and not place.startswith("transfer/detection/"):
        assert place.startswith("transfer/weights/"), uses
        at_import = {name for name in imported(path, inside_functions=False) if name.startswith("detectron2")}
        assert not at_import, at_import


def test_results_import_no_torch():
    shared = [ROOT / f"{name.replace('.', '/')}.py" for name in TORCH_FREE]
    for path in (*(ROOT / "results").rglob("*.py"), *shared):
        assert not any(name.split(".")[0] in ("torch", "torchvision") for name in imported(path)), path
