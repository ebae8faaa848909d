"""Sheets as text: Markdown for the README, LaTeX for papers, CSV for programs, plain text for terminals."""

import csv
import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby

import tabulate

from results.tables import Cell, figure


@dataclass(frozen=True)
class Style:
    """How a format writes text: escape for what is not ours to format, then patterns with one {} each."""

    escape: Callable[[str], str]
    best: str
    second: str
    low: str
    high: str
    dash: str
    legend: str


def markdown(sheet):
    """Return the table as GitHub Markdown: a title line, a pipe table, a list of notes."""
    style = MARKDOWN
    headers = [_header(f"{column.group} {column.header}".strip(), style) for column in sheet.columns]
    rows = [row for section in _texts(sheet, style) for row in section]
    table = tabulate.tabulate(rows, headers, tablefmt="pipe", disable_numparse=True, colalign=_aligned(sheet))
    notes = "".join(f"\n- {note}" for note in _notes(sheet, style))
    return f"**{style.escape(sheet.title)}**\n\n{table}\n" + (f"{notes}\n" if notes else "")


def plain(sheet):
    """Return the table for a terminal; best is *so*, second best is _so_."""
    style = PLAIN
    headers = [[*column.group.split(), column.header] for column in sheet.columns]  # stacked, to save width
    height = max(map(len, headers))
    headers = ["\n".join([""] * (height - len(words)) + words) for words in headers]
    sections = _texts(sheet, style)
    rows = []
    for section in sections:
        rows += ([tabulate.SEPARATING_LINE] if rows else []) + section
    widths = [26 if column.align.startswith("p") else None for column in sheet.columns]
    table = tabulate.tabulate(rows, headers, disable_numparse=True, colalign=_aligned(sheet),
                              maxcolwidths=widths if any(widths) else None)
    return f"{sheet.title}\n\n{table}\n" + "".join(f"  {note}\n" for note in _notes(sheet, style))


def latex(sheet):
    """Return the table as a LaTeX float that needs the package booktabs and no other."""
    style = LATEX
    float_name = "table*" if len(sheet.columns) > 5 else "table"
    ends = " \\tabularnewline\n"
    groups = [(group, len(list(same))) for group, same in groupby(column.group for column in sheet.columns)]
    head = ""
    if any(group for group, _ in groups):
        spans = [f"\\multicolumn{{{span}}}{{c}}{{{_header(group, style)}}}" for group, span in groups]
        head = " & ".join(spans) + ends + " ".join(_rules(groups)) + "\n"
    head += " & ".join(_header(column.header, style) for column in sheet.columns) + ends
    sections = ["".join(" & ".join(row) + ends for row in section) for section in _texts(sheet, style)]
    notes = "".join(f"\\par {note}\n" for note in _notes(sheet, style))
    return (f"\\begin{{{float_name}}}[t]\n\\centering\n\\footnotesize\n\\setlength{{\\tabcolsep}}{{4pt}}\n"
            f"\\caption{{{style.escape(sheet.title)}.}}\n\\label{{tab:{sheet.name}}}\n"
            f"\\begin{{tabular}}{{{''.join(column.align for column in sheet.columns)}}}\n"
            f"\\toprule\n{head}\\midrule\n" + "\\midrule\n".join(sections)
            + f"\\bottomrule\n\\end{{tabular}}\n{notes}\\end{{{float_name}}}\n")


def tidy_csv(sheet):
    """Return the figures as CSV, one a line, unrounded, each with its source: a citation or its records."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["table", "row", "task", "metric", "origin", "mean", "std", "n", "source", "note"])
    for row, task, metric, cell in sheet.facts:
        std = None if cell.std is None else round(cell.std, 6)
        writer.writerow([sheet.name, row, task, metric, cell.origin, round(cell.mean, 6), std, cell.n,
                         cell.source, cell.note])
    return text.getvalue()


FORMATS = {"md": markdown, "tex": latex, "csv": tidy_csv}


def _texts(sheet, style):
    """Return the sections that have rows, each a list of rows of text; "none yet" where there is no row."""
    marks = _note_marks(sheet)
    sections = [[[_entry(entry, column, marks, style) for entry, column in zip(row, sheet.columns)]
                 for row in section] for section in sheet.body if section]
    return sections or [[["none yet"] + [style.dash] * (len(sheet.columns) - 1)]]


def _entry(entry, column, marks, style):
    if entry is None:
        return style.dash
    if not isinstance(entry, Cell):
        wrapped = "\\raggedright " if style is LATEX and column.align.startswith("p") else ""
        return wrapped + style.escape(entry)
    pattern = {"best": style.best, "second": style.second, "": "{}"}[entry.mark]
    note = style.high.format(marks[entry.note]) if entry.note else ""
    return pattern.format(style.escape(figure(entry))) + note


def _notes(sheet, style):
    """Return the lines below a table: what the marks mean, remarks on cells, remarks on the whole."""
    marks = _note_marks(sheet)
    cells = [cell for *_, cell in sheet.facts]
    legend = [style.legend] if any(cell.mark for cell in cells) else []
    remarks = [f"{style.high.format(mark)} {style.escape(note)}" for note, mark in marks.items()]
    return legend + remarks + [style.escape(note) for note in sheet.notes]


def _note_marks(sheet):
    """Return {remark: its letter} over the sheet's cells, in order."""
    remarks = dict.fromkeys(cell.note for *_, cell in sheet.facts if cell.note)
    return {remark: chr(ord("a") + number) for number, remark in enumerate(remarks)}


def _header(text, style):
    """Return a header in which `^bb` and `_50` became high and low text."""
    parts = re.split(r"([_^][A-Za-z0-9]+)", text)
    patterns = {"_": style.low, "^": style.high}
    return "".join(patterns[part[0]].format(part[1:]) if part[:1] in patterns else style.escape(part)
                   for part in parts)


def _rules(groups):
    """Yield a \\cmidrule under each group's columns."""
    start = 1
    for group, span in groups:
        if group:
            yield f"\\cmidrule(lr){{{start}-{start + span - 1}}}"
        start += span


def _aligned(sheet):
    return ["right" if column.align == "r" else "left" for column in sheet.columns]


def _escape_latex(text):
    return re.sub(r"[&%$#_{}~^\\<>|±]", lambda match: _LATEX[match[0]], text)


_LATEX = {**{sign: "\\" + sign for sign in "&%$#_{}"}, "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
          "\\": r"\textbackslash{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
          "±": r"$\pm$"}
_LEGEND = "{}: best, {}: second best; supervised rows do not compete"
MARKDOWN = Style(lambda text: re.sub(r"([\\|*<>`])", r"\\\1", text), best="**{}**", second="<u>{}</u>",
                 low="<sub>{}</sub>", high="<sup>{}</sup>", dash="-",
                 legend=_LEGEND.format("**bold**", "<u>underlined</u>"))
LATEX = Style(_escape_latex, best=r"\textbf{{{}}}", second=r"\underline{{{}}}", low=r"\textsubscript{{{}}}",
              high=r"\textsuperscript{{{}}}", dash="--",
              legend=_LEGEND.format(r"\textbf{bold}", r"\underline{underlined}"))
PLAIN = Style(lambda text: text, best="*{}*", second="_{}_", low="_{}", high="^{}", dash="-",
              legend=_LEGEND.format("*so*", "_so_"))
