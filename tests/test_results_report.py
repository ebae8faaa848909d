"""The report: one file that fetches nothing, everything escaped, each figure traceable; in a browser."""

import dataclasses
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from parallel.attachments import attach, parse_attachments
from parallel.files import write_whole
from results import plots, pretraining, report, store
from tests.test_results_record import SHA256, departing, toy

ROOT = Path(__file__).resolve().parent.parent
NAME = 'bt <b>&"x"'
BACKBONE = {"name": NAME, "format": "barlowtwins_checkpoint", "sha256": SHA256}
VOID = {"meta", "img", "br", "input"}
FETCHING = ("src", "srcset", "href", "xlink:href", "data", "action", "poster")
COMMAND = "pretrain/main.py /data --preset <cifar10>"


class Page(HTMLParser):
    """Reads a page and keeps its elements; unbalanced tags are kept as errors."""

    def __init__(self, text):
        super().__init__()
        self.open, self.errors, self.elements, self.words = [], [], [], ""
        self.feed(text)
        self.close()
        self.errors += self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs), tuple(self.open)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs), tuple(self.open)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.errors.append(f"</{tag}> at {self.getpos()}")

    def handle_data(self, data):
        self.words += data

    def all(self, name):
        return [attrs for tag, attrs, _ in self.elements if tag == name]


def keep(result, root, **files):
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            attach(Path(folder), "picture.jpg" if name == "picture" else f"{name}.json", content)
        store.keep(result, root, folder)


def kept_of(result, root):
    contents, problems = store.read_kept(result, root)
    assert not problems
    return contents, store.files_of(result, root)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Records of both kinds with every kept file, and a pretraining run."""
    root = tmp_path_factory.mktemp("report")
    runs = root / "runs"
    for seed in range(3):
        store.save(toy(backbone=BACKBONE, seed=seed, metrics={"AP": 56.8 + seed / 10, "AP50": 82.6}), runs)
    scaled = dataclasses.replace(departing(metrics={"AP": 1.5, "AP50": 4.0}, **{"SOLVER.MAX_ITER": 30}),
                                 backbone=BACKBONE, source="python run.py '<script>'")
    store.save(scaled, runs)
    photograph = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(photograph, "JPEG")
    curve = [{"iteration": step, "total_loss": 4 / (1 + step), "lr": 0.1,
              **({"AP": step / 9} if step % 3 else {})} for step in range(30)]
    per_class = {f"class {number}": {"AP": number} for number in range(50)} | {"<i>": {"AP": float("nan")}}
    keep(scaled, runs, curve=curve, per_class=per_class, sweep=[{"learning_rate": 0.1, "top1": None}],
         features={"effective_rank": 138.46, "features": 2048, "pictures": 4096},
         confusion={"classes": ["<u>cat", "dog"], "matrix": [[3, 1], [0, 4]]}, picture=photograph.getvalue())
    run = root / "pretraining" / "toy"
    run.mkdir(parents=True)
    rows = [{"epoch": 0, "step": step, "loss": None if step == 3 else 9.5 - step, "lr_weights": 0.1 * step}
            for step in range(6)]
    rows.append({"epoch": 0, "step": 5, "knn": 61.5})
    (run / "stats.txt").write_text("\n".join([COMMAND, *map(json.dumps, rows), ""]))
    generator = np.random.default_rng(0)
    np.savez(run / "correlation.npz", step=5, diagonal=generator.uniform(size=40), corner=np.eye(32),
             singular_values=np.arange(20, 0, -1.0))
    return root


def make(folder, out="report.html", *flags):
    (folder / "pretraining").mkdir(exist_ok=True)
    status = report.main(["--runs", str(folder / "runs"), "--pretraining", str(folder / "pretraining"),
                          "--out", str(folder / out), *flags])
    return status, (folder / out).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def text(folder):
    status, text = make(folder)
    assert status == 0
    return text


def test_it_is_one_well_formed_file_that_fetches_nothing(text):
    page = Page(text)
    assert page.errors == []
    assert not {"script", "link", "iframe", "object", "base"} & {tag for tag, *_ in page.elements}
    for tag, attributes, _ in page.elements:
        for name in set(attributes) & set(FETCHING):
            assert re.match(r"#|data:image/(png|jpeg);base64,", attributes[name]), attributes[name][:60]
    style = text[text.index("<style>"):text.index("</style>")]
    assert "@import" not in style and set(re.findall(r"url\(.", text)) == {"url(#"}
    assert "light dark" in style
    assert "details::details-content { content-visibility: visible" in style.partition("@media print")[2]
    assert len(text.encode()) < 500_000


def test_ids_are_unique_and_links_arrive(text):
    page = Page(text)
    ids = [attributes["id"] for _, attributes, _ in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    wanted = {attributes.get("href", attributes.get("xlink:href", ""))[1:]
              for tag, attributes, _ in page.elements if tag in ("a", "use")}
    wanted |= set(re.findall(r"url\(#([^)]*)\)", text))
    assert wanted and wanted <= set(ids)


def test_pictures_are_described(text):
    page = Page(text)
    assert len(page.all("img")) == 1 and all(attributes["alt"] for attributes in page.all("img"))
    drawings = page.all("svg")
    assert len(drawings) == 12 and len(page.all("figcaption")) == 13
    assert all(attributes["role"] == "img" and attributes["aria-label"] for attributes in drawings)
    assert "left: ground truth, right: strongest detections" in text
    assert all("svg" not in parents or tag != "svg" for tag, _, parents in page.elements)


def test_names_are_escaped(text):
    for raw in (NAME, "<script>", "<u>cat", "<cifar10>"):
        assert raw not in text
        assert escape(raw) in text or escape(raw, quote=False) in text, raw


def test_each_of_our_figures_leads_to_its_records(text, folder):
    page = Page(text)
    targets = [attributes["id"] for _, attributes, parents in page.elements
               if "details" in parents and attributes.get("id", "").startswith("record-")]
    linked = {attributes["href"][1:] for attributes in page.all("a")}
    assert len(targets) == 2 and set(targets) <= linked
    for place in (folder / "runs").rglob("*-s?.json"):
        assert str(place.relative_to(folder / "runs")) in text
    section = text[text.index('id="records"'):]
    for part in ("python transfer/run.py --task voc_det", "SOLVER.MAX_ITER", "24000", "c" * 8,
                 "torch 2.14.1", "cpu x86_64", "f00d", "Effective rank", "138.5 of 2,048 by 4,096 pictures"):
        assert part in section, part
    assert "±" in page.words and "reproduced" in page.words


def test_the_verdicts_are_counted(text):
    summary = text[text.index('id="summary"'):text.index('id="tables"')]
    judged = re.findall(r"<td>(reproduced|above|below|inconclusive)</td>", text)
    assert judged and all(f"{judged.count(word)} {word}" in summary for word in judged)


def test_missing_parts_are_absent(tmp_path):
    (tmp_path / "runs").mkdir()
    status, text = make(tmp_path)
    assert status == 0 and Page(text).errors == []
    assert re.findall(r'<section id="(\w+)"', text) == ["summary", "tables", "methods"]
    store.save(toy(), tmp_path / "runs")
    assert re.findall(r'<section id="(\w+)"', make(tmp_path)[1]) == \
        ["summary", "tables", "methods", "cost", "records"]


def test_a_pretraining_folder_that_was_named_must_exist(tmp_path, capsys):
    (tmp_path / "runs").mkdir()
    words = ["--runs", tmp_path / "runs", "--pretraining", tmp_path / "no", "--out", tmp_path / "out.html"]
    assert report.main([str(word) for word in words]) == 2 and not (tmp_path / "out.html").exists()
    assert capsys.readouterr().err.endswith(
        "no: expected a folder of pretraining runs, found none; check --pretraining\n")


def test_the_same_input_gives_the_same_file(folder, text):
    assert make(folder, "again.html")[1] == text


def test_plots_for_papers(folder, text):
    make(folder, "papers.html", "--figures", str(folder / "figures"))
    files = sorted(path.name for path in (folder / "figures").iterdir())
    assert len(files) == 2 * text.count("<svg ") and "pretraining-toy-matrix.pdf" in files
    with Image.open(folder / "figures" / "pretraining-toy-loss.png") as image:
        assert image.size == (720, 500)
    assert (folder / "figures" / "pretraining-toy-loss.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize("name, content, left", [
    ("curve", "[{", "curve.json: expected what parallel/attachments.py says"),
    ("curve", [{"epoch": 1, "loss": "<b>"}], "curve.json"),
    ("per_class", {"cat": 3}, "per_class.json"),
    ("per_class", {"cat": {"AP": 990.0}}, "per_class.json"),
    ("per_class", {"cat": {"AP": -1}}, "per_class.json"),
    ("confusion", {"classes": ["a"], "matrix": [[1, 2]]}, "confusion.json"),
    ("confusion", {"classes": 2, "matrix": [[1, 2]]}, "confusion.json"),
    ("sweep", [{"learning_rate": "high"}], "sweep.json"),
    ("features", {"effective_rank": 3.0}, "features.json"),
    ("features", {"effective_rank": "3", "features": 8, "pictures": 8}, "features.json"),
], ids=["torn", "words", "flat", "above 100", "below 0", "not square", "no list", "no rate",
        "no count", "no number"])
def test_damaged_kept_files_are_named_and_left_out(tmp_path, capsys, name, content, left):
    result = toy()
    store.save(result, tmp_path / "runs")
    if not isinstance(content, str):
        with pytest.raises(ValueError, match=f"{name}.json: expected what parallel/attachments.py"):
            keep(result, tmp_path / "runs", **{name: content})
        content = json.dumps(content)
    write_whole(tmp_path / "record" / f"{name}.json", content)
    store.keep(result, tmp_path / "runs", tmp_path / "record")
    status, text = make(tmp_path)
    assert status == 1 and left in text and "<figure>" not in text
    assert f"left out: {tmp_path}" in capsys.readouterr().err


@pytest.mark.parametrize("stats, message", [
    ('run\n{"step": 1}\n{"ste', "stats.txt:3: expected a JSON object"),
    ('run\n{"loss": 1}\n', "stats.txt:2: expected a line with its step"),
])
def test_damaged_pretraining_runs_are_left_out(tmp_path, stats, message):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "stats.txt").write_text(stats)
    (tmp_path / "good").mkdir()
    (tmp_path / "good" / "stats.txt").write_text('run\n{"step": 1, "loss": 2.0}\n')
    runs, problems = pretraining.load(tmp_path)
    assert [run.name for run in runs] == ["good"] and len(problems) == 1 and message in problems[0]
    (tmp_path / "good" / "correlation.npz").write_bytes(b"PK nothing")
    assert "correlation.npz: expected the arrays" in pretraining.load(tmp_path)[1][1]


def test_a_folder_that_is_not_there_is_an_error(tmp_path, capsys):
    assert report.main(["--runs", str(tmp_path / "none"), "--out", str(tmp_path / "r.html")]) == 2
    assert capsys.readouterr().err.startswith("error: ") and not (tmp_path / "r.html").exists()


def test_a_long_line_is_thinned_and_keeps_its_ends():
    x = list(range(10_000))
    axes = plots.curves({"loss": (x, [1.0] * 9_999 + [None])}, "step", "loss").axes[0]
    found = axes.lines[0].get_xdata()
    assert len(found) <= plots.POINTS + 1 and found[0] == 0 and found[-1] == 9_999
    assert np.isnan(axes.lines[0].get_ydata()[-1])


def test_a_sweep_has_the_curve_of_its_best_head(tmp_path):
    runs = tmp_path / "runs"
    result = toy("imagenet_linear", {"swept_top1": 30.0, "held_out_top1": 31.0}, scaled={"epochs": [100, 2]})
    store.save(result, runs)
    keep(result, runs, curve=[{"epoch": epoch, "loss": 2.0, "top1": 20.0 + 5 * epoch, "held_out_top1": 31.0}
                              for epoch in (1, 2)])
    (tmp_path / "pretraining").mkdir()
    report.main(["--runs", str(runs), "--pretraining", str(tmp_path / "pretraining"), "--out",
                 str(tmp_path / "page.html")])
    assert "Result. from 25 to 30" in Page((tmp_path / "page.html").read_text()).words


def test_a_single_point_stands_on_an_axis_from_zero():
    left, right = plots.curves({"loss": ([160], [2.0])}, "iteration", "loss").axes[0].get_xlim()
    assert left == 0 and right > 160


def test_a_long_legend_takes_nothing_of_the_plot():
    def height(lines):
        figure = plots.curves({f"a long name of a line, number {n}": ([0, 1], [0, n]) for n in range(lines)},
                              "step", "loss")
        figure.draw_without_rendering()
        return figure.axes[0].get_window_extent().height / figure.dpi

    assert height(6) > 0.9 * height(2)


def test_each_line_has_a_colour_and_dashes_of_its_own():
    lines = plots.curves({str(n): ([0, 1], [0, n]) for n in range(6)}, "step", "loss").axes[0].lines
    assert {line.get_color() for line in lines} == set(plots.OKABE_ITO)
    assert all(one.get_linestyle() != next_.get_linestyle() for one, next_ in zip(lines, lines[1:]))


def test_confusions_are_shares_of_the_true_class():
    image = plots.confusion(["a", "b"], [[3, 1], [0, 0]]).axes[0].images[0]
    assert image.get_array().tolist() == [[75, 25], [0, 0]]


def test_kept_files_are_read_as_they_were_written(folder):
    scaled = next(result for result in store.load(folder / "runs")[0] if result.scaled)
    found, problems = parse_attachments(*kept_of(scaled, folder / "runs"))
    assert problems == [] and found.axis == "iteration" and len(found.curve) == 30
    assert found.per_class["class 3"] == {"AP": 3} and found.per_class["<i>"] == {"AP": None}
    assert found.picture[:2] == b"\xff\xd8" and found.confusion["matrix"] == [[3, 1], [0, 4]]


def test_it_imports_no_torch(folder):
    code = "import sys; from results import report; sys.exit(report.main() or 'torch' in sys.modules)"
    flags = ["--runs", str(folder / "runs"), "--out", str(folder / "alone.html")]
    assert subprocess.run([sys.executable, "-c", code, *flags], cwd=ROOT, timeout=120).returncode == 0


@pytest.mark.parametrize("width", [1280, 390, 320])
def test_it_fits_the_screen_of_a_real_browser(tmp_path, text, width):
    require_fits(tmp_path, text, width)


def require_fits(tmp_path, text, width):
    """In a frame of that width nothing stands out, and every picture is there and has a height."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if not browser:
        pytest.skip("needs a browser: chromium or google-chrome on the path")
    opened = re.sub("<details>", "<details open>", text)
    (tmp_path / "frame.html").write_text(
        f'<iframe style="width:{width}px; height:800px; border:0" srcdoc="{escape(opened)}"></iframe>'
        "<script>onload = () => { const page = frames[0].document; "
        "document.body.dataset.found = [page.documentElement.scrollWidth, frames[0].innerWidth, "
        "[...page.images].filter(image => !image.naturalWidth).length, page.querySelectorAll('svg').length, "
        "[...page.querySelectorAll('svg')].filter(svg => svg.getBoundingClientRect().height < 100).length"
        "].join(' ') }</script>")
    run = subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--window-size=1400,900", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom",
         (tmp_path / "frame.html").as_uri()],
        capture_output=True, text=True, timeout=120, env={**os.environ, "HOME": str(tmp_path)})
    found = re.search(r'data-found="([\d ]+)"', run.stdout)
    assert found, run.stderr[-2000:]
    wide, inside, broken, drawings, flat = map(int, found[1].split())
    assert inside == width and wide <= inside and broken == 0 and flat == 0
    assert drawings == text.count("<svg ")
