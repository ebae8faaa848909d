"""Sheets as text: Markdown for the README, LaTeX for papers, CSV for programs, HTML, text for terminals."""

import csv
import io
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby

import tabulate

from results import webpage
from results.cells import SIGNS, Cell, Noted, Sheet, figure, provenance, remarks, visible
from results.webpage import escape


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


def markdown(sheet: Sheet) -> str:
    """Return the table as GitHub Markdown: a title line, a pipe table, a list of notes."""
    style = MARKDOWN
    headers = [_header(f"{column.group} {column.header}".strip(), style) for column in sheet.columns]
    rows = [row for section in _texts(sheet, style) for row in section]
    table = tabulate.tabulate(rows, headers, tablefmt="pipe", disable_numparse=True, colalign=_aligned(sheet))
    notes = "".join(f"\n- {note}" for note in _notes(sheet, style))
    return f"**{style.escape(sheet.title)}**\n\n{table}\n" + (f"{notes}\n" if notes else "")


def plain(sheet: Sheet) -> str:
    """Return the table for a terminal; best is *so*, second best is _so_."""
    style = PLAIN
    stacks = [[*column.group.split(), column.header] for column in sheet.columns]  # to save width
    height = max(map(len, stacks))
    headers = ["\n".join([""] * (height - len(words)) + words) for words in stacks]
    sections = _texts(sheet, style)
    rows: list = []
    for section in sections:
        rows += ([tabulate.SEPARATING_LINE] if rows else []) + section
    widths = [26 if column.align.startswith("p") else None for column in sheet.columns]
    table = tabulate.tabulate(rows, headers, disable_numparse=True, colalign=_aligned(sheet),
                              maxcolwidths=widths if any(widths) else None)
    return f"{sheet.title}\n\n{table}\n" + "".join(f"  {note}\n" for note in _notes(sheet, style))


def latex(sheet: Sheet) -> str:
    """Return the table as a LaTeX float that needs the packages booktabs and graphicx.

    What does not fit a column stands across the page, shrunk where it is wider than that.
    """
    style = LATEX
    wide = _points(sheet) > COLUMN
    float_name, fit, fitted = ("table*", SHRUNK, "}") if wide else ("table", "", "")
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
            f"{fit}\\begin{{tabular}}{{{''.join(column.align for column in sheet.columns)}}}\n"
            f"\\toprule\n{head}\\midrule\n" + "\\midrule\n".join(sections)
            + f"\\bottomrule\n\\end{{tabular}}{fitted}\n{notes}\\end{{{float_name}}}\n")


def tidy_csv(sheet: Sheet) -> str:
    """Return the figures as CSV, one a line, unrounded, each with its source: a citation or its records."""
    text = io.StringIO()
    writer = csv.DictWriter(text, FACTS, lineterminator="\n")
    writer.writeheader()
    for row, task, metric, cell in sheet.facts:
        numbers = {name: value if value is None else round(value, 6)
                   for name, value in (("mean", cell.mean), ("std", cell.std), ("low", cell.low),
                                       ("high", cell.high))}
        published = dict(zip(("published", "published_row"), cell.reference))
        facts = {"table": sheet.name, "row": row, "task": task, "metric": metric, **numbers,
                         "origin": cell.origin, "n": cell.n, "verdict": cell.verdict, **published,
                         "epochs": cell.epochs, "settings": cell.settings, "source": cell.source,
                         "note": cell.note, **provenance(cell)}
        writer.writerow({name: _no_formula(value) for name, value in facts.items()})
    return text.getvalue()


def html(sheet: Sheet) -> str:
    """Return the table as a fragment of HTML, in ASCII; pointing at our figures shows what is behind them."""
    return html_table(sheet, lambda cell: "").encode("ascii", "xmlcharrefreplace").decode()


def html_table(sheet: Sheet, link: Callable[[Cell], str]) -> str:
    """Return the table and its notes as HTML. link(cell) -> the id of what stands behind a figure, or ""."""
    columns, marks = sheet.columns, remarks(sheet)
    groups = [(group, len(list(same))) for group, same in groupby(column.group for column in columns)]
    head = ""
    if any(group for group, _ in groups):
        head = "".join(f'<th class="group" scope="colgroup" colspan="{span}">{_header(group, HTML)}</th>'
                       for group, span in groups).join(("<tr>", "</tr>\n"))
    head += "".join(f'<th scope="col"{_side(column)}>{_header(column.header, HTML)}</th>'
                    for column in columns).join(("<tr>", "</tr>\n"))
    body, behind = "", _behind(sheet)
    for section in filter(None, sheet.body):
        rows = ""
        for label, *entries in section:
            anchor = link(next(behind)) if behind else ""
            head_entry = _linked(_html_entry(label, columns[0], marks, link), anchor)
            rows += f'<tr><th scope="row">{head_entry}</th>' + "".join(
                f"<td{_side(column)}>{_html_entry(entry, column, marks, link)}</td>"
                for entry, column in zip(entries, columns[1:])) + "</tr>\n"
        body += f"<tbody>\n{rows}</tbody>\n"
    body = body or f'<tbody><tr><td colspan="{len(columns)}">none yet</td></tr></tbody>\n'
    notes = "".join(f"<li>{note}</li>\n" for note in _notes(sheet, HTML))
    return (webpage.scrolling(sheet.title, f"<thead>\n{head}</thead>\n{body}")
            + (f'<ul class="notes">\n{notes}</ul>\n' if notes else ""))


# Columns of the CSV. low, high: 95 % interval of the mean. epochs, settings: of pretraining, where a source
# says so.
FACTS = ("table", "row", "task", "metric", "origin", "mean", "std", "n", "low", "high", "verdict",
         "published", "published_row", "epochs", "settings", "source", "note", "weights", "data", "config",
         "scaled", "commits", "devices", "seconds")
COLUMN = 229  # points, of article's two columns; those of conferences are a little wider
SHRUNK = "\\resizebox{\\ifdim\\width>\\textwidth\\textwidth\\else\\width\\fi}{!}{"
FORMATS = {"md": markdown, "tex": latex, "csv": tidy_csv, "html": html}


def _texts(sheet, style):
    """Return the sections that have rows, each a list of rows of text; "none yet" where there is no row."""
    marks = remarks(sheet)
    sections = [[[_entry(entry, column, marks, style) for entry, column in zip(row, sheet.columns)]
                 for row in section] for section in sheet.body if section]
    return sections or [[["none yet"] + [style.dash] * (len(sheet.columns) - 1)]]


def _entry(entry, column, marks, style):
    if entry is None:
        return style.dash
    if not isinstance(entry, Cell):
        wrapped = "\\raggedright " if style is LATEX and column.align.startswith("p") else ""
        text = entry.text if isinstance(entry, Noted) else entry
        note = style.high.format(marks[entry.note]) if isinstance(entry, Noted) else ""
        return wrapped + style.escape(text) + note
    pattern = {"best": style.best, "second": style.second, "": "{}"}[entry.mark]
    sign = f" {style.escape(SIGNS[entry.verdict])}" if entry.verdict else ""
    note = style.high.format(marks[entry.note]) if entry.note else ""
    return pattern.format(style.escape(figure(entry))) + sign + note


def _notes(sheet, style):
    """Return the lines below a table: what the marks mean, remarks on cells, remarks on the whole."""
    cells = [entry for section in sheet.body for row in section for entry in row if isinstance(entry, Cell)]
    legend = [style.legend] if any(cell.mark for cell in cells) else []
    if any(cell.verdict for cell in cells):
        legend.append(style.escape(VERDICT_LEGEND))
    noted = [f"{style.high.format(mark)} {style.escape(note)}" for note, mark in remarks(sheet).items()]
    return legend + noted + [style.escape(note) for note in sheet.notes]


def _html_entry(entry, column, marks, link):
    if not isinstance(entry, Cell):
        return _entry(entry, column, marks, HTML)
    note = HTML.high.format(marks[entry.note]) if entry.note else ""
    tag = {"best": "b", "second": "u", "": "span"}[entry.mark]
    behind = "; ".join(f"{what} {text}" for what, text in provenance(entry).items() if text)
    html = f'<{tag} title="{escape(behind)}">' if behind else f"<{tag}>"
    html += f"{escape(figure(entry))}</{tag}>"
    html = _linked(html, link(entry))
    if entry.verdict:
        value, label = entry.reference
        html += (f' <abbr title="{escape(entry.verdict)}; {escape(label)}: {value:.1f}">'
                 f"{SIGNS[entry.verdict]}</abbr>")
    return html + note


def _behind(sheet):
    """Return an iterator of a Cell a row, for a sheet whose rows are words about our figures; else None."""
    rows = [row for section in sheet.body for row in section]
    if any(isinstance(entry, Cell) for row in rows for entry in row):
        return None
    cells = [cell for *_, cell in sheet.facts]
    if len(cells) != len(rows):  # a row has several figures, of the same runs
        cells = [next(same) for _, same in groupby(cells, key=lambda cell: cell.source)]
    return iter(cells) if len(cells) == len(rows) else None


def _linked(html, anchor):
    return f'<a href="#{anchor}">{html}</a>' if anchor else html


def _side(column):
    return ' class="number"' if column.align == "r" else ""


def _header(text, style):
    """Return a header in which `^bb` and `_50` became high and low text."""
    parts = re.split(r"([_^][A-Za-z0-9]+)", text)
    patterns = {"_": style.low, "^": style.high}
    return "".join(patterns[part[0]].format(part[1:]) if part[:1] in patterns else style.escape(part)
                   for part in parts)


def _points(sheet):
    """Return about how wide a sheet is in LaTeX, in points at \\footnotesize."""
    rows = [row for section in _texts(sheet, PLAIN) for row in section]
    spans = Counter(column.group for column in sheet.columns)
    total = 0
    for column, *texts in zip(sheet.columns, *rows):
        length = max(len(column.header), len(column.group) / spans[column.group], *map(len, texts))
        width = re.match(r"p\{(\d+)mm", column.align)
        total += 8 + (2.85 * int(width[1]) if width else 4.1 * length)  # 4 pt on both sides; 4.1 pt a letter
    return total


def _rules(groups):
    """Yield a \\cmidrule under each group's columns."""
    start = 1
    for group, span in groups:
        if group:
            yield f"\\cmidrule(lr){{{start}-{start + span - 1}}}"
        start += span


def _aligned(sheet):
    return ["right" if column.align == "r" else "left" for column in sheet.columns]


def _no_formula(value):
    """Return text that a spreadsheet does not compute: with an apostrophe where it starts like a formula."""
    if not isinstance(value, str):
        return value
    return f"'{visible(value)}" if value.startswith(("=", "+", "-", "@", "\t", "\r")) else visible(value)


def _escape_latex(text):
    return _LATEX_SIGNS.sub(lambda match: _LATEX[match[0]], visible(text))


def _escape_markdown(text):
    return _MARKDOWN_SIGNS.sub(r"\\\g<0>", visible(text))


_LATEX = {**{sign: "\\" + sign for sign in "&%$#_{}"}, "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
          "\\": r"\textbackslash{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
          "±": r"$\pm$", "≈": r"$\approx$", "↓": r"$\downarrow$", "↑": r"$\uparrow$"}
_LATEX_SIGNS = re.compile(r"[&%$#_{}~^\\<>|±≈↓↑]")
_MARKDOWN_SIGNS = re.compile(r"[\\|*<>`]|](?=\()")  # ]( would make a link or a picture
_LEGEND = "{}: best, {}: second best of the rows that compare; supervised rows do not compete"
VERDICT_LEGEND = ("≈ reproduced, ↓ below, ↑ above the published figure, ? inconclusive; the table of "
                  "verdicts has the rule")
MARKDOWN = Style(_escape_markdown, best="**{}**", second="<u>{}</u>",
                 low="<sub>{}</sub>", high="<sup>{}</sup>", dash="-",
                 legend=_LEGEND.format("**bold**", "<u>underlined</u>"))
LATEX = Style(_escape_latex, best=r"\textbf{{{}}}", second=r"\underline{{{}}}", low=r"\textsubscript{{{}}}",
              high=r"\textsuperscript{{{}}}", dash="--",
              legend=_LEGEND.format(r"\textbf{bold}", r"\underline{underlined}"))
HTML = Style(escape, best="<b>{}</b>", second="<u>{}</u>", low="<sub>{}</sub>", high="<sup>{}</sup>",
             dash="-", legend=_LEGEND.format("<b>bold</b>", "<u>underlined</u>"))
PLAIN = Style(visible, best="*{}*", second="_{}_", low="_{}", high="^{}", dash="-",
              legend=_LEGEND.format("*so*", "_so_"))
