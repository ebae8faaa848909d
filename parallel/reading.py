"""Small files read whole, and nothing else: no pipe that hangs, no device or sparse file that never ends."""

import os
import stat

MEGABYTE = 1 << 20


def read_small(path: str | os.PathLike[str], limit: int = 16 * MEGABYTE) -> bytes:
    """Return the content of a regular file of at most `limit` bytes.

    Raises ValueError, naming the file, for anything else that is there, and OSError where nothing is.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # without it, a pipe would wait for its writer
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"{path}: expected a file, found a {_kind(status.st_mode)}; remove it")
        if status.st_size > limit:
            raise ValueError(f"{path}: expected at most {limit / MEGABYTE:.0f} MB, found "
                             f"{status.st_size / MEGABYTE:.0f} MB; this is no file of that kind, remove it")
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


def _kind(mode: int) -> str:
    kinds = {stat.S_ISDIR: "folder", stat.S_ISFIFO: "pipe", stat.S_ISSOCK: "socket", stat.S_ISCHR: "device",
             stat.S_ISBLK: "device"}
    return next((name for fits, name in kinds.items() if fits(mode)), "special file")
