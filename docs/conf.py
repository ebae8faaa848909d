"""The site: README.md and docs/*.md as GitHub shows them, and the Python interface from docstrings.

`make docs` builds it into build/site. The pages are ordinary Markdown. What Sphinx needs besides is added to
their text as it is read, and stands in no file: the navigation, which is the README's list of pages; the
modules that docs/api.md lists; and the anchors `<a id="x"></a>` of headings.
"""
import posixpath
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

project, copyright, author = "Barlow Twins transfer benchmarks", "", ""
root_doc = "README"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
include_patterns = ["*.md", "docs/*.md", "results/tables/*.md"]
exclude_patterns = [".*", "build", "output", "datasets", "checkpoint"]
myst_heading_anchors = 4
highlight_language = "text"
autodoc_member_order = "bysource"
viewcode_follow_imported_members = False
autodoc_default_options = {"members": True, "undoc-members": False}
html_theme, html_title, html_copy_source = "furo", project, False

ANCHOR = re.compile(r'^(#+) <a id="([^"]+)"></a>(.+)$', re.M)
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)#([^)\s]+)\)")
MODULE = re.compile(r"^- \[`([\w.]+)`\]", re.M)


def slug(title: str) -> str:
    """The anchor that GitHub and MyST make of a heading."""
    return re.sub(r"[^\w\- ]", "", title.replace("`", "").lower()).replace(" ", "-")


def named(text: str) -> dict[str, str]:
    """{id of an anchor in a heading: the heading's own anchor}."""
    return {name: slug(title) for _, name, title in ANCHOR.findall(text)}


def complete(app, docname: str, source: list[str]) -> None:
    """Add to a page what only Sphinx needs."""
    folder = ROOT / posixpath.dirname(docname)
    original = source[0]

    def link(match):
        text = (folder / match[1]).read_text("utf-8") if match[1] else original
        return f"]({match[1]}#{named(text).get(match[2], match[2])})"

    text = ANCHOR.sub(r'<a id="\2"></a>\n\n\1 \3', LINK.sub(link, original))
    if docname == root_doc:
        text += "".join(navigation(original))
    if docname == "docs/api":
        text += "".join(f"\n## `{name}`\n\n```{{eval-rst}}\n.. automodule:: {name}\n```\n"
                        for name in MODULE.findall(original))
    if docname.startswith("results/"):
        title = re.search(r"^\*\*(.+)\*\*$", text, re.M)
        text = f"---\norphan: true\n---\n\n# {title[1]}\n\n{text.replace(title[0], '', 1)}" if title \
            else f"---\norphan: true\n---\n\n{text}"
    source[0] = text


def navigation(text: str):
    """Yield a table of contents for each line `- **Caption**: [page](docs/page.md), ...` of the README."""
    listed = text.partition("## Documentation")[2]
    for caption, pages in re.findall(r"^- \*\*(\w+)\*\*: (.+(?:\n  .+)*)", listed, re.M):
        names = re.findall(r"\]\((\S+)\.md\)", pages)
        yield f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n" + "\n".join(names) + "\n```\n"


def literal(app, what, name, thing, options, lines: list[str]) -> None:
    """Docstrings are plain text with `code`: make reStructuredText of them that shows the same."""
    paragraphs = []
    for paragraph in re.split(r"\n\s*\n", "\n".join(lines).strip("\n")):
        if re.search(r"\S {2,}\S|^ ", paragraph, re.M):  # columns or an example
            paragraph = "::\n\n" + re.sub(r"^", "    ", paragraph, flags=re.M)
        else:
            paragraph = re.sub(r"([*|\\]|(?<=\w)_(?!\w))", r"\\\1", paragraph)
            paragraph = re.sub(r"`([^`]+)`", lambda code: f"``{code[1]}``".replace("\\", ""), paragraph)
        paragraphs.append(paragraph)
    lines[:] = "\n\n".join(paragraphs).splitlines() + [""]


def front(app, error) -> None:
    """index.html leads to the front page."""
    if not error and app.builder.name == "html":
        Path(app.outdir, "index.html").write_text('<!doctype html><meta http-equiv="refresh" content="0; '
                                                  'url=README.html"><a href="README.html">README</a>\n')


def setup(app) -> None:
    app.connect("source-read", complete)
    app.connect("autodoc-process-docstring", literal)
    app.connect("build-finished", front)
