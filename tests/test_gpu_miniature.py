"""The proofs of tests/gpu still run: a quick part of their miniature on the CPU."""
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


CHOSEN = "test_float32 and gram or batch_norm or collectives or come_in_order or grey or overflow or toy"


def test_a_part_of_the_miniature():
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "--gpu-device", "cpu", "-k", CHOSEN]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr
    passed = re.match(r"(\d+) passed, \d+ deselected", found.stdout.splitlines()[-1])
    assert passed and int(passed[1]) >= 12, found.stdout
