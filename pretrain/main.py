"""Pretrain a ResNet with Barlow Twins (arXiv 2103.03230).

    python pretrain/main.py DATA                                  # all GPUs of this machine, or the CPU
    torchrun --standalone --nproc-per-node=8 pretrain/main.py DATA --epochs 1000 --batch-size 2048

DATA holds train/<class>/<picture>. Leaves checkpoint.pth (after each epoch; the same command resumes from
it), <arch>.pth (the backbone) and stats.txt in --checkpoint-dir. Flags are those of
facebookresearch/barlowtwins and some of ours.
"""
import argparse
import dataclasses
import os
import signal
import sys
import time
from pathlib import Path

if not __package__:  # started by its path: the repository's root, not pretrain/, has to be importable
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch

from pretrain import config, data
from pretrain.distributed import WorkerError, is_main, launch
from pretrain.trainer import Run, last_good, train


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("data", type=Path, metavar="DATA", help="folder that holds train/<class>/<picture>")
    parser.add_argument("--workers", type=int, default=8, metavar="N", help="data loading processes for each "
                        "training process (default: 8)")
    parser.add_argument("--print-freq", type=int, default=100, metavar="N",
                        help="steps between two lines of stats.txt (default: 100)")
    parser.add_argument("--checkpoint-dir", type=Path, default=Path("checkpoint"), metavar="DIR",
                        help="where the run's files are (default: checkpoint)")
    parser.add_argument("--device", choices=("cuda", "cpu"),
                        default="cuda" if torch.cuda.is_available() else "cpu",
                        help="default: cuda where there is one")
    parser.add_argument("--processes", type=int, metavar="N", help="processes on this machine, unless "
                        "torchrun starts them (default: one for each GPU; 1 on a CPU)")
    parser.add_argument("--preset", default="code", metavar="NAME",
                        help=f"recipe that the flags below change: {', '.join(config.PRESETS)} "
                        "(default: code)")
    config.add_flags(parser.add_argument_group("recipe"))
    return parser.parse_args(arguments)


def prepare(arguments) -> tuple[config.PretrainConfig, Run, int]:
    """Command line -> recipe, run, number of processes. What can be known to be wrong is refused here, before
    processes start."""
    args = vars(parse(arguments))
    settings = {one.name for one in dataclasses.fields(config.PretrainConfig)}
    given = {name: args.pop(name) for name in settings & set(args)}
    if args["device"] == "cpu":
        given.setdefault("precision", "fp32")
    recipe = config.recipe(args.pop("preset"), **given)
    processes = args.pop("processes")
    if processes is None:
        processes = torch.cuda.device_count() if args["device"] == "cuda" else 1
    processes = int(os.environ.get("WORLD_SIZE", processes))
    for name, least in (("workers", 0), ("print_freq", 1)):
        if args[name] < least:
            raise ValueError(f"--{name.replace('_', '-')} expected at least {least}, found {args[name]}")
    run = Run(**args, command=" ".join(["pretrain/main.py", *arguments]))
    pictures = len(data.image_files(run.data / "train"))
    data.EpochBatches(pictures, recipe.batch_size, processes, 0, recipe.seed)
    try:
        run.checkpoint_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--checkpoint-dir {run.checkpoint_dir} cannot be made: {error.strerror}") from None
    return recipe, run, processes


def main(arguments=None) -> int:
    """Exit status: 0 when the last epoch is done, 2 for an error, 130 and 143 when interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    signal.signal(signal.SIGTERM, interrupt)
    run = None
    try:
        recipe, run, processes = prepare(arguments)
        files = launch(train, processes, recipe, run)
    except (ValueError, FileNotFoundError, WorkerError) as error:
        if not is_main():
            time.sleep(5)  # torchrun ends this process when rank 0 says the same first
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        if is_main():
            state = f"; {last_good(run)}; the same command goes on from there" if run else ""
            print(f"interrupted{state}", file=sys.stderr)
        return 128 + (stop.args[0] if stop.args else signal.SIGINT)
    if is_main():
        print("written: " + ", ".join(map(str, files)))
    return 0


def interrupt(number, frame):
    raise KeyboardInterrupt(number)


if __name__ == "__main__":
    sys.exit(main())
