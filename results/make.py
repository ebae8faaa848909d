"""Rewrite the tables from the records: results/tables/* and the blocks of the documents.

    python results/make.py                      # rewrite what changed
    python results/make.py --check              # change nothing; exit status 1 where a file is stale
    python results/make.py --list               # the records, a line each; results/show.py shows one in full
    python results/make.py --list task=voc_det protocol=paper     # also backbone=NAME and seed=N; --json
    python results/make.py --runs R --out T --print     # other records and folder; shows the tables too

A block of README.md, docs/results.md and docs/evidence.md stands between `<!-- table:NAME -->` and
`<!-- /table:NAME -->`. Records that cannot be trusted are named, left out, and make the exit status 1; the
tables of the others are still written.
"""

import argparse
import difflib
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if not __package__:
    sys.path[0] = str(ROOT)

import tabulate

from parallel.files import write_whole
from parallel.places import CHECKOUT, HOME, RUNS, TABLES
from parallel.process import one_line
from results import ablations, assembly, evidence, methods, pretraining, render, store
from results.cells import Sheet
from results.record import Result

OUT = HOME / "results" / "tables"
DOCUMENTS = HOME / "README.md", HOME / "docs" / "results.md", HOME / "docs" / "evidence.md"
MEASURED = ("speed.md", "gpu.md")  # in OUT, written by benchmarks and by tools/gpu.py


def _protocol(result):
    return "paper" if result.paper_protocol else "scaled"


FILTERS = {"task": lambda result: result.task, "backbone": lambda result: result.backbone["name"],
           "seed": lambda result: str(result.seed), "protocol": _protocol}


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, act, report. Returns the exit status: 0 all well, 1 stale files or bad records, 2 an error."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if a file is stale")
    parser.add_argument("--list", action="store_true", help="list the records and exit")
    parser.add_argument("filters", nargs="*", metavar="KEY=VALUE", help=f"with --list: {', '.join(FILTERS)}")
    parser.add_argument("--json", action="store_true", help="with --list: as a JSON list, all metrics in it")
    parser.add_argument("--print", action="store_true", dest="show", help="print the tables as well")
    parser.add_argument("--runs", type=Path, help="folder of records (default: results/runs)")
    parser.add_argument("--out", type=Path, help="folder of the tables (default: results/tables)")
    parser.add_argument("--readme", type=Path, help="file with table blocks (default: README.md and two of "
                                                    "docs/, unless --runs or --out is given)")
    try:
        return make(parser.parse_args(argv))
    except (ValueError, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2


def make(arguments: argparse.Namespace) -> int:
    """Do what the arguments ask for and return the exit status."""
    if arguments.runs and not arguments.runs.is_dir():
        raise FileNotFoundError(f"{arguments.runs}: expected a folder of records, found none; check --runs")
    if arguments.runs and not arguments.out and not arguments.list:
        raise ValueError("expected --out with --runs, found none; results/tables is for results/runs alone")
    for given in [*arguments.filters, *(["--json"] if arguments.json else [])]:
        if not arguments.list:
            raise ValueError(f"{given}: expected --list with it, found none; add it")
    results, problems = store.load(arguments.runs or RUNS)
    standard = not (arguments.list or arguments.runs or arguments.out)
    own = standard and CHECKOUT  # where the suite is installed, README.md and tables may be somebody else's
    studies, damaged = ablations.load() if standard else ([], [])
    pretrained, hurt = pretraining.load() if own else ([], [])
    ranks, torn = evidence.ranks(results, RUNS) if own else ({}, [])
    problems += damaged + hurt + torn
    for problem in problems:
        print(f"left out: {problem}", file=sys.stderr)
    if arguments.list:
        chosen = selected(results, arguments.filters)
        print(json.dumps([as_json(result) for result in chosen], indent=1) if arguments.json
              else listing(chosen))
        return 1 if problems else 0
    sheets = [*assembly.build(results), *ablations.sheets(studies)]
    documents = [arguments.readme] if arguments.readme else []
    if own:
        sheets += [methods.sheet(), *evidence.sheets(results, pretrained, ranks)]
        documents = documents or [one for one in DOCUMENTS if one.exists()]
    texts = wanted(sheets, arguments.out or OUT, documents)
    stale = [path for path, text in texts.items() if not path.exists() or path.read_text("utf-8") != text]
    orphans = sorted(path for path in OUT.glob("*.*") if path not in texts and path.name not in MEASURED) \
        if own else []
    if arguments.show:
        print("\n\n".join(render.plain(sheet).rstrip() for sheet in sheets))
    for path in stale:
        if arguments.check:
            print(f"stale: {path}; {TABLES} rewrites it", file=sys.stderr)
        else:
            write_whole(path, texts[path])
    for path in orphans:
        print(f"stale: {path}; no table has this name, delete it", file=sys.stderr)
    count = f"{len(results)} records, {len(sheets)} tables"
    print(f"{count}: {len(stale)} of {len(texts)} files {'are stale' if arguments.check else 'rewritten'}")
    return 1 if problems or (arguments.check and (stale or orphans)) else 0


def wanted(sheets: list[Sheet], out: Path, documents: list[Path]) -> dict[Path, str]:
    """Return {path: the text it should have} for the table files and the documents."""
    texts = {Path(out, f"{sheet.name}.{suffix}"): form(sheet)
             for sheet in sheets for suffix, form in render.FORMATS.items()}
    blocks = {sheet.name: render.markdown(sheet) for sheet in sheets}
    for document in documents:
        texts[document] = fill_blocks(document.read_text("utf-8"), blocks, document)
    return texts


def fill_blocks(text: str, blocks: Mapping[str, str], name: str | Path, kind: str = "table") -> str:
    """Return a document with each of its blocks rewritten. blocks: {name: text}; kind: word of the markers.

    Raises ValueError, naming the document, for an unknown block and for a marker without its partner.
    """
    block = re.compile(rf"<!-- {kind}:(\S+) -->\n(?:(?!<!-- /?{kind}:).)*?<!-- /{kind}:\1 -->", re.DOTALL)
    for lonely in re.findall(rf"<!-- /?{kind}:.*?-->", block.sub("", text)):
        raise ValueError(f"{name}: expected <!-- {kind}:NAME --> and <!-- /{kind}:NAME --> on lines of their "
                         f"own, found {lonely} alone; add its partner")

    def rewrite(match):
        if match[1] not in blocks:
            raise ValueError(f"{name}: unknown {kind} {match[1]!r}; known are {', '.join(blocks)}")
        return f"<!-- {kind}:{match[1]} -->\n{blocks[match[1]]}<!-- /{kind}:{match[1]} -->"

    return block.sub(rewrite, text)


def selected(results: list[Result], filters: Iterable[str]) -> list[Result]:
    """Return the records that fit every KEY=VALUE. Raises ValueError for an unknown key or task."""
    tasks = dict.fromkeys([*assembly.TASKS, *(result.task for result in results)])
    for text in filters:
        key, equals, value = text.partition("=")
        if not equals or key not in FILTERS:
            raise ValueError(f"{text}: expected KEY=VALUE with a key of {', '.join(FILTERS)}"
                             + _nearest(key, FILTERS))
        if key == "task" and value not in tasks:
            raise ValueError(f"{text}: expected a known task{_nearest(value, tasks)}")
        results = [result for result in results if FILTERS[key](result) == value]
    return results


def _nearest(text, known):
    close = difflib.get_close_matches(text, known, n=1)
    return f"; the nearest is {close[0]}" if close else ""


def listing(results: list[Result]) -> str:
    """Return the records as text: place (task, backbone, config and seed), protocol, date, first metrics."""
    rows = [[result.place, _protocol(result), result.started[:10], _first_metrics(result.metrics)]
            for result in results]
    headers = ["record", "protocol", "date", "metrics"]
    return tabulate.tabulate(rows, headers, disable_numparse=True) if rows else "no records"


def as_json(result: Result) -> dict:
    """Return what tells a record from others, and its metrics."""
    return {"record": result.place, **{name: value(result) for name, value in FILTERS.items()},
            "started": result.started, "seconds": result.seconds, "metrics": result.metrics}


def _first_metrics(metrics, shown=4):
    figures = [f"{name} {value:.2f}" for name, value in metrics.items()]
    return " ".join(figures[:shown]) + (f" and {len(figures) - shown} more" if len(figures) > shown else "")


if __name__ == "__main__":
    sys.exit(main())
