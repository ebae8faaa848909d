"""Folders of records as disks, copies, editors and forgers leave them.

CASES: (name, change, promise). The change gets the file of a record of the paper's protocol and the folder of
what is kept beside it; another record is left alone. The promise is "accepted" (the figure stands in the
paper's table), "scaled" (it stands among the rehearsals), or what the line about it says.
"""

import dataclasses
import json
import os
import random
import shutil

from results import store
from results.record import to_json
from tests.test_results_record import departing, toy


def text(change):
    return lambda path, kept: path.write_text(change(path.read_text()))


def content(change):
    """Change the parsed record, and leave its checksum."""
    def edit(path, kept):
        record = json.loads(path.read_text())
        change(record)
        path.write_text(json.dumps(record))
    return edit


def other(record):
    """Put another record, whose checksum is right, where it belongs."""
    def replace(path, kept):
        root = path.parents[2]
        path.unlink()
        shutil.rmtree(kept)
        place = store.path_of(record, root)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(to_json(record))
    return replace


def altered(seed):
    def alter(path, kept):
        data, chosen = bytearray(path.read_bytes()), random.Random(seed)
        place = chosen.choice([index for index, byte in enumerate(data) if byte > 32])
        data[place] = chosen.choice([byte for byte in range(33, 127) if byte != data[place]])
        path.write_bytes(data)
    return alter


def instead(make):
    def put(path, kept):
        path.unlink()
        make(path)
    return put


def sparse(path):
    with open(path, "wb") as file:
        file.truncate(6 << 30)


def deep(path):
    path.write_text("[" * 100_000)


LEFT = "left out: "
CASES = (
    *((f"torn at {share} %", text(lambda whole, share=share: whole[:len(whole) * share // 100]), LEFT)
      for share in (0, 1, 10, 25, 50, 75, 90, 99)),
    *((f"a byte altered, draw {seed}", altered(seed), LEFT) for seed in range(24)),
    ("other white space", text(lambda whole: json.dumps(json.loads(whole), indent=5) + "\n\n"), "accepted"),
    ("Windows' line ends", text(lambda whole: whole.replace("\n", "\r\n")), "accepted"),
    ("a figure raised", content(lambda one: one["metrics"].update(AP=99.0)), "the checksum does not fit"),
    ("a figure of 101 %", content(lambda one: one["metrics"].update(AP=101.0)), LEFT),
    ("a figure that is no number", text(lambda whole: whole.replace("56.0", "NaN")), LEFT),
    ("a figure that is infinite", text(lambda whole: whole.replace("56.0", "1e999")), LEFT),
    ("no checksum", content(lambda one: one.pop("checksum")), LEFT),
    ("a checksum that is no text", content(lambda one: one.update(checksum=[1])), LEFT),
    ("another schema", content(lambda one: one.update(schema=2)), "expected schema 1"),
    ("a field too many", content(lambda one: one.update(note="")), "fields differ by note"),
    ("a field too few", content(lambda one: one.pop("seed")), "fields differ by seed"),
    ("a list", text(lambda whole: "[1]"), "found a list"),
    ("nested without end", instead(deep), "not JSON of a record"),
    ("a number of 10,000 digits", text(lambda whole: whole.replace("12.5", "9" * 10_000)), LEFT),
    ("UTF-16", lambda path, kept: path.write_bytes(path.read_text().encode("utf-16")), "expected UTF-8"),
    ("a page of HTML", text(lambda whole: "<!DOCTYPE html>"), "not JSON"),
    ("a conflict of git", text(lambda whole: f"<<<<<<< HEAD\n{whole}"), "not JSON"),
    ("copied", lambda path, kept: shutil.copy(path, path.with_name("a.json")), "delete the copy"),
    ("renamed", lambda path, kept: path.rename(path.with_name("renamed.json")), "move it there"),
    ("in another task's folder", lambda path, kept: shutil.move(
        path.parent, path.parents[2] / "coco_det" / path.parent.name), "move it there"),
    ("a pipe", instead(os.mkfifo), "found a pipe"),
    ("/dev/zero", instead(lambda path: path.symlink_to("/dev/zero")), "found a device"),
    ("6 GB of nothing", instead(sparse), "at most 16,777,216 bytes"),
    ("a link to nothing", instead(lambda path: path.symlink_to("nowhere")), LEFT),
    ("a link to itself", instead(lambda path: path.symlink_to(path)), LEFT),
    ("forged: another config", other(dataclasses.replace(departing(**{"SOLVER.MAX_ITER": 30}), scaled={})),
     "scaled"),
    ("forged: no config", other(toy(config={})), "scaled"),
    ("forged: a key more", other(toy(config={**toy().config, "trick": 1})), "scaled"),
    ("forged: fewer pictures", other(toy(data={**toy().data, "counts": {"train": 16551, "test": 9}})),
     "scaled"),
    ("forged: another version", other(toy(version=2)), "scaled"),
    ("forged: a task that is not there", other(toy("mnist_linear", {"top1": 99.0})), "scaled"),
    ("kept: another's files", lambda path, kept: (kept / store.INDEX).write_text(
        (kept / store.INDEX).read_text().replace("voc_det", "coco_det")), "found those of"),
    ("kept: an edited curve", lambda path, kept: (kept / "curve.json").write_text("[1]"), "found another"),
    ("kept: a file more", lambda path, kept: (kept / "more.json").write_text("[]"), "found another"),
    ("kept: no index", lambda path, kept: (kept / store.INDEX).unlink(), "missing or damaged"),
    ("kept: a pipe", lambda path, kept: os.mkfifo(kept / "x"), "found a pipe"),
)
