"""Links between the repository's texts lead somewhere, and texts cite nothing that a reader cannot open."""
import ast
import re
import subprocess
from pathlib import Path

import pytest

from tools import docs_check
from tools.docs_check import Command, missing, refused

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


PAGES = docs_check.pages()
COMMANDS = [command for page in PAGES for command in docs_check.commands(page)]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_to_files_and_anchors(page):
    text = page.read_text()
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text):
        name, _, anchor = target.partition("#")
        other = (page.parent / name).resolve() if name else page
        assert other.exists(), target
        assert not anchor or anchor in anchors(other.read_text()), target


def test_every_page_stands_in_the_readme():
    """The site takes its navigation from there."""
    text = (ROOT / "README.md").read_text().partition("## Documentation")[2]
    listed = re.findall(r"\]\((\S+\.md)\)", text)
    assert sorted(["README.md", *listed]) == sorted(page.relative_to(ROOT).as_posix() for page in PAGES)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda one: f"{one.page}:{one.line} {one.text[:60]}")
def test_what_a_page_says_to_type_can_be_read(command):
    """Each command parses: programs, verbs, flags, their values, tasks and settings. docs_check runs them."""
    assert refused(command) is None


@pytest.mark.parametrize("text, why", [
    ("python transfer/run.py --task voc_dett --weights bt.pth", "voc_dett"),
    ("python transfer/run.py --task voc_det --wieghts bt.pth", "--wieghts"),
    ("python transfer/run.py --task voc_det --weights bt.pth SOLVER.MAX_ITERS 4", "SOLVER.MAX_ITER"),
    ("python transfer/run.py --task imagenet_linear --weights bt.pth --device gpu", "gpu"),
    ("torchrun --nproc-per-node=8 pretrain/main.py /data --epoch 3", "--epoch"),
    ('sbatch --time=1 --wrap "srun python pretrain/main.py /data --epochs many"', "many"),
    ('make pretrain DATA=/data ARGS="--preset code --nonsense"', "--nonsense"),
    ("make coffee", "coffee"), ("barlow transfer", "barlow"), ("python tools/no_such.py", "no_such")])
def test_a_wrong_command_is_found(text, why):
    assert why in refused(Command("page", 1, "bash", text))


@pytest.mark.parametrize("shown, printed, first", [
    (("top1  31.20", "..."), "x\ntop1      9.1\n", None), (("hash 195413e9aa",), "hash b01da837bb", None),
    (("a", "b"), "b\na\n", "b"), (("----  ---",), "-------  -", None),
    (("top1 3 %",), "top5 3 %", "top1 3 %"), (("19 s for all",), "1.5 min for all", None),
    (("2 of 3 files",), "error: no file", "2 of 3 files")])
def test_shown_output_is_compared_but_for_numbers(shown, printed, first):
    assert missing(shown, printed) == first


def test_costs_of_the_recipes_are_those_that_were_computed():
    text = (ROOT / "docs" / "speed.md").read_text()
    known = text.partition("<!-- scale:tasks -->")[2].partition("<!-- /")[0]
    costs = re.findall(r"\| ([\d.]+ (?:h|min|s)) \|$", (ROOT / "docs" / "recipes.md").read_text(), re.M)
    assert len(costs) > 5 and [cost for cost in costs if f" {cost} |" not in known] == []


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
