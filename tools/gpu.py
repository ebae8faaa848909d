"""Prove and measure everything on one GPU, in minutes.

    python tools/gpu.py --pack                     # where there is a registry: wheels and data into .gpu/
    python tools/gpu.py --out gpu_results          # on the GPU: every phase, under eight minutes
    python tools/gpu.py --phase step --minutes 3   # a single one, with another budget
    python tools/gpu.py --device cpu               # the same in miniature, a couple of minutes

Phases, in this order:
prove   pytest -m gpu: what is to hold on CUDA
step    a ResNet-50 step of pretraining, the official way and ours, on the device and fed from JPEG files
detect  iterations of both papers' detectors in float32, TF32 and mixed precision
cifar   CIFAR-10 on the device: as many epochs as the time allows, kNN, linear; the other methods briefly

Each runs in a process of its own for at most its budget and writes its figures to results.jsonl in --out as
it goes; gpu.md there has the tables. A phase that was finished is not run again with the same --out, and
cifar goes on from its checkpoint in --work. The tables set what was predicted for an H100 beside what was
measured (gpu_kit/predictions.json).

The machine needs no registry: it installs what it lacks from the packed folder, into --work. Where only the
checkout travels, carry the ignored folder .gpu along.
"""
import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if not __package__:  # started by its path: the repository's root, not tools/, has to be importable
    sys.path[0] = str(ROOT)

from tools.gpu_kit import job, pack, report

MINUTES = {"prove": 1.5, "step": 2.6, "detect": 1.2, "cifar": 2.6}  # 7.9 in all
LOG = "phases.log"
GRACE = 15  # seconds between being asked and being made to stop
SHARED = ROOT.parent / "shared" / "data"


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--phase", nargs="+", choices=MINUTES, default=list(MINUTES), metavar="NAME",
                        help=f"which to run (default: {' '.join(MINUTES)})")
    parser.add_argument("--minutes", nargs="+", type=float, metavar="N", help="budget of each chosen phase "
                        f"(default: {' '.join(map(str, MINUTES.values()))})")
    parser.add_argument("--out", type=Path, metavar="DIR", help="results (default: build/gpu/DEVICE/results)")
    parser.add_argument("--work", type=Path, metavar="DIR",
                        help="unpacked data and checkpoints (default: build/gpu/DEVICE/work)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: the miniature")
    parser.add_argument("--pack", nargs="?", type=Path, const=ROOT / ".gpu", metavar="FOLDER",
                        help="fill the folder (default: .gpu) and end; needs a registry")
    parser.add_argument("--packed", type=Path, default=ROOT / ".gpu", metavar="FOLDER",
                        help="a folder that --pack has filled (default: .gpu)")
    parser.add_argument("--cifar10", type=Path, default=SHARED / "cifar10", metavar="DIR",
                        help="for --pack: folder of train.tar.xz and test.tar.xz, JPEG files by class")
    parser.add_argument("--pictures", type=Path, default=SHARED / "voc_mini" / "voc_mini.tar.xz",
                        metavar="PATH", help="for --pack: folder or archive of *.jpg as large as ImageNet's")
    args = parser.parse_args(arguments)
    args.phase = [name for name in MINUTES if name in args.phase]
    if args.minutes and len(args.minutes) != len(args.phase):
        raise ValueError(f"--minutes expected {len(args.phase)} numbers, one for each phase, found "
                         f"{len(args.minutes)}")
    for name, default in (("out", "results"), ("work", "work")):
        setattr(args, name, getattr(args, name) or ROOT / "build" / "gpu" / args.device / default)
    args.minutes = dict(zip(args.phase, args.minutes)) if args.minutes else MINUTES
    return args


def main(arguments: list[str] | None = None) -> int:
    """Return the exit status: 0 if every chosen phase is done, 1 if one is not, 2 for an error."""
    try:
        args = parse(arguments)
        if args.pack:
            print(pack.pack(args.pack, args.cifar10, args.pictures))
            return 0
        for folder in (args.out, args.work):
            folder.mkdir(parents=True, exist_ok=True)
        for line in job.lines(args.out):
            if line.get("asked", args.device) != args.device:
                raise ValueError(f"{args.out}: expected results of --device {args.device}, found those of "
                                 f"--device {line['asked']}; choose another --out and --work")
        environment = prepared(args)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for phase in args.phase:
        if not job.finished(args.out, phase):
            print(f"{phase}: up to {60 * args.minutes[phase]:.0f} s", flush=True)
            run_phase(phase, args, environment)
            report.write(args.out)
    print(report.write(args.out))
    print(f"files: {args.out}: {', '.join(sorted(path.name for path in args.out.iterdir()))}")
    return 0 if all(job.finished(args.out, phase) for phase in args.phase) else 1


def prepared(args: argparse.Namespace) -> dict[str, str]:
    """Return the environment of the phases, with the packed wheels where they are needed."""
    site = pack.install(args.packed, args.work / "site")
    found = [str(site)] if site else []
    found += [os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else []
    probe = "import torch; raise SystemExit(not torch.cuda.is_available())"
    if args.device == "cuda" and subprocess.run([sys.executable, "-c", probe]).returncode:
        raise ValueError("expected a GPU, found none; --device cpu runs the miniature")
    return {**os.environ, "PYTHONPATH": os.pathsep.join(found), "PYTHONUNBUFFERED": "1",
            "TORCHINDUCTOR_CACHE_DIR": str(args.work / "inductor")}


def command_of(phase: str, args: argparse.Namespace) -> list[str]:
    """Return the words that start a phase."""
    folders = [str(folder.resolve()) for folder in (args.out, args.work, args.packed)]
    seconds = str(60 * args.minutes[phase])
    return [sys.executable, "-m", "tools.gpu_kit", phase, *folders, args.device, seconds]


def run_phase(phase: str, args: argparse.Namespace, environment: dict[str, str]) -> None:
    """Run a phase in a process group of its own and note how it ended. Over its budget it is asked to stop,
    which lets it save, then made to."""
    began = time.monotonic()
    with open(args.out / LOG, "a") as log:
        process = subprocess.Popen(command_of(phase, args), cwd=ROOT, env=environment, stdout=log,
                                   stderr=subprocess.STDOUT, start_new_session=True)
        try:
            status = process.wait(60 * args.minutes[phase])
            end, why = ("failed", f"exit status {status}, see {LOG}") if status else ("done", "")
        except subprocess.TimeoutExpired:
            end, why = "cut off", "over its budget"
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                if process.wait(GRACE) == 0:  # it was at its end
                    end = "done"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # loader processes, too
            process.wait()
    job.add(args.out, {"phase": phase, "event": "end", "status": end, "why": why,
                       "seconds": round(time.monotonic() - began, 1)})
    if end == "failed":
        print("\n".join((args.out / LOG).read_text().splitlines()[-15:]), flush=True)


if __name__ == "__main__":
    sys.exit(main())
