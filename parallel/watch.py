"""Which processes are still there: each gives a sign of life every second, and if one stops, all leave.

torch's collectives wait half an hour for a process that was stopped, lost its host or took another branch,
and then do not say which one. Here each process has two threads that keep running while the main one waits in
a collective. One puts a sign of life into the group's store and looks for those of others; the other one
decides.

A process that fails, or is told to stop, leaves its story in the store. The others then end with the same
message and status. Rank 0 speaks for all; if rank 0 is lost, the process that missed it speaks.
"""
import dataclasses
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch.distributed as dist

from parallel import signals
from parallel.collectives import USER_ERRORS
from parallel.places import ROOT
from parallel.process import is_refusal

BEAT = 1.0  # seconds between two signs of life
GRACE = 5.0  # seconds for a main thread to end by itself, and for a story to arrive
UNREACHABLE = 15.0  # seconds without a connection to the store: it has ended, and the process with it
ASLEEP = 3.0  # seconds between two looks of a thread that looks twice a second: it was suspended
OURS = ("pretrain", "transfer", "results", "benchmarks", "tools", "tests")  # not parallel: where all wait
STOPPING = 15.0  # seconds from SIGTERM until the main thread is ended: SLURM kills after 30


def silence() -> float:
    """Return the seconds without a sign of life after which a process counts as lost: three minutes, or
    BARLOW_TIMEOUT_SECONDS. Work may take longer, since a separate thread gives the sign."""
    text = os.environ.get("BARLOW_TIMEOUT_SECONDS", "180")
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0
    if not 5 <= seconds < float("inf"):
        raise ValueError(f"BARLOW_TIMEOUT_SECONDS: expected a number of seconds from 5 on, found {text!r}")
    return seconds


@dataclass(frozen=True)
class Story:
    """Why a group ends.

    kind: refused or missing (a user's error), broken (a disk's or a network's), failed, or stopped (by signal
    `number`). finder: the rank that tells it. lost: the rank that is gone without a message, or -1.
    """
    kind: str
    message: str
    finder: int
    number: int = 0
    lost: int = -1
    trace: str = ""


def position() -> str:
    """Return where the main thread is in the suite's own code, as "file.py:line"."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    while frame:
        path = Path(frame.f_code.co_filename)
        place = path.relative_to(ROOT) if path.is_relative_to(ROOT) else Path(".")
        if place.parts and place.parts[0] in OURS:
            return f"{place}:{frame.f_lineno}"
        frame = frame.f_back
    return "no code of ours"


class Watch:
    """The two threads of a process. tell(story) ends this process and does not return."""

    def __init__(self, store: dist.Store, rank: int, size: int, tell: Callable[[Story], None]):
        self.store, self.rank, self.size, self.tell = store.clone(), rank, size, tell
        self.silence, self.parent = silence(), os.getppid()
        self.peers = [other for other in (range(size) if rank == 0 else (0,)) if other != rank]
        # Each peer's last sign of life, and when it came.
        self.heard: dict[int, tuple[bytes | None, float]] = {}
        self.answered = 0.0  # when the store last answered
        self.connected = True
        self.story: Story | None = None
        self.explained = False  # the main thread is about to leave by itself
        self.ended = threading.Event()
        self.store.set(f"life/{rank}", self.sign(0))

    def start(self) -> None:
        """Start both threads. Call it when all processes have given their first sign."""
        self.begin_anew()
        for work in (self.listen, self.decide):
            threading.Thread(target=work, daemon=True).start()

    def begin_anew(self) -> None:
        """Count silence from now on."""
        self.answered = time.monotonic()
        self.heard = dict.fromkeys(self.peers, (None, self.answered))

    def sign(self, number: int) -> str:
        return f"{number}\n{socket.gethostname()}\n{position()}"

    # The first thread. It may hang in the store for as long as the network does.

    def listen(self) -> None:
        number = 0
        while not self.ended.wait(BEAT):
            number += 1
            try:
                self.store.set(f"life/{self.rank}", self.sign(number))
                if self.store.check(["story"]):
                    self.story = Story(**json.loads(self.store.get("story")))
                    self.store.set(f"read/{self.rank}", "")
                for peer, sign in zip(self.peers, self.store.multi_get([f"life/{p}" for p in self.peers])):
                    if sign != self.heard[peer][0]:
                        self.heard[peer] = sign, time.monotonic()
            except RuntimeError:  # torch's errors of a lost connection
                self.connected = False
            else:
                self.answered, self.connected = time.monotonic(), True

    # The second thread

    def decide(self) -> None:
        first, since, awake = 0, 0.0, time.monotonic()  # of stop signals; since one that is not to wait
        while not self.ended.is_set():
            heard = signals.heard(BEAT / 2)
            if time.monotonic() - awake > ASLEEP:
                self.begin_anew()  # this process itself was suspended (Ctrl-Z, scontrol suspend), like others
            awake = time.monotonic()
            for number in heard:
                if number == signals.signal.SIGINT == first and awake - since > signals.SECOND_CTRL_C:
                    signals.leave_at_once()
                first = first or number
                if number != signals.REQUEUE_SIGNAL:  # which leaves as much time as the user asked for
                    since = since or awake
            story = self.story or self.missing()
            if os.getppid() != self.parent:
                story = Story("failed", "the process that started this one has ended", self.rank, lost=0)
            overdue = since and awake - since > STOPPING
            if overdue:
                story = Story("stopped", "", self.rank, number=first)
            if story:
                story = self.post(story)
                if not self.ended.wait(0 if overdue else GRACE) and not self.explained:
                    self.tell(story)
                return

    def missing(self) -> Story | None:
        """Return the story of a process, or of the store, that has been silent for too long, or None."""
        now = time.monotonic()
        limit = self.silence if self.connected else min(UNREACHABLE, self.silence)
        if now - self.answered > limit:
            how = "does not answer" if self.connected else "cannot be reached"
            return Story("failed", f"the meeting point of the {self.size} processes {how} for "
                         f"{now - self.answered:.0f} s; is its host down, or has its process ended?",
                         self.rank, lost=0)
        for peer, (sign, since) in self.heard.items():
            if now - since > self.silence and now - self.answered < 3 * BEAT:
                return self.lost(peer, sign, now - since)
        return None

    def lost(self, peer: int, sign: bytes | None, seconds: float) -> Story:
        _, host, where = (sign or b"\n?\n?").decode().split("\n")
        return Story("failed", f"process {peer} of {self.size} (host {host}) has not answered for "
                     f"{seconds:.0f} s; it was last at {where}; look at that host", self.rank, lost=peer)

    # For both threads and the main one

    def post(self, story: Story) -> Story:
        """Leave a story for everybody, unless there is one. Returns the story that counts."""
        if self.story or not self.connected:
            return self.story or story
        done = threading.Event()

        def put():
            try:
                text = self.store.compare_set("story", "", json.dumps(dataclasses.asdict(story)))
                self.story = Story(**json.loads(text))
            except RuntimeError:
                pass
            done.set()
        threading.Thread(target=put, daemon=True).start()  # the store may hang
        done.wait(GRACE)
        return self.story or story

    def speaks(self, story: Story) -> bool:
        """Return whether this process prints the story. If the store is gone with rank 0, nobody knows what
        others found, and the first two of each host print it."""
        if story.lost != 0:
            return self.rank == 0
        local = os.environ.get("SLURM_LOCALID", os.environ.get("LOCAL_RANK", "0"))
        return self.rank == story.finder and (self.connected or int(local) < 2)

    def explain(self, error: BaseException) -> Story:
        """Return the story behind an error of this process's main thread. All processes know it afterwards.

        A RuntimeError may come from a collective in which another process is missing. Then it waits for that
        process's story, or for its signs of life to stop.
        """
        self.explained = True
        if isinstance(error, signals.Stopped):
            return self.post(Story("stopped", "", self.rank, number=error.number))
        if isinstance(error, USER_ERRORS) and not isinstance(error, ConnectionError):
            kind = "missing" if isinstance(error, FileNotFoundError) else "refused"
            return self.post(Story(kind if is_refusal(error) else "broken", str(error), self.rank))
        patience = 2 * GRACE if isinstance(error, (RuntimeError, ConnectionError)) else 0
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline and not self.story:
            for peer, (sign, since) in self.heard.items():
                if time.monotonic() - since > GRACE:
                    return self.post(self.lost(peer, sign, time.monotonic() - since))
            time.sleep(BEAT / 10)
        return self.post(Story("failed", f"process {self.rank} of {self.size} (host {socket.gethostname()}) "
                               f"failed with {type(error).__name__}: {str(error).strip()}{self.places()}",
                               self.rank))

    def places(self) -> str:
        """Return where other processes are, unless they are where this one is: all may be waiting for one of
        them."""
        signs = [(peer, sign.decode().split("\n")) for peer, (sign, _) in self.heard.items() if sign]
        others = [f"process {peer} (host {host}) is at {where}" for peer, (_, host, where) in signs
                  if where != position()]
        return "; " + ", ".join(others[:8]) if others else ""

    def linger(self) -> None:
        """Wait until the others have read the story: the store may be in this process."""
        deadline = time.monotonic() + GRACE
        others = [f"read/{rank}" for rank in range(self.size) if rank != self.rank]
        while time.monotonic() < deadline and self.connected:
            try:
                if self.store.check(others):
                    return
            except RuntimeError:
                return
            time.sleep(BEAT / 10)

    def end(self) -> None:
        self.ended.set()
