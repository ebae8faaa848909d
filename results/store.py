"""The folder of records: results/runs/<task>/<backbone>-<sha256[:8]>/<config hash>-s<seed>.json, append-only.

A record appears in one step and whole: it is written beside its place under a hidden name, then linked there.
Of several processes that save the same run, one succeeds; a killed one leaves at most a hidden file.
"""

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path

from parallel.files import write_whole
from parallel.reading import read_small, read_small_text
from results.protocols import departures
from results.record import Result, from_json, to_json

Root = str | os.PathLike[str]
KEPT = ".files"  # ending of the folder beside a record that holds its curves, per-class figures, picture
INDEX = "index.json"  # in that folder: whose files they are, and their sha256


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

    An index binds them to the record. Where `folder` does not exist nothing is kept, and what an earlier run
    left is removed.
    """
    place = files_of(result, root)
    if place.exists():
        shutil.rmtree(place)
    if Path(folder).is_dir():
        hidden = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
        try:
            hidden.chmod(0o755)
            hashes = {}
            for file in sorted(path for path in Path(folder).iterdir() if path.is_file()):
                content = file.read_bytes()
                (hidden / file.name).write_bytes(content)
                hashes[file.name] = hashlib.sha256(content).hexdigest()
            write_whole(hidden / INDEX, json.dumps({**_owner(result), "files": hashes}, indent=1) + "\n")
            os.replace(hidden, place)
        finally:
            shutil.rmtree(hidden, ignore_errors=True)


def read_kept(result: Result, root: Root) -> tuple[dict[str, bytes], list[str]]:
    """Return ({name: content} of the files kept beside a record, a line for each that cannot be trusted).

    Those of another record, edited ones and those that the index does not name are left out.
    """
    folder = files_of(result, root)
    if not folder.is_dir():
        return {}, []
    try:
        index = json.loads(read_small_text(folder / INDEX))
        if _owner(result) != {name: index[name] for name in _owner(result)}:
            return {}, [f"{folder}: expected the files of the record beside it, found those of "
                        f"{index['record']} of {index['started']}; restore the folder or delete it"]
        hashes = dict(index["files"])
    except (ValueError, TypeError, KeyError, OSError):
        return {}, [f"{folder / INDEX}: expected whose files these are, found it missing or damaged; restore "
                    "the folder or delete it"]
    contents, problems = {}, []
    for name in sorted({*hashes, *os.listdir(folder)} - {INDEX}):
        try:
            contents[name] = read_small(folder / name)
        except (ValueError, OSError) as error:
            problems.append(str(error))
        if name in contents and hashlib.sha256(contents[name]).hexdigest() != hashes.get(name):
            del contents[name]
            problems.append(f"{folder / name}: expected the file that the run left, found another; restore "
                            "it or run the task again")
    return contents, problems


def _owner(result):
    return {"record": result.place, "started": result.started}


def read_record(path: Root, root: Root) -> Result:
    """Return the record in a file under root. Raises ValueError for one that cannot be trusted.

    Its `scaled` is what its config and counts say, whatever the file states.
    """
    text = read_small_text(path)
    try:
        result = from_json(text)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    place = os.path.join(root, result.place)
    if path != place and Path(path) != Path(place):
        raise ValueError(f"{path}: expected this record at {place}; move it there or delete the copy")
    vars(result)["scaled"] = departures(result)
    return result
