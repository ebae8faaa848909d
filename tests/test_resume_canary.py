"""Files that would run code when they are unpickled, in every place that a run reads of its own folder or of
a cache: the code never runs, and the run ends with one line or does without the file."""
import dataclasses
import io
import os
import pickle
import tarfile
from pathlib import Path

import classification_toys
import detection_toys
import numpy as np
import pytest
import torch
from torch import nn

from parallel.attachments import parse_attachments
from pretrain.pictures import shards
from pretrain.pictures.sources import open_source
from results import pretraining, store
from tests import pretrain_toys
from tests.test_results_record import toy
from transfer.classification import cache, lists
from transfer.classification.images import TrainBatches
from transfer.classification.layouts import split_pair
from transfer.classification.linear import Config as LinearConfig
from transfer.classification.small_sets import read_small_set
from transfer.classification.training import Checkpoint
from transfer.detection.protocol import Config, run
from transfer.detection.sets import declared
from transfer.weights.readers import read


class Canary:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.fixture
def canary(tmp_path):
    """The object whose loading makes a folder; after the test there must be none."""
    path = tmp_path / "canary"
    pickle.loads(pickle.dumps(Canary(path)))
    assert path.is_dir()  # it would sing
    path.rmdir()
    yield Canary(path)
    assert not path.exists()


def pickled(path, bird):
    path.write_bytes(pickle.dumps({"model": bird, "__author__": bird}))


def zipped(path, bird):
    names = ("model", "optimizer", "epoch", "trainer", "iteration", "identity", "history", "head")
    torch.save(dict.fromkeys(names, bird), path)


def legacy(path, bird):
    torch.save({"model": bird}, path, _use_new_zipfile_serialization=False)


FORMS = pytest.mark.parametrize("form", [pickled, zipped, legacy])


def one_line(caught):
    assert "\n" not in str(caught.value)
    return True


@FORMS
def test_pretraining(tmp_path, monkeypatch, canary, form):
    """checkpoint.pth, and those beside it, which are looked at for advice."""
    monkeypatch.setattr("pretrain.backbones.build_backbone", pretrain_toys.toy_backbone)
    pretrain_toys.write_pictures(tmp_path)
    (tmp_path / "run").mkdir()
    for name in ("checkpoint.pth", "checkpoint-000000004.pth"):
        form(tmp_path / "run" / name, canary)
    with pytest.raises(ValueError, match="pth: cannot be read.*no good one is beside it") as caught:
        pretrain_toys.start(tmp_path, "run")
    assert one_line(caught)


@FORMS
def test_linear_and_fine_tuning(tmp_path, canary, form):
    form(tmp_path / "checkpoint.pth", canary)
    head = nn.Linear(2, 2)
    context = dataclasses.replace(classification_toys.context(tmp_path, tmp_path), resume=True)
    checkpoint = Checkpoint(context, classification_toys.backbone(), LinearConfig(), {"head": head},
                            torch.optim.SGD(head.parameters(), momentum=0.9), TrainBatches(4, 2, 0))
    with pytest.raises(ValueError, match="checkpoint.pth: cannot be read as a checkpoint") as caught:
        checkpoint.load()
    assert one_line(caught)


def objects(path, bird):
    np.save(path, np.array([bird], dtype=object))


def archive(path, bird):
    with open(path, "wb") as file:
        np.savez(file, features=np.array([bird], dtype=object))


@pytest.mark.parametrize("form", [objects, archive, pickled, zipped])
def test_cached_features(tmp_path, canary, form):
    """They are computed anew."""
    form(tmp_path / "features.npy", canary)
    kind = cache.row_type(2048, "float32")
    assert cache.read_features(tmp_path / "features.npy", range(1), 1, kind) is None


@pytest.mark.parametrize("form", [objects, archive, pickled, zipped])
def test_index_of_shards(tmp_path, canary, form):
    """It is made anew, whether the file is another's or one entry of ours."""
    picture = tmp_path / "0.png"
    classification_toys.picture(picture, 0, 0)
    with tarfile.open(tmp_path / "a.tar", "w") as file:
        file.add(picture, "0.png")
    shards.Shards([tmp_path / "a.tar"])

    def part(path, _):
        with open(path, "wb") as file:
            np.savez(file, check=content["check"])

    (index,) = tmp_path.glob(".pretrain_index_*.npz")
    with np.load(index) as file:
        content = dict(file)
    with open(index, "wb") as file:
        np.savez(file, **content | {"size": np.array([canary], dtype=object)})
    assert shards.Shards([tmp_path / "a.tar"]).read(0) == picture.read_bytes()
    for others in (form, lambda path, _: np.save(path, np.zeros(3)), part):
        others(tmp_path / "other.npy", canary)
        (tmp_path / "other.npy").replace(index)
        assert shards.Shards([tmp_path / "a.tar"]).read(0) == picture.read_bytes()


# Data

def archived(*names):
    """A shard with a picture and members that would sing."""
    def write(path, bird):
        classification_toys.picture(path.with_name("0.png"), 0, 0)
        with tarfile.open(path, "w") as file:
            file.add(path.with_name("0.png"), "0.png")
            for name in names:
                member = tarfile.TarInfo(name)
                member.size = len(data := pickle.dumps(bird))
                file.addfile(member, io.BytesIO(data))
    return write


def extended(path, bird):
    """Arrow once unpickled the type of such a column (CVE-2023-47248)."""
    import pyarrow
    from pyarrow import parquet
    field = pyarrow.field("image", pyarrow.binary(), metadata={
        "ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": pickle.dumps(bird)})
    parquet.write_table(pyarrow.table([[b"x"]], pyarrow.schema([field])), path)


def arrays(path, bird):
    with open(path, "wb") as file:
        np.savez(file, images=np.array([bird], dtype=object), labels=np.array([bird], dtype=object))


@pytest.mark.parametrize("name, form, message", [
    ("x.tar", archived("0.pth", "0.pkl", "0.pyd", "0.pickle", "1.pkl"), "expected one picture in sample 1"),
    ("x.tar", archived("0.cls"), "x.tar: expected an integer in 0.cls"), ("x.tar", pickled, "as a tar file"),
    ("x.npz", arrays, "x.npz: cannot be read as npz"), ("x.npz", pickled, "x.npz: cannot be read as npz"),
    ("x.npz", objects, "x.npz: "), ("x.npz", zipped, "x.npz: "), ("x.txt", pickled, "x.txt: expected a text"),
    ("x.parquet", pickled, "x.parquet: cannot be read as"), ("x.pkl", pickled, "unknown kind of data"),
    ("x.pth", zipped, "unknown kind of data"), ("x.npy", objects, "unknown kind of data")])
def test_pictures_to_train_on(tmp_path, canary, name, form, message):
    form(tmp_path / name, canary)
    if (tmp_path / f"{name}.npy").exists():
        (tmp_path / f"{name}.npy").rename(tmp_path / name)
    with pytest.raises(ValueError, match=message) as caught:
        open_source(tmp_path / name)
    assert one_line(caught)


@pytest.mark.parametrize("name, form", [
    ("x.tar", archived("0.pth", "0.pkl", "0.pyd", "0.pickle")), ("x.parquet", extended)])
def test_pictures_beside_pickles(tmp_path, canary, name, form):
    form(tmp_path / name, canary)
    assert len(open_source(tmp_path / name).read(0)) > 0


@pytest.mark.parametrize("name", [
    "train2018.json", "train.txt", "trainvalsplit_places205/train_places205.csv"])
@FORMS
def test_lists(tmp_path, canary, name, form):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    form(tmp_path / name, canary)
    for reader in (split_pair, open_source):
        with pytest.raises(ValueError, match="expected a text list in UTF-8, found no text") as caught:
            reader(tmp_path)
        assert one_line(caught)


@pytest.mark.parametrize("form", [pickled, legacy])
def test_label_lists(tmp_path, canary, form):
    classification_toys.image_tree(tmp_path)
    form(tmp_path / "1percent.txt", canary)
    content, source = lists.split_list("1percent", tmp_path, None)
    with pytest.raises(ValueError, match="names are not in"):
        lists.listed_part(content, source, split_pair(tmp_path)[0])


@pytest.mark.parametrize("name, folder, files", [
    ("cifar10", "cifar-10-batches-py", ("data_batch_1", "batches.meta")),
    ("cifar100", "cifar-100-python", ("train", "meta"))])
def test_cifar(tmp_path, canary, name, folder, files):
    """Pickles by birth: torchvision compares each with its md5 before."""
    (tmp_path / folder).mkdir()
    for file in files:
        pickled(tmp_path / folder / file, canary)
    with pytest.raises(ValueError, match="torchvision cannot read it") as caught:
        read_small_set(name, tmp_path)
    assert one_line(caught)


VOC = Config("pascal_voc_R_50_C4_24k_bt.yaml").override([*detection_toys.SMALL, "SOLVER.MAX_ITER", "2"])


@pytest.fixture(scope="module")
def voc(tmp_path_factory):
    return detection_toys.write_voc(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize("name, form, evaluated", [
    ("evil.pkl", pickled, False), ("/evil.pkl", pickled, True), ("model_final.pth", zipped, False),
    ("model_final.pth", pickled, True), ("evil.pyth", legacy, True), ("../evil.pth", zipped, True)],
    ids=["pkl", "absolute", "pth", "pickle", "pyth", "outside"])
def test_detection(voc, tmp_path, canary, name, form, evaluated):
    """Detectron2 unpickles what last_checkpoint names (v0.6, detection_checkpoint.py:62), a .pyth it gives to
    torch.load, and so does fvcore with any other; each in a resumed run or with --eval-only."""
    out = tmp_path / "run"
    out.mkdir()
    named = str(tmp_path) + name if name.startswith("/") else name
    form(out / named, canary)
    (out / "last_checkpoint").write_text(named)
    context = detection_toys.context(voc, out, resume=not evaluated, eval_only=evaluated)
    with pytest.raises(ValueError, match="expected the name of a .pth|cannot be read as a") as caught:
        run(read("random"), VOC, context)
    assert one_line(caught)


def test_detection_s_backbone_is_the_one_just_written(voc, tmp_path, canary, monkeypatch):
    """A link in its place is replaced; a file that comes in between is read without its code."""
    from transfer.detection import trainer
    (tmp_path / "run").mkdir()
    pickled(tmp_path / "evil.pkl", canary)
    planted = tmp_path / "run" / "backbone_d2.pkl"
    planted.symlink_to(tmp_path / "evil.pkl")
    write, before = trainer.export.write_detectron2, (tmp_path / "evil.pkl").read_bytes()

    def writing(backbone, path):
        write(backbone, path)
        assert not Path(path).is_symlink() and (tmp_path / "evil.pkl").read_bytes() == before
        pickled(path, canary)

    monkeypatch.setattr(trainer.export, "write_detectron2", writing)
    with pytest.raises(ValueError, match="backbone_d2.pkl: refused, as it holds posix.mkdir") as caught:
        run(read("random"), VOC, detection_toys.context(voc, tmp_path / "run"))
    assert one_line(caught)


@FORMS
def test_records_and_what_is_kept_beside_them(tmp_path, canary, form):
    place = store.save(toy(), tmp_path / "runs")
    (tmp_path / "record").mkdir()
    form(tmp_path / "record" / "curve.json", canary)
    store.keep(toy(), tmp_path / "runs", tmp_path / "record")
    kept, problems = store.read_kept(toy(), tmp_path / "runs")
    assert not problems and len(parse_attachments(kept, tmp_path)[1]) == 1
    form(place, canary)
    results, problems = store.load(tmp_path / "runs")
    assert not results and len(problems) == 1 and "\n" not in problems[0]


@pytest.mark.parametrize("form", [pickled, zipped, legacy, arrays, objects])
def test_what_pretraining_left_for_the_report(tmp_path, canary, form):
    folder = tmp_path / "toy"
    folder.mkdir()
    (folder / "stats.txt").write_text('run\n{"step": 1}\n')
    form(folder / "correlation", canary)
    next(folder.glob("correlation*")).rename(folder / "correlation.npz")
    runs, problems = pretraining.load(tmp_path)
    assert not runs and len(problems) == 1 and "correlation.npz: expected the arrays" in problems[0]


def test_a_declaration_of_a_detection_set(tmp_path, canary):
    (tmp_path / "set.yaml").write_text(f"train: !!python/object/apply:os.mkdir ['{canary.path}']\n")
    with pytest.raises(ValueError, match="set.yaml") as caught:
        declared(str(tmp_path / "set.yaml"))
    assert one_line(caught)
