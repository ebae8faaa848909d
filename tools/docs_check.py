"""Run what README.md, docs/ and the like tell a reader to type, on small generated pictures, on a CPU.

    python -m tools.docs_check                    # all pages, some minutes; or name some
    python -m tools.docs_check docs/tutorial.md

- A `console` block is run as it stands. What the page shows of the output must be printed, in this order;
  numbers (hashes, dates and times, too) and the width of columns may differ, and other lines may stand
  between.
- A `bash` or `python` block says what to do with data and weights of one's own. Here each name stands for
  something small (STAND_INS), and a command gets flags that make it small (MINIATURE).
- What needs more than a CPU (BEYOND) is not run: its flags and their values are parsed by the command itself,
  as those of every command are by tests/test_docs.py.

Everything happens in build/docs-check, in a copy of this checkout.
"""
import argparse
import ast
import contextlib
import importlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
PLACE = ROOT / "build" / "docs-check"
COPIED = ("parallel", "pretrain", "transfer", "results", "tools", "detection_configs", "benchmarks", "docs")
STAND_INS = {r"(?<![\w.])/data\b": "datasets", r"(?<![\w.])/shared\b": "shared",
             "--nproc-per-node=8": "--nproc-per-node=2",
             r"--task all\b(?!.*--plan)": "--task imagenet_knn,voc07_svm"}
MINIATURE = {
    "pretrain.main": "--device cpu --workers 0 --epochs 1 --warmup-epochs 0 --batch-size 64 "
                     "--image-size 32 --stem imagenet --projector 32-32-32 --precision fp32",
    "transfer.run": "--smoke --device cpu --num-gpus 1 --seeds 1 --workers 0"}
BEYOND = {r"\bsrun\b|\bsbatch\b|--launcher": "needs SLURM", r"--nnodes": "needs several hosts",
          r"watch\.py(?!.*--json)": "serves a page until it is stopped",
          r"^make": "does what other commands here do, for longer",
          r"^pip|detectron2_wheel": "changes the environment",
          r"write_shards|imagenet-shards": "needs parquet files", 'device="cuda"': "needs a GPU"}
OTHERS = {"pip", "torchrun", "srun", "sbatch", "python"}  # programs that a page may call
CELLS = """kind: voc
root: datasets/VOC2007
classes: [aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow, diningtable, dog, horse,
          motorbike, person, pottedplant, sheep, sofa, train, tvmonitor]
train: {names: ImageSets/Main/trainval.txt}
test: {names: ImageSets/Main/test.txt}
"""
FRUIT = """kind: coco
root: fruit
train: {annotations: train.json, images: train}
test: {annotations: val.json, images: val}
"""


@dataclass(frozen=True)
class Command:
    """What a page says to type. kind: bash, console or python. shown: the output beside it."""
    page: str
    line: int
    kind: str
    text: str
    shown: tuple[str, ...] = ()

    @property
    def words(self) -> list[str]:
        return shlex.split(self.text, comments=True)

    @property
    def beyond(self) -> str | None:
        """Why it is not run here, if it is not."""
        if self.kind == "console":
            return None
        return next((why for sign, why in BEYOND.items() if re.search(sign, stood_in(self.text))), None)


def pages() -> list[Path]:
    return [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]


def commands(page: Path) -> Iterator[Command]:
    """Yield the commands of a page, in their order."""
    name, text = page.relative_to(ROOT).as_posix(), page.read_text("utf-8")
    for block in re.finditer(r"^```(bash|console|python)\n(.*?)^```$", text, re.M | re.S):
        kind, body, first = block[1], block[2], text.count("\n", 0, block.start()) + 2
        if kind == "python":
            yield Command(name, first, kind, body)
            continue
        joined = re.sub(r"\\\n\s*", " ", body)
        if kind == "bash":
            for line in joined.splitlines():
                if line and not line.startswith("#"):
                    yield Command(name, first, kind, line)
        else:
            for part in re.split(r"^\$ ", joined, flags=re.M)[1:]:
                line, *shown = part.splitlines()
                yield Command(name, first, kind, line, tuple(filter(str.strip, shown)))


def stood_in(text: str) -> str:
    for name, stand_in in STAND_INS.items():
        text = re.sub(name, stand_in, text)
    return text


def called(words: list[str]) -> tuple[str, list[str]] | None:
    """Return (module of ours that a command line runs, its arguments), None for another program."""
    for position, word in enumerate(words):
        if word == "--wrap":
            return called(shlex.split(words[position + 1]))
        if word.endswith(".py") and (ROOT / word).exists():
            return word[:-3].replace("/", "."), words[position + 1:]
        if word == "-m" and (ROOT / words[position + 1].split(".")[0]).is_dir():
            return words[position + 1], words[position + 2:]
    if words[0] == "make" and len(words) > 1:
        given = dict(word.split("=", 1) for word in words[2:])
        more = shlex.split(given.get("ARGS", ""))
        if words[1] == "pretrain":
            return "pretrain.main", [given["DATA"], *more]
        if words[1] == "transfer":
            return "transfer.run", ["--task", given.get("TASK", "all"), "--weights", given["WEIGHTS"], *more]
    return None


class Parsed(BaseException):
    """A command has read its flags; it goes no further."""


def refused(command: Command) -> str | None:
    """Return what is wrong with a command line, such as an unknown program, verb, flag, value, task or
    setting, or None."""
    if command.kind == "python":
        for node in ast.walk(ast.parse(command.text)):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module)
                gone = [one.name for one in node.names if not hasattr(module, one.name)]
                if gone:
                    return f"{node.module} has no {gone[0]}"
        return None
    words = command.words
    if words[0] == "make":
        verbs = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
        if any(word not in verbs for word in words[1:2]):
            return f"no verb {words[1]} in the Makefile"
        if "tests/" in command.text:
            gone = [word for word in re.findall(r"tests/\w+\.py", command.text) if not (ROOT / word).exists()]
            return f"no file {gone[0]}" if gone else None
    elif words[0] not in OTHERS:
        return f"unknown program {words[0]}"
    module, arguments = called(words) or (None, [])
    if module is None:
        return None if words[0] in ("make", "pip") else f"no script of ours in {command.text}"
    return parsed(module, arguments)


def parsed(module: str, arguments: list[str]) -> str | None:
    """Let a command of ours read its arguments; returns its complaint, or None."""
    program, said = importlib.import_module(module), io.StringIO()
    # The flags of ablate.py that are not its own are pretraining's.
    names = ("parse_known_args",) if module == "pretrain.ablate" else ("parse_args", "parse_intermixed_args")
    kept = {name: getattr(argparse.ArgumentParser, name) for name in names}

    def reader(read):
        def stop(self, *words, **more):
            raise Parsed(read(self, *words, **more))
        return stop

    argv, sys.argv = sys.argv, [module, *arguments]
    try:
        for name, read in kept.items():
            setattr(argparse.ArgumentParser, name, reader(read))
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            program.main()
    except Parsed as stop:
        given = stop.args[0]
        for name, read in kept.items():
            setattr(argparse.ArgumentParser, name, read)
        return settings_of(program, given, arguments) if module == "transfer.run" and given.task else None
    except SystemExit as end:
        return said.getvalue().strip() if end.code else None
    finally:
        sys.argv = argv
        for name, read in kept.items():
            setattr(argparse.ArgumentParser, name, read)
    return said.getvalue().strip() or f"{module} did not read its arguments"


def settings_of(program, given: argparse.Namespace, arguments: list[str]) -> str | None:
    """Return what is wrong with the tasks and KEY VALUE pairs of transfer/run.py, or None."""
    from transfer import execution

    try:
        for request, *_ in program.requested(given, arguments).values():
            if "dataset" not in request.pairs:  # that file is the reader's
                execution.configured(request)
    except (ValueError, OSError) as error:
        return str(error)
    return None


def prepared() -> None:
    """Make the folder in which everything is run: the code, small data, weights."""
    shutil.rmtree(PLACE, ignore_errors=True)
    PLACE.mkdir(parents=True)
    for name in COPIED:
        shutil.copytree(ROOT / name, PLACE / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (*ROOT.glob("*.md"), ROOT / "pyproject.toml"):
        shutil.copy(path, PLACE)
    subprocess.run([sys.executable, "tools/demo_data.py", "datasets"], cwd=PLACE, check=True)
    for split, source in (("train", "train"), ("test", "val")):
        for path in sorted((PLACE / "datasets" / "imagenet" / source).glob("*/*.*")):
            place = PLACE / "datasets" / "cifar10" / split / path.parent.name / f"{path.stem}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.open(path).convert("RGB").resize((32, 32)).save(place)
    for place in ("pictures", "my/pictures", "my/birds"):
        shutil.copytree(PLACE / "datasets" / "imagenet", PLACE / place)
    coco = PLACE / "datasets" / "coco"
    for part in ("train", "val"):
        shutil.copytree(coco / f"{part}2017", PLACE / "fruit" / part)
        for place in (f"{part}.json", f"annotations/{part}.json"):
            (PLACE / "fruit" / place).parent.mkdir(exist_ok=True)
            shutil.copy(coco / "annotations" / f"instances_{part}2017.json", PLACE / "fruit" / place)
    shutil.copytree(PLACE / "datasets" / "cifar10", PLACE / "knn")
    (PLACE / "knn" / "test").rename(PLACE / "knn" / "val")
    (PLACE / "cells.yaml").write_text(CELLS)
    (PLACE / "fruit.yaml").write_text(FRUIT)
    for arch in ("resnet18", "resnet50"):
        subprocess.run([sys.executable, "pretrain/main.py", "datasets/cifar10",
                        *MINIATURE["pretrain.main"].split(), "--arch", arch, "--online-probe",
                        "datasets/cifar10/test", "--checkpoint-dir", f"weights/{arch}"],
                       cwd=PLACE, check=True, stdout=subprocess.DEVNULL)


def weights(command: Command, name: str) -> Path:
    """Return the file that stands for `name`: small, but a ResNet-50 for detectors, whose heads need one."""
    arch = "resnet50" if re.search("_det|convert", command.text) else "resnet18"
    return PLACE / "weights" / arch / ("checkpoint.pth" if name.endswith("checkpoint.pth") else f"{arch}.pth")


def runnable(command: Command) -> list[str]:
    """Return the words that are run for a command, whose weights are there and whose folder is new."""
    if command.kind == "console":
        return ["bash", "-c", command.text]
    if command.kind == "python":
        return [sys.executable, "-c", stood_in(command.text)]
    words = shlex.split(stood_in(command.text), comments=True)
    module, arguments = called(words)
    for before, word in zip(words, words[1:]):
        read = before == "--weights" or before.endswith(("convert.py", "describe.py"))
        if word.endswith(".pth") and read:
            (PLACE / word).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(weights(command, word), PLACE / word)
    if module == "pretrain.main":
        named = dict(zip(arguments, arguments[1:]))
        shutil.rmtree(PLACE / named.get("--checkpoint-dir", "checkpoint"), ignore_errors=True)
    if words[0] == "torchrun":
        words[:1] = [sys.executable, "-m", "torch.distributed.run"]
    elif words[0] == "python":
        words[0] = sys.executable
    looks = {"--list", "--help", "--plan"} & set(arguments)
    return [*words, *([] if looks else MINIATURE.get(module, "").split())]


def plain(line: str) -> str:
    """A line without what differs between two runs: numbers, times, hashes, the width of columns."""
    line = re.sub(r"\b(?=[a-z]*\d)[0-9a-f]{8,}\b", "#", line)
    line = re.sub(r"(?<![A-Za-z_])[-+]?\d[\d.,:]*(e[-+]\d+)?( (ms|s|min|h)\b)?", "#", line)
    return re.sub(r"-{2,}", "-", re.sub(r"\s+", " ", line)).strip()


def missing(shown: tuple[str, ...], printed: str) -> str | None:
    """Return the first line that a page shows and the command did not print; None if all are there, in this
    order."""
    lines = map(plain, printed.splitlines())
    return next((line for line in shown if line.strip() != "..." and plain(line) not in lines), None)


def failure(command: Command) -> str | None:
    """Run a command; return why it is not as the page says, or None."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(runnable(command), cwd=PLACE, env=environment, text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT)
    if done.returncode:
        return f"status {done.returncode}\n" + "\n".join(done.stdout.splitlines()[-15:])
    line = missing(command.shown, done.stdout)
    return None if line is None else f"not printed: {line}\n{done.stdout}"


def main(arguments: list[str] | None = None) -> int:
    """Check, run and report; the exit status is 1 if a command is not as its page says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pages", nargs="*", type=Path, help="default: *.md and docs/*.md")
    chosen = [page.resolve() for page in parser.parse_args(arguments).pages] or pages()
    found = [command for page in chosen for command in commands(page)]
    prepared()
    counts = {"ran": 0, "parsed": 0, "failed": 0}
    for command in found:
        start, why = time.monotonic(), refused(command)
        kind = "parsed" if command.beyond else "ran"
        if why is None and not command.beyond:
            why = failure(command)
        counts["failed" if why else kind] += 1
        seconds = f"{time.monotonic() - start:.0f} s" if kind == "ran" else command.beyond
        place = f"{command.page}:{command.line}  {command.text.strip().splitlines()[0]}"
        print(f"{'FAILED' if why else kind:7} {place}  ({seconds})", flush=True)
        if why:
            print(f"        {why}", flush=True)
    print(", ".join(f"{count} {kind}" for kind, count in counts.items()))
    return 1 if counts["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
