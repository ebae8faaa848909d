"""The live page: what it makes of the files of runs at work, whatever stands in them, how it is served."""

import http.client
import json
import os
import re
import socket
import threading
import time

import pytest

from parallel.process import this_process
from results import running, store, watch
from tests.test_results_record import toy
from tests.test_results_report import Page, require_fits

GONE = {"host": socket.gethostname(), "pid": 2 ** 22 + 1}
NAME = 'run <b>&"x"'


def pretraining(folder, steps=100, ago=0, process=None, more=""):
    """A folder as pretrain/main.py leaves it at step 30 of `steps`, after 15 s; its last line `ago` seconds
    old."""
    folder.mkdir(parents=True)
    rows = [{"epoch": 0, "step": 0, "knn": 10.0}, *(
        {"epoch": step // 20, "step": step, "time": step // 2, "loss": 5 - step / 20, "images_per_second": 64}
        for step in range(0, 31, 10)), {"epoch": 1, "step": 30, "knn": 20.0, "online_top1": None}]
    (folder / "stats.txt").write_text("pretrain/main.py /data <x>\n" + "".join(
        json.dumps(row) + "\n" for row in rows) + more)
    (folder / "run.json").write_text(json.dumps({"steps": steps, "processes": 4,
                                                 "process": process or this_process()}))
    os.utime(folder / "stats.txt", (time.time() - ago,) * 2)
    return folder


def task(folder, log="", name="log.txt", config=None, ago=0, **mark):
    """A folder as a task leaves it."""
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"task": "voc_det", "config": config or {}, "seed": 0,
                                                 "process": this_process(), **mark}))
    if log:
        (folder / name).write_text(log)
    for path in folder.iterdir():
        os.utime(path, (time.time() - ago,) * 2)
    return folder


def test_a_run_at_work_with_its_time_to_go(tmp_path):
    job = running.read(pretraining(tmp_path / "bt"), time.time())
    assert (job.state, job.done, job.seconds // 1) == ("running", 0.31, 15)
    assert job.eta == pytest.approx(69 / 2, abs=0.5)  # two steps a second
    assert job.cost == pytest.approx(4 * 15 / 3600, rel=0.1)
    assert (job.last("loss"), job.last("knn"), job.last("online_top1")) == (3.5, 20, None)


@pytest.mark.parametrize("ago, process, exported, state", [
    (0, None, False, "running"), (3600, None, False, "quiet"), (0, GONE, False, "stopped"),
    (0, {"host": "elsewhere", "pid": 1}, False, "running"), (700, {"host": "elsewhere"}, False, "quiet"),
    (90_000, {"host": "elsewhere"}, False, "stopped"), (90_000, None, False, "quiet"),
    (60, GONE, True, "finished"), (0, ["no"], False, "running"),
], ids=str)
def test_how_a_run_stands(tmp_path, ago, process, exported, state):
    folder = pretraining(tmp_path / "bt", ago=ago, process=process)
    (folder / "checkpoint.pth").touch()
    if exported:
        (folder / "resnet50.pth").touch()
    assert running.read(folder, time.time()).state == state


def test_a_run_that_was_started_again_counts_both_starts(tmp_path):
    rows = [{"epoch": 1, "step": 30 + seconds, "time": seconds} for seconds in (5, 8)]
    more = "the command\n" + "".join(json.dumps(row) + "\n" for row in rows)
    job = running.read(pretraining(tmp_path / "bt", more=more, process=GONE), time.time())
    assert job.seconds == 15 + 8 and job.eta is None  # stopped
    job = running.read(pretraining(tmp_path / "again", more=more), time.time())
    assert job.eta == pytest.approx(61, abs=0.5)  # one step a second since then


def test_a_detector_says_itself_how_long(tmp_path):
    rows = [{"iteration": n, "eta_seconds": 300.0 - n, "total_loss": 2.0} for n in (19, 39)]
    log = "".join(json.dumps(row) + "\n" for row in rows)
    folder = task(tmp_path / "a", log, "metrics.json", {"SOLVER.MAX_ITER": 80}, ago=60)
    job = running.read(folder, time.time())
    assert (job.done, round(job.eta), job.state) == (0.5, 201, "running")


def test_a_task_counts_epochs_and_is_done_with_its_record(tmp_path):
    log = "".join(json.dumps({"epoch": n, "seconds": 10.0 * n, "loss": 1, "top1": 50}) + "\n" for n in (1, 2))
    record = store.path_of(toy(), tmp_path / "runs")
    folder = task(tmp_path / "out", log, config={"epochs": 4}, record=str(record))
    job = running.read(folder, time.time())
    assert (job.done, round(job.eta), job.state) == (0.5, 20, "running")
    store.save(toy(), tmp_path / "runs")
    job = running.read(folder, time.time())
    assert (job.state, job.result, job.seconds) == ("finished", toy(), 12.5)
    os.utime(record, (0, 0))  # an older one, which --rerun is going to replace
    assert running.read(folder, time.time()).state == "running"


def test_a_task_that_writes_no_lines_is_no_quiet_one(tmp_path):
    assert running.read(task(tmp_path / "knn", ago=7200), time.time()).state == "running"
    assert running.read(task(tmp_path / "dead", ago=7200, process=GONE), time.time()).state == "stopped"


HOSTILE = {
    "half a line": '{"step": 31, "lo', "no object": '[1]\n{"step": "x"}\n{"step": true}\n{"step": -1}\n',
    "deep": '{"step":' + "[" * 100_000 + "\n", "digits": '{"step": 3' + 5000 * "0" + "}\n",
    "numbers": '{"step": 31, "loss": 1e999, "knn": 1' + 400 * "0" + "}\n",
    "nan": '{"step": 31, "loss": NaN, "knn": Infinity}\n',
    "markup": '{"step": 31, "<script>alert(1)</script>": 1}\n', "bytes": "\udcff\0\x1b[31m\n",
    "words": '{"step": 31, "loss": "<img src=x onerror=alert(1)>"}\n',
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_nothing_in_a_log_breaks_the_page(tmp_path, kind):
    folder = pretraining(tmp_path / NAME)
    with open(folder / "stats.txt", "a", errors="surrogateescape") as file:
        file.write(HOSTILE[kind])
    board = watch.Board([tmp_path])
    board.refresh()
    page = Page(board.html)
    assert not page.errors and not page.all("script") and not page.all("img") and NAME in page.words
    (run,) = json.loads(board.json)["runs"]
    assert run["state"] == "running" and run["last"]["step"] in (30, 31)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"task": ["<b>"], "config": 1, "record": "\\u0000", '
                                     '"process": {"host": 1}, "steps": "x", "processes": -1e400}', "pipe"])
@pytest.mark.parametrize("name", ["run.json", "suite-x.json"])
def test_nothing_in_a_mark_breaks_the_page(tmp_path, content, name):
    folder = task(tmp_path / "a")
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name) if content == "pipe" else (folder / name).write_text(content)
    board = watch.Board([tmp_path])
    board.refresh()
    assert not Page(board.html).errors and len(json.loads(board.json)["runs"]) == 1


def test_a_plan_with_strange_entries_is_shown_as_far_as_it_goes(tmp_path):
    (tmp_path / "suite-x.json").write_text(json.dumps({
        "backbone": NAME, "results": str(tmp_path), "process": GONE,
        "tasks": {"a": None, "b": {"places": [3, "x-s7.json"], "seconds": "long"}, "c": {"problem": "<i>"}}}))
    board = watch.Board([tmp_path])
    board.refresh()
    runs = json.loads(board.json)["suites"][0]["runs"]
    assert [(run["task"], run["seed"], run["state"]) for run in runs] == [
        ("a", "", "stopped"), ("b", "3", "stopped"), ("b", "7", "stopped"), ("c", "", "stopped")]
    assert "stopped: <i>" in Page(board.html).words


@pytest.mark.parametrize("seconds, done, text", [
    (240.0, 1, "1 of 5 done in 12 s; to go: about 4 min"),
    (240.0, 4, "4 of 5 done in 50 s; to go: about 60 s"),
    (None, 2, "2 of 5 done in 25 s; to go: 3 of unknown time"), (240.0, 5, "5 of 5 done in 62 s")])
def test_the_time_to_go_of_a_plan_falls_as_its_runs_end(tmp_path, seconds, done, text):
    runs = [toy(seed=seed) for seed in range(5)]
    (tmp_path / "suite-x.json").write_text(json.dumps({
        "backbone": "bt", "results": str(tmp_path / "runs"), "process": this_process(),
        "tasks": {"voc_det": {"places": [run.place for run in runs], "stored": 1, "seconds": seconds}}}))
    for run in runs[:done]:
        store.save(run, tmp_path / "runs")
    (plan,) = running.state([tmp_path])[1]
    assert f"bt: {text}<" in watch.suite_part(*plan)


def test_only_the_end_of_a_huge_log_is_read(tmp_path):
    folder = pretraining(tmp_path / "bt")
    with open(folder / "stats.txt", "r+b") as file:
        file.seek(1 << 34)
        file.write(b'\n{"epoch": 1, "step": 40, "loss": 1.5, "time": 20}\n')
    assert running.read(folder, time.time()).last("loss") == 1.5


def test_links_in_a_circle_and_hidden_folders_are_no_runs(tmp_path):
    pretraining(tmp_path / "a" / "bt")
    (tmp_path / "a" / "circle").symlink_to(tmp_path)
    task(tmp_path / ".hidden")
    assert len(running.find([tmp_path, tmp_path / "a"])[0]) == 1


def test_a_process_is_at_work_on_its_newest_run_alone(tmp_path):
    """Of a suite whose task failed: its process goes on with the next one."""
    for number, (ago, process) in enumerate([(90, None), (60, None), (90, {"host": "elsewhere"})]):
        task(tmp_path / str(number), ago=ago, process=process or this_process())
    assert {job.folder[-1]: job.state for job in running.state([tmp_path])[0]} == {
        "0": "stopped", "1": "running", "2": "running"}


@pytest.fixture
def ask(tmp_path):
    """Returns a function that asks a server of a folder with a run for a path."""
    pretraining(tmp_path / NAME)
    with watch.Server(0, watch.Board([tmp_path])) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()

        def ask(path, host="localhost:80"):
            connection = http.client.HTTPConnection(*server.server_address, timeout=60)
            connection.request("GET", path, headers={"Host": host})
            return connection.getresponse()
        ask.address = server.server_address
        yield ask
        server.shutdown()


def test_the_page_is_served_on_this_machine_alone(ask):
    answer = ask("/")
    page = Page(answer.read().decode())
    assert answer.status == 200 and "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert not page.errors and {"name": "viewport", "content": "width=device-width, initial-scale=1"} in \
        page.all("meta") and page.all("progress") == [{"max": "1", "value": "0.3100"}]
    assert "about 34 s, until" in page.words and len(page.all("svg")) == 2
    (run,) = json.loads(ask("/state.json").read())["runs"]
    assert run["done"] == 0.31 and run["process"] == this_process()
    assert ask("/../../etc/passwd").status == ask("/x").status == 404
    assert ask("/", host="evil.example:80").status == 403 and ask("/", host="[::1]:80").status == 200
    assert ask.address[0] == "127.0.0.1"


def test_commands(ask, tmp_path, capsys):
    assert watch.main([str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"][0]["eta"] > 30
    assert watch.main(["--port", str(ask.address[1])]) == 2
    assert re.fullmatch(r"error: .*in use; choose another --port\n", capsys.readouterr().err)
    assert watch.main([str(tmp_path / "no")]) == 2
    assert "no: expected a folder with runs, found none" in capsys.readouterr().err
    assert watch.main(["--port", "70000"]) == 2 and "expected 0 to 65535" in capsys.readouterr().err


def test_without_folders_the_usual_ones_are_watched(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert watch.main(["--json"]) == 0 and json.loads(capsys.readouterr().out)["runs"] == []
    for name in ("checkpoint", "output/voc_det", "runs/bt", "other"):
        pretraining(tmp_path / name)
    assert watch.main(["--json"]) == 0
    assert {run["folder"] for run in json.loads(capsys.readouterr().out)["runs"]} == {
        "checkpoint", "output/voc_det", "runs/bt"}


@pytest.mark.parametrize("width", [1280, 390])
def test_it_fits_the_screen(tmp_path, width):
    for number in range(2):
        pretraining(tmp_path / "watched" / f"{'a_long_name_' * 6}{number}", process=GONE if number else None)
    board = watch.Board([tmp_path / "watched"])
    board.refresh()
    require_fits(tmp_path, board.html, width)
