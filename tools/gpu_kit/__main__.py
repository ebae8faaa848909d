"""One phase: python -m tools.gpu_kit PHASE OUT WORK PACK DEVICE SECONDS, as tools/gpu.py starts it."""
import importlib
import sys
from pathlib import Path

from tools.gpu_kit.job import Job, surroundings

phase, out, work, pack, device, seconds = sys.argv[1:]
job = Job(phase, Path(out), Path(work), Path(pack), device, float(seconds))
job.write(event="start", **surroundings(device))
sys.exit(importlib.import_module(f"tools.gpu_kit.{phase}").measure(job))
