"""Files read whole that have a largest size: no pipe that hangs, no device or sparse file that never ends."""

import os
import stat

MEGABYTE = 1 << 20


def read_small(path: str | os.PathLike[str], limit: int = 16 * MEGABYTE, what: str = "a file",
               advice: str = "restore it") -> bytes:
    """Return the content of a regular file of at most `limit` bytes. what, advice: for the error.

    Raises ValueError, naming the file, for anything else that is there, and OSError where nothing is.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # without it, a pipe would wait for its writer
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"{path}: expected {what}, found {_kind(status.st_mode)}; {advice}")
        if status.st_size > limit:
            raise ValueError(f"{path}: expected {what} of at most {limit:,} bytes, found "
                             f"{status.st_size:,}; {advice}")
        with open(handle, "rb", buffering=0, closefd=False) as file:
            return file.readall()
    finally:
        os.close(handle)


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
