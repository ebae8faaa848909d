"""The command that rewrites tables: files, README blocks, --check, --list, bad records (results/make.py)."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from results import ablations, assembly, make, render, store
from tests.test_results_record import departing, toy

ROOT = Path(__file__).resolve().parent.parent
LINEAR = ("<!-- table:linear -->\n", "<!-- /table:linear -->\n")
KNN = ("<!-- table:knn -->\n", "<!-- /table:knn -->\n")
README = "# Title\n\n" + "old\n".join(LINEAR) + "between\n" + "".join(KNN)


@pytest.fixture
def folder(tmp_path):
    """A folder of one paper record and one scaled record, and a README with two blocks."""
    store.save(toy("imagenet_linear", {"top1": 73.5, "top5": 91.0}), tmp_path / "runs")
    store.save(departing(**{"SOLVER.MAX_ITER": 1}), tmp_path / "runs")
    (tmp_path / "README.md").write_text(README)
    return tmp_path


def run(folder, *flags):
    places = ["--runs", folder / "runs", "--out", folder / "tables", "--readme", folder / "README.md"]
    return make.main([*map(str, places), *flags])


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_tables_and_blocks_are_written(folder):
    assert run(folder) == 0
    sheets = {sheet.name: sheet for sheet in assembly.build(store.load(folder / "runs")[0])}
    written = {path.name: path.read_text("utf-8") for path in (folder / "tables").iterdir()}
    assert written == {f"{name}.{suffix}": form(sheet) for name, sheet in sheets.items()
                       for suffix, form in render.FORMATS.items()}
    text = (folder / "README.md").read_text("utf-8")
    blocks = written["linear.md"].join(LINEAR) + "between\n" + written["knn.md"].join(KNN)
    assert text == "# Title\n\n" + blocks
    assert "ours: bt" in text


def test_a_second_run_changes_nothing(folder):
    run(folder)
    before, times = files(folder), {path: path.stat().st_mtime_ns for path in (folder / "tables").iterdir()}
    assert run(folder) == 0
    assert files(folder) == before
    assert {path: path.stat().st_mtime_ns for path in (folder / "tables").iterdir()} == times


@pytest.mark.parametrize("spoil, name", [
    (lambda folder: store.save(toy("imagenet_knn", {"top1_k20": 64.0, "top1_k200": 62.0}), folder / "runs"),
     "knn.md"),
    (lambda folder: (folder / "tables" / "semi.tex").write_text("edited"), "semi.tex"),
    (lambda folder: (folder / "tables" / "semi.csv").unlink(), "semi.csv"),
    (lambda folder: (folder / "README.md").write_text(README), "README.md"),
], ids=["new record", "edited table", "missing table", "README"])
def test_check_names_what_is_stale_and_changes_nothing(folder, capsys, spoil, name):
    assert run(folder, "--check") == 1  # nothing was written yet
    run(folder)
    assert run(folder, "--check") == 0
    spoil(folder)
    before = files(folder)
    capsys.readouterr()
    assert run(folder, "--check") == 1
    assert name in capsys.readouterr().err
    assert files(folder) == before
    assert run(folder) == 0 and run(folder, "--check") == 0


def test_a_file_of_no_table_is_stale_in_our_own_folder(folder, capsys, monkeypatch):
    for name, place in (("RUNS", "runs"), ("OUT", "tables")):
        monkeypatch.setattr(make, name, folder / place)
    monkeypatch.setattr(make, "DOCUMENTS", (folder / "README.md", folder / "evidence.md"))
    assert make.main([]) == 0 and make.main(["--check"]) == 0
    for name in make.MEASURED:  # others write these
        (folder / "tables" / name).write_text("measured")
    assert make.main(["--check"]) == 0
    (folder / "tables" / "gone.md").write_text("of a table that there was")
    capsys.readouterr()
    assert make.main(["--check"]) == 1
    assert "gone.md; no table has this name, delete it" in capsys.readouterr().err
    assert run(folder, "--check") == 0  # a folder of somebody else's may hold anything


def test_where_the_suite_is_installed_studies_have_tables_and_other_files_are_left_alone(
        folder, capsys, monkeypatch):
    for name, place in (("RUNS", "runs"), ("OUT", "tables")):
        monkeypatch.setattr(make, name, folder / place)
    monkeypatch.setattr(make, "DOCUMENTS", (folder / "README.md",))
    monkeypatch.setattr(make, "CHECKOUT", False)
    theirs = "<!-- table:mine -->\n<!-- /table:mine -->\n"
    (folder / "README.md").write_text(theirs)
    (folder / "tables").mkdir()
    (folder / "tables" / "mine.csv").write_text("a,b\n")
    assert make.main([]) == 0 and make.main(["--check"]) == 0, capsys.readouterr().err
    written = {path.name for path in (folder / "tables").glob("*.md")}
    assert {f"{sheet.name}.md" for sheet in ablations.sheets(ablations.load()[0])} < written
    assert not {name for name in written if name.startswith("evidence")}  # of this repository's own runs
    assert (folder / "README.md").read_text() == theirs


def test_a_bad_record_is_named_and_the_rest_is_written(folder, capsys):
    path = store.save(toy("voc07_svm", {"mAP": 86.0}), folder / "runs")
    path.write_text(path.read_text().replace("86.0", "89.0"))
    assert run(folder) == 1
    assert f"left out: {path}: edited or damaged" in capsys.readouterr().err
    assert "ours: bt" in (folder / "tables" / "linear.md").read_text()
    assert "ours" not in (folder / "tables" / "transfer.md").read_text()
    assert run(folder, "--check") == 1
    assert run(folder, "--list") == 1


def listed(folder, capsys, *filters):
    """Return the lines of --list below the headers, split at blanks."""
    assert run(folder, "--list", *filters) == 0
    return [line.split() for line in capsys.readouterr().out.splitlines()[2:]]


def test_list(folder, capsys):
    places = [result.place for result in store.load(folder / "runs")[0]]
    assert listed(folder, capsys) == [
        [places[0], "paper", "2026-01-31", "top1", "73.50", "top5", "91.00"],
        [places[1], "scaled", "2026-01-31", "AP", "56.00", "AP50", "82.50", "AP75", "63.25"]]
    assert not (folder / "tables").exists()
    assert run(folder, "--list", "--json", "task=voc_det") == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["record"] == places[1] and found["metrics"] == {"AP": 56.0, "AP50": 82.5, "AP75": 63.25}
    assert run(folder, "--json") == 2 and "--json: expected --list with it" in capsys.readouterr().err


@pytest.mark.parametrize("filters, tasks", [
    (["task=voc_det"], ["voc_det"]), (["protocol=paper"], ["imagenet_linear"]),
    (["backbone=bt", "seed=0"], ["imagenet_linear", "voc_det"]), (["protocol=paper", "task=voc_det"], []),
    (["seed=1"], []), (["backbone=b"], [])])
def test_list_with_filters(folder, capsys, filters, tasks):
    assert [line[0].split("/")[0] for line in listed(folder, capsys, *filters)] == tasks


@pytest.mark.parametrize("text, nearest", [("task=voc_dte", "voc_det"), ("taks=voc_det", "task"),
                                           ("task=pets_prob", "pets_probe")])
def test_a_slip_in_a_filter_names_the_nearest(folder, capsys, text, nearest):
    assert run(folder, "--list", text) == 2
    assert capsys.readouterr().err.rstrip().endswith(f"the nearest is {nearest}")


def test_a_known_task_without_records_is_no_error(folder, capsys):
    from transfer.tasks import TASKS
    for task in TASKS:
        assert run(folder, "--list", f"task={task}") == 0, task


def test_a_long_row_of_metrics_is_cut(folder, capsys):
    store.save(toy("voc07_lowshot", {f"mAP_{k}": 10.0 for k in range(16)}), folder / "runs")
    lines = listed(folder, capsys, "task=voc07_lowshot")
    assert lines[0][-3:] == ["and", "12", "more"] and "mAP_3" in lines[0] and "mAP_4" not in lines[0]


def test_print_shows_every_table(folder, capsys):
    assert run(folder, "--print") == 0
    out = capsys.readouterr().out
    assert all(sheet.title in out for sheet in assembly.build([])) and "ours: bt [1a2b3c4d], n = 1" in out


@pytest.mark.parametrize("text, message", [
    ("<!-- table:linaer -->\n<!-- /table:linaer -->\n", "unknown table 'linaer'; known are linear, semi"),
    ("<!-- table:linear -->\n", "found <!-- table:linear --> alone"),
    ("<!-- /table:linear -->\n", "found <!-- /table:linear --> alone"),
    ("<!-- table:linear -->\n<!-- table:knn -->\n<!-- /table:knn -->\n", "found <!-- table:linear --> alone"),
    ("<!-- table:linear -->\n<!-- /table:knn -->\n", "alone"),
])
def test_wrong_markers_are_an_error_and_nothing_is_written(folder, capsys, text, message):
    (folder / "README.md").write_text(text)
    before = files(folder)
    assert run(folder) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and "README.md" in error
    assert files(folder) == before


def test_a_readme_without_markers_is_left_alone(folder):
    (folder / "README.md").write_text("no tables here\n")
    assert run(folder) == 0
    assert (folder / "README.md").read_text() == "no tables here\n"


@pytest.mark.parametrize("flags, message", [
    (["--runs", "nowhere", "--out", "t"], "expected a folder of records"),
    (["--runs", "."], "expected --out with --runs"),
    (["--out", "t", "--readme", "nowhere.md"], "nowhere.md"),
    (["--list", "taks=voc_det"], "expected KEY=VALUE with a key of task, backbone, seed, protocol"),
    (["--list", "voc_det"], "voc_det: expected KEY=VALUE"),
    (["task=voc_det"], "task=voc_det: expected --list with it"),
])
def test_wrong_arguments(tmp_path, monkeypatch, capsys, flags, message):
    monkeypatch.chdir(tmp_path)
    assert make.main(flags) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error
    assert not list(tmp_path.iterdir())


def test_mixed_records_are_an_error_that_leaves_the_tables(folder, capsys):
    run(folder)
    before = (folder / "tables" / "linear.md").read_bytes()
    like = toy("imagenet_linear", {"top1": 70.0, "top5": 90.0}, seed=1)
    odd = dataclasses.replace(like, data={**like.data, "fingerprint": "another"})
    store.save(odd, folder / "runs")
    assert run(folder) == 2
    message = "error: imagenet_linear top1: expected runs that differ by seed, found two data sets"
    assert message in capsys.readouterr().err
    assert (folder / "tables" / "linear.md").read_bytes() == before


def test_the_script_runs_from_any_folder(folder):
    command = [sys.executable, str(ROOT / "results" / "make.py"), "--runs", "runs", "--out", "tables"]
    answer = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert answer.returncode == 0 and "2 records" in answer.stdout, answer.stderr
    assert (folder / "README.md").read_text() == README  # --out given: the README is not touched


def test_the_defaults_are_the_repositorys_folders(tmp_path):
    others = shutil.ignore_patterns("runs", "tables", "__pycache__")
    for name in ("parallel", "results"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=others)
    (tmp_path / "README.md").write_text(README)
    (tmp_path / "pyproject.toml").touch()  # of a checkout
    store.save(toy("imagenet_linear", {"top1": 73.5, "top5": 91.0}), tmp_path / "results" / "runs")
    for flags in (["--out", "elsewhere"], []):  # with --out the README stays as it is
        assert (tmp_path / "README.md").read_text() == README
        assert not (tmp_path / "results" / "tables").exists()
        command = [sys.executable, "results/make.py", *flags]
        answer = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True,
                                env={**os.environ, "PYTHONPATH": ""})
        assert answer.returncode == 0, answer.stderr
    assert (tmp_path / "results" / "tables" / "linear.md").exists()
    assert "ours: bt" in (tmp_path / "README.md").read_text()


def test_the_committed_tables_are_up_to_date(capsys):
    assert make.main(["--check"]) == 0, capsys.readouterr().err
