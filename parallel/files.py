"""Files written whole: wherever the writer is stopped, the old file or the new one is there, never a part.

While it is written, a file has a hidden name beside its place, `.STEM.<16 hex digits>.part.SUFFIX`, which no
other process or machine draws. A killed writer leaves at most that file. Needs no torch.
"""
import contextlib
import glob
import os
import secrets
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: str | os.PathLike, overwrite: bool = True) -> Iterator[Path]:
    """Yield a name for the block to write to. If the block ends well, that file replaces path, on the disk.

    overwrite False: raises FileExistsError if path exists by then, and changes nothing. Raises
    FileNotFoundError if the folder does not exist, and OSError, which names the file, without room for it.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: the folder {path.parent} does not exist; create it first")
    draft = path.with_name(f".{path.stem}.{secrets.token_hex(8)}.part{path.suffix}")
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


def write_whole(path: str | os.PathLike, content: str | bytes, overwrite: bool = True) -> None:
    """Write a file of that content, text as UTF-8, like `replacing`. Creates the folder if necessary."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, overwrite) as draft:
        draft.write_bytes(content.encode() if isinstance(content, str) else content)


def remove_drafts(path: str | os.PathLike) -> None:
    """Remove what killed writers left of path. Only path's sole writer may call it."""
    path = Path(path)
    for draft in path.parent.glob(f".{glob.escape(path.stem)}.{'[0-9a-f]' * 16}.part{path.suffix}"):
        draft.unlink()


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
