"""Files read whole that have a largest size: no pipe that hangs, no device or sparse file that never ends."""

import io
import os
import stat

MEGABYTE = 1 << 20


def read_small(path: str | os.PathLike[str], limit: int = 16 * MEGABYTE, what: str = "a file",
               advice: str = "restore it") -> bytes:
    """Return the content of a regular file of at most `limit` bytes. what, advice: for the error.

    Raises ValueError, naming the file, for anything else that is there, and OSError where nothing is.
    """
    with _regular(path, what, advice) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise ValueError(f"{path}: expected {what} of at most {limit:,} bytes, found {size:,}; {advice}")
        return file.readall()


def read_tail(path: str | os.PathLike[str], limit: int = 4 * MEGABYTE) -> list[str]:
    """Return the whole lines in the last `limit` bytes of a regular file that others may be writing to.

    Raises ValueError, naming the file, for anything else that is there, and OSError where nothing is.
    """
    with _regular(path, "a file", "restore it") as file:
        start = max(0, os.fstat(file.fileno()).st_size - limit)
        file.seek(start)
        content = file.read(limit) or b""
    lines = content.split(b"\n")[:-1]
    return [line.decode(errors="replace") for line in lines[start > 0:]]


def _regular(path, what, advice) -> io.FileIO:
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # without it, a pipe would wait for its writer
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        raise ValueError(f"{path}: expected {what}, found {_kind(mode)}; {advice}")
    return open(handle, "rb", buffering=0)


def read_small_text(path: str | os.PathLike[str], limit: int = 16 * MEGABYTE) -> str:
    """`read_small` as text. Raises ValueError, naming the file, also where it is not UTF-8."""
    try:
        return read_small(path, limit).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected UTF-8 text, found another byte at {error.start}; "
                         "restore the file") from None


def what_is(path: str | os.PathLike[str]) -> str:
    """Return what something that is no file is, in words."""
    if not os.path.exists(path):
        return "a broken link" if os.path.islink(path) else "nothing"
    return _kind(os.stat(path).st_mode)


def _kind(mode: int) -> str:
    kinds = {stat.S_ISDIR: "a folder", stat.S_ISFIFO: "a pipe", stat.S_ISSOCK: "a socket"}
    return next((name for fits, name in kinds.items() if fits(mode)), "a device")
