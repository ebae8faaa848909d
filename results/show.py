"""What is behind a figure: how a record was made and how to make it again.

    python results/show.py RECORD ...    # files, or places as --list and the tables' CSV files give them
    python results/show.py --config RECORD    # with its whole configuration, not only what was scaled
    python results/show.py --json RECORD ...   # as a list, each with its rerun
"""

import argparse
import json
import shlex
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from parallel.attachments import parse_attachments
from parallel.places import RUNS, TABLES
from parallel.process import one_line
from results import store
from results.cells import backbone_text, changes, data_text, visible
from results.plan import duration
from results.record import Result, to_json

# Flags of transfer/run.py that do not belong to one run from its start; first those that take a value.
VALUED, BARE = ("--task", "--seed", "--seeds", "--output"), ("--resume", "--rerun")


def main(argv: Sequence[str] | None = None) -> int:
    """Print each record asked for. Returns the exit status: 2 for one that is missing or damaged."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("records", nargs="+", metavar="RECORD", help="a record's file or place")
    parser.add_argument("--config", action="store_true", help="show the whole configuration, too")
    parser.add_argument("--json", action="store_true", help="print the records as a JSON list")
    parser.add_argument("--runs", type=Path, default=RUNS, help="records (default: results/runs)")
    arguments = parser.parse_args(argv)
    try:
        found = [find(record, arguments.runs) for record in arguments.records]
        print(json.dumps([{**json.loads(to_json(result)), "rerun": rerun(result)} for result, _ in found],
                         indent=1) if arguments.json else
              "\n\n".join(describe(*one, arguments.config) for one in found))
        return 0
    except (ValueError, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2


def find(record: str, runs: Path) -> tuple[Result, Path]:
    """Return (record, folder of records) of a file's path, or of a record's place under runs."""
    path = Path(runs, record)  # an absolute path stays itself
    if not path.is_file():
        path = Path(record)
    if not path.is_file():
        raise FileNotFoundError(f"{record}: expected a record's file or its place under {runs}; "
                                f"{TABLES} --list shows them")
    root = path.parents[2] if len(path.parents) > 2 else path.parent
    return store.read_record(path, root), root


def describe(result: Result, root: Path, config: bool = False) -> str:
    """Return what a record says, a line each, the command first; with `config` the whole configuration."""
    backbone, data, device = result.backbone, result.data, result.device
    files = store.files_of(result, root)
    kept = sorted(path.name for path in files.iterdir()) if files.is_dir() else []
    contents, problems = store.read_kept(result, root)
    attached, damaged = parse_attachments(contents, files)
    lines = [
        ("rerun", rerun(result)),
        ("code", (f"commit {result.commit}" if result.commit else "no commit is known")
         + (", with changes that were not committed" if result.dirty else "")),
        ("weights", f"{backbone['name']} ({backbone['format']}, {result.arch}), sha256 {backbone['sha256']}"),
        ("data", f"{data_text(data)}; fingerprint {data['fingerprint']}"),
        ("packages", ", ".join(f"{name} {version}" for name, version in result.packages.items())),
        ("device", f"{device.get('count', 1)} x {device.get('name', '?')} ({device.get('type', '?')})"),
        ("time", f"{duration(result.seconds)}, started {result.started}"),
        *([("features", f"effective rank {attached.rank}")] if attached.rank else []),
        ("kept", f"{files}: {', '.join(kept)}" if kept else "no files"),
        *(("left out", problem) for problem in problems + damaged),
        ("protocol", f"version {result.version}, config {result.config_hash}, "
                     + ("the paper's" if result.paper_protocol else "scaled, value used (the paper's):")),
        *(("", change) for change in changes(result)),
        *(("", f"{key} {used} images ({paper})") for key, (paper, used) in result.scaled.items()
          if key.startswith("data.")),
        ("config", f"{len(result.config)} settings" + ("" if config else "; --config shows them")),
        *(("", f"{key} = {value}") for key, value in result.config.items() if config),
    ]
    figures = "  ".join(f"{name}\0{value:.2f}" for name, value in result.metrics.items())
    metrics = textwrap.fill(figures, 100, initial_indent="  ", subsequent_indent="  ",
                            break_long_words=False).replace("\0", " ")
    head = f"{result.task}, {backbone_text(result)}, seed {result.seed}\n{metrics}\n"
    return head + "\n".join(f"  {name:9} {visible(text)}".rstrip() for name, text in lines)


def rerun(result: Result) -> str:
    """Return the command that makes a record of this one task and seed again, from the one that made it.

    Where torchrun or srun said on how many processes, --num-gpus does."""
    words, rest = shlex.split(result.source), []
    while words:
        word = words.pop(0)
        if word in VALUED:
            words[:1] = []
        elif word not in BARE and not word.startswith(tuple(f"{flag}=" for flag in VALUED)):
            rest.append(word)
    count = result.device.get("count", 1)
    if count > 1 and not any(word.split("=")[0] == "--num-gpus" for word in rest):
        rest[2:2] = ["--num-gpus", str(count)]
    return shlex.join([*rest[:2], "--task", result.task, "--seed", str(result.seed), "--rerun", *rest[2:]])


if __name__ == "__main__":
    sys.exit(main())
