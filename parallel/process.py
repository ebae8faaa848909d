"""This process: its number, how its errors are printed, and its exit status. Needs no torch, whose import
takes seconds: a command that only lists something must start at once."""
import importlib
import os
import select
import signal
import socket
import sys
from collections.abc import Iterable, Mapping
from typing import TypeVar

Item = TypeVar("Item")


def command(module: str) -> int:
    """Run `main` of this module as an installed command and return its exit status. Stop signals wait until
    it listens, since the imports take seconds."""
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1))
    return last(importlib.import_module(module).main())


def in_group() -> bool:
    """Return whether this process is in a group of torch.distributed."""
    distributed = sys.modules.get("torch.distributed")  # whoever is in a group has imported it
    return distributed is not None and distributed.is_available() and distributed.is_initialized()


def rank() -> int:
    """Return this process's number. Outside a group it is torchrun's RANK, so a script may ask before and
    after `launch`."""
    return sys.modules["torch.distributed"].get_rank() if in_group() else int(os.environ.get("RANK", 0))


def is_main() -> bool:
    """Return whether this is process 0, which speaks for all."""
    return rank() == 0


def this_process() -> dict[str, str | int]:
    """Return what names this process, for others to see whether it is still at work."""
    start = _start(os.getpid())
    return {"host": socket.gethostname(), "pid": os.getpid(), **({} if start is None else {"start": start})}


def lives(process: object) -> bool | None:
    """Return whether the process that left this_process() is there; None if that cannot be told from here."""
    if not isinstance(process, Mapping) or process.get("host") != socket.gethostname():
        return None
    pid = process.get("pid")
    if type(pid) is not int or not os.path.exists("/proc/self"):
        return None
    start = _start(pid)  # after a reboot the number is another's
    return start is not None and process.get("start", start) == start


def _start(pid):
    """When a process began, in ticks since the machine did (proc(5)); None without such a process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[19])  # its name may hold spaces and brackets
    except (OSError, ValueError, IndexError):
        return None


def bar(iterable: Iterable[Item], text: str, total: int | None = None, done: int = 0) -> Iterable[Item]:
    """The iterable, with a progress bar in the main process if that has a terminal. done: steps before its
    first."""
    from tqdm import tqdm  # not for every command that only lists something

    shown = is_main() and sys.stderr.isatty()
    return tqdm(iterable, desc=text, total=total, initial=done, leave=False, disable=not shown)


def is_refusal(error: Exception) -> bool:
    """Return whether another try would end the same way: a user's error, but not one of a disk or a
    network."""
    lasting = (ValueError, FileNotFoundError, PermissionError, FileExistsError, NotADirectoryError,
               IsADirectoryError)
    return isinstance(error, lasting)


def one_line(error: Exception) -> str:
    """Return an error's own message. The error of a data loader's process comes wrapped in its traceback."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    text = str(error).strip()
    return text.splitlines()[-1].split("Error: ", 1)[-1] if "Original Traceback" in text else text


def complain(error: Exception) -> int:
    """Print an error as one line, once for all processes; returns the exit status, 2 for a user's."""
    if isinstance(error, BrokenPipeError) and reader_left():
        return 1
    if not getattr(error, "spoken", not is_main()):
        print(f"error: {one_line(error)}", file=sys.stderr, flush=True)
    return 2 if is_refusal(error) else 1


def reader_left() -> bool:
    """Return whether nobody reads what is printed any more, as behind `| head`; what is left goes nowhere."""
    output = select.poll()
    output.register(1, 0)  # of a pipe's writing end, POLLERR: the other end is closed
    left = any(event & select.POLLERR for _, event in output.poll(0))
    if left:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return left


def last(status: int) -> int:
    """Return a script's exit status and shut out signals, since the interpreter takes a second to end, in
    which SIGUSR1 would turn a finished run into a failure. In a group, end the process at once."""
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGUSR1))
    if in_group():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status
