"""The small benchmarks in the layouts of their official downloads, and the same pictures in every form."""
import dataclasses
import io

import classification_toys as toys
import numpy as np
import pytest
import torchvision
from PIL import Image

from transfer import doctor
from transfer.classification import finetune, health, knn, linear, probe, small_sets
from transfer.classification import images as data
from transfer.classification.datasets import halves, stated
from transfer.tasks import TASKS

pyarrow = pytest.importorskip("pyarrow")
from pyarrow import parquet  # noqa: E402


def colours(count, side, seed):
    """(pictures (count, side, side, 3), labels (count,)) of three classes in turn."""
    labels = np.arange(count) % 3
    pictures = np.random.default_rng(seed).integers(0, 120, (count, side, side, 3)).astype(np.uint8)
    pictures[np.arange(count), :, :, labels] += 120
    order = np.argsort(labels, kind="stable")  # as folders of classes have them
    return pictures[order], labels[order]


SETS = {"train": colours(12, 32, 0), "test": colours(7, 32, 1)}


def png(picture):
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "png")
    return buffer.getvalue()


def folders(root):
    for half, (pictures, labels) in SETS.items():
        for number, (picture, label) in enumerate(zip(pictures, labels)):
            place = root / "cifar10" / half / toys.CLASSES[label]
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{number:03d}.png").write_bytes(png(picture))


def npz(root):
    (root / "cifar10").mkdir()
    for half, (pictures, labels) in SETS.items():
        np.savez(root / "cifar10" / f"{half}.npz", images=pictures, labels=labels)


def of_the_hub(root):
    """Structures in a column img, two files of train; labels are fine_label, as those of CIFAR-100 are."""
    (root / "cifar10" / "plain_text").mkdir(parents=True)
    for half, (pictures, labels) in SETS.items():
        images = [{"bytes": png(picture), "path": None} for picture in pictures]
        cuts = ((0, 5), (5, None)) if half == "train" else ((0, None),)
        for number, (first, end) in enumerate(cuts):
            parquet.write_table(
                pyarrow.table({"img": images[first:end], "fine_label": labels[first:end]}),
                root / "cifar10" / "plain_text" / f"{half}-0000{number}-of-0000{len(cuts)}.parquet")


FORMS = {"folders": folders, "npz": npz, "parquet": of_the_hub}


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    found = {name: tmp_path_factory.mktemp(name) for name in FORMS}
    for name, write in FORMS.items():
        write(found[name])
    return found


def test_every_form_gives_the_same_pictures(roots):
    for name, root in roots.items():
        for half, samples in halves(root, "cifar10").items():
            pictures, labels = SETS[half]
            assert samples.labels.tolist() == labels.tolist() and len(samples.classes) == 3
            images = data.Images(samples, 32, augment=False, resize="stretch")
            for index, picture in enumerate(pictures):
                assert np.array_equal(images[0, index][0].numpy(), picture.transpose(2, 0, 1)), name
            subset = samples.subset(np.array([4, 2]), "two")
            assert np.array_equal(data.Images(subset, 32, augment=False)[0, 1][0].numpy(),
                                  data.Images(samples, 32, augment=False)[0, 2][0].numpy())


def test_every_form_gives_the_pictures_of_an_effective_rank(roots):
    for root in roots.values():
        found = data.Images(health.pictures(root / "cifar10"), 32, augment=False, resize="stretch")
        assert [found[0, index][0].numpy().tolist() for index in range(12)] == \
            SETS["train"][0].transpose(0, 3, 1, 2).tolist() and len(found) == 12


@pytest.mark.parametrize("protocol, config, figures", [
    (knn, knn.Small(k=(3,)), {"top1"}),
    (linear, linear.Small(epochs=2, batch_size=6), {"top1", "top5", "best_top1"}),
    (finetune, finetune.Small(split="draw:50%", epochs=1, batch_size=6), {"top1", "top5", "best_top1"}),
    (probe, probe.Config("cifar10", strengths=2, image_size=32), {"top1", "mean_per_class", "knn20"}),
], ids=["knn", "linear", "fine-tuning", "probe"])
def test_every_form_gives_the_same_figures(roots, tmp_path, protocol, config, figures):
    found = []
    for name, root in roots.items():
        context = toys.context(root, tmp_path / name, cache=tmp_path / "cache")
        counts = protocol.data(config, context)["counts"]
        assert counts["train"] + counts["test"] == (19 if protocol is not finetune else 6 + 7)
        found.append(protocol.run(toys.backbone("resnet18-cifar"), config, context))
        assert found[-1].keys() == figures
    assert found[0] == found[1] == found[2]


def binary(root, count=4):
    """stl10_binary: channels first, then columns; labels from 1."""
    (root / "stl10_binary").mkdir()
    for half, seed in (("train", 0), ("test", 1)):
        pictures, labels = colours(count, 96, seed)
        pictures.transpose(0, 3, 2, 1).tofile(root / "stl10_binary" / f"{half}_X.bin")
        (labels + 1).astype(np.uint8).tofile(root / "stl10_binary" / f"{half}_y.bin")
    (root / "stl10_binary" / "class_names.txt").write_text("airplane\nbird\ncar\n")


def test_stl10_is_read_as_torchvision_reads_it(tmp_path, monkeypatch):
    binary(tmp_path)
    (tmp_path / "stl10_binary" / "fold_indices.txt").write_text("")
    monkeypatch.setattr(torchvision.datasets.STL10, "_check_integrity", lambda self: True)
    for half, samples in halves(tmp_path, "stl10").items():
        theirs = torchvision.datasets.STL10(tmp_path, half)
        assert samples.classes == tuple(theirs.classes) == ("airplane", "bird", "car")
        for index, (image, label) in enumerate(theirs):
            assert np.array_equal(np.asarray(image), samples.read(index)) and label == samples.labels[index]


@pytest.mark.parametrize("spoil, message", [
    (lambda folder: (folder / "test_y.bin").unlink(), "test_y.bin: no such file; unpack stl10_binary.tar.gz"),
    (lambda folder: (folder / "train_X.bin").write_bytes(b"1234"),
     "train_X.bin: expected 27,648 bytes for each of 4 labels in train_y.bin, found 4; fetch it again"),
    (lambda folder: (folder / "train_y.bin").write_bytes(bytes([0, 1, 2, 3])),
     "train_y.bin: expected labels from 1 to 3, found 0 to 3"),
])
def test_a_damaged_stl10_is_refused(tmp_path, spoil, message):
    binary(tmp_path)
    spoil(tmp_path / "stl10_binary")
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        halves(tmp_path, "stl10")


def tiny(root):
    """tiny-imagenet-200 as its archive has it, with two classes."""
    folder = root / "tiny-imagenet-200"
    lines = []
    for label, wnid in enumerate(("n01443537", "n01629819")):
        for number in range(2):
            toys.picture(folder / "train" / wnid / "images" / f"{wnid}_{number}.JPEG", label, number)
        (folder / "train" / wnid / f"{wnid}_boxes.txt").write_text(f"{wnid}_0.JPEG\t0\t0\t62\t62\n")
    for number in range(3):
        toys.picture(folder / "val" / "images" / f"val_{number}.JPEG", number % 2, number + 9)
        lines.append(f"val_{number}.JPEG\t{('n01629819', 'n01443537')[number % 2]}\t0\t32\t44\t62\n")
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    (folder / "wnids.txt").write_text("n01629819\nn01443537\n")
    toys.picture(folder / "test" / "images" / "test_0.JPEG", 0, 0)


def test_tiny_imagenet_as_it_is_unpacked(tmp_path):
    tiny(tmp_path)
    parts = halves(tmp_path, "tiny_imagenet")
    assert stated("tiny_imagenet", parts)["counts"] == {"train": 4, "val": 3}
    assert parts["train"].classes == parts["val"].classes == ("n01443537", "n01629819")
    assert parts["train"].labels.tolist() == [0, 0, 1, 1] and parts["val"].labels.tolist() == [1, 0, 1]


def test_imagenet100_is_a_part_of_imagenet(tmp_path):
    wanted = small_sets.IMAGENET100
    assert len(wanted) == 100 and wanted[0] == "n01558993" and wanted == tuple(sorted(set(wanted)))
    classes = sorted([*wanted, "n01440764", "n09999999"])
    pixel = toys.image_tree(tmp_path / "one", classes=("a", "b"), train=2, val=2) / "train/a/a_0.JPEG"
    for half in ("train", "val"):
        for number, wnid in enumerate(classes):
            place = tmp_path / "imagenet" / half / wnid
            place.mkdir(parents=True)
            (place / f"{wnid}_1.JPEG").write_bytes(pixel.read_bytes())
    for part in halves(tmp_path, "imagenet100").values():
        assert part.classes == wanted and part.labels.tolist() == list(range(100))
        assert [part.path(row).parent.name for row in range(100)] == list(wanted)
    toys.image_tree(tmp_path / "imagenet100")  # what the user made of it goes first
    assert len(halves(tmp_path, "imagenet100")["train"]) == 14


def test_an_imagenet_without_its_classes_is_none(tmp_path):
    toys.image_tree(tmp_path / "imagenet")
    answer, text = doctor.inspect(TASKS["imagenet100_knn"], toys.context(tmp_path, tmp_path / "out"))
    assert answer == "no" and "expected the 100 classes of ImageNet-100, 100 are missing" in text


def unlabelled(root):
    np.savez(root / "cifar10" / "train.npz", images=SETS["train"][0])


def two_kinds(root):
    parquet.write_table(pyarrow.table({"image": [b"x"], "label": [0]}), root / "cifar10" / "train.parquet")


def only_train(root):
    (root / "cifar10" / "test.npz").unlink()


def mixed(root):
    (root / "cifar10" / "train.npz").unlink()
    parquet.write_table(pyarrow.table({"image": [b"x"] * 2, "label": [0, 1], "split": ["train", "test"]}),
                        root / "cifar10" / "train.parquet")


@pytest.mark.parametrize("spoil, message", [
    (unlabelled, "train.npz: expected a label from 0 of each picture, found others or none"),
    (two_kinds, "expected one npz file or parquet files of train, found train.npz, train.parquet"),
    (only_train, "expected npz or parquet files of train and of test or val, found those of train; name"),
    (mixed, "expected pictures of train, found the splits test, train in one file"),
])
def test_files_that_cannot_be_a_set(tmp_path, spoil, message):
    npz(tmp_path)
    spoil(tmp_path)
    with pytest.raises(ValueError, match=message):
        halves(tmp_path, "cifar10")


def test_a_picture_in_a_file_that_cannot_be_read_is_named(tmp_path):
    npz(tmp_path)
    (tmp_path / "cifar10" / "test.npz").unlink()
    parquet.write_table(pyarrow.table({"image": [b"broken"], "label": [0]}),
                        tmp_path / "cifar10" / "test.parquet")
    with pytest.raises(ValueError, match=r"test.parquet\[0\]: unreadable image \(unknown format"):
        knn.run(toys.backbone("resnet18-cifar"), knn.Small(k=(1,)), toys.context(tmp_path, tmp_path / "out"))


def test_an_official_validation_set_is_left_out(tmp_path):
    npz(tmp_path)
    np.savez(tmp_path / "cifar10" / "val.npz", images=SETS["test"][0][:2], labels=SETS["test"][1][:2])
    assert {half: len(part) for half, part in halves(tmp_path, "cifar10").items()} == {"train": 12, "test": 7}
    assert len(small_sets.read_small_set("cifar10", tmp_path)[1]) == 2


def folder(name):
    return lambda root: toys.image_tree(root / name, train=3, val=2)


@pytest.mark.parametrize("name, write, tasks, train, scored", [
    ("cifar10", folder("cifar10"), "linear knn semi10", 8, 5),
    ("cifar100", folder("cifar100"), "linear knn semi1", 8, 5), ("stl10", binary, "linear knn", 4, 4),
    ("tiny_imagenet", tiny, "linear knn", 4, 3), ("imagenet100", folder("imagenet100"), "linear knn", 8, 5)])
def test_each_task_in_smoke_scale(tmp_path, name, write, tasks, train, scored):
    write(tmp_path)
    for task in (TASKS[f"{name}_{one}"] for one in tasks.split()):
        changes = ["k", "2"] if "knn" in task.name else ["epochs", "1"]
        config = task.config.override([*task.smoke, *changes])
        context = toys.context(tmp_path, tmp_path / task.name)
        counts = task.protocol.data(config, context)["counts"]
        assert list(counts.values()) == [3 if "semi" in task.name else train, scored]
        assert counts.keys() == task.counts.keys()
        metrics = task.protocol.run(toys.backbone("resnet18-cifar"), config, context)
        assert set(task.metrics) <= metrics.keys()


def test_a_set_of_several_labels_a_picture_is_none_for_a_classifier(tmp_path):
    main = toys.voc_tree(tmp_path / "VOC2007") / "ImageSets" / "Main"
    (main / "train.txt").write_text("000000\n")
    config = dataclasses.replace(linear.CIFAR10, dataset="voc2007")
    with pytest.raises(ValueError, match="voc2007: expected pictures of one class each"):
        linear.data(config, toys.context(tmp_path, tmp_path / "out"))
