"""One HTML file that shows everything: tables, what stands behind each figure, curves, pictures, cost.

    python results/report.py                        # report.html from results/runs and results/pretraining
    python results/report.py --runs R --pretraining P --out FILE
    python results/report.py --figures DIR          # each plot also as PNG and PDF, for papers

The file needs no network and no other file. Records and runs that cannot be trusted are named in it, left
out, and make the exit status 1. The same input gives the same file.
"""

import argparse
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if not __package__:
    sys.path[0] = str(ROOT)

from parallel.attachments import parse_attachments
from parallel.files import write_whole
from parallel.places import RUNS
from parallel.process import one_line
from results import ablations, assembly, evidence, methods, panels, pretraining, render, store, webpage
from results.cells import Cell, Sheet, backbone_text, data_text
from results.plan import duration
from results.pretraining import Pretraining
from results.record import Result
from results.webpage import escape

TITLE = "Barlow Twins transfer benchmarks: report"


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, write the report, print one line. Returns the exit status: 0, 1 for bad records, 2 an error."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--runs", type=Path, default=RUNS, help="records (default: results/runs)")
    parser.add_argument("--pretraining", type=Path, default=pretraining.ROOT,
                        help="folder of pretraining runs, NAME/stats.txt each "
                             "(default: results/pretraining)")
    parser.add_argument("--out", type=Path, default=Path("report.html"),
                        help="the file (default: report.html)")
    parser.add_argument("--figures", type=Path, help="folder for each plot as PNG and PDF")
    try:
        return report(parser.parse_args(argv))
    except (ValueError, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2


def report(arguments: argparse.Namespace) -> int:
    """Write the report that the arguments ask for and return the exit status."""
    if not arguments.runs.is_dir():
        raise FileNotFoundError(f"{arguments.runs}: expected a folder of records, found none; check --runs")
    if not arguments.pretraining.is_dir() and arguments.pretraining != pretraining.ROOT:
        raise FileNotFoundError(f"{arguments.pretraining}: expected a folder of pretraining runs, found "
                                "none; check --pretraining")
    results, problems = store.load(arguments.runs)
    runs, damaged = pretraining.load(arguments.pretraining)
    problems += damaged
    studies, damaged = ablations.load() if arguments.runs == RUNS else ([], [])
    problems += damaged
    files = {}
    for result in results:
        kept, unkept = store.read_kept(result, arguments.runs)
        files[result.place], damaged = parse_attachments(kept, store.files_of(result, arguments.runs))
        problems += unkept + damaged
    draw = panels.Drawing(arguments.figures)
    text = webpage.page(TITLE, sections(results, runs, studies, files, problems, draw))
    write_whole(arguments.out, text)
    for problem in problems:
        print(f"left out: {problem}", file=sys.stderr)
    print(f"{arguments.out}: {len(results)} records, {len(runs)} pretraining runs, {len(draw.names)} plots, "
          f"{len(text.encode()) / 1e6:.2f} MB")
    return 1 if problems else 0


def sections(results: list[Result], runs: list[Pretraining], studies: list[ablations.Ablation],
             files: panels.Files, problems: list[str],
             draw: panels.Drawing) -> tuple[tuple[str, str, str], ...]:
    """Return (id, heading, html) of each part of the page."""
    groups = assembly.group_runs(results)
    ranks = {place: kept.features["effective_rank"] for place, kept in files.items() if kept.features}
    sheets = [*assembly.build(results), *ablations.sheets(studies), *evidence.sheets(results, runs, ranks)]
    anchors = {run.place: f"record-{number}" for number, group in enumerate(groups) for run in group}

    def link(cell):
        return anchors.get(cell.source.split(" ")[0], "")

    return (
        ("summary", "Summary", summary(results, runs, sheets, problems)),
        ("tables", "Tables", tables_part(sheets, link)),
        ("methods", "Methods", render.html_table(methods.sheet(), link)),
        ("pretraining", "Pretraining",
         panels.online(runs, draw) + "".join(panels.pretraining(run, draw) for run in runs)),
        ("ablations", "Ablations", "".join(panels.ablation(one, draw) for one in studies)),
        ("curves", "Curves of the tasks", panels.curves(groups, files, draw)),
        ("classes", "Classes and pictures", panels.classes(groups, files, draw)),
        ("cost", "Cost", cost(groups)),
        ("records", "Behind the figures", "".join(provenance(group, anchors, files) for group in groups)),
    )


def summary(results: list[Result], runs: list[Pretraining], sheets: list[Sheet], problems: list[str]) -> str:
    """Return what is in the report, the count of each verdict, and what was left out and why."""
    paper = sum(result.paper_protocol for result in results)
    days = sorted(result.started[:10] for result in results)
    judged = Counter(cell.verdict for sheet in sheets if sheet.name == "verdicts" for *_, cell in sheet.facts)
    facts = [
        ("records", f"{len(results)}: {paper} by the paper's protocol, {len(results) - paper} scaled"),
        ("tasks", len({result.task for result in results})),
        ("backbones", len({result.backbone["sha256"] for result in results})),
        ("pretraining runs", len(runs)),
        ("measured", f"{' to '.join(sorted({days[0], days[-1]}))}, "
                     f"{duration(sum(run.seconds for run in results))} in all" if days else "nothing yet"),
        ("verdicts", ", ".join(f"{count} {verdict}" for verdict, count in sorted(judged.items()))
         or "none yet; they need records by the paper's protocol"),
    ]
    listed = "".join(f"<li>{escape(problem)}</li>" for problem in problems)
    return (webpage.facts(facts)
            + "<p>Each figure of ours in the tables, or its row, links to what stands behind it.</p>\n"
            + (f"<p>Left out:</p><ul>{listed}</ul>\n" if listed else ""))


def tables_part(sheets: list[Sheet], link: Callable[[Cell], str]) -> str:
    """Return the tables: verdicts, then those with a figure of ours, then, folded, the published ones."""
    sheets = sorted(sheets, key=lambda sheet: sheet.name != "verdicts")
    ours = [sheet for sheet in sheets if any(cell.origin != "published" for *_, cell in sheet.facts)]
    rest = [sheet for sheet in sheets if sheet not in ours and sheet.facts]
    html = "".join(render.html_table(sheet, link) for sheet in ours)
    if rest:
        html += (f"<details><summary>{len(rest)} tables of published figures, none measured yet</summary>\n"
                 + "".join(render.html_table(sheet, link) for sheet in rest) + "</details>\n")
    return html


def cost(groups: list[list[Result]]) -> str:
    """Return the table of what each task took, by backbone and device."""
    rows = []
    for group in groups:
        seconds = [run.seconds for run in group]
        rows.append((group[0].task, backbone_text(group[0]), _protocol(group[0]), device(group[0]),
                     len(group), duration(sum(seconds) / len(seconds)), duration(sum(seconds))))
    headers = ("Task", "Backbone", "Protocol", "Device", "Runs", "Mean time", "Sum")
    return webpage.table("Time of each task", headers, rows) if rows else ""


def provenance(group: list[Result], anchors: dict[str, str], files: panels.Files) -> str:
    """Return what stands behind the figures of runs that differ by seed: all that a record says but the
    whole configuration, which is in its file."""
    first = group[0]
    head = f"{first.task}, {backbone_text(first)}, {_protocol(first)}, n = {len(group)}"
    facts = [("task", f"{first.task}, version {first.version} of its protocol"),
             ("weights", f"{first.backbone['name']}, format {first.backbone['format']}, "
                         f"{first.arch}, sha256 {first.backbone['sha256']}"),
             ("data", f"{data_text(first.data)}; fingerprint {first.data['fingerprint']}"),
             ("configuration", f"hash {first.config_hash}")]
    html = webpage.facts(facts)
    if first.scaled:
        changes = [(key, _value(used), _value(paper)) for key, (paper, used) in first.scaled.items()]
        html += webpage.table("Where it departs from the paper", ("Setting", "Used", "Paper"), changes)
    ranked = any(files[run.place].rank for run in group)
    metrics = [[run.seed, *(f"{value:.2f}" for value in run.metrics.values()),
                *([files[run.place].rank or "-"] if ranked else []), duration(run.seconds),
                device(run), run.started[:19].replace("T", " "),
                (run.commit[:8] or "none") + (" (changed)" if run.dirty else "")] for run in group]
    headers = ("Seed", *first.metrics, *(["Effective rank"] if ranked else []), "Time", "Device",
               "Started (UTC)", "Commit")
    html += webpage.table("Results (%)", headers, metrics)
    packages = defaultdict(list)
    for run in group:
        packages[", ".join(map(" ".join, run.packages.items()))].append(str(run.seed))
        html += (f"<p>Seed {run.seed}: <code>{escape(run.place)}</code></p>\n"
                 f"<pre>{escape(run.source)}</pre>\n")
    for versions, seeds in packages.items():
        html += f"<p>Packages, seed {', '.join(seeds)}: {escape(versions)}</p>\n"
    # The id is inside: a link to it opens the details around it.
    return (f'<details><summary>{escape(head)}</summary><div class="target" id="{anchors[first.place]}">\n'
            f"{html}</div></details>\n")


def device(result: Result) -> str:
    """Return e.g. "cpu x86_64", "2 x cuda NVIDIA H200"."""
    count = result.device.get("count", 1)
    name = f"{result.device.get('type', '')} {result.device.get('name', '')}".strip()
    return name if count == 1 else f"{count} x {name}"


def _protocol(result):
    return "paper's protocol" if result.paper_protocol else "scaled"


def _value(value):
    return value if isinstance(value, str) else json.dumps(value)


if __name__ == "__main__":
    sys.exit(main())
