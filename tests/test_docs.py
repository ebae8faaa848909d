"""Links between the repository's texts lead somewhere, and texts cite nothing that a reader cannot open."""
import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
KEPT = (".py", ".yaml", ".md", ".toml")


def files(*endings):
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listed.split() if name.endswith(endings) and (ROOT / name).is_file()]


def anchors(text):
    """The anchors of a page: explicit ones, and those that GitHub makes of headings."""
    titles = [re.sub(r"<a [^>]*></a>|`", "", title) for title in re.findall(r"^#+ (.+)$", text, re.M)]
    made = [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]
    return {*re.findall(r'<a id="([^"]+)">', text), *made}


PAGES = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_to_files_and_anchors(page):
    text = page.read_text()
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text):
        name, _, anchor = target.partition("#")
        other = (page.parent / name).resolve() if name else page
        assert other.exists(), target
        assert not anchor or anchor in anchors(other.read_text()), target


def test_sections_of_the_protocols_that_are_cited_exist():
    known = anchors((ROOT / "docs" / "protocols.md").read_text())
    cited = {(path, anchor) for path in files(*KEPT)
             for anchor in re.findall(r"docs/protocols\.md#([\w-]+)", path.read_text())}
    assert cited
    for path, anchor in cited:
        assert anchor in known, f"{path}: {anchor}"


def test_every_preset_is_in_the_protocols():
    from pretrain.methods import METHODS
    from transfer.classification import finetune, knn, linear, lowshot, svm

    text = (ROOT / "docs" / "protocols.md").read_text()
    tables = [kind.PRESETS for kind in METHODS.values()]
    tables += [*linear.PRESETS.values(), *finetune.PRESETS.values(), *knn.PRESETS.values()]
    tables += [module.Config.PRESETS for module in (lowshot, svm)]
    words = set(re.findall(r"[\w-]+", " ".join(re.findall(r"`[^`]+`", text))))
    for name in {name for table in tables for name in table} - {"default"}:
        assert name in words or name.startswith("batch"), name


def test_what_is_shown_as_a_diff_stands_in_the_code():
    lines = re.findall(r"^(--- \S+|\+.*)$", (ROOT / "docs" / "extending.md").read_text(), re.M)
    assert len(lines) > 30
    for line in lines:
        if line.startswith("--- "):
            code = (ROOT / line[4:]).read_text().splitlines()
        elif line[1:].strip() != "...":
            assert line[1:].rstrip() in code, line


def definition(code, name):
    """The node of a function, class or Class.method in a file's syntax tree; None without one."""
    for part in name.split("."):
        code = code and next((node for node in code.body if getattr(node, "name", None) == part), None)
    return code


def test_the_tour_names_what_is_there_and_how_much_it_is():
    text = (ROOT / "docs" / "tour.md").read_text()
    for block in re.split(r"\n(?=\n|#|- |\d+\. )", text):  # a name belongs to the last file in its item
        code = None
        for word in re.findall(r"`([^`\s]+)`", block):
            if re.search(r"/|\.(py|md|yaml)$", word):
                assert (ROOT / word).exists(), word
                code = ast.parse((ROOT / word).read_text()) if word.endswith(".py") else None
            elif word.endswith("()"):
                assert definition(code, word[:-2]), f"{word} in: {block}"
    stops = re.findall(r"^\d+\. (`[^(]*\.py`.*?)\((\d+) lines\)", re.sub(r"\n +", " ", text), re.M)
    stated = sum(int(lines) for _, lines in stops)
    assert re.findall(r"^Sum: ([\d,]+) lines", text, re.M) == [f"{stated:,}"]
    found = 0
    for what, _ in stops:
        for word in re.findall(r"`[^`]+`|\bdoc\b", what):
            if word.endswith(".py`"):
                code = ast.parse((ROOT / word.strip("`")).read_text())
            elif word == "doc":
                found += len(ast.get_docstring(code).splitlines())
            else:
                node = definition(code, word.strip("`()"))
                found += node.end_lineno - node.lineno + 1
    assert abs(found - stated) <= 0.1 * stated, f"the stops have {found} lines, the tour says {stated}"
