"""The proofs of tests/gpu. Each test's result and the distances it measured are in prove_*.log."""
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

from tools.gpu_kit.job import Job
from tools.gpu_kit.pack import ROOT

# Two at once: the tasks are compared with those of the CPU, and leave the GPU idle for most of their time.
TASKS = "tests/gpu/test_gpu_tasks.py"
GROUPS = {"tasks": [TASKS], "others": ["tests/gpu", f"--ignore={TASKS}"]}
QUICK = {"quick": ["tests/gpu", "-k", "test_float32 and gram or batch_norm or collectives or come_in_order"]}


def measure(job: Job) -> int:
    """Run all proofs, in miniature a quick part of them. Returns the worst of pytest's exit statuses."""
    running = {}
    for name, chosen in (QUICK if job.small else GROUPS).items():
        (job.work / f"{name}.xml").unlink(missing_ok=True)
        command = [sys.executable, "-m", "pytest", "-m", "gpu", "--gpu-device", job.device, "-v", "-s",
                   "--durations=10", "-p", "no:cacheprovider", f"--junit-xml={job.work}/{name}.xml", *chosen]
        log = open(job.out / f"prove_{name}.log", "w")
        running[name] = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
    worst = max(abs(process.wait()) for process in running.values())
    for name in running:
        report = job.work / f"{name}.xml"
        if not report.is_file():
            job.cannot(f"{name}: passed", f"pytest ended before its first test, see prove_{name}.log")
            continue
        suite = ElementTree.parse(report).getroot().find("testsuite")
        counts = {what: int(suite.get(what)) for what in ("tests", "failures", "errors", "skipped")}
        failed = counts["failures"] + counts["errors"]
        job.note(f"{name}: passed", counts["tests"] - failed - counts["skipped"], "tests")
        job.note(f"{name}: failed", failed, "tests", most=0)
        job.note(f"{name}: skipped", counts["skipped"], "tests")
        for case in suite.iter("testcase"):
            if case.find("failure") is not None or case.find("error") is not None:
                job.cannot(f"{case.get('classname')}::{case.get('name')}", f"failed, see prove_{name}.log")
    return worst
