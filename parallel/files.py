"""Files written whole: wherever the writer is stopped, the old file or the new one is there, never a part.

While it is written, a file has a hidden name beside its place, `.STEM.<16 hex digits>.part.SUFFIX`, which no
other process or machine draws: the first six digits stand for the machine. A killed writer leaves at most
that file. A writer holds a lock on it, which ends with the process, so the next writer of the same file on
the same machine knows what is abandoned, and removes it. Needs no torch.
"""
import contextlib
import fcntl
import glob
import hashlib
import os
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path

# Locks of another machine may not be seen here, as on some network file systems.
HERE = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:6]


@contextlib.contextmanager
def replacing(path: str | os.PathLike, overwrite: bool = True) -> Iterator[Path]:
    """Yield a name for the block to write to. If the block ends well, that file replaces path, on the disk.
    It is there already, empty: the block opens it, and puts no other file in its place.

    overwrite False: raises FileExistsError if path exists by then, and changes nothing. Raises
    FileNotFoundError if the folder does not exist, and OSError, which names the file, without room for it.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: the folder {path.parent} does not exist; create it first")
    for abandoned in _drafts(path, HERE):
        with contextlib.suppress(OSError):  # its writer lives, or is faster; or the file system has no locks
            with open(abandoned, "r+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                abandoned.unlink()
    draft, lock = _begin(path)
    try:
        yield draft
        _sync(draft)
        if overwrite:
            os.replace(draft, path)
        else:
            _claim(draft, path)
        _sync(path.parent)  # the new name must survive a power cut, too
    except (OSError, RuntimeError) as error:
        cause = error if isinstance(error, OSError) else error.__context__  # torch.save has words of its own
        if isinstance(cause, OSError) and cause.filename is None:
            raise OSError(cause.errno, cause.strerror, str(path)) from None
        raise
    finally:
        draft.unlink(missing_ok=True)
        os.close(lock)


def write_whole(path: str | os.PathLike, content: str | bytes, overwrite: bool = True) -> None:
    """Write a file of that content, text as UTF-8, like `replacing`. Creates the folder if necessary."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, overwrite) as draft:
        draft.write_bytes(content.encode() if isinstance(content, str) else content)


def remove_drafts(path: str | os.PathLike) -> None:
    """Remove what killed writers of any machine left of path. Only path's sole writer may call it."""
    for draft in _drafts(Path(path), ""):
        draft.unlink()


def _drafts(path: Path, machine: str) -> list[Path]:
    """Those of path that are there."""
    digits = machine + "[0-9a-f]" * (16 - len(machine))
    return list(path.parent.glob(f".{glob.escape(path.stem)}.{digits}.part{glob.escape(path.suffix)}"))


def _begin(path: Path) -> tuple[Path, int]:
    """A draft that is locked, where the file system has locks, and the handle that holds the lock."""
    while True:
        draft = path.with_name(f".{path.stem}.{HERE}{secrets.token_hex(5)}.part{path.suffix}")
        handle = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if draft.exists():
                return draft, handle
        except BlockingIOError:
            pass
        except OSError:
            return draft, handle
        os.close(handle)  # another writer was faster and took it for abandoned


def _claim(draft: Path, path: Path) -> None:
    try:
        os.link(draft, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links: claim the place, then fill it in one step
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
        os.replace(draft, path)


def _sync(path: Path) -> None:
    """Flush a file or a folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
