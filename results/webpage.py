"""A self-contained HTML page: its look, and small functions that make its parts. Nothing is fetched.

The functions take plain text and escape it; arguments named `html` or `parts` are HTML already.
"""

import base64
import re
from collections.abc import Iterable, Sequence
from html import escape as as_entities

from results.cells import visible

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
progress { width: 100%; accent-color: #0072b2 } .state { font-weight: 400; font-size: .875rem }
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


def escape(text: str) -> str:
    """Return plain text as HTML, with control characters as \\x00 is."""
    return as_entities(visible(text))


def page(title: str, sections: Iterable[tuple[str, str, str]], refresh: int = 0) -> str:
    """Return the document. sections: (id, heading, html) each; those without content are left out. refresh:
    seconds after which a browser asks for it again, 0 for never."""
    sections = [section for section in sections if section[2]]
    links = "".join(f'<a href="#{name}">{escape(heading)}</a>' for name, heading, _ in sections)
    body = "\n".join(f'<section id="{name}"><h2>{escape(heading)}</h2>\n{html}</section>'
                     for name, heading, html in sections)
    again = f'<meta http-equiv="refresh" content="{refresh}">\n' if refresh else ""
    return (f'<!DOCTYPE html>\n<html lang="en">\n<head><meta charset="utf-8">\n{again}'
            f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{escape(title)}</title>\n<style>\n{STYLE}\n</style></head>\n<body>\n"
            f"<h1>{escape(title)}</h1>\n<nav>{links}</nav>\n{body}\n</body>\n</html>\n")


def table(caption: str, headers: Iterable[str], rows: Iterable[Sequence]) -> str:
    """Return a plain table of text; entries that are numbers stand right. rows[i][0] heads its row."""
    head = "".join(f'<th scope="col">{escape(header)}</th>' for header in headers)
    body = "".join(f'<tr><th scope="row">{escape(str(row[0]))}</th>'
                   + "".join(_plain_entry(entry) for entry in row[1:]) + "</tr>" for row in rows)
    return scrolling(caption, f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>")


def facts(pairs: Iterable[tuple[str, object]]) -> str:
    """Return a list of (name, text or number) pairs."""
    return "<dl>" + "".join(f"<dt>{escape(name)}</dt><dd>{escape(str(text))}</dd>\n"
                            for name, text in pairs) + "</dl>\n"


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


def scrolling(caption: str, html: str) -> str:
    """Return a table that scrolls by itself where it is wider than the page, also with the keyboard."""
    return (f'<p class="caption">{escape(caption)}</p>\n'
            f'<div class="wide" tabindex="0" role="region" aria-label="{escape(caption)}">\n'
            f"<table>\n{html}</table></div>\n")
