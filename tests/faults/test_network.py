"""No command opens a connection that nobody asked for."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent

# In the process and its children: every socket but those between processes of one machine ends it.
GUARD = """
import os, sys

def watch(event, arguments):
    if event == "socket.getaddrinfo" and arguments[0] in (None, "localhost", "127.0.0.1", "::1"):
        return
    if event in ("socket.connect", "socket.bind", "socket.sendto"):
        address = arguments[1]
        if not isinstance(address, tuple) or address[0] in ("", "127.0.0.1", "::1", "localhost", "0.0.0.0"):
            return
    if event in ("socket.connect", "socket.bind", "socket.sendto", "socket.getaddrinfo",
                 "socket.gethostbyname", "urllib.Request", "http.client.connect"):
        os.write(2, f"a connection was tried: {event} {arguments}\\n".encode())
        os._exit(97)

sys.addaudithook(watch)
"""
COMMANDS = """
import runpy, sys
for words in {commands!r}:
    sys.argv = words
    print("$", *words, flush=True)
    try:
        runpy.run_path(words[0], run_name="__main__")
    except SystemExit as end:
        assert not end.code, (words, end.code)
"""


def guarded(folder, code):
    (folder / "sitecustomize.py").write_text(GUARD)
    path = os.pathsep.join([str(folder), str(ROOT)])
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True,
                          timeout=600, env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"})


def test_the_guard_sees_a_connection(tmp_path):
    for code in ("import urllib.request; urllib.request.urlopen('http://example.org')",
                 "import socket; socket.create_connection(('192.0.2.1', 80))"):
        assert guarded(tmp_path, code).returncode == 97


def test_no_command_opens_a_connection(demo_root, tmp_path):
    here = str(ROOT)
    run = [f"{here}/transfer/run.py", "--weights", "random", "--data", str(demo_root), "--device", "cpu",
           "--workers", "0", "--smoke", "--results", "runs", "--cache", "cache"]
    train = [f"{here}/pretrain/main.py", str(demo_root / "imagenet"), "--device", "cpu", "--arch", "resnet18",
             "--image-size", "32", "--batch-size", "200", "--projector", "16-16", "--epochs", "1",
             "--workers", "1", "--checkpoint-dir", "bt"]
    commands = [
        train, [f"{here}/transfer/describe.py", "bt/resnet18.pth"],
        [f"{here}/transfer/convert.py", "bt/resnet18.pth", "same.pth", "--to", "torchvision"],
        [*run, "--task", "imagenet_knn"], [*run, "--task", "imagenet_semi1", "--check"],
        [*run, "--task", "voc_det", "--check"],
        [f"{here}/results/make.py", "--runs", "runs", "--out", "tables"],
        [f"{here}/results/report.py", "--runs", "runs"],
        [f"{here}/pretrain/ablate.py", "--experiment", "fig5", "--scale", "cifar10", "--plan"],
    ]
    answer = guarded(tmp_path, COMMANDS.format(commands=commands))
    assert answer.returncode == 0, answer.stdout[-1500:] + answer.stderr[-1500:]
