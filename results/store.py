"""The folder of records: results/runs/<task>/<backbone>-<sha256[:8]>/<config hash>-s<seed>.json, append-only.

A record appears in one step and whole: it is written beside its place under a hidden name, then linked there.
Of several processes that save the same run, one succeeds; a killed one leaves at most a hidden file.
"""

import os
import shutil
import tempfile
from pathlib import Path

from parallel.files import write_whole
from results.record import Result, from_json, to_json

Root = str | os.PathLike[str]
RUNS = Path(__file__).with_name("runs")
KEPT = ".files"  # ending of the folder beside a record that holds its curves, per-class figures, picture


def path_of(result: Result, root: Root) -> Path:
    """Return where a record (or a draft of it) belongs under root."""
    return Path(root, result.place)


def save(result: Result, root: Root, rerun: bool = False) -> Path:
    """Store a record and return its path. Refuses (ValueError) to replace one unless `rerun` is set.

    What was kept beside the one it replaces goes first: those figures are not this run's.
    """
    if not result.metrics:
        raise ValueError("metrics: expected at least one, found none; a draft cannot be stored")
    path = path_of(result, root)
    if rerun and files_of(result, root).exists():
        shutil.rmtree(files_of(result, root))
    try:
        write_whole(path, to_json(result), overwrite=rerun)
    except FileExistsError:
        raise ValueError(f"{path}: expected no record of this run, found one; --rerun replaces it") from None
    return path


def find(draft: Result, root: Root) -> Result | None:
    """Return the stored record of the run that `draft` describes, or None; ValueError if damaged."""
    path = path_of(draft, root)
    return read_record(path, root) if path.exists() else None


def load(root: Root) -> tuple[list[Result], list[str]]:
    """Return (records, problems) of a folder: the valid records in order of path, a line for each other one.

    A record that is damaged, edited, of another schema, or not where its content belongs (a copy, a renamed
    file) is left out and named in `problems`. A folder that does not exist holds no records; folders of kept
    files (see `keep`) hold none either.
    """
    records, problems = [], []
    for folder, folders, files in os.walk(os.fspath(root)):
        # Hidden ones are of a `keep` that is under way or was killed.
        folders[:] = sorted(name for name in folders if not name.startswith(".") and not name.endswith(KEPT))
        for name in sorted(files):
            if name.startswith(".") or not name.endswith(".json"):
                continue
            try:
                records.append(read_record(os.path.join(folder, name), root))
            except (ValueError, OSError) as error:
                problems.append(str(error))
    return records, problems


def files_of(result: Result, root: Root) -> Path:
    """Return the folder of the small files kept beside a record, which need not exist."""
    return path_of(result, root).with_suffix(KEPT)


def keep(result: Result, root: Root, folder: Root) -> None:
    """Copy the files of `folder` beside the record, in one step and in place of those of an earlier run.

    Where `folder` does not exist nothing is kept, and what an earlier run left is removed.
    """
    place = files_of(result, root)
    if place.exists():
        shutil.rmtree(place)
    if Path(folder).is_dir():
        hidden = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
        try:
            hidden.chmod(0o755)
            for file in sorted(path for path in Path(folder).iterdir() if path.is_file()):
                shutil.copyfile(file, hidden / file.name)
            os.replace(hidden, place)
        finally:
            shutil.rmtree(hidden, ignore_errors=True)


def read_record(path: Root, root: Root) -> Result:
    """Return the record in a file under root. Raises ValueError for one that cannot be trusted."""
    with open(path, "rb", buffering=0) as file:
        content = file.read()
    try:
        result = from_json(content.decode("utf-8"))
    except UnicodeDecodeError:
        raise ValueError(f"{path}: damaged: not UTF-8 text; restore the file or run the task again") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    place = os.path.join(root, result.place)
    if path != place and Path(path) != Path(place):
        raise ValueError(f"{path}: expected this record at {place}; move it there or delete the copy")
    return result
