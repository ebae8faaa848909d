"""One live page of what runs: pretraining curves, tasks, time to go, cost. On this machine alone, one port.

    python results/watch.py                         # output/, checkpoint*/ and runs*/ in this folder
    python results/watch.py FOLDER ... --port 8765  # runs below other folders; --port 0 takes a free one
    python results/watch.py --json                  # how it stands now, for a script; serves nothing

It only reads. http://127.0.0.1:PORT/ is the page, /state.json the same as --json. From another machine:
ssh -L 8765:127.0.0.1:8765 HOST.
"""

import argparse
import datetime
import json
import sys
import threading
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from parallel.process import one_line
from results import panels, plots, running, webpage
from results.plan import duration
from results.running import FINISHED, QUIET, RUNNING, WAITING, Job, Place
from results.webpage import escape

USUAL = ("output", "checkpoint*", "runs*")
PORT, REFRESH = 8765, 60
FRESH = 5.0  # seconds that a page is served again for, whoever asks
SHOWN = 100  # runs at most, the others are counted
# Of a run's log: how the page calls a figure, and its names in the logs.
FIGURES = (("loss", ("loss", "total_loss")), ("kNN", ("knn",)), ("online probe", ("online_top1",)),
           ("top-1", ("top1",)), ("AP50", ("bbox/AP50",)), ("box AP", ("bbox/AP",)),
           ("images/s", ("images_per_second",)))
CURVES = (("Loss", "loss", ("loss", "total_loss")),
          ("Accuracy", "%", ("knn", "online_top1", "top1", "bbox/AP50", "bbox/AP")))
HEADERS = "Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


class Board:
    """What is watched, as html and as JSON; made at most every few seconds, and each plot once a line."""

    def __init__(self, folders: Sequence[Path]):
        self.folders, self.lock, self.made = list(folders), threading.Lock(), -FRESH
        self.plots: dict[str, tuple[tuple, str]] = {}
        self.html = self.json = ""

    def refresh(self) -> None:
        """Make both texts anew if they are old."""
        with self.lock:
            if time.monotonic() - self.made >= FRESH:
                roots = self.folders or [path for name in USUAL for path in sorted(Path().glob(name))]
                jobs, suites = running.state(roots)
                self.html = self.page(jobs, suites)
                self.json = json.dumps({"watched": list(map(str, roots)), "runs": list(map(as_json, jobs)),
                                        "suites": [{"backbone": name, "runs": list(map(planned, places))}
                                                   for name, places in suites]}, indent=1)
                self.made = time.monotonic()

    def page(self, jobs: list[Job], suites: list[tuple[str, list[Place]]]) -> str:
        """Return the page of running.state."""
        now = datetime.datetime.now().astimezone()
        counts = {state: sum(job.state == state for job in jobs) for state in
                  (RUNNING, QUIET, running.STOPPED, FINISHED)}
        facts = [("at", f"{now:%Y-%m-%d %H:%M:%S %Z}; the page asks again every {REFRESH} s"),
                 ("runs", ", ".join(f"{count} {state}" for state, count in counts.items() if count)
                  or "none yet"),
                 ("cost", f"{sum(job.cost for job in jobs):.1f} device hours so far")]
        at_work = [job for job in jobs if job.state in (RUNNING, QUIET)]
        rest = [job for job in jobs if job.state not in (RUNNING, QUIET)]
        more = f"<p>{len(rest) - SHOWN} older ones are not shown.</p>" if len(rest) > SHOWN else ""
        table = webpage.table("Newest first", ("Run", "Task", "State", "Figures", "Took", "Device hours"), [
            (job.folder, job.task, job.state, figures(job), duration(job.seconds), f"{job.cost:.2f}")
            for job in rest[:SHOWN]]) if rest else ""
        return webpage.page("What runs", (
            ("now", "Now", webpage.facts(facts)),
            ("running", "At work", "".join(self.card(job) for job in at_work[:SHOWN])),
            ("suites", "Planned tasks", "".join(suite_part(name, places) for name, places in suites)),
            ("rest", "Ended", table + more)), refresh=REFRESH)

    def card(self, job: Job) -> str:
        """Return the html of a run at work: a bar, some facts, its curves."""
        bar = f'<progress max="1" value="{job.done:.4f}"></progress>' if job.done is not None else ""
        done = [] if job.done is None else [f"{100 * job.done:.1f} %"]
        if job.rows:
            done += [f"{job.axis} {job.rows[-1][job.axis]}", f"last line {duration(job.age)} ago"]
        facts = [("done", ", ".join(done)), ("figures", figures(job)),
                 ("so far", f"{duration(job.seconds)}, {job.cost:.2f} device hours"), ("to go", to_go(job))]
        return (f'<h3>{escape(job.folder)} <span class="state">{escape(job.task)}, {job.state}</span></h3>'
                f"{bar}{webpage.facts(fact for fact in facts if fact[1])}{self.curves(job)}")

    def curves(self, job: Job) -> str:
        """Return the html of a run's curves."""
        stamp = len(job.rows), job.changed
        if self.plots.get(job.folder, ((), ""))[0] != stamp:
            draw, parts = panels.Drawing(None), []
            for title, label, names in CURVES:
                found = {name: [row for row in job.rows if row.get(name) is not None] for name in names}
                series = {name: ([row[job.axis] for row in rows], [row[name] for row in rows])
                          for name, rows in found.items() if len(rows) > 1}
                if series:
                    label = label if len(series) > 1 else next(iter(series))
                    parts.append(draw(f"{job.folder} {title}", plots.curves(series, job.axis, label), title,
                                      panels.ends(series)))
            self.plots[job.folder] = stamp, webpage.figures(parts)
        return self.plots[job.folder][1]


def figures(job: Job) -> str:
    """Return a run's figures in words: those of its record, or the newest of its log."""
    found = job.result.metrics.items() if job.result else [
        (text, job.last(*names)) for text, names in FIGURES]
    known = [f"{name} {value:.4g}" for name, value in found if value is not None]
    return ", ".join(known[:6] + ["..."] * (len(known) > 6))


def to_go(job: Job) -> str:
    """Return how long a run will take, and until when."""
    if job.eta is None:
        return "unknown"
    end = datetime.datetime.now() + datetime.timedelta(seconds=job.eta)
    return f"about {duration(job.eta)}, until {end:%a %H:%M}"


def suite_part(name: str, places: list[Place]) -> str:
    """Return the html of a suite's plan."""
    left = [place for place in places if place.state in (WAITING, RUNNING, QUIET)]
    known = [place.job.eta if place.job else place.seconds for place in left]
    took = sum(place.seconds or 0 for place in places if place.state == FINISHED)
    text = f"{sum(place.state == FINISHED for place in places)} of {len(places)} done in {duration(took)}"
    seconds = [one for one in known if one is not None]
    rest = [f"about {duration(sum(seconds))}"] if seconds else []
    rest += [f"{known.count(None)} of unknown time"] if None in known else []
    text += f"; to go: {', '.join(rest)}" if rest else ""
    return webpage.table(f"{name}: {text}", ("Task", "Seed", "State", "Figure", "Time"), [
        (place.task, place.seed, ": ".join(filter(None, (place.state, place.problem.split(";")[0]))),
         main_figure(place), time_of(place)) for place in places])


def main_figure(place: Place) -> str:
    """Return the main metric of a run that is done."""
    return next((f"{name} {value:.2f}" for name, value in place.result.metrics.items()), "") \
        if place.result else ""


def time_of(place: Place) -> str:
    """Return how long a planned run took, or may take."""
    if place.job:
        return f"{duration(place.job.seconds)}, to go: {to_go(place.job)}"
    if place.seconds is None:
        return "-"
    return f"{'' if place.result else 'about '}{duration(place.seconds)}"


def as_json(job: Job) -> dict:
    """Return a run as JSON values, without its curves."""
    kept = {name: value for name, value in vars(job).items() if name not in ("rows", "result")}
    return kept | {"last": job.rows[-1] if job.rows else {}, "metrics": job.result and job.result.metrics}


def planned(place: Place) -> dict:
    """Return a planned run as JSON values."""
    kept = {name: value for name, value in vars(place).items() if name not in ("job", "result")}
    return kept | {"eta": place.job and place.job.eta, "metrics": place.result and place.result.metrics}


class Handler(BaseHTTPRequestHandler):
    """Answers with the board of its server, to whoever calls this machine by a name of its own."""

    server: "Server"

    def do_GET(self) -> None:
        host = self.headers.get("Host", "").rpartition(":")[0] or self.headers.get("Host", "")
        if host not in ("127.0.0.1", "localhost", "[::1]"):  # a page of somebody else's under a false name
            self.send_error(403, "ask for 127.0.0.1")
            return
        if self.path not in ("/", "/state.json"):
            self.send_error(404)
            return
        self.server.board.refresh()
        page = self.path == "/"
        content = (self.server.board.html if page else self.server.board.json).encode(errors="replace")
        self.send_response(200)
        self.send_header("Content-Type", f"{'text/html' if page else 'application/json'}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.send_header(*HEADERS)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing: the page asks every minute."""


class Server(ThreadingHTTPServer):
    """The page on a port of this machine alone."""

    daemon_threads = True

    def __init__(self, port: int, board: Board):
        super().__init__(("127.0.0.1", port), Handler)
        self.board = board


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, serve until Ctrl-C. Returns the exit status: 2 for a folder or a port that cannot be had."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER",
                        help="with runs in or below it (default: output, checkpoint*, runs* here)")
    parser.add_argument("--port", type=int, default=PORT, help=f"0 for a free one (default: {PORT})")
    parser.add_argument("--json", action="store_true", help="print how it stands, and exit")
    arguments = parser.parse_args(argv)
    board = Board(arguments.folders)
    try:
        for folder in arguments.folders:
            if not folder.is_dir():
                raise FileNotFoundError(f"{folder}: expected a folder with runs, found none; name another")
        if arguments.json:
            board.refresh()
            print(board.json)
            return 0
        if not 0 <= arguments.port <= 65535:
            raise ValueError(f"--port: expected 0 to 65535, found {arguments.port}")
        with Server(arguments.port, board) as server:
            port = server.server_address[1]
            print(f"http://127.0.0.1:{port}/ shows what runs below "
                  f"{', '.join(map(str, arguments.folders or USUAL))}; Ctrl-C ends it\nfrom another machine: "
                  f"ssh -L {port}:127.0.0.1:{port} HOST", flush=True)
            server.serve_forever()
        return 0
    except OSError as error:
        taken = "; choose another --port" if not error.filename and error.strerror else ""
        print(f"error: {one_line(error)}{taken}", file=sys.stderr)
        return 2
    except ValueError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main())
