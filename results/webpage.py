"""A self-contained HTML page: its look, and small functions that make its parts. Nothing is fetched.

The functions take plain text and escape it; arguments named `html` or `parts` are HTML already.
"""

import base64
import re
from collections.abc import Callable, Iterable, Sequence
from html import escape
from itertools import groupby

from results.cells import SIGNS, Cell, Noted, Sheet, figure, provenance, remarks

STYLE = """
:root { color-scheme: light dark; --line: #8886; --soft: #8881; --link: light-dark(#005a8f, #7cc4f0);
        --paper: light-dark(#fff, #161616); --ink: light-dark(#1a1a1a, #e8e8e8) }
* { box-sizing: border-box }
body { margin: 0 auto; padding: 0 1rem 3rem; max-width: 76rem; background: var(--paper); color: var(--ink);
       font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: break-word }
h1 { font-size: 1.6rem; margin: 1.2rem 0 .4rem } h2 { font-size: 1.3rem; margin: 2.2rem 0 .6rem;
     border-bottom: 1px solid var(--line) } h3 { font-size: 1.05rem; margin: 1.4rem 0 .4rem }
a { color: var(--link) } td a, th a { text-decoration: underline dotted } abbr { text-decoration: none }
nav { display: flex; flex-wrap: wrap; gap: .2rem 1rem } nav a { padding: .3rem 0 }
.wide { overflow-x: auto; margin: .5rem 0 } .wide:focus-visible { outline: 2px solid var(--link) }
table { border-collapse: collapse; width: max-content; font-size: .875rem;
        font-variant-numeric: tabular-nums }
.caption { font-weight: 600; margin: 1.2rem 0 .3rem }
th, td { padding: .25rem .6rem; max-width: 17rem; text-align: left; vertical-align: top;
         border-top: 1px solid var(--line) }
thead th { border-top: 0; vertical-align: bottom } th.group { text-align: center }
th.number, td.number { text-align: right; white-space: nowrap }
tbody + tbody { border-top: 2px solid var(--ink) }
tbody th { font-weight: 400; position: sticky; left: 0; background: var(--paper); min-width: 7rem;
           max-width: 14rem }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; margin: .4rem 0 }
dt { opacity: .75 } dd { margin: 0; overflow-wrap: anywhere }
.notes { font-size: .8125rem; margin: .3rem 0 1.2rem; padding-left: 1.1rem }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 19rem), 1fr)); gap: 1rem }
figure { margin: 0; max-width: 30rem; break-inside: avoid } figcaption { font-size: .8125rem }
figure:has(img) { grid-column: 1 / -1; max-width: 60rem }
figure svg { display: block; width: 100%; height: auto }
figure img { display: block; max-width: 100%; max-height: 90vh }
svg * { stroke-linejoin: round; stroke-linecap: butt } svg text { font-family: system-ui, sans-serif }
details { border-top: 1px solid var(--line); padding: .35rem 0 } summary { cursor: pointer }
sup, sub { line-height: 0 }
h2 + details { border-top: 0; padding-top: 0 }
details:has(:target) > summary { font-weight: 600 }
.target { scroll-margin-top: 4rem } code, pre { font-size: .8125rem; overflow-wrap: anywhere }
pre { white-space: pre-wrap; background: var(--soft); padding: .5rem; margin: .4rem 0 }
@media (min-width: 60rem) { table { width: auto } }
@media (max-width: 40rem) { th, td { padding: .2rem .4rem } tbody th { max-width: 9rem } }
@media print { :root { color-scheme: light } body { max-width: none; padding: 0; font-size: 10pt }
  nav { display: none } .wide { overflow: visible } table { font-size: 7pt; width: auto }
  th, td { padding: 1pt 3pt } a { color: inherit; text-decoration: none } tr { break-inside: avoid }
  .notes { font-size: 8pt } h2, h3, .caption { break-after: avoid }
  .figures { grid-template-columns: repeat(3, 1fr) }
  details::details-content { content-visibility: visible; display: block } }
""".strip()


def page(title: str, sections: Iterable[tuple[str, str, str]]) -> str:
    """Return the document. sections: (id, heading, html) each; those without content are left out."""
    sections = [section for section in sections if section[2]]
    links = "".join(f'<a href="#{name}">{escape(heading)}</a>' for name, heading, _ in sections)
    body = "\n".join(f'<section id="{name}"><h2>{escape(heading)}</h2>\n{html}</section>'
                     for name, heading, html in sections)
    return (f'<!DOCTYPE html>\n<html lang="en">\n<head><meta charset="utf-8">\n'
            f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{escape(title)}</title>\n<style>\n{STYLE}\n</style></head>\n<body>\n"
            f"<h1>{escape(title)}</h1>\n<nav>{links}</nav>\n{body}\n</body>\n</html>\n")


def table(caption: str, headers: Iterable[str], rows: Iterable[Sequence]) -> str:
    """Return a plain table of text; entries that are numbers stand right. rows[i][0] heads its row."""
    head = "".join(f'<th scope="col">{escape(header)}</th>' for header in headers)
    body = "".join(f'<tr><th scope="row">{escape(str(row[0]))}</th>'
                   + "".join(_plain_entry(entry) for entry in row[1:]) + "</tr>" for row in rows)
    return _scrolling(caption, f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>")


def facts(pairs: Iterable[tuple[str, object]]) -> str:
    """Return a list of (name, text or number) pairs."""
    return "<dl>" + "".join(f"<dt>{escape(name)}</dt><dd>{escape(str(text))}</dd>\n"
                            for name, text in pairs) + "</dl>\n"


def sheet_table(sheet: Sheet, link: Callable[[Cell], str]) -> str:
    """Return a results table (cells.Sheet). link(cell) -> the id of what stands behind a figure, or ""."""
    columns, marks = sheet.columns, remarks(sheet)
    groups = [(group, len(list(same))) for group, same in groupby(column.group for column in columns)]
    head = ""
    if any(group for group, _ in groups):
        head = "".join(f'<th class="group" scope="colgroup" colspan="{span}">{_high_low(group)}</th>'
                       for group, span in groups).join(("<tr>", "</tr>\n"))
    head += "".join(f'<th scope="col"{_side(column)}>{_high_low(column.header)}</th>'
                    for column in columns).join(("<tr>", "</tr>\n"))
    body, behind = "", _behind(sheet)
    for section in filter(None, sheet.body):
        rows = ""
        for label, *entries in section:
            anchor = link(next(behind)) if behind else ""
            head_entry = _linked(_entry(label, marks, link), anchor)
            rows += f'<tr><th scope="row">{head_entry}</th>' + "".join(
                f"<td{_side(column)}>{_entry(entry, marks, link)}</td>"
                for entry, column in zip(entries, columns[1:])) + "</tr>\n"
        body += f"<tbody>\n{rows}</tbody>\n"
    body = body or f'<tbody><tr><td colspan="{len(columns)}">none yet</td></tr></tbody>\n'
    return _scrolling(sheet.title, f"<thead>\n{head}</thead>\n{body}") + _notes(sheet, marks)


def figure_of(picture: str, title: str, text: str) -> str:
    """Return a figure. picture: html of an svg or img. Its caption is the title, then the text."""
    return f"<figure>{picture}<figcaption><b>{escape(title)}</b> {escape(text)}</figcaption></figure>"


def figures(parts: Sequence[str]) -> str:
    """Return figures (html each) in as many columns as fit; "" for none."""
    return f'<div class="figures">{"".join(parts)}</div>' if parts else ""


def photograph(content: bytes, description: str) -> str:
    """Return an img that carries its JPEG with it."""
    data = base64.b64encode(content).decode()
    return f'<img src="data:image/jpeg;base64,{data}" alt="{escape(description)}">'


def slug(text: str) -> str:
    """Return text as an id and a file's name: letters, digits, - and _."""
    return re.sub(r"[^A-Za-z0-9_]+", "-", text).strip("-")


def _plain_entry(entry):
    if isinstance(entry, (int, float)):
        return f'<td class="number">{entry}</td>'
    return f"<td>{escape(entry)}</td>"


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


def _notes(sheet, marks):
    cells = [entry for section in sheet.body for row in section for entry in row if isinstance(entry, Cell)]
    notes = []
    if any(cell.mark for cell in cells):
        notes.append("<b>bold</b>: best, <u>underlined</u>: second best of the rows that compare; supervised "
                     "rows do not compete")
    if any(cell.verdict for cell in cells):
        signs = ", ".join(f"{sign} {verdict}" for verdict, sign in SIGNS.items())
        notes.append(f"beside the published figure: {signs}; the table of verdicts has the rule")
    notes += [f"<sup>{mark}</sup> {escape(remark)}" for remark, mark in marks.items()]
    listed = "".join(f"<li>{note}</li>\n" for note in [*notes, *map(escape, sheet.notes)])
    return f'<ul class="notes">\n{listed}</ul>\n' if listed else ""


def _entry(entry, marks, link):
    if entry is None:
        return "-"
    if isinstance(entry, str):
        return escape(entry)
    note = f"<sup>{marks[entry.note]}</sup>" if entry.note else ""
    if isinstance(entry, Noted):
        return escape(entry.text) + note
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


def _high_low(header):
    """Return a header in which `^bb` and `_50` became high and low text (see catalogue.Column)."""
    tags = {"_": "sub", "^": "sup"}
    return re.sub(r"([_^])([A-Za-z0-9]+)", lambda match: f"<{tags[match[1]]}>{match[2]}</{tags[match[1]]}>",
                  escape(header))


def _side(column):
    return ' class="number"' if column.align == "r" else ""


def _scrolling(caption, html):
    """Return a table that scrolls by itself where it is wider than the page, also with the keyboard."""
    return (f'<p class="caption">{escape(caption)}</p>\n'
            f'<div class="wide" tabindex="0" role="region" aria-label="{escape(caption)}">\n'
            f"<table>\n{html}</table></div>\n")
