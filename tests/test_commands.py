"""The commands: installed and as scripts, from any folder, and at once where they only list something."""
import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Prints which heavy packages a script imported, and any module of ours that another checkout gave.
SCRIPT = """
import runpy, sys
script, root, *sys.argv[1:] = sys.argv[1:]
sys.argv[0] = script
try:
    runpy.run_path(script, run_name="__main__")
except SystemExit as end:
    status = end.code
ours = {name: module for name, module in sys.modules.items()
        if name.split(".")[0] in ("parallel", "results", "transfer")}
foreign = [name for name, module in ours.items() if not module.__file__.startswith(root)]
heavy = {"torch", "torchvision", "detectron2", "sklearn"} & sys.modules.keys()
print("\\nfound", status, sorted(heavy), foreign)
"""


@pytest.mark.parametrize("words", [
    ("transfer/run.py", "--list"), ("transfer/run.py", "--help"), ("results/make.py", "--check"),
    ("results/make.py", "--list"), ("results/show.py", "--help"), ("results/compare.py", "--help"),
    ("results/report.py", "--help")], ids=" ".join)
def test_a_script_that_only_looks_imports_no_torch(tmp_path, words):
    script, *rest = words
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(ROOT / script), str(ROOT), *rest], cwd=tmp_path,
                          capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "found 0 [] []", done.stdout[-500:] + done.stderr


def scripts():
    """{command: what it calls} of pyproject.toml."""
    section = (ROOT / "pyproject.toml").read_text().partition("[project.scripts]\n")[2].partition("\n\n")[0]
    return dict(line.replace('"', "").split(" = ") for line in section.splitlines())


@pytest.mark.parametrize("command", scripts())
def test_an_installed_command_finds_its_function(command):
    assert callable(EntryPoint(command, scripts()[command], "console_scripts").load())


def test_installed_transfer_lists_the_tasks(tmp_path):
    code = ("import sys; from importlib.metadata import EntryPoint; sys.argv[1:] = ['--list']\n"
            f"sys.exit(EntryPoint('x', {scripts()['barlow-transfer']!r}, 'console_scripts').load()())")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True,
                          env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0 and done.stdout.startswith("imagenet_linear"), done.stderr


def test_a_reader_that_leaves_is_no_error():
    """As behind `| head`: the pipe is closed before anything is printed."""
    reading, writing = os.pipe()
    process = subprocess.Popen([sys.executable, str(ROOT / "transfer" / "run.py"), "--list"], stdout=writing,
                               stderr=subprocess.PIPE, text=True)
    os.close(writing)
    os.close(reading)
    assert process.communicate(timeout=60)[1] == ""
