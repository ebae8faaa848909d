"""Each of the small sets, in the files that torchvision reads."""
import json
import os
import pickle

import classification_toys as toys
import numpy as np
import pytest
import torchvision
from PIL import Image
from scipy.io import savemat

from transfer import doctor
from transfer.classification import datasets, health, small_sets
from transfer.classification import images as data
from transfer.tasks import TASKS


def pictures(folder, names):
    for number, name in enumerate(names):
        toys.picture(folder / name, number % 3, number)


def food101(root):
    pictures(root / "food-101/images", [f"{name}/{n}.jpg" for name in ("pie", "rice") for n in range(3)])
    (root / "food-101/meta").mkdir()
    for split, numbers in (("train", (0, 1)), ("test", (2,))):
        listed = {name: [f"{name}/{n}" for n in numbers] for name in ("pie", "rice")}
        (root / "food-101/meta" / f"{split}.json").write_text(json.dumps(listed))


def sun397(root):
    names = ["a/abbey/sun_a.jpg", "a/abbey/sun_b.jpg", "b/bar/indoor/sun_c.jpg", "b/bar/indoor/sun_d.jpg"]
    pictures(root / "SUN397", names)
    (root / "SUN397/ClassName.txt").write_text("/a/abbey\n/b/bar/indoor\n")
    (root / "SUN397/Training_01.txt").write_text(f"/{names[0]}\n/{names[2]}\n")
    (root / "SUN397/Testing_01.txt").write_text(f"/{names[1]}\n/{names[3]}\n")


def cars(root):
    kind = [("fname", object), ("class", object)]
    for split, path in (("train", "devkit/cars_train_annos.mat"), ("test", "cars_test_annos_withlabels.mat")):
        pictures(root / f"stanford_cars/cars_{split}", ["1.jpg", "2.jpg"])
        (root / "stanford_cars/devkit").mkdir(exist_ok=True)
        savemat(root / "stanford_cars" / path, {"annotations": np.array([("1.jpg", 1), ("2.jpg", 2)], kind)})
    savemat(root / "stanford_cars/devkit/cars_meta.mat",
            {"class_names": np.array(["Fiat 500", "Audi A4"], dtype=object)})


def aircraft(root):
    folder = root / "fgvc-aircraft-2013b/data"
    pictures(folder / "images", [f"{n}.jpg" for n in range(6)])
    (folder / "variants.txt").write_text("707-320\nA 300\n")
    for split, first in (("train", 0), ("val", 2), ("test", 4)):
        (folder / f"images_variant_{split}.txt").write_text(f"{first} 707-320\n{first + 1} A 300\n")


def dtd(root):
    names = [f"{name}/{n}.jpg" for name in ("dotted", "woven") for n in range(3)]
    pictures(root / "dtd/dtd/images", names)
    (root / "dtd/dtd/labels").mkdir()
    for number, split in enumerate(("train", "val", "test")):
        (root / f"dtd/dtd/labels/{split}1.txt").write_text(f"{names[number]}\n{names[number + 3]}\n")


def pets(root):
    names = [f"{name}_{n}.jpg" for name in ("Abyss", "pug") for n in (1, 2)]
    pictures(root / "oxford-iiit-pet/images", names)
    (root / "oxford-iiit-pet/annotations").mkdir()
    for split, number in (("trainval", 1), ("test", 2)):
        (root / f"oxford-iiit-pet/annotations/{split}.txt").write_text(
            f"Abyss_{number} 1 1 1\npug_{number} 2 2 1\n")


def caltech101(root):
    for name, count in (("BACKGROUND_Google", 1), ("crab", 32), ("lamp", 31)):
        pictures(root / "caltech101/101_ObjectCategories" / name,
                 [f"image_{n:04d}.jpg" for n in range(1, count + 1)])


# Writer, classes, folder, and the (path, label) of train, val and test.
READ = {
    "food101": (food101, ("pie", "rice"), "food-101/images", (
        [("pie/0.jpg", 0), ("pie/1.jpg", 0), ("rice/0.jpg", 1), ("rice/1.jpg", 1)], None,
        [("pie/2.jpg", 0), ("rice/2.jpg", 1)])),
    "sun397": (sun397, ("abbey", "bar/indoor"), "SUN397", (
        [("a/abbey/sun_a.jpg", 0), ("b/bar/indoor/sun_c.jpg", 1)], None,
        [("a/abbey/sun_b.jpg", 0), ("b/bar/indoor/sun_d.jpg", 1)])),
    "cars": (cars, ("Fiat 500", "Audi A4"), "stanford_cars", (
        [("cars_train/1.jpg", 0), ("cars_train/2.jpg", 1)], None,
        [("cars_test/1.jpg", 0), ("cars_test/2.jpg", 1)])),
    "aircraft": (aircraft, ("707-320", "A 300"), "fgvc-aircraft-2013b/data/images", (
        [("0.jpg", 0), ("1.jpg", 1)], [("2.jpg", 0), ("3.jpg", 1)], [("4.jpg", 0), ("5.jpg", 1)])),
    "dtd": (dtd, ("dotted", "woven"), "dtd/dtd/images", (
        [("dotted/0.jpg", 0), ("woven/0.jpg", 1)], [("dotted/1.jpg", 0), ("woven/1.jpg", 1)],
        [("dotted/2.jpg", 0), ("woven/2.jpg", 1)])),
    "pets": (pets, ("Abyss", "Pug"), "oxford-iiit-pet/images", (
        [("Abyss_1.jpg", 0), ("pug_1.jpg", 1)], None, [("Abyss_2.jpg", 0), ("pug_2.jpg", 1)])),
}


def listed(samples, folder):
    """[(path below folder, label)], sorted; None of no set."""
    return samples and sorted((samples.path(row).relative_to(folder).as_posix(), samples.labels[row].item())
                              for row in range(len(samples)))


@pytest.mark.parametrize("name", READ)
def test_sets_of_image_files(tmp_path, name):
    write, classes, folder, expected = READ[name]
    write(tmp_path)
    sets = small_sets.read_small_set(name, tmp_path)
    assert tuple(listed(one, tmp_path / folder) for one in sets) == expected
    assert {one.classes for one in sets if one} == {classes}


def test_caltech101_draws_thirty_of_each_class_to_train(tmp_path):
    caltech101(tmp_path)
    train, val, test = small_sets.read_small_set("caltech101", tmp_path)
    train, test = (listed(one, tmp_path / "caltech101/101_ObjectCategories") for one in (train, test))
    assert sorted(train + test) == [(f"{name}/image_{number:04d}.jpg", label) for name, count, label in
                                    (("crab", 32, 0), ("lamp", 31, 1)) for number in range(1, count + 1)]
    assert val is None and [label for _, label in train] == [0] * 30 + [1] * 30
    # Golden: the draw of NumPy 2.4, so that the split of a record is that of another.
    assert [path for path, _ in test] == ["crab/image_0006.jpg", "crab/image_0015.jpg", "lamp/image_0001.jpg"]


@pytest.mark.parametrize("name", READ)
def test_a_set_whose_images_are_missing_cannot_run(tmp_path, name):
    write, _, folder, (_, _, ((path, _), *_)) = READ[name]
    write(tmp_path)
    (tmp_path / folder / path).unlink()
    answer, text = doctor.inspect(TASKS[f"{name}_probe"], toys.context(tmp_path, tmp_path / "out"))
    assert answer == "no" and "1 of 2 listed images are missing" in text and path in text


@pytest.mark.parametrize("name, file, line", [
    ("dtd", "dtd/dtd/labels/test1.txt", "woven/2.jpg"), ("dtd", "dtd/dtd/labels/val1.txt", "woven/1.jpg"),
    ("pets", "oxford-iiit-pet/annotations/test.txt", "pug_2 2 2 1")])
def test_a_list_cut_short_does_not_shift_the_labels(tmp_path, name, file, line):
    """torchvision numbers the classes of each list by themselves: woven would be class 0."""
    READ[name][0](tmp_path)
    (tmp_path / file).write_text(f"{line}\n")
    with pytest.raises(ValueError, match="expected the 2 classes of .*, found 1; first that only one has: "):
        small_sets.read_small_set(name, tmp_path)


@pytest.mark.parametrize("name, folder, meta, key", [
    ("cifar10", "cifar-10-batches-py", "batches.meta", "labels"),
    ("cifar100", "cifar-100-python", "meta", "fine_labels")])
def test_cifar_in_its_own_format(tmp_path, monkeypatch, name, folder, meta, key):
    kind = {"cifar10": torchvision.datasets.CIFAR10, "cifar100": torchvision.datasets.CIFAR100}[name]
    monkeypatch.setattr(kind, "_check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda path, md5: True)
    (tmp_path / folder).mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (4, 3, 32, 32)).astype(np.uint8)
    batch = {"data": pixels.reshape(4, -1), key: [0, 1, 1, 0]}
    for file, _ in [*kind.train_list, *kind.test_list]:
        (tmp_path / folder / file).write_bytes(pickle.dumps(batch))
    names = {kind.meta["key"]: ["cat", "dog"]}
    (tmp_path / folder / meta).write_bytes(pickle.dumps(names))
    train, val, test = small_sets.read_small_set(name, tmp_path)
    assert (len(train), val, len(test)) == (20 if name == "cifar10" else 4, None, 4)
    assert np.array_equal(health.pictures(tmp_path / folder).read(2), train.read(2))
    assert test.labels.tolist() == [0, 1, 1, 0] and test.classes == ("cat", "dog")
    image, label, _ = data.Images(test, 32, augment=False, resize="bicubic")[0, 2]
    assert np.array_equal(image.numpy(), pixels[2]) and label == 1


def test_flowers_have_102_classes_and_three_official_splits(tmp_path, monkeypatch):
    folder = tmp_path / "flowers-102"
    pictures(folder / "jpg", [f"image_{n:05d}.jpg" for n in range(1, 7)])
    savemat(folder / "imagelabels.mat", {"labels": np.array([1, 2, 1, 2, 102, 2])})
    savemat(folder / "setid.mat", {"trnid": [1, 2], "valid": [3, 4], "tstid": [5, 6]})
    monkeypatch.setattr("torchvision.datasets.flowers102.check_integrity", lambda path, md5: True)
    train, val, test = small_sets.read_small_set("flowers102", tmp_path)
    assert [one.labels.tolist() for one in (train, val, test)] == [[0, 1], [0, 1], [101, 1]]
    assert len(train.classes) == 102


def test_folders_of_images_do_as_well(tmp_path):
    root = toys.image_tree(tmp_path / "cifar10")
    assert [one and len(one) for one in small_sets.read_small_set("cifar10", tmp_path)] == [14, None, 8]
    (root / "val").rename(root / "test")
    assert [one and len(one) for one in small_sets.read_small_set("cifar10", tmp_path)] == [14, None, 8]
    toys.image_tree(tmp_path / "more", val=2)
    (tmp_path / "more/val").rename(root / "val")
    assert [one and len(one) for one in small_sets.read_small_set("cifar10", tmp_path)] == [14, 5, 8]
    (root / "test/boat").rename(root / "boat")
    with pytest.raises(ValueError, match="test: expected the 3 classes of .*train, found 2"):
        small_sets.read_small_set("cifar10", tmp_path)


@pytest.mark.parametrize("name", sorted(small_sets.SMALL_SETS.keys() - {"folder"}))
def test_a_missing_set_says_how_it_is_fetched(tmp_path, name):
    with pytest.raises(FileNotFoundError, match="no such folder, nor .*(fetch it with|put )") as caught:
        small_sets.read_small_set(name, tmp_path)
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


def test_a_pipe_in_the_place_of_a_list_does_not_hang(tmp_path):
    food101(tmp_path)
    lists = sorted((tmp_path / "food-101" / "meta").iterdir())
    lists[0].unlink()
    os.mkfifo(lists[0])
    with pytest.raises(ValueError, match=f"{lists[0].name}: expected a file, found none that can be read"):
        small_sets.read_small_set("food101", tmp_path)


def test_a_damaged_set_and_an_unknown_one(tmp_path):
    (tmp_path / "dtd").mkdir()
    with pytest.raises(ValueError, match="dtd: torchvision cannot read it .*sets.DTD"):
        small_sets.read_small_set("dtd", tmp_path)
    (tmp_path / "SUN397").mkdir()
    (tmp_path / "SUN397/ClassName.txt").write_text("/a/abbey\n")
    with pytest.raises(FileNotFoundError, match="Training_01.txt: no such file"):
        small_sets.read_small_set("sun397", tmp_path)
    with pytest.raises(ValueError, match="dataset: expected one of food101, .*found 'birdsnap'"):
        small_sets.read_small_set("birdsnap", tmp_path)


@pytest.mark.parametrize("ending, copies", [("png", {}), ("jpg", {"pixels": "JPEG copies"})])
def test_jpeg_copies_of_lossless_pixels_are_said(tmp_path, ending, copies):
    for half in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / "cifar10" / half / name).mkdir(parents=True)
            Image.new("RGB", (32, 32)).save(tmp_path / "cifar10" / half / name / f"1.{ending}")
    (tmp_path / "dtd").symlink_to(tmp_path / "cifar10")
    for name, wanted in (("cifar10", copies), ("dtd", {})):  # DTD's own pictures are JPEG
        for split in ("", "draw:10%"):
            said = datasets.stated(name, datasets.halves(tmp_path, name), split)
            assert {key: value for key, value in said.items() if key == "pixels"} == wanted
